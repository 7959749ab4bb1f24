"""prepare.py from the command line: what is written, and what is refused with nothing changed."""

import csv
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import prepare
from classifier.cli import UserError
from classifier.files import safe_name
from classifier.preparation import staging
from classifier.text import text_width
from tests.raw_images import cats_and_dogs, image, make_folder, make_zip, tree

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in tmp_path; its printed lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(os, "sync", raising=False)  # waits for everything that the whole machine is writing

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["prepare.py", *map(str, args)])
        prepare.main()
        return capsys.readouterr().out.splitlines()

    return run


def rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def counts(output):
    return {side.name: {at.name: len(list(at.iterdir())) for at in side.iterdir()} for side in output.glob("t*/")}


def test_a_zip_becomes_train_and_test(run, tmp_path):
    members = cats_and_dogs(20) | {"cat/bad.jpg": image(5)[:400], "cat/empty.png": b"", "notes.txt": b"hello"}
    source = make_zip(tmp_path / "pets.zip", members)
    before = source.read_bytes()
    lines = run(source)
    output = tmp_path / "dataset"
    assert counts(output) == {"train": {"cat": 18, "dog": 18}, "test": {"cat": 2, "dog": 2}}
    written = {Path(name).parts[1:]: content for name, content in tree(output).items() if name.endswith(".jpg")}
    assert written == {Path(name).parts: content for name, content in cats_and_dogs(20).items()}
    assert [line.split() for line in lines[:4]] == [
        ["class", "kept", "rejected", "duplicate", "train", "test"],
        ["cat", "20", "2", "0", "18", "2"],
        ["dog", "20", "0", "0", "18", "2"],
        ["total", "40", "2", "0", "36", "4"],
    ]
    assert "- unreadable (rejected.csv): 2" in lines
    assert "- files that are not images: 1" in lines
    assert lines[-1] == "Next: python train.py"
    bad, empty = rows(output / "rejected.csv")
    assert bad["picture"] == "cat/bad.jpg" and bad["class"] == "cat" and "damaged" in bad["reason"]
    assert empty["picture"] == "cat/empty.png" and "0 bytes" in empty["reason"]
    assert rows(output / "duplicates.csv") == []
    manifest = json.loads((output / "prepared.json").read_text())
    assert manifest["source"] == "pets.zip" and manifest["settings"] == {"test": 0.1}
    assert manifest["classes"]["dog"]["test"] == 2 and "pillow" in manifest["versions"]
    assert source.read_bytes() == before
    assert sorted(path.name for path in output.iterdir()) == sorted(prepare.RESULTS)


@pytest.mark.parametrize(("test", "expected"), [("0.25", 5), ("0.001", 1), ("7", 7), ("19", 19)])
def test_size_of_the_test_part(test, expected, run, tmp_path):
    run(make_folder(tmp_path / "pets", cats_and_dogs(20)), "--test", test, "--output", "out put")
    assert counts(tmp_path / "out put")["test"] == {"cat": expected, "dog": expected}


@pytest.mark.parametrize("test", ["0", "-1", "1.5", "nan", "20", "1000", "0.99"])
def test_impossible_test_parts(test, run, tmp_path):
    source = make_folder(tmp_path / "pets", cats_and_dogs(20))
    with pytest.raises(UserError, match="--test"):
        run(source, f"--test={test}")
    assert not (tmp_path / "dataset").exists()


def test_split_depends_on_content_alone(run, tmp_path):
    """Another order, another kind of source, other file names: the same images are for testing."""
    members = list(cats_and_dogs(30).items())
    run(make_zip(tmp_path / "a.zip", dict(members)), "--output", "a", "--test", "0.3")
    random.Random(1).shuffle(members)
    run(make_zip(tmp_path / "b.zip", dict(members)), "--output", "b", "--test", "0.3")
    renamed = {f"sub/{name[:3]}/{i:04} neu.jpg": content for i, (name, content) in enumerate(members)}
    run(make_folder(tmp_path / "c", renamed), "--output", "d", "--test", "0.3")
    a, b, d = (tree(tmp_path / output / "test") for output in "abd")
    assert len(a) == 18 and a == b
    assert {(name[:3], content) for name, content in a.items()} == {(name[:3], content) for name, content in d.items()}


def test_running_again_changes_nothing(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())
    run(source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*")}
    assert "prepared already" in run(source)[0]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*")} == before


def test_two_sources_are_never_mixed(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())
    run(source)
    before = tree(tmp_path / "dataset")
    with pytest.raises(UserError, match=r"made from pets\.zip with --test 0\.1"):
        run(source, "--test", "0.2")
    with pytest.raises(UserError, match="never mixed"):
        run(make_zip(tmp_path / "other.zip", cats_and_dogs(first=50)))
    assert tree(tmp_path / "dataset") == before


@pytest.mark.parametrize("place", ["train/cat/mine.jpg", "test/mine.jpg", "rejected.csv", "prepared.json"])
def test_what_others_wrote_is_left_alone(place, run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())
    make_folder(tmp_path / "dataset", {place: b"mine"})
    with pytest.raises(UserError, match=r"already holds .*not made by prepare\.py.*another --output"):
        run(source)
    assert tree(tmp_path / "dataset") == {place: b"mine"}


def test_readme_sample_and_empty_folders_may_be_there(run, tmp_path):
    others = {"README.md": b"images", "sample/train/cat/1.png": b"drawn", "mine.jpg": b"x"}
    make_folder(tmp_path / "dataset", others)
    (tmp_path / "dataset" / "train").mkdir()
    run(make_zip(tmp_path / "pets.zip", cats_and_dogs()))
    after = tree(tmp_path / "dataset")
    assert {name: after[name] for name in others} == others and len(after) == len(others) + 3 + 20


@pytest.mark.parametrize("layout", ["same", "output inside", "source is train"])
def test_source_and_output_overlap(layout, run, tmp_path):
    source = make_folder(tmp_path / "pets", cats_and_dogs())
    before = tree(tmp_path)
    output = {"same": source, "output inside": source / "out", "source is train": tmp_path / "new"}[layout]
    if layout == "source is train":
        source = source.rename(tmp_path / "train")
        output, before = tmp_path, tree(tmp_path)
    with pytest.raises(UserError, match="overlap"):
        run(source, "--output", output)
    assert tree(tmp_path) == before and not (tmp_path / "pets" / "out").exists()


def test_errors_leave_nothing_behind(run, tmp_path, monkeypatch):
    content = bytearray(make_zip(tmp_path / "damaged.zip", cats_and_dogs()).read_bytes())
    content[700:710] = bytes(10)
    (tmp_path / "damaged.zip").write_bytes(content)
    evil = make_zip(tmp_path / "evil.zip", cats_and_dogs() | {"../evil.jpg": image(0)})
    all_bad = make_zip(tmp_path / "bad.zip", cats_and_dogs() | {"cow/1.jpg": b"moo"})
    good = make_zip(tmp_path / "good.zip", cats_and_dogs())
    for source, message in [
        (evil, "outside"),
        (tmp_path / "damaged.zip", "damaged at"),
        (all_bad, r"class 'cow' .*1 rejected; cow/1\.jpg is not an image"),
    ]:
        with pytest.raises(UserError, match=message):
            run(source)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        run(good, "--output", "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="GB are free"):
        run(good)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["bad.zip", "damaged.zip", "evil.zip", "file", "good.zip"]  # noqa: PTH208


def test_write_errors_are_one_message(run, tmp_path, monkeypatch):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())

    def full(self, content):
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        run(source)
    assert not (tmp_path / "dataset").exists()


def test_one_of_three_ways(run, tmp_path):
    for args in [(), ("a.zip", "--download"), ("--sample", "--download")]:
        with pytest.raises(UserError, match="give one of"):
            run(*args)


def test_same_names_in_one_class(run, tmp_path):
    names = ["cat/a/1.jpg", "cat/b/1.jpg", "cat/c/1.JPG", "cat/2.jpg", "dog/1.jpg", "dog/CON.jpg", "dog/a.jpg"]
    members = {name: image(i) for i, name in enumerate(names)}
    run(make_zip(tmp_path / "pets.zip", members), "--test", "1", "--output", "x")
    run(make_zip(tmp_path / "pets.zip", dict(reversed(members.items()))), "--test", "1", "--output", "y")
    x = tree(tmp_path / "x")
    assert {name: x[name] for name in x if "t/" in name or "n/" in name} == {
        name: content for name, content in tree(tmp_path / "y").items() if "/" in name
    }
    assert sorted(content for name, content in x.items() if "/" in name) == sorted(members.values())
    assert {Path(name).name for name in x} >= {"_CON.jpg"}


def test_chinese_names_and_table(run, tmp_path):
    members = {
        f"我的 图片/{label}/照片 {i}.jpg": image(100 * k + i)
        for k, label in enumerate(["猫", "大狗", "x"])
        for i in range(5)
    }
    source = make_zip(tmp_path / "宠物.zip", members, "gbk")
    lines = run(source, "--output", "数据 集")
    assert counts(tmp_path / "数据 集")["train"] == {"猫": 4, "大狗": 4, "x": 4}
    assert {text_width(line) for line in lines[:5]} == {text_width(lines[0])}
    assert lines[-1] == 'Next: python train.py --data "数据 集"'


def test_list_with_unsafe_class_names(run, tmp_path):
    make_folder(tmp_path / "raw", {f"{i}.jpg": image(i) for i in range(9)})
    labels = ["../up", "a/b", "nul"]
    text = "".join(f"{i}.jpg\t{labels[i % 3]}\n" for i in range(9))
    (tmp_path / "raw" / "list.txt").write_text(text)
    lines = run("raw/list.txt")
    assert set(counts(tmp_path / "dataset")["train"]) == {"_.._up", "a_b", "_nul"}
    assert "- class 'a/b' is in the folder a_b" in lines


def test_classes_that_would_share_a_folder(run, tmp_path):
    with pytest.raises(UserError, match="classes 'Cat' and 'cat' would share"):
        run(make_zip(tmp_path / "a.zip", {"Cat/1.jpg": image(1), "cat/2.jpg": image(2)}))


def test_safe_names():
    table = {"a.jpg": "a.jpg", "con": "_con", "LPT1.jpg": "_LPT1.jpg", "a:b?.jpg": "a_b_.jpg", "猫. ": "猫", "..": "_"}
    table |= {
        ".hidden": "_.hidden",
        "a\x07b\n": "a_b_",
        "": "_",
        "console.jpg": "console.jpg",
    }
    assert {name: safe_name(name) for name in table} == table
    long = safe_name("长" * 300 + ".jpeg")
    assert len(long.encode()) <= 200 and long.endswith("长.jpeg")


@pytest.mark.skipif(os.name == "nt", reason="another way to hold a lock")
def test_only_one_at_a_time(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())
    with staging.file_lock(tmp_path / "dataset"), pytest.raises(UserError, match=r"another prepare\.py is at work"):
        run(source)
    run(source)


def test_as_a_process(tmp_path):
    make_zip(tmp_path / "pets.zip", cats_and_dogs(60))
    command = [sys.executable, ROOT / "prepare.py", "pets.zip"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "Next: python train.py"
    assert "\r" not in done.stdout and "\x1b" not in done.stdout
    done = subprocess.run([*command, "--test", "7"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: dataset already holds")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared images are not on this machine")
def test_real_photographs(run):
    lines = run(SHARED / "hymenoptera.zip")
    assert lines[3].split() == ["total", "396", "0", "0", "243", "153"]
