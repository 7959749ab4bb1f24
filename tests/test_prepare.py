"""prepare.py from the command line: what is written, and what is refused with nothing changed."""

import csv
import hashlib
import json
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

import prepare
from classifier.cli import UserError, text_width
from classifier.files import file_lock
from classifier.preparation import duplicates, outputs
from classifier.preparation.examine import phash
from tests.conftest import run_script
from tests.raw_images import cats_and_dogs, image, make_folder, make_zip, plain, tree

SHARED = Path(__file__).resolve().parents[2] / "shared"
KAGGLE = SHARED / "data" / "dogs-vs-cats" / "train.zip"
CASES = SHARED / "cases" / "folders"


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
    return {side.name: {at.name: len(list(at.iterdir())) for at in side.iterdir()} for side in output.glob("[tv]*/")}


@pytest.mark.parametrize("make", [make_zip, make_folder])
def test_images_without_an_ending_are_recognised_and_get_one(make, run, tmp_path):
    members = cats_and_dogs(10, pattern="{label}/{i}") | {"cat/list": b"no image", "cat/list.9": b"none either"}
    lines = run(make(tmp_path / "pets", members))
    assert counts(tmp_path / "dataset") == {"train": {"cat": 9, "dog": 9}, "test": {"cat": 1, "dog": 1}}
    assert {Path(name).suffix for name in tree(tmp_path / "dataset") if "/cat/" in name} == {".jpg"}
    assert "- 2 files that are not images: 1 without ending, 1 .9" in lines


def test_a_zip_becomes_train_and_test(run, tmp_path):
    members = cats_and_dogs(20) | {"cat/bad.jpg": image(5)[:400], "cat/empty.png": b"", "notes.txt": b"hello"}
    source = make_zip(tmp_path / "pets.zip", members)
    before = source.read_bytes()
    lines = run(source)
    output = tmp_path / "dataset"
    assert counts(output) == {"train": {"cat": 18, "dog": 18}, "test": {"cat": 2, "dog": 2}}
    written = {Path(name).parts[1:]: content for name, content in tree(output).items() if name.endswith(".jpg")}
    assert written == {Path(name).parts: content for name, content in cats_and_dogs(20).items()}
    assert [" ".join(line.split()) for line in lines] == [
        "class kept rejected duplicate train test",
        "cat 20 2 0 18 2",
        "dog 20 0 0 18 2",
        "total 40 2 0 36 4",
        "- 2 unreadable images: rejected.csv",
        "- 1 file that is not an image: 1 .txt",
        "Next: python train.py",
    ]
    bad, empty = rows(output / "rejected.csv")
    assert bad["picture"] == "cat/bad.jpg" and bad["class"] == "cat" and "incomplete" in bad["reason"]
    assert empty["picture"] == "cat/empty.png" and "0 bytes" in empty["reason"]
    assert rows(output / "duplicates.csv") == []
    manifest = json.loads((output / "prepared.json").read_text())
    assert manifest["source"] == "pets.zip" and manifest["settings"] == {"test": 0.1}
    assert manifest["classes"]["dog"]["test"] == 2
    assert source.read_bytes() == before
    assert {path.name for path in output.iterdir()} == {*outputs.RESULTS} - {"val", "groups.csv"}


# ---- the split


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


def digest_of_test_part(output):
    """One hash over class and SHA-256 of each test image, whatever the files are called."""
    files = (output / "test").glob("*/*")
    lines = sorted(f"{file.parent.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files)
    return f"{len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def ppm(seed, brighter=0):
    """A 48 x 48 image whose bytes depend on no encoder."""
    noise = np.random.default_rng(seed).integers(0, 240, (16, 16, 3), dtype=np.uint8) + np.uint8(brighter)
    return b"P6 48 48 255\n" + noise.repeat(3, 0).repeat(3, 1).tobytes()


def test_the_split_never_changes(run, tmp_path):
    """Or networks were judged on images that an earlier version trained them on."""
    members = {f"{label}/{i}.ppm": ppm(1000 * k + i) for k, label in enumerate(("cat", "dog")) for i in range(40)}
    members |= {f"cat/{i} brighter.ppm": ppm(i, 9) for i in range(12)}  # look-alikes, on one side
    members |= {f"dog/{i} copy.ppm": ppm(1000 + i) for i in range(5)} | {"dog/a cat.ppm": ppm(20, 7)}
    run(make_zip(tmp_path / "a.zip", members), "--test", "0.25", "--output", "out")
    expected = "23 3d3471def14ea01db044b38106c74a1948dec5e8c5a580c43a6d290bf8c92d97"
    assert len(tree(tmp_path / "out" / "train")) == 70 and digest_of_test_part(tmp_path / "out") == expected


@pytest.mark.skipif(not KAGGLE.is_file(), reason="Kaggle's photographs of cats and dogs are not on this machine")
def test_the_split_of_kaggles_photographs_never_changes(tmp_path):
    done = run_script("prepare.py", KAGGLE, "--test", 1000, "--output", "out", cwd=tmp_path)  # 12 s
    assert done.returncode == 0, done.stderr
    expected = "2000 71bb020b27af04184a4287544f18817746a121cab933b1c6ecae2ed7f1a0b122"
    assert digest_of_test_part(tmp_path / "out") == expected


def test_the_split_depends_on_content_alone(run, tmp_path):
    """Another order, another kind of source, other file names: the same images are for testing."""
    members = list(cats_and_dogs(30).items())
    run(make_zip(tmp_path / "a.zip", dict(members)), "--output", "a", "--test", "0.3")
    random.Random(1).shuffle(members)
    renamed = {f"sub/{name[:3]}/{i:04} neu.jpg": content for i, (name, content) in enumerate(members)}
    run(make_folder(tmp_path / "b", renamed), "--output", "c", "--test", "0.3")
    assert digest_of_test_part(tmp_path / "a") == digest_of_test_part(tmp_path / "c")
    assert len(tree(tmp_path / "a" / "test")) == 18


# ---- a given split


def divided(**parts):
    """So many images of each class in each part."""
    return {
        f"{part}/{name}": content
        for i, (part, number) in enumerate(parts.items())
        for name, content in cats_and_dogs(number, first=100 * i).items()
    }


def test_validation_images_stay_validation_images(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", {f"pets/{name}": x for name, x in divided(train=6, val=3, test=2).items()})
    lines = run(source, "--test", "4")
    expected = {part: {"cat": number, "dog": number} for part, number in {"train": 6, "val": 3, "test": 2}.items()}
    assert counts(tmp_path / "dataset") == expected
    assert lines[0].split() == ["class", "kept", "rejected", "duplicate", "train", "val", "test"]
    assert lines[4:] == ["Next: python train.py"]
    assert "prepared already" in run(source, "--test", "4")[0]


def test_no_test_images_are_invented_and_a_class_without_is_named(run, tmp_path):
    lines = run(make_folder(tmp_path / "pets", divided(train=6, val=3)), "--output", "out")
    assert counts(tmp_path / "out").keys() == {"train", "val"} and lines[1].split()[-3:] == ["6", "3", "0"]
    assert lines[4] == "- no test images; python evaluate.py --part val scores the validation images"
    assert lines[5:] == ["Next: python train.py --data out"]
    members = divided(train=6, val=2, test=2) | {f"train/cow/{i}.jpg": image(500 + i) for i in range(4)}
    lines = run(make_folder(tmp_path / "three", members))
    assert lines[5:] == ["- no validation images of cow", "- no test images of cow", "Next: python train.py"]


def test_with_shards_validation_images_join_training(run, tmp_path):
    lines = run(make_folder(tmp_path / "pets", divided(train=6, val=3, test=2)), "--shards")
    assert not (tmp_path / "dataset" / "val").exists() and lines[1].split()[-2:] == ["9", "2"]
    assert "validation images join train" in lines[4]


PUBLISHED = {  # the expected images by part and class
    "k_catdog": {"train": {"cats": 19, "dogs": 20}, "test": {"cats": 8, "dogs": 8}},
    "yolo": {part: dict.fromkeys(["daisy", "rose", "tulip"], n) for part, n in {"train": 40, "val": 20}.items()},
    "a_testmissing": {
        "train": dict.fromkeys(["daisy", "rose", "tulip"], 20),
        "test": dict.fromkeys(["daisy", "tulip"], 10),
    },
}


@pytest.mark.skipif(not CASES.is_dir(), reason="the published data sets are not on this machine")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_data_sets(name, run, tmp_path):
    run(CASES / f"{name}.zip")
    assert counts(tmp_path / "dataset") == PUBLISHED[name]


def test_a_list_without_endings(run, tmp_path):
    make_folder(tmp_path / "dogs", {f"train/{i:03}.jpg": image(i) for i in range(9)})
    lines = ["id,breed", *(f"{i:03},{'pug' if i % 2 else 'beagle'}" for i in range(10))]
    (tmp_path / "dogs" / "labels.csv").write_text("\n".join(lines))
    printed = run("dogs/labels.csv")
    assert counts(tmp_path / "dataset") == {"train": {"beagle": 4, "pug": 3}, "test": {"beagle": 1, "pug": 1}}
    assert {path.suffix for path in (tmp_path / "dataset").rglob("*/*/*")} == {".jpg"}
    assert printed[4:6] == [
        "- 1 line of the list cannot be used: 009 is missing",
        "- 1 unreadable image: rejected.csv",
    ]
    with pytest.raises(UserError, match=r"with --test 0\.1 --columns id,breed"):
        run("dogs/labels.csv", "--columns", "id,breed", "--output", "b")
        run("dogs/labels.csv", "--output", "b")


# ---- copies and look-alikes


@pytest.fixture
def split(run, tmp_path):
    """Prepare these members; ({name: part} of the images written, the rows of duplicates.csv by image)."""

    def split(members, test=0.2):
        run(make_zip(tmp_path / "a.zip", members), "--test", test, "--output", "out")
        parts = {"/".join(name.split("/")[1:]): name.split("/")[0] for name in tree(tmp_path / "out") if "/" in name}
        return parts, {row["picture"]: row for row in rows(tmp_path / "out" / "duplicates.csv")}

    return split


def test_copies_in_a_class_are_left_out(split):
    parts, doubles = split(cats_and_dogs(10) | {"cat/copy.jpg": image(3), "cat/0 copy.jpg": image(3)})
    assert len(parts) == 20 and "cat/0 copy.jpg" in parts and "cat/copy.jpg" not in parts
    assert doubles["cat/3.jpg"]["file"] == "" and doubles["cat/3.jpg"]["note"] == "same file as cat/0 copy.jpg"
    assert doubles["cat/0 copy.jpg"]["match"] == "same file"


@pytest.mark.parametrize("test", [0.2, 7, 0.5])
def test_lookalikes_stay_on_one_side(test, split):
    members = cats_and_dogs(20)
    for i in range(0, 20, 2):  # recompressed, resized, both
        members[f"cat/{i} b.jpg"] = image(i, quality=30)
        members[f"dog/{i} b.jpg"] = image(1000 + i, size=200)
        members[f"dog/{i} c.jpg"] = image(1000 + i, size=120, quality=50)
    parts, doubles = split(members, test)
    assert len(parts) == len(members) and len(doubles) == 50
    sides = {}
    for name, row in doubles.items():
        assert row["file"] == f"{parts[name]}/{name}" and row["match"] == "looks the same"
        sides.setdefault(row["group"], set()).add(parts[name])
    assert len(sides) == 20 and all(len(both) == 1 for both in sides.values())
    assert {next(iter(both)) for both in sides.values()} == {"train", "test"}


def test_an_image_in_two_classes_is_for_training(split):
    shared = {f"{label}/shared {i}.jpg": image(500 + i) for label in ("cat", "dog") for i in range(6)}
    alike = {f"dog/alike {i}.jpg": image(i, quality=40) for i in range(3)}
    parts, doubles = split(cats_and_dogs(10) | shared | alike, 0.4)
    assert {parts[name] for name in [*shared, *alike, "cat/0.jpg"]} == {"train"}
    assert all("in two classes" in doubles[name]["note"] for name in [*shared, *alike, "cat/0.jpg"])


def test_what_is_in_two_parts_stays_where_it_must_be_new(split, tmp_path):
    members = divided(train=6, val=3, test=2) | {"train/dog/a cat.jpg": image(200), "test/cat/twice.jpg": image(201)}
    members |= {"train/cat/a.jpg": image(100), "train/cat/b.jpg": image(101, quality=40)}
    members |= {"val/dog/c.jpg": image(1200), "val/dog/d.jpg": image(1201, quality=40), "train/dog/e.jpg": image(1201)}
    _, doubles = split(members)
    expected = {part: {"cat": number, "dog": number} for part, number in {"train": 6, "val": 3, "test": 2}.items()}
    assert counts(tmp_path / "out") == expected
    notes = {name: row["note"] for name, row in doubles.items() if not row["file"]}
    assert notes == {
        "train/dog/a cat.jpg": "in two classes; also in the test part, as test/cat/0.jpg",
        "test/cat/twice.jpg": "same file as test/cat/1.jpg",
        "train/cat/a.jpg": "same file as val/cat/0.jpg",
        "train/cat/b.jpg": "also in the val part, as val/cat/1.jpg",
        "val/dog/c.jpg": "same file as test/dog/0.jpg",
        "val/dog/d.jpg": "also in the test part, as test/dog/1.jpg",
        "train/dog/e.jpg": "same file as test/dog/1.jpg",
    }


def test_plain_images_are_the_same_only_where_their_bytes_are(split):
    colours = {"a/1": "red", "a/2": "red", "a/3": "blue", "b/1": "red", "b/2": "white", "b/3": "black", "b/4": "grey"}
    parts, doubles = split({f"{name}.png": plain(colour) for name, colour in colours.items()}, 1)
    assert len(parts) == 6 and parts["a/1.png"] == parts["b/1.png"] == "train"
    assert parts["a/3.png"] == "test" and set(doubles) == {"a/1.png", "a/2.png", "b/1.png"}


def test_a_class_of_lookalikes_cannot_be_split(split):
    members = cats_and_dogs(5) | {f"cow/{i}.jpg": image(77, quality=50 + i) for i in range(6)}
    with pytest.raises(UserError, match=r"Class 'cow'.*look the same"):
        split(members)


def test_a_plain_image_has_no_perceptual_hash():
    ramp = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1))
    assert not any(phash(Image.fromarray(pixels).convert("RGB")) for pixels in (ramp, ramp.T, 0 * ramp))


def test_groups_match_a_slow_search():
    """Against every pair by the definition, on hashes that differ in 0 to 90 bits from one of 40 others."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2, (40, 256), dtype=np.uint8)
    bits = base[generator.integers(0, 40, 300)]
    for row, number in zip(bits, generator.integers(0, 90, 300), strict=True):
        row[generator.choice(256, number, replace=False)] ^= 1
    groups = duplicates.near_groups([np.packbits(row).tobytes() for row in bits])
    corner = bits.reshape(-1, 16, 16)[:, :8, :8].reshape(-1, 64).astype(int)
    near = (bits[:, None] != bits[None]).sum(2) <= duplicates.MAX_BITS
    near &= np.abs(corner[:, None] - corner[None]).sum(2) <= duplicates.MAX_COARSE_BITS
    number, label = connected_components(near)
    expected = np.unique(label, return_index=True)[1][label]  # the first of each group
    assert (groups == expected).all() and 1 < number < 300


# ---- names


def test_same_names_in_one_class(run, tmp_path):
    names = ["cat/a/1.jpg", "cat/b/1.jpg", "cat/c/1.JPG", "cat/2.jpg", "dog/1.jpg", "dog/CON.jpg", "dog/a.jpg"]
    members = {name: image(i) for i, name in enumerate(names)}
    run(make_zip(tmp_path / "pets.zip", members), "--test", "1", "--output", "x")
    written = {name: of for name, of in tree(tmp_path / "x").items() if "/" in name}
    assert sorted(written.values()) == sorted(members.values()) and len({name.lower() for name in written}) == 7
    assert "_CON.jpg" in {Path(name).name for name in written}


def test_chinese_names_and_table(run, tmp_path):
    members = {
        f"我的 图片/{label}/照片 {i}.jpg": image(100 * k + i)
        for k, label in enumerate(["猫", "大狗", "x"])
        for i in range(5)
    }
    lines = run(make_zip(tmp_path / "宠物.zip", members, "gbk"), "--output", "数据 集")
    assert counts(tmp_path / "数据 集")["train"] == {"猫": 4, "大狗": 4, "x": 4}
    assert {text_width(line) for line in lines[:5]} == {text_width(lines[0])}
    assert lines[-1] == 'Next: python train.py --data "数据 集"'


def test_a_list_with_unsafe_class_names(run, tmp_path):
    make_folder(tmp_path / "raw", {f"{i}.jpg": image(i) for i in range(9)})
    labels = ["../up", "a/b", "nul"]
    (tmp_path / "raw" / "list.txt").write_text("".join(f"{i}.jpg\t{labels[i % 3]}\n" for i in range(9)))
    lines = run("raw/list.txt")
    assert set(counts(tmp_path / "dataset")["train"]) == {"_.._up", "a_b", "_nul"}
    assert "- class 'a/b' is in the folder a_b" in lines


# ---- nothing of others is changed


def test_running_again_changes_nothing(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())
    run(source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*")}
    assert "prepared already" in run(source)[0]
    with pytest.raises(UserError, match=r"made from pets\.zip with --test 0\.1"):
        run(source, "--test", "0.2")
    with pytest.raises(UserError, match="never mixed"):
        run(make_zip(tmp_path / "other.zip", cats_and_dogs(first=50)))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*")} == before


def test_what_others_wrote_is_left_alone(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())
    for place in ("train/cat/mine.jpg", "test/mine.jpg", "rejected.csv", "prepared.json"):
        mine = make_folder(tmp_path / "dataset", {place: b"mine"}) / place
        with pytest.raises(UserError, match=r"already holds .*not made by prepare\.py.*another --output"):
            run(source)
        assert tree(tmp_path / "dataset") == {place: b"mine"}
        mine.unlink()
    (tmp_path / "dataset" / "train" / "cat").rmdir()
    others = {"README.md": b"images", "sample/train/cat/1.png": b"drawn", "mine.jpg": b"x"}
    run(source, "--output", make_folder(tmp_path / "dataset", others))  # with train/ and test/ that are empty
    after = tree(tmp_path / "dataset")
    assert {name: after[name] for name in others} == others and len(after) == len(others) + 3 + 20


@pytest.mark.parametrize("layout", ["same", "output inside", "source is train"])
def test_source_and_output_overlap(layout, run, tmp_path):
    source = make_folder(tmp_path / "pets", cats_and_dogs())
    output = {"same": source, "output inside": source / "out", "source is train": tmp_path}[layout]
    if layout == "source is train":
        source = source.rename(tmp_path / "train")
    before = tree(tmp_path)
    with pytest.raises(UserError, match="overlaps"):
        run(source, "--output", output)
    assert tree(tmp_path) == before and not (tmp_path / "pets" / "out").exists()


def test_errors_leave_nothing_behind(run, tmp_path, monkeypatch):
    content = bytearray(make_zip(tmp_path / "damaged.zip", cats_and_dogs()).read_bytes())
    content[700:710] = bytes(10)
    (tmp_path / "damaged.zip").write_bytes(content)
    make_zip(tmp_path / "evil.zip", cats_and_dogs() | {"../evil.jpg": image(0)})
    make_zip(tmp_path / "bad.zip", cats_and_dogs() | {"cow/1.jpg": b"moo"})
    make_zip(tmp_path / "twice.zip", {"Cat/1.jpg": image(1), "cat/2.jpg": image(2)})
    make_zip(tmp_path / "good.zip", cats_and_dogs())
    (tmp_path / "file").write_text("")
    table = {"evil.zip": "outside", "damaged.zip": "damaged at"}
    table |= {"twice.zip": "'Cat' and 'cat' would share"}
    table |= {"bad.zip": r"Class 'cow' .*1 rejected; cow/1\.jpg is not an image", "nowhere.zip": "cannot be read"}
    for source, message in table.items():
        with pytest.raises(UserError, match=message):
            run(source)
    with pytest.raises(UserError, match="cannot be written to"):
        run("good.zip", "--output", "file")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match=r"0\.0 GB are free"):
        run("good.zip")
    for args in [(), ("good.zip", "--download"), ("--sample", "--download")]:
        with pytest.raises(UserError, match="one of SOURCE"):
            run(*args)
    assert sorted(tree(tmp_path)) == ["bad.zip", "damaged.zip", "evil.zip", "file", "good.zip", "twice.zip"]


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE is of Unix")
def test_a_write_error_is_one_message(tmp_path):
    make_zip(tmp_path / "pets.zip", cats_and_dogs())
    import resource

    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))}
    done = run_script("prepare.py", "pets.zip", cwd=tmp_path, **limit)
    assert done.returncode == 2 and done.stderr.startswith("error: [Errno")
    assert os.listdir(tmp_path) == ["pets.zip"]  # noqa: PTH208


def test_only_one_at_a_time(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs())
    with file_lock(tmp_path / "dataset" / outputs.LOCK, ""), pytest.raises(UserError, match=r"Another prepare\.py"):
        run(source)
    run(source)
