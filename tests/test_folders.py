"""Folders: the index, the images set aside, and what is wrong with a folder."""

import shutil

import pytest
from PIL import Image

from classifier.cli import UserError
from classifier.data import corrections, image_folder
from classifier.data.images import load_image


def fill(folder, count, color, start=0):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(start, start + count):
        Image.new("RGB", (30, 20), (color, i % 256, i // 256)).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "train" / "猫", 20, 10)
    fill(tmp_path / "train" / "dog two", 10, 200)
    return tmp_path / "train"


def read(root):
    return image_folder.with_digests(image_folder.read_folder(root))


def test_reads_classes_in_order_and_skips_what_is_no_image(root):
    (root / "猫" / "Thumbs.db").write_bytes(b"x")
    (root / ".ipynb_checkpoints").mkdir()
    folder = image_folder.read_folder(root)
    assert folder.classes == ["dog two", "猫"]
    assert folder.counts() == {"dog two": 10, "猫": 20}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: shutil.rmtree(root), "does not exist"),
        (lambda root: (shutil.rmtree(root), root.write_text("a file")), "is no folder"),
        (lambda root: (shutil.rmtree(root), root.mkdir()), "no images"),
        (lambda root: shutil.rmtree(root / "猫"), "one class only"),
        (lambda root: (root / "empty one").mkdir(), "without images: empty one"),
    ],
)
def test_says_what_is_wrong_with_a_folder(root, make, message):
    make(root)
    with pytest.raises(UserError, match=message):
        image_folder.read_folder(root)


def test_validation_is_stratified_disjoint_and_fixed_by_content(root, tmp_path):
    training, validation = image_folder.split_validation(read(root), 0.2)
    assert validation.counts() == {"dog two": 2, "猫": 4}
    assert training.counts() == {"dog two": 8, "猫": 16}
    assert not set(training.paths) & set(validation.paths)

    def contents(folder):
        return {load_image(path).tobytes() for path in folder.paths}

    moved = tmp_path / "elsewhere"
    for i, path in enumerate(sorted(root.rglob("*.png"), reverse=True)):  # other names, another order
        target = moved / path.parent.name / f"renamed {i}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    assert contents(image_folder.split_validation(read(moved), 0.2)[1]) == contents(validation)


def test_copies_of_a_image_stay_together(root):
    for path in list((root / "猫").glob("*.png")):
        shutil.copy(path, path.with_stem(f"{path.stem} copy"))
    training, validation = image_folder.split_validation(read(root), 0.33)
    seen = [{load_image(path).tobytes() for path in part.paths} for part in (training, validation)]
    assert not seen[0] & seen[1]


def test_images_that_prepare_found_alike_stay_together(root):
    files = sorted((root / "猫").iterdir())
    pairs = list(zip(files[::2], files[1::2], strict=True))
    rows = [f"{number},猫,,looks the same,train/猫/{path.name}," for number, pair in enumerate(pairs) for path in pair]
    report = root.parent / "duplicates.csv"
    report.write_text("\n".join(["group,class,image,match,file,note", *rows]), encoding="utf-8-sig")
    _, validation = image_folder.split_validation(read(root), 0.3)
    for first, second in pairs:
        assert (str(first) in validation.paths) == (str(second) in validation.paths)
    assert validation.counts()["猫"] == 6


def test_hidden_files_and_folders_are_no_images(root):
    hidden = root / "猫" / ".ipynb_checkpoints"
    hidden.mkdir()
    shutil.copy(root / "猫" / "0.png", hidden / "0-checkpoint.png")
    assert len(image_folder.read_folder(root)) == 30
    assert not image_folder.has_images(root / "猫")


def test_fingerprint_tells_contents_and_classes_not_names_or_places(root, tmp_path):
    first = image_folder.split_validation(read(root), 0.2)[0].fingerprint()
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy" / "猫" / "0.png").rename(tmp_path / "copy" / "猫" / "other.png")
    assert image_folder.split_validation(read(tmp_path / "copy"), 0.2)[0].fingerprint() == first
    (tmp_path / "copy" / "猫").rename(tmp_path / "copy" / "cat")
    assert image_folder.split_validation(read(tmp_path / "copy"), 0.2)[0].fingerprint() != first


@pytest.mark.parametrize(("share", "folds"), [(0.5, 2), (0.25, 4), (0.3, 4)])
def test_all_folds_set_every_image_aside_once(root, share, folds):
    folder = read(root)
    parts = [image_folder.split_validation(folder, share, fold) for fold in range(1, folds + 1)]
    aside = [path for _, validation in parts for path in validation.paths]
    assert sorted(aside) == sorted(folder.paths)
    for training, validation in parts:
        assert set(training.paths) == set(folder.paths) - set(validation.paths)
        assert all(validation.counts().values())


def test_too_few_to_set_aside(tmp_path):
    fill(tmp_path / "a", 1, 0)
    fill(tmp_path / "b", 5, 9)
    with pytest.raises(UserError, match="1 images, too few"):
        image_folder.split_validation(read(tmp_path), 0.1)


def decide(root, path, decision, right="", replaces=0):
    table = corrections.table_of(root)
    names = (corrections.name_in(table, str(path)), image_folder.digest(path).hex(), path.parent.name)
    assert corrections.record(table, corrections.Correction(*names, decision, right), ["dog two", "猫"], replaces)


def test_corrections_are_honoured_and_nothing_else_changes(root):
    before = read(root)
    decide(root, root / "猫" / "3.png", corrections.RELABEL, "dog two")
    decide(root, root / "猫" / "4.png", corrections.LEAVE_OUT)
    decide(root, root / "猫" / "5.png", corrections.KEEP)
    after = read(root)
    assert after.counts() == {"dog two": 11, "猫": 18}
    assert after.corrected == "corrections.csv: 1 relabelled, 1 left out"
    assert after.labels[after.paths.index(str(root / "猫" / "3.png"))] == 0
    assert str(root / "猫" / "4.png") not in after.paths and (root / "猫" / "4.png").exists()
    assert after.fingerprint() != before.fingerprint()
    assert set(after.digests) == set(before.digests) - {image_folder.digest(root / "猫" / "4.png")}
    assert image_folder.with_digests(image_folder.read_folder(root, corrected=False)) == before
    for line, name in ((2, "3.png"), (3, "4.png")):
        decide(root, root / "猫" / name, corrections.UNDONE, replaces=line)
    assert read(root).fingerprint() == before.fingerprint() and read(root).corrected == ""


def test_train_and_test_share_the_table(root):
    shutil.copytree(root, root.with_name("test"))
    decide(root, root / "猫" / "3.png", corrections.RELABEL, "dog two")
    other = root.with_name("test")
    decide(other, other / "dog two" / "1.png", corrections.LEAVE_OUT)
    assert image_folder.read_folder(root).corrected == "corrections.csv: 1 relabelled, 0 left out"
    assert image_folder.read_folder(other).counts() == {"dog two": 9, "猫": 20}


def test_a_folder_that_is_not_split_has_its_own_table(root):
    photos = root.rename(root.with_name("photos"))
    decide(photos, photos / "猫" / "3.png", corrections.LEAVE_OUT)
    assert (photos / "corrections.csv").exists()
    assert image_folder.read_folder(photos).counts() == {"dog two": 10, "猫": 19}


def test_a_decision_is_about_the_content_that_was_seen(root):
    for name in ("3.png", "4.png"):
        decide(root, root / "猫" / name, corrections.LEAVE_OUT)
    shutil.copy(root / "猫" / "9.png", root / "猫" / "3.png")
    (root / "猫" / "4.png").unlink()
    folder = image_folder.read_folder(root)
    assert folder.counts() == {"dog two": 10, "猫": 19}
    assert folder.corrected == (
        "corrections.csv: 0 relabelled, 0 left out, 2 rows without effect "
        "(train/猫/3.png has changed since; train/猫/4.png is not there)"
    )


def test_corrections_that_leave_a_class_empty_are_told(root):
    for path in sorted((root / "dog two").iterdir()):
        decide(root, path, corrections.LEAVE_OUT)
    with pytest.raises(UserError, match=r"corrections\.csv leaves .*train without images of dog two"):
        image_folder.read_folder(root)


def test_only_files_that_have_a_row_are_read(root, monkeypatch):
    decide(root, root / "猫" / "3.png", corrections.LEAVE_OUT)
    asked, digest = [], image_folder.digest
    monkeypatch.setattr(image_folder, "digest", lambda path: asked.append(path) or digest(path))
    image_folder.read_folder(root)
    assert asked == [str(root / "猫" / "3.png")]


def test_relabelled_images_are_split_and_cached_as_any_other(root):
    decide(root, root / "猫" / "3.png", corrections.RELABEL, "dog two")
    training, validation = image_folder.split_validation(read(root), 0.2)
    assert validation.counts() == {"dog two": 2, "猫": 4} and training.counts() == {"dog two": 9, "猫": 15}
    assert training.corrected == "corrections.csv: 1 relabelled, 0 left out"
