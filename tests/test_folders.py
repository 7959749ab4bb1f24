"""Folders: what is indexed, what is wrong with a folder, the validation split, corrections."""

import os
import shutil
from pathlib import Path

import pytest
from torchvision import datasets

from classifier.cli import UserError
from classifier.data import corrections
from classifier.data.image_folder import ImageFolder, has_images, read_folder, split_validation, train_and_val
from tests.conftest import make_images
from tests.raw_images import make_folder

unix = pytest.mark.skipif(os.name == "nt", reason="links need a permission on Windows, and names are text")


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / "train", {"dog two": 10, "猫": 20})


def test_a_known_ending_decides_and_otherwise_the_content(root):
    folder = root / "dog two"
    png = (folder / "0.png").read_bytes()
    images = ["photo", "photo.2", "photo.jpg_large", "a.jfif", "a.HEIC"]
    others = ["a.txt", ".photo", "a.psd", "Thumbs.db", "._0.png"]  # not looked into, nor is empty.jpg
    texts = {"empty.jpg": b"", "text": b"some text", "text.2": b"some text"}
    make_folder(folder, dict.fromkeys(images + others, png) | texts)
    for place in (root, folder):
        make_images(place, dict.fromkeys((".ipynb_checkpoints", ".cache", "@eaDir", "__MACOSX"), 1))
    (folder / "link").symlink_to("nowhere")
    found = [Path(path).name for path in ImageFolder(root).paths[:-20]]
    assert found == sorted([*images, "empty.jpg", *(f"{i}.png" for i in range(10))])
    assert has_images(root) and not has_images(folder)


def test_index_equals_torchvisions(root):
    make_images(root / "猫", {"b/c": 2, "b c": 2})
    for name in ("UPPER.PNG", "B.JPEG", "猫.webp", "c.Tiff", "a.txt"):
        shutil.copy(root / "猫" / "0.png", root / "猫" / name)
    ours, theirs = ImageFolder(root), datasets.ImageFolder(str(root))
    assert ours.samples == theirs.samples and ours.class_to_idx == theirs.class_to_idx and ours[11] == theirs[11]
    assert ours.paths == [path for path, _ in theirs.samples] and ours.labels == theirs.targets


@unix
def test_links_are_followed_but_never_in_circles(root, tmp_path):
    more = make_images(tmp_path, {"more": 3}) / "more"
    for name, target in (("linked", more), ("back", root), ("again", root), ("other", root / "dog two")):
        (root / "猫" / name).symlink_to(target)
    (root / "dog two" / "other").symlink_to(root / "猫")
    (root / "猫" / "gone.png").symlink_to(tmp_path / "nothing")
    folder = read_folder(root)
    assert len(folder) == len(set(folder.paths)) == 30 + 3 + 1 + 10 + 20 + 3 + 1
    assert "猫/gone.png" in folder.relative_paths() and folder.fingerprint()  # opening it will say what is wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: shutil.rmtree(root), "does not exist"),
        (lambda root: (shutil.rmtree(root), root.write_text("a file")), "is not a folder"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), "no images"),
        (lambda root: shutil.rmtree(root / "猫"), "only one class"),
        (lambda root: (root / "empty one").mkdir(), "without images: empty one"),
        pytest.param(lambda root: make_images(root, {os.fsdecode(b"\xff\xfe"): 1}), "not valid text", marks=unix),
    ],
)
def test_says_what_is_wrong_with_a_folder(root, make, message):
    make(root)
    with pytest.raises(UserError, match=message):
        read_folder(root)


def test_fingerprint_tells_paths_sizes_and_labels_but_not_the_place(root, tmp_path):
    copied = shutil.copytree(root, tmp_path / "elsewhere" / "train")
    orders = (None, ["猫", "dog two"], ["dog two", "x", "猫"])
    prints = [read_folder(root, classes=classes).fingerprint() for classes in orders]
    assert prints[0] == prints[1] == read_folder(copied).fingerprint()  # the order of the classes is the network's
    moved = (copied / "猫" / "0.png").rename(copied / "猫" / "other.png")
    prints.append(read_folder(copied).fingerprint())
    moved.rename(copied / "猫" / "0.png").write_bytes(b"\0")
    assert len({*prints, read_folder(copied).fingerprint()}) == 4


def test_the_split_is_stratified_disjoint_and_the_same_wherever_the_folder_is(root, tmp_path):
    training, validation = split_validation(read_folder(root), 0.2)
    assert training.counts() == {"dog two": 8, "猫": 16}
    numbers = {"dog two": (4, 7), "猫": (1, 10, 16, 6)}  # written down, so that no later version splits otherwise
    held_out = [f"{name}/{i}.png" for name in numbers for i in numbers[name]]
    assert validation.relative_paths() == held_out
    moved = Path(shutil.move(root, tmp_path / "elsewhere"))
    assert split_validation(read_folder(moved), 0.2)[1].relative_paths() == held_out


def test_composed_and_decomposed_names_are_split_alike(tmp_path):
    for place, name in (("nfc", "\u00e9"), ("nfd", "e\u0301")):
        make_images(tmp_path / place, {f"a/{name}": 10, f"b/{name}": 10})
    parts = [split_validation(read_folder(tmp_path / place), 0.3)[1] for place in ("nfc", "nfd")]
    assert parts[0].relative_paths() == parts[1].relative_paths() and parts[0].fingerprint() == parts[1].fingerprint()


@pytest.mark.parametrize(("share", "folds", "alike"), [(0.5, 2, True), (0.3, 4, True), (0.3, 4, False)])
def test_every_image_is_held_out_in_one_fold_and_those_found_alike_together(root, share, folds, alike):
    files = [f"train/猫/{path.name}" for path in sorted((root / "猫").iterdir())]
    rows = [f"{number // 2},猫,,looks the same,{file}," for number, file in enumerate(files) if alike]
    report = root.parent / "duplicates.csv"
    report.write_text("\n".join(["group,class,image,match,file,note", *rows]), encoding="utf-8-sig")
    folder = read_folder(root)
    parts = [split_validation(folder, share, fold) for fold in range(1, folds + 1)]
    assert sorted(path for _, validation in parts for path in validation.paths) == sorted(folder.paths)
    for training, validation in parts:
        assert set(training.paths) == set(folder.paths) - set(validation.paths)
        assert all(validation.counts().values())
        held_out = [str(root.parent / file) in validation.paths for file in files]
        assert not alike or held_out[::2] == held_out[1::2]


@pytest.mark.parametrize("content", ["group;file\n1;train/a.png", "group,file\n1", "group,file\n1,树.png"])
@pytest.mark.parametrize("table", ["duplicates.csv", "groups.csv"])
def test_a_table_that_another_program_has_changed_is_named(root, table, content):
    (root.parent / table).write_bytes(content.encode("gb18030"))
    with pytest.raises(UserError, match=f"{table} is not as prepare.py wrote it: expected UTF-8"):
        split_validation(read_folder(root), 0.5)


def test_at_least_one_image_is_held_out_and_one_left(tmp_path):
    make_images(tmp_path, {"a": 1, "b": 5})
    with pytest.raises(UserError, match=r"too few different images \(1\)"):
        split_validation(read_folder(tmp_path), 0.1)
    make_images(tmp_path, {"a": 2})
    assert split_validation(read_folder(tmp_path), 0.1)[1].counts() == {"a": 1, "b": 1}


def test_a_val_folder_is_used_where_there_is_one(root):
    val = make_images(root.parent / "val", {"猫": 0})
    assert [len(part) for part in train_and_val(root.parent, 0.2)] == [24, 6]  # without images it is none
    make_images(val, {"猫": 3})
    training, validation = train_and_val(root.parent, 0.2)
    assert len(training) == 30 and validation.counts() == {"dog two": 0, "猫": 3}
    with pytest.raises(UserError, match="--fold 2 is a part of the training images"):
        train_and_val(root.parent, 0.2, fold=2)


def decide(path, decision, right="", replaces=0):
    table = corrections.table_of(path.parents[1])
    names = (path.relative_to(table.parent).as_posix(), corrections.digest(path).hex(), path.parent.name)
    assert corrections.record(table, corrections.Correction(*names, decision, right), ["dog two", "猫"], replaces)


def test_corrections_are_honoured_and_nothing_else_changes(root):
    before, cats = read_folder(root), root / "猫"
    decide(cats / "3.png", corrections.RELABEL, "dog two")
    decide(cats / "4.png", corrections.LEAVE_OUT)
    decide(cats / "5.png", corrections.KEEP)
    after = read_folder(root)
    assert after.counts() == {"dog two": 11, "猫": 18} and after.labels[after.paths.index(str(cats / "3.png"))] == 0
    assert after.fingerprint() != before.fingerprint() and set(before.paths) - set(after.paths) == {str(cats / "4.png")}
    assert read_folder(root, corrected=False).samples == before.samples
    assert split_validation(after, 0.2)[1].counts() == {"dog two": 2, "猫": 4}
    for line, name in ((2, "3.png"), (3, "4.png")):
        decide(cats / name, corrections.UNDONE, replaces=line)
    assert read_folder(root).fingerprint() == before.fingerprint() and read_folder(root).corrected == ""
    for name in ("3.png", "4.png"):  # a decision is about the content that was seen
        decide(cats / name, corrections.LEAVE_OUT)
    shutil.copy(cats / "9.png", cats / "3.png")
    (cats / "4.png").unlink()
    folder = read_folder(root)
    assert folder.counts() == {"dog two": 10, "猫": 19}
    remarks = "2 rows without effect (train/猫/3.png has changed since; train/猫/4.png does not exist)"
    assert folder.corrected == f"corrections.csv: 0 relabelled, 0 left out, {remarks}"
