"""Which images a network is judged on: its own test images, others, or exactly those that its run set aside."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.transforms import Preprocess
from classifier.evaluation import parts


@pytest.fixture
def root(tmp_path, monkeypatch):
    """photos/train with two classes of 20 and 12 images, of which no two are alike."""
    monkeypatch.chdir(tmp_path)
    for name, count, red in (("cat", 20, 10), ("dog", 12, 200)):
        Path("photos/train", name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (red, i, 0)).save(f"photos/train/{name}/{i}.png")
    return Path("photos")


def read(root, **options):
    return image_folder.with_digests(image_folder.read_folder(root / "train", **options))


def trained(root, val=0.25, name="run", **settings):
    """What train.py notes of a run on these images, as they are now."""
    training, validation = image_folder.split_validation(read(root), val, settings.get("fold", 1))
    data = {"root": str(root), "train": len(training), "val": len(validation), "fingerprint": training.fingerprint()}
    path = Path("module") / f"{name}.pth"
    settings = {"val": val} | settings
    return Checkpoint("resnet18", ["cat", "dog"], Preprocess(), {}, data=data, settings=settings, path=path)


def refuses(match, *arguments):
    with pytest.raises(UserError, match=match):
        parts.images(*arguments)


def test_the_part_set_aside_is_that_of_the_run(root):
    run = trained(root)
    training, validation = image_folder.split_validation(read(root), 0.25)
    found = parts.images([run], "val", None)
    assert found.paths == validation.paths and found.counts() == {"cat": 5, "dog": 3}
    assert not set(found.digests) & set(training.digests)
    assert not parts.learned_from(run, found, "val")
    everything = parts.images([run], "test", root / "train")
    assert len(everything) == 32 and parts.learned_from(run, everything, "test")


def test_two_runs_judge_every_image_once(root):
    aside = [parts.images([trained(root, 0.5, fold=fold)], "val", None) for fold in (1, 2)]
    assert sorted(aside[0].paths + aside[1].paths) == sorted(read(root).paths)


def test_it_is_found_where_the_images_have_gone(root):
    run = trained(root)
    names = {Path(path).name for path in parts.images([run], "val", None).paths}
    root.rename("elsewhere")
    refuses(r"belongs to photos.train, which does not exist.*--data DIR", [run], "val", None)
    for place in ("elsewhere", "elsewhere/train"):
        assert {Path(path).name for path in parts.images([run], "val", Path(place)).paths} == names


def test_no_longer_the_images_of_the_run(root):
    run = trained(root)
    Image.new("RGB", (8, 8), (10, 99, 0)).save(root / "train" / "cat" / "new.png")
    refuses(r"24 \+ 8 images then, 33 now", [run], "val", None)
    (root / "train" / "cat" / "new.png").unlink()
    assert parts.images([run], "val", None)
    (root / "train" / "cat" / "0.png").rename(root / "train" / "dog" / "other.png")  # the same files, other labels
    refuses("other labels", [run], "val", None)


def test_weights_that_do_not_say(root):
    run = trained(root)
    for settings, data in (({}, run.data), (run.settings, {"root": "photos"}), ({"val": "some"}, run.data)):
        refuses("does not say which images", [dataclasses.replace(run, settings=settings, data=data)], "val", None)
    refuses("does not say what it was trained with", [dataclasses.replace(run, data={})], "val", None)


def test_several_runs_have_to_agree(root):
    first, same, other = trained(root), trained(root, name="same"), trained(root, val=0.5, name="other")
    assert len(parts.images([first, same], "val", None)) == 8
    refuses("one by one", [first, other], "val", None)


def test_labels_corrected_after_the_run_are_those_of_today(root):
    run = trained(root)
    aside = parts.images([run], "val", None).paths
    then = read(root)
    changed, left_out = (then.paths.index(path) for path in aside[:2])
    labels = [1 - label if i == changed else label for i, label in enumerate(then.labels)]
    now = dataclasses.replace(then, labels=labels).subset([i for i in range(len(then)) if i != left_out])
    found = parts._set_aside([now, then], run)
    assert found.paths == [aside[0], *aside[2:]] and found.labels[0] == 1
    assert parts._set_aside([now, then], dataclasses.replace(run, data=trained(root).data)).paths == found.paths


def test_a_copy_with_another_label_is_not_among_them(tmp_path):
    # half of each class is set aside, the smallest digests: of the first 1 and 2, of the second 3 and 5
    digests = [bytes([number]) for number in (1, 2, 3, 4, 3, 5, 6, 7)]
    folder = image_folder.ImageFolder(tmp_path / "train", ["cat", "dog"], list("abcdefgh"), [0] * 4 + [1] * 4, digests)
    training, validation = image_folder.split_validation(folder, 0.5)
    assert validation.paths == ["a", "b", "e", "f"] and training.paths == ["c", "d", "g", "h"]
    run = Checkpoint(
        "resnet18",
        ["cat", "dog"],
        Preprocess(),
        {},
        data={"fingerprint": training.fingerprint()},
        settings={"val": 0.5},
    )
    assert parts._set_aside([folder], run).paths == ["a", "b", "f"]  # e is c, which it learned from


def test_remarks(root):
    drawn = dataclasses.replace(trained(root), data=trained(root).data | {"kind": "drawings"})
    folder = read(root)
    assert [text for text in parts.remarks(drawn, folder, "test") if "drawings" in text]
    assert any("learned from: new ones will be harder" in text for text in parts.remarks(drawn, folder, "test"))
    assert any("chose the best epoch" in text for text in parts.remarks(drawn, folder, "val"))
    for beginning, said in (("", False), ("imagenet", False), ("module/older.pth", True)):
        remarks = parts.remarks(trained(root, weights=beginning), folder, "val")
        assert any("may have learned from some of them" in text for text in remarks) is said
    corrected = dataclasses.replace(folder, corrected="corrections.csv: 1 relabelled")
    assert "corrections.csv: 1 relabelled" in parts.remarks(drawn, corrected, "test")


def test_data_may_be_split_or_not(tmp_path):
    for name in ("split/train/cat", "split/test/cat", "unfinished/train/cat", "flat/cat", "flat/test"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").touch()
    assert parts.test_folder(tmp_path / "split") == tmp_path / "split" / "test"
    assert parts.test_folder(tmp_path / "split" / "test") == tmp_path / "split" / "test"
    assert parts.test_folder(tmp_path / "unfinished") == tmp_path / "unfinished" / "test"
    assert parts.test_folder(tmp_path / "flat") == tmp_path / "flat"  # with a class called "test"
