"""prepare.py from the command line: what is written, and what is refused with nothing changed."""

import hashlib
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.sparse.csgraph import connected_components

from classifier.cli import UserError
from classifier.data.image_folder import read_folder, split_validation
from classifier.files import file_lock
from classifier.preparation import duplicates, outputs
from docs.drawings import CLASSES, COUNTS, draw
from tests.conftest import file_size_limit, run_script
from tests.raw_images import cats_and_dogs, encode, image, make_folder, make_zip, plain, run_prepare, tree
from tests.test_evaluate import rows

KAGGLE = Path(__file__).resolve().parents[2] / "shared/data/dogs-vs-cats/train.zip"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command line in tmp_path; its printed lines."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        run_prepare(*args)
        return capsys.readouterr().out.splitlines()

    return run


def counts(output):
    """How many images of each class are in each part."""
    return {part.name: [len(list(folder.iterdir())) for folder in part.iterdir()] for part in output.glob("[tv]*/")}


def test_a_zip_becomes_train_and_test(run, tmp_path):
    members = cats_and_dogs(10) | cats_and_dogs(10, first=10, pattern="{label}/without ending {i}")
    members |= {"cat/bad.jpg": image(5)[:400], "cat/empty.png": b""}
    members |= dict.fromkeys(["notes.txt", "cat/list", "cat/list.9", "cat/.list"], b"hello")
    source = make_zip(tmp_path / "pets.zip", members)
    before = source.read_bytes()
    lines = run(source)
    output = tmp_path / "dataset"
    assert counts(output) == {"train": [18, 18], "test": [2, 2]}
    written = {name.partition("/")[2]: content for name, content in tree(output).items() if "/" in name}
    ends = {name if name.endswith(".jpg") else f"{name}.jpg": content for name, content in members.items()}
    assert written.items() <= ends.items() and len(written) == 40
    assert [line.split()[1:] for line in lines[1:3]] == [["20", "2", "0", "18", "2"], ["20", "0", "0", "18", "2"]]
    assert lines[5] == "- 4 files that are not images: 1 .txt, 1 without ending, 1 .9, 1 hidden"
    bad, empty = rows(output / "rejected.csv")
    assert bad["picture"] == "cat/bad.jpg" and bad["class"] == "cat" and "incomplete" in bad["reason"]
    assert empty["picture"] == "cat/empty.png" and "0 bytes" in empty["reason"]
    assert rows(output / "duplicates.csv") == []
    manifest = json.loads((output / "prepared.json").read_text())
    assert manifest["source"] == "pets.zip" and manifest["settings"] == {"test": 0.1}
    assert source.read_bytes() == before
    assert {path.name for path in output.iterdir()} == {*outputs.RESULTS} - {"val", "groups.csv"}


def test_size_of_the_test_part(run, tmp_path):
    source = make_folder(tmp_path / "pets", cats_and_dogs(20))
    for test, expected in {"0.25": 5, "0.001": 1, "7": 7, "19": 19}.items():
        run(source, "--test", test, "--output", f"out {test}")
        assert counts(tmp_path / f"out {test}")["test"] == [expected, expected]
    for test in ("0", "-1", "1.5", "nan", "20", "1000", "0.99"):
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
    """Or networks were judged on images that an earlier version trained them on. Content alone decides."""
    members = {f"{label}/{i}.ppm": ppm(1000 * k + i) for k, label in enumerate(("cat", "dog")) for i in range(40)}
    members |= {f"cat/{i} brighter.ppm": ppm(i, 9) for i in range(12)}  # look-alikes, on one side
    members |= {f"dog/{i} copy.ppm": ppm(1000 + i) for i in range(5)} | {"dog/a cat.ppm": ppm(20, 7)}
    shuffled = random.Random(1).sample(sorted(members), len(members))
    renamed = {f"sub/{name[:3]}/{i:04} neu.ppm": members[name] for i, name in enumerate(shuffled)}
    for source in (make_zip(tmp_path / "a.zip", members), make_folder(tmp_path / "b", renamed)):
        run(source, "--test", "0.25", "--output", f"of {source.name}")
        expected = "23 3d3471def14ea01db044b38106c74a1948dec5e8c5a580c43a6d290bf8c92d97"
        assert digest_of_test_part(tmp_path / f"of {source.name}") == expected
        assert len(tree(tmp_path / f"of {source.name}" / "train")) == 70


@pytest.mark.skipif(not KAGGLE.is_file(), reason="Kaggle's photographs of cats and dogs are not on this machine")
def test_the_split_of_kaggles_photographs_never_changes(tmp_path):
    done = run_script("prepare.py", KAGGLE, "--test", 1000, "--output", "out", cwd=tmp_path)  # 12 s
    assert done.returncode == 0, done.stderr
    expected = "2000 71bb020b27af04184a4287544f18817746a121cab933b1c6ecae2ed7f1a0b122"
    assert digest_of_test_part(tmp_path / "out") == expected


def divided(**parts):
    """So many images of each class in each part."""
    members = {}
    for i, (part, number) in enumerate(parts.items()):
        members |= cats_and_dogs(number, first=100 * i, pattern=f"{part}/{{label}}/{{i}}.jpg")
    return members


def test_validation_images_stay_validation_images(run, tmp_path):
    source = make_zip(tmp_path / "pets.zip", divided(**{"pets/train": 6, "pets/val": 3, "pets/test": 2}))
    lines = run(source, "--test", "4")
    assert counts(tmp_path / "dataset") == {"train": [6, 6], "val": [3, 3], "test": [2, 2]}
    assert lines[0].split()[-3:] == ["train", "val", "test"]
    assert "prepared already" in run(source, "--test", "4")[0]
    lines = run(source, "--shards", "--output", "sharded")
    assert not (tmp_path / "sharded" / "val").exists() and lines[1].split()[-2:] == ["9", "2"]
    assert "validation images join train" in lines[4]


def test_no_test_images_are_invented_and_a_class_without_is_named(run, tmp_path):
    lines = run(make_folder(tmp_path / "pets", divided(train=6, val=3)), "--output", "out")
    assert counts(tmp_path / "out").keys() == {"train", "val"} and lines[1].split()[-3:] == ["6", "3", "0"]
    assert lines[4] == "- no test images; python evaluate.py --part val scores the validation images"
    members = divided(train=6, val=2, test=2) | {f"train/cow/{i}.jpg": image(500 + i) for i in range(4)}
    lines = run(make_folder(tmp_path / "three", members))
    assert lines[5:] == ["- no validation images of cow", "- no test images of cow", "Next: python train.py"]


@pytest.fixture
def split(run, tmp_path):
    """Prepare these members; ({name: part} of the images written, the rows of duplicates.csv by image)."""

    def split(members, test=0.2):
        run(make_zip(tmp_path / "a.zip", members), "--test", test, "--output", "out")
        parts = {"/".join(name.split("/")[1:]): name.split("/")[0] for name in tree(tmp_path / "out") if "/" in name}
        return parts, {row["picture"]: row for row in rows(tmp_path / "out" / "duplicates.csv")}

    return split


def test_lookalikes_stay_on_one_side_and_what_is_in_two_classes_is_for_training(split):
    members = cats_and_dogs(20)
    for i in range(0, 20, 2):  # recompressed, resized, both
        members[f"cat/{i} b.jpg"] = image(i, quality=30)
        members[f"dog/{i} b.jpg"] = image(1000 + i, size=200)
        members[f"dog/{i} c.jpg"] = image(1000 + i, size=120, quality=50)
    in_both = {f"{label}/shared {i}.jpg": image(500 + i) for label in ("cat", "dog") for i in range(6)}
    in_both |= {f"dog/alike {i}.jpg": image(i, quality=40) for i in (1, 3, 5)}
    parts, doubles = split(members | in_both, 0.4)
    assert len(parts) == len(members | in_both) and len(doubles) == 50 + 12 + 6
    sides = defaultdict(set)
    for name, row in doubles.items():
        assert row["file"] == f"{parts[name]}/{name}" and (row["match"] == "same file") == ("shared" in name)
        sides[row["group"]].add(parts[name])
    assert sorted(map(len, sides.values())) == [1] * 29 and set.union(*sides.values()) == {"train", "test"}
    for name in (*in_both, "cat/1.jpg"):
        assert parts[name] == "train" and "in two classes" in doubles[name]["note"]


def test_what_is_in_two_parts_stays_where_it_must_be_new(split, tmp_path):
    members = divided(train=6, val=3, test=2) | {"train/dog/a cat.jpg": image(200), "test/cat/twice.jpg": image(201)}
    members |= {"train/cat/a.jpg": image(100), "train/cat/b.jpg": image(101, quality=40)}
    members |= {"val/dog/c.jpg": image(1200), "val/dog/d.jpg": image(1201, quality=40), "train/dog/e.jpg": image(1201)}
    _, doubles = split(members)
    assert counts(tmp_path / "out") == {"train": [6, 6], "val": [3, 3], "test": [2, 2]}
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
    ramp = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1))
    ramps = {f"b/{i}.png": encode(Image.fromarray(pixels), "PNG") for i, pixels in ((5, ramp), (6, ramp[:, :100]))}
    parts, doubles = split({f"{name}.png": plain(colour) for name, colour in colours.items()} | ramps, 1)
    assert len(parts) == 8 and parts["a/1.png"] == parts["b/1.png"] == "train"
    assert parts["a/3.png"] == "test" and set(doubles) == {"a/1.png", "a/2.png", "b/1.png"}
    assert {row["match"] for row in doubles.values()} == {"same file"}


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


def patients(count):
    """Folders cat/ and dog/, with three images of every patient; patients that 4 divides are in both."""
    members = {}
    for number in range(count):
        for i in range(3):
            label = "cat" if (i % 2 if number % 4 == 0 else number % 2) else "dog"
            members[f"{label}/patient{number}_{i}.jpg"] = image(number * 10 + i)
    return members


def test_a_group_is_on_one_side_of_both_splits(run, tmp_path):
    alike = {"cat/patient1_a.jpg": image(501), "dog/patient2_a.jpg": image(502)}  # joined by look-alikes in one class
    alike |= {"cat/patient3_a.jpg": image(501, quality=30), "dog/again.jpg": image(502, quality=30)}
    printed = run(make_folder(tmp_path / "pets", patients(20) | alike), "--group-by", r"patient(\d+)_", "--test", 0.2)
    groups = {row["file"]: row["group"] for row in rows(tmp_path / "dataset" / "groups.csv")}
    assert "- 20 groups of images that belong together: groups.csv" in printed
    assert "- 1 image that --group-by does not match, each a group of its own" in printed
    assert {file for file in tree(tmp_path / "dataset") if file.endswith(".jpg")} == {*groups}
    assert len({*groups.values()}) == 19  # 1 and 3 are one group
    assert {group for file, group in groups.items() if "again" in file} == {"2"}
    trained, tested = ({groups[file] for file in groups if file.startswith(part)} for part in ("train/", "test/"))
    assert not trained & tested and tested & {"0", "4", "8", "12", "16"}  # one with two classes may be for testing

    folder, held_out = read_folder(tmp_path / "dataset" / "train"), []
    for fold in range(1, 5):
        training, validation = split_validation(folder, 0.25, fold)
        own, others = ({groups[f"train/{name}"] for name in part.relative_paths()} for part in (validation, training))
        assert not own & others and all(validation.counts().values())
        held_out += validation.paths
    assert sorted(held_out) == sorted(folder.paths)  # each image once


def test_a_group_larger_than_the_test_part_is_taken_where_none_is_smaller(run, tmp_path):
    members = {f"{label}/{v}/{i}.jpg": image(100 * v + i) for v, label in enumerate(["a", "b"] * 5) for i in range(6)}
    run(make_folder(tmp_path / "videos", members), "--group-by", r"/\d+/", "--class-folder", "outer")
    assert sum(name.startswith("test/") for name in tree(tmp_path / "dataset")) == 12  # of 60; wanted: 3 of each class


def test_a_group_in_two_parts_of_the_source_is_remarked_on(run, tmp_path):
    members = {f"train/{name}": content for name, content in patients(8).items()}
    members |= {"test/cat/patient0_3.jpg": image(500), "test/dog/patient0_4.jpg": image(501)}
    printed = run(make_folder(tmp_path / "pets", members), "--group-by", r"patient\d+")
    assert any("- 1 group in several parts of the source, such as 'patient0': scores will" in line for line in printed)


def test_same_names_in_one_class(run, tmp_path):
    names = ["cat/a/1.jpg", "cat/b/1.jpg", "cat/c/1.JPG", "cat/2.jpg", "dog/1.jpg", "dog/CON.jpg", "dog/a.jpg"]
    members = {name: image(i) for i, name in enumerate(names)}
    run(make_zip(tmp_path / "pets.zip", members), "--test", "1", "--output", "x")
    written = {name: of for name, of in tree(tmp_path / "x").items() if "/" in name}
    assert sorted(written.values()) == sorted(members.values()) and len({name.lower() for name in written}) == 7
    assert "_CON.jpg" in {Path(name).name for name in written}


def test_a_list_with_unsafe_class_names(run, tmp_path):
    folders = {"../up": "_.._up", "a/b:c": "a_b_c", "con.txt": "_con.txt", ".hidden": "_.hidden", "猫": "猫"}
    make_folder(tmp_path / "raw", {f"{i}.jpg": image(i) for i in range(10)})
    lines = [f"{i}.jpg\t{label}\n" for i, label in enumerate([*folders] * 2 + ["猫"])]
    (tmp_path / "raw" / "list.txt").write_text("".join(lines), encoding="utf-8")
    lines = run("raw/list.txt", "--output", "数据 集", "--columns", "1,2")
    assert {path.name for path in (tmp_path / "数据 集" / "train").iterdir()} == set(folders.values())
    assert "- class 'a/b:c' is in the folder a_b_c" in lines
    assert "- 1 line of the list cannot be used: 10.jpg is missing" in lines
    with pytest.raises(UserError, match=r"made from list\.txt with --test 0\.1 --columns 1,2"):
        run("raw/list.txt", "--output", "数据 集")
    assert lines[-1] == 'Next: python train.py --data "数据 集"'


def test_running_again_changes_nothing(run, tmp_path):
    source = make_folder(tmp_path / "pets", cats_and_dogs())
    with file_lock(tmp_path / "dataset" / outputs.LOCK, ""), pytest.raises(UserError, match=r"Another prepare\.py"):
        run(source)
    run(source)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "dataset").rglob("*")}
    assert "prepared already" in run(source)[0]
    with pytest.raises(UserError, match=r"made from pets with --test 0\.1.*never mixed"):
        run(source, "--test", "0.2")
    make_folder(source, {"cat/new.jpg": image(50)})
    with pytest.raises(UserError, match=r"made from pets, which has changed since.*never mixed"):
        run(source)
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


def test_errors_leave_nothing_behind(run, tmp_path, monkeypatch):
    good = make_zip(tmp_path / "good.zip", cats_and_dogs()).read_bytes()
    (tmp_path / "damaged.zip").write_bytes(good[:700] + bytes(10) + good[710:])
    make_zip(tmp_path / "evil.zip", cats_and_dogs() | {"../evil.jpg": image(0)})
    make_zip(tmp_path / "bad.zip", cats_and_dogs() | {"cow/1.jpg": b"moo"})
    make_zip(tmp_path / "alike.zip", cats_and_dogs() | {f"cow/{i}.jpg": image(77, quality=50 + i) for i in range(6)})
    make_zip(tmp_path / "twice.zip", {"Cat/1.jpg": image(1), "cat/2.jpg": image(2)})
    make_folder(tmp_path / "pets", patients(8))
    make_folder(tmp_path / "train", cats_and_dogs(1))
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in {
        "evil.zip": "outside",
        "damaged.zip": "damaged at",
        "bad.zip": r"Class 'cow' .*1 rejected; cow/1\.jpg is not an image",
        "alike.zip": "Class 'cow'.*look the same",
        "twice.zip": "'Cat' and 'cat' would share",
        "nowhere.zip": "cannot be read",
        "good.zip --output file": "cannot be written to",
        "pets --output pets": "overlaps",
        "pets --output pets/out": "overlaps",
        "train --output .": "overlaps",
        "pets --group-by patient(": r"--group-by 'patient\(' is not a regular expression: missing \)",
        "pets --group-by person": r"matches none of 24 images\. It is searched in paths such as (cat|dog)/patient",
        "pets --group-by ^[a-z]+": r"puts all \d+ images of class '(cat|dog)' into one group, '(cat|dog)'",
        "": "one of SOURCE",
        "good.zip --download": "one of SOURCE",
        "--sample --download": "one of SOURCE",
    }.items():
        with pytest.raises(UserError, match=message):
            run(*arguments.split())
    with monkeypatch.context() as full, pytest.raises(UserError, match=r"0\.0 GB are free"):
        full.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
        run("good.zip")
    with file_size_limit(500), pytest.raises(UserError, match=r"dataset cannot be filled \(File too large\)"):
        run("good.zip")
    assert sorted(tmp_path.rglob("*")) == before


def test_the_drawings_are_complete_and_what_was_there_is_kept(run, tmp_path):
    sample = make_folder(tmp_path / "dataset" / "sample", {"train/cat/tom.png": plain("red")})
    with pytest.raises(UserError, match=r"tom\.png is not one of the drawings"):
        run("--sample")
    assert tree(sample) == {"train/cat/tom.png": plain("red")}
    (sample / "train" / "cat" / "tom.png").unlink()
    there = {"README.md": b"mine", "train/cat/cat.1.png": b"not drawn again"}
    make_folder(sample, there)
    run("--sample")
    found = tree(sample)
    names = {f"{split}/{kind}/{kind}.{i}.png" for split in COUNTS for kind in CLASSES for i in range(COUNTS[split])}
    assert set(found) == {*names, "README.md"} and there.items() <= found.items()
    assert len(set(found.values())) == len(found) == 721
    drawing = Image.open(sample / "test/dog/dog.0.png")
    assert (drawing.mode, drawing.tobytes()) == ("RGB", draw("test", "dog", 0).tobytes())
