"""Folders: what is indexed, what is wrong with a folder, the validation split, corrections."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image
from torchvision import datasets

from classifier.cli import UserError
from classifier.data import corrections
from classifier.data.image_folder import (
    ImageFolder,
    class_weights,
    has_images,
    imbalance_warning,
    read_folder,
    split_validation,
    train_and_val,
)


def fill(folder, count, color=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (30, 20), (color, i % 256, i // 256)).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "train" / "猫", 20, 10)
    fill(tmp_path / "train" / "dog two", 10, 200)
    return tmp_path / "train"


def names(folder):
    return set(folder.relative_paths())


# ---- the index


def test_index_equals_torchvisions(root):
    fill(root / "猫" / "b" / "c", 2)
    fill(root / "猫" / "b c", 2)
    shutil.copy(root / "猫" / "0.png", root / "猫" / "UPPER.PNG")
    ours, theirs = ImageFolder(root), datasets.ImageFolder(str(root))
    assert ours.samples == theirs.samples and ours.class_to_idx == theirs.class_to_idx
    assert ours.paths == [path for path, _ in theirs.samples] and ours.labels == theirs.targets
    image, label = ours[11]
    assert image.size == (30, 20) and image.mode == "RGB" and label == theirs[11][1]


def test_hidden_and_system_files_and_folders_are_not_indexed(root):
    (root / "猫" / "Thumbs.db").write_bytes(b"x")
    shutil.copy(root / "猫" / "0.png", root / "猫" / "._0.png")
    for place in (root, root / "猫"):
        for name in (".ipynb_checkpoints", ".cache", "@eaDir", "__MACOSX"):
            fill(place / name, 1)
    assert read_folder(root).classes == ["dog two", "猫"]
    assert read_folder(root).counts() == {"dog two": 10, "猫": 20}
    assert not has_images(root / "猫") and has_images(root)


@pytest.mark.skipif(os.name == "nt", reason="links need a permission on Windows")
def test_links_are_followed_but_never_in_circles(root, tmp_path):
    fill(tmp_path / "more", 3)
    (root / "猫" / "linked").symlink_to(tmp_path / "more")
    for name in ("back", "again"):
        (root / "猫" / name).symlink_to(root)
    (root / "猫" / "other").symlink_to(root / "dog two")
    (root / "dog two" / "other").symlink_to(root / "猫")
    (root / "猫" / "gone.png").symlink_to(tmp_path / "nothing")
    folder = read_folder(root)
    assert len(folder) == len(set(folder.paths)) == 30 + 3 + 1 + 10 + 20 + 3 + 1
    assert "猫/gone.png" in names(folder) and folder.fingerprint()  # opening it will say what is wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: shutil.rmtree(root), "does not exist"),
        (lambda root: (shutil.rmtree(root), root.write_text("a file")), "is not a folder"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), "no images"),
        (lambda root: shutil.rmtree(root / "猫"), "only one class"),
        (lambda root: (root / "empty one").mkdir(), "without images: empty one"),
        pytest.param(
            lambda root: fill(root / os.fsdecode(b"\xff\xfe"), 1),
            "not valid text",
            marks=pytest.mark.skipif(os.name == "nt", reason="Windows has no such names"),
        ),
    ],
)
def test_says_what_is_wrong_with_a_folder(root, make, message):
    make(root)
    with pytest.raises(UserError, match=message):
        read_folder(root)


def test_given_classes_keep_their_labels_where_some_have_no_images(root):
    classes = ["dog", "dog two", "elk", "猫"]
    folder = read_folder(root, classes=classes)
    assert folder.classes == classes and folder.counts() == {"dog": 0, "dog two": 10, "elk": 0, "猫": 20}
    assert set(folder.labels) == {1, 3}
    (root / "extra").mkdir()
    assert read_folder(root, classes=classes).samples == folder.samples  # an empty folder does no harm
    with pytest.raises(UserError, match="classes that the training images do not have: dog two"):
        read_folder(root, classes=["猫", "x"])


def test_balance(root):
    folder = read_folder(root)
    assert class_weights(folder).tolist() == [1.5, 0.75]
    assert imbalance_warning(folder) == "the classes are imbalanced: 猫 has 2.0 times as many images as dog two"
    assert imbalance_warning(folder.subset(range(20))) == ""


def test_fingerprint_tells_paths_sizes_and_labels_but_not_the_place(root, tmp_path):
    first = read_folder(root).fingerprint()
    copied = tmp_path / "elsewhere" / "train"
    shutil.copytree(root, copied)
    assert read_folder(copied).fingerprint() == first
    (copied / "猫" / "0.png").rename(copied / "猫" / "other.png")
    second = read_folder(copied).fingerprint()
    (copied / "猫" / "other.png").rename(copied / "猫" / "0.png")
    with (copied / "猫" / "0.png").open("ab") as file:
        file.write(b"\0")
    third = read_folder(copied).fingerprint()
    folder = read_folder(root)
    parts = [split_validation(folder, 0.2)[0].fingerprint(), folder.with_classes(["dog two", "x", "猫"]).fingerprint()]
    assert len({first, second, third, *parts}) == 5
    assert folder.with_classes(["猫", "dog two"]).fingerprint() == first  # the order of the classes is the network's


# ---- the validation part


def test_the_split_is_stratified_disjoint_and_the_same_wherever_the_folder_is(root, tmp_path):
    training, validation = split_validation(read_folder(root), 0.2)
    assert validation.counts() == {"dog two": 2, "猫": 4}
    assert training.counts() == {"dog two": 8, "猫": 16}
    assert not names(training) & names(validation)
    # written down, so that no later version splits the same folder otherwise without noticing
    assert names(validation) == {"dog two/4.png", "dog two/7.png", "猫/1.png", "猫/10.png", "猫/16.png", "猫/6.png"}
    moved = Path(shutil.move(root, tmp_path / "elsewhere"))
    assert names(split_validation(read_folder(moved), 0.2)[1]) == names(validation)


def test_composed_and_decomposed_names_are_split_alike(tmp_path):
    for place, name in (("nfc", "\u00e9"), ("nfd", "e\u0301")):
        for kind in "ab":
            fill(tmp_path / place / kind / name, 10)
    parts = [split_validation(read_folder(tmp_path / place), 0.3)[1] for place in ("nfc", "nfd")]
    assert names(parts[0]) == names(parts[1]) and parts[0].fingerprint() == parts[1].fingerprint()


def test_images_that_prepare_found_alike_stay_together(root):
    files = sorted((root / "猫").iterdir())
    pairs = list(zip(files[::2], files[1::2], strict=True))
    rows = [f"{number},猫,,looks the same,train/猫/{path.name}," for number, pair in enumerate(pairs) for path in pair]
    report = root.parent / "duplicates.csv"
    report.write_text("\n".join(["group,class,image,match,file,note", *rows]), encoding="utf-8-sig")
    for fold in (1, 2, 3):
        _, validation = split_validation(read_folder(root), 0.3, fold)
        for first, second in pairs:
            assert (str(first) in validation.paths) == (str(second) in validation.paths)
        assert validation.counts()["猫"] == 6


@pytest.mark.parametrize(("share", "folds"), [(0.5, 2), (0.25, 4), (0.3, 4)])
def test_every_image_is_held_out_in_one_fold(root, share, folds):
    folder = read_folder(root)
    parts = [split_validation(folder, share, fold) for fold in range(1, folds + 1)]
    assert sorted(path for _, validation in parts for path in validation.paths) == sorted(folder.paths)
    for training, validation in parts:
        assert set(training.paths) == set(folder.paths) - set(validation.paths)
        assert all(validation.counts().values())


def test_at_least_one_image_is_held_out_and_one_left(tmp_path):
    fill(tmp_path / "a", 1)
    fill(tmp_path / "b", 5)
    with pytest.raises(UserError, match=r"too few different images \(1\)"):
        split_validation(read_folder(tmp_path), 0.1)
    fill(tmp_path / "a", 2)
    assert split_validation(read_folder(tmp_path), 0.1)[1].counts() == {"a": 1, "b": 1}


def test_a_val_folder_is_used_where_there_is_one(root):
    before = train_and_val(root.parent, 0.2)
    assert [len(part) for part in before] == [24, 6]
    (root.parent / "val" / "猫").mkdir(parents=True)
    assert [len(part) for part in train_and_val(root.parent, 0.2)] == [24, 6]  # without images it is none
    fill(root.parent / "val" / "猫", 3)
    training, validation = train_and_val(root.parent, 0.2)
    assert len(training) == 30 and validation.classes == training.classes
    assert validation.counts() == {"dog two": 0, "猫": 3}
    with pytest.raises(UserError, match="--fold 2 is a part of the training images"):
        train_and_val(root.parent, 0.2, fold=2)


# ---- corrections


def decide(root, path, decision, right="", replaces=0):
    table = corrections.table_of(root)
    names = (corrections.name_in(table, str(path)), corrections.digest(path).hex(), path.parent.name)
    assert corrections.record(table, corrections.Correction(*names, decision, right), ["dog two", "猫"], replaces)


def test_corrections_are_honoured_and_nothing_else_changes(root):
    before = read_folder(root)
    decide(root, root / "猫" / "3.png", corrections.RELABEL, "dog two")
    decide(root, root / "猫" / "4.png", corrections.LEAVE_OUT)
    decide(root, root / "猫" / "5.png", corrections.KEEP)
    after = read_folder(root)
    assert after.counts() == {"dog two": 11, "猫": 18}
    assert after.corrected == "corrections.csv: 1 relabelled, 1 left out"
    assert after.labels[after.paths.index(str(root / "猫" / "3.png"))] == 0
    assert set(before.paths) - set(after.paths) == {str(root / "猫" / "4.png")} and (root / "猫" / "4.png").exists()
    assert after.fingerprint() != before.fingerprint()
    assert read_folder(root, corrected=False).samples == before.samples
    assert split_validation(after, 0.2)[1].counts() == {"dog two": 2, "猫": 4}
    for line, name in ((2, "3.png"), (3, "4.png")):
        decide(root, root / "猫" / name, corrections.UNDONE, replaces=line)
    assert read_folder(root).fingerprint() == before.fingerprint() and read_folder(root).corrected == ""


def test_all_parts_share_the_table(root):
    for part in ("val", "test"):
        shutil.copytree(root, root.with_name(part))
    decide(root, root / "猫" / "3.png", corrections.RELABEL, "dog two")
    for part, left in (("val", 8), ("test", 9)):
        other = root.with_name(part)
        for number in range(10 - left):
            decide(other, other / "dog two" / f"{number}.png", corrections.LEAVE_OUT)
        assert read_folder(other).counts() == {"dog two": left, "猫": 20}
    assert read_folder(root).corrected == "corrections.csv: 1 relabelled, 0 left out"


def test_a_folder_that_is_not_split_has_its_own_table(root):
    photos = root.rename(root.with_name("photos"))
    decide(photos, photos / "猫" / "3.png", corrections.LEAVE_OUT)
    assert (photos / "corrections.csv").exists()
    assert read_folder(photos).counts() == {"dog two": 10, "猫": 19}


def test_a_decision_is_about_the_content_that_was_seen(root):
    for name in ("3.png", "4.png"):
        decide(root, root / "猫" / name, corrections.LEAVE_OUT)
    shutil.copy(root / "猫" / "9.png", root / "猫" / "3.png")
    (root / "猫" / "4.png").unlink()
    folder = read_folder(root)
    assert folder.counts() == {"dog two": 10, "猫": 19}
    assert folder.corrected == (
        "corrections.csv: 0 relabelled, 0 left out, 2 rows without effect "
        "(train/猫/3.png has changed since; train/猫/4.png does not exist)"
    )


def test_corrections_that_leave_a_class_empty_are_reported(root):
    for path in sorted((root / "dog two").iterdir()):
        decide(root, path, corrections.LEAVE_OUT)
    with pytest.raises(
        UserError, match=r"classes without images: dog two \(corrections\.csv: 0 relabelled, 10 left out"
    ):
        read_folder(root)
    assert len(read_folder(root, classes=["dog two", "猫"])) == 20


@pytest.mark.skipif(os.name == "nt", reason="links need a permission on Windows")
def test_only_files_that_have_a_row_are_read(root):
    decide(root, root / "猫" / "3.png", corrections.LEAVE_OUT)
    (root / "猫" / "gone.png").symlink_to(root / "nothing")  # cannot be read
    assert len(read_folder(root)) == 30
