"""Which images a network is evaluated on: its own test images, others, or exactly its validation images."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from PIL import Image

from classifier.checkpoint import SHIPPED, Checkpoint
from classifier.cli import UserError
from classifier.data import corrections, image_folder
from classifier.data.transforms import Preprocess
from classifier.evaluation import selection
from classifier.evaluation.selection import remarks, select_images


@pytest.fixture
def root(tmp_path, monkeypatch):
    """photos/train with two classes of 20 and 12 images."""
    monkeypatch.chdir(tmp_path)
    for name, count, red in (("cat", 20, 10), ("dog", 12, 200)):
        Path("photos/train", name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (red, i, 0)).save(f"photos/train/{name}/{i}.png")
    return Path("photos")


def trained(root, val=0.25, name="run", **settings):
    """What train.py notes of a run on these images, as they are now."""
    training, validation = image_folder.train_and_val(root, val, settings.get("fold", 1))
    data = {"root": str(root), "train": len(training), "val": len(validation), "fingerprint": training.fingerprint()}
    path, settings = Path("module") / f"{name}.pth", {"val": val} | settings
    return Checkpoint("resnet18", ["cat", "dog"], Preprocess(), {}, data=data, settings=settings, path=path)


def validation_paths(checkpoint, data=None):
    _, (folder,) = select_images([checkpoint], "val", data)
    return [Path(path).relative_to(folder.root).as_posix() for path in folder.paths]


def refuses(match, *arguments):
    with pytest.raises(UserError, match=match):
        select_images(*arguments)


def test_validation_images_are_those_of_the_run_or_in_a_folder(root):
    training, validation = image_folder.train_and_val(root, 0.25, 1)
    _, (found,) = select_images([trained(root)], "val", None)
    assert found.paths == validation.paths and found.counts() == {"cat": 5, "dog": 3}
    assert not set(found.paths) & set(training.paths)
    folds = [validation_paths(trained(root, 0.5, fold=fold)) for fold in (1, 2)]  # together every image once
    assert sorted(folds[0] + folds[1]) == sorted(str(path.relative_to(root / "train")) for path in root.rglob("*.png"))
    shutil.copytree(root / "train", root / "val")
    run = trained(root)
    _, (found,) = select_images([run], "val", None)
    assert found.root == root / "val" and len(found) == 32
    (root / "val" / "cat" / "0.png").unlink()
    refuses("does not say which images of photos", [run], "val", None)


def test_a_moved_folder_is_recognised_and_a_changed_one_refused(root):
    run = trained(root)
    paths = validation_paths(run)
    root.rename("elsewhere")
    refuses(r"photos.train does not exist.*--data DIR", [run], "val", None)
    for data in ("elsewhere", "elsewhere/train"):
        assert validation_paths(run, Path(data)) == paths
    new = Path("elsewhere/train/cat/new.png")
    Image.new("RGB", (8, 8), (10, 99, 0)).save(new)
    refuses("module.run.pth does not say which images of elsewhere", [run], "val", Path("elsewhere"))
    new.unlink()
    assert validation_paths(run, Path("elsewhere")) == paths
    Path("elsewhere/train/cat/0.png").rename("elsewhere/train/dog/other.png")  # the same files, another label
    refuses("relabelled", [run], "val", Path("elsewhere"))


def test_networks_that_do_not_say(root):
    run = trained(root)
    earlier = run.data | {"fingerprint": "5c28e4e1d8a7f2b7a1f0d6f9e0c3b2a1"}  # of the images' contents
    for settings, data in (({}, run.data), (run.settings, {}), (run.settings, earlier)):
        run_that = dataclasses.replace(run, settings=settings, data=data)
        refuses("does not say which images.*earlier version", [run_that], "val", Path("photos"))


def test_networks_that_the_images_of_the_newest_do_not_suit_are_left_out(root):
    first, same, other = trained(root), trained(root, name="same"), trained(root, val=0.5, name="other")
    assert [len(folder) for folder in select_images([first, same], "val", None)[1]] == [8, 8]
    assert str(select_images([first, other], "val", None)[1][1]) == f"its images are other ones, of {root / 'train'}"
    newer = dataclasses.replace(other, created="2026-01-01")
    assert isinstance(select_images([first, newer], "val", None)[1][0], UserError)
    shipped = dataclasses.replace(newer, classes=["ant", "bee"], created="2027-01-01", path=Path("module", SHIPPED[0]))
    gone = dataclasses.replace(first, data={"root": "gone"})
    shutil.copytree(root / "train", root / "test")
    part, (unfit, folder, missing) = select_images([shipped, first, gone], "auto", None)
    assert part == "test" and len(folder) == 32
    assert "classes that the training images do not have: cat, dog" in str(unfit) and "gone" in str(missing)
    refuses("was trained on gone", [gone, gone], "auto", None)


def test_without_test_images_the_validation_images_are_used_and_said_to_be_these(root):
    part, (folder,) = select_images([trained(root)], "auto", None)
    assert part == "val" and len(folder) == 8
    assert any("This is no test score" in text for text in remarks(trained(root), folder, part))
    refuses(r"photos.test does not exist", [trained(root)], "test", None)
    (root / "test" / "cat").mkdir(parents=True)  # without an image
    assert select_images([trained(root)], "auto", root)[0] == "val"


def test_test_images_that_are_training_images_are_counted(root):
    shutil.copytree(root / "train", root / "test")
    for path in sorted((root / "test").rglob("*.png"))[3:]:
        Image.new("RGB", (8, 8), (0, 0, 200)).save(path)
    run = trained(root)
    _, (folder,) = select_images([run], "auto", None)
    (found,) = remarks(run, folder, "test")
    assert found.startswith("3 of 32 test images are also training images (for example, photos/test/cat/0.png is ")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(root / "train" / "cat" / "new.png")
    assert remarks(run, folder, "test") == []  # who knows what it was trained on
    Image.new("RGB", (8, 8), (0, 0, 200)).save(Path(shutil.copytree(root / "train", root / "val"), "cat", "0.png"))
    run = trained(root)
    (found,) = remarks(run, folder, "test")
    assert found.startswith("32 of 32 test images are also training or validation images (")
    part, (folder,) = select_images([run], "val", None)
    assert "32 of 33 validation images are also training images" in remarks(run, folder, part)[0]


def test_labels_corrected_after_the_run_are_those_of_today(root):
    run = trained(root)
    _, (then,) = select_images([run], "val", None)
    changed, left_out = (Path(path) for path in then.paths[:2])
    rows = [f"train/cat/{path.name},{corrections.digest(path).hex()},cat,{decision},now,me"
            for path, decision in ((changed, "relabel,dog"), (left_out, "leave out,"))]  # fmt: skip
    (root / "corrections.csv").write_text("\n".join(["file,digest,label,decision,class,time,who", *rows]))
    _, (now,) = select_images([run], "val", None)
    assert now.paths == [then.paths[0], *then.paths[2:]] and now.classes[now.labels[0]] == "dog"
    assert "1 relabelled, 1 left out" in remarks(run, now, "val")[0]
    again = trained(root)  # a run that knows the corrections
    assert left_out.as_posix() not in select_images([again], "val", None)[1][0].paths


def test_labels_are_in_the_order_of_the_logits(root):
    run = dataclasses.replace(trained(root), classes=["dog", "bird", "cat"])
    _, (folder,) = select_images([run], "test", root / "train")
    assert folder.counts() == {"dog": 12, "bird": 0, "cat": 20}  # a class without images shifts no label
    assert "There are no images of bird." in remarks(run, folder, "test")
    other = dataclasses.replace(run, classes=["cat", "bird"])
    refuses("photos.train has classes .*: dog. Expected cat, bird.", [other], "test", root / "train")


def test_remarks(root):
    run = trained(root)
    _, (folder,) = select_images([run], "test", root / "train")
    drawn = dataclasses.replace(run, data=run.data | {"kind": "drawings"})
    assert any("trained on drawings" in text for text in remarks(drawn, folder, "test"))
    assert any("accuracy on new ones will be lower" in text for text in remarks(run, folder, "test"))
    assert any("were chosen on these images" in text for text in remarks(run, folder, "val"))
    for weights, said in (("", False), ("imagenet", False), ("module/older.pth", True)):
        found = remarks(trained(root, weights=weights), folder, "val")
        assert any("Training started from module/older.pth" in text for text in found) is said


def test_data_may_be_split_or_not(tmp_path):
    for name in ("split/train/cat", "split/test/cat", "unfinished/train/cat", "flat/cat", "flat/test"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.png").touch()
    for data, images in (("split", "split/test"), ("split/test",) * 2, ("unfinished", "unfinished/test")):
        assert selection.test_folder(tmp_path / data) == tmp_path / images
    assert selection.test_folder(tmp_path / "flat") == tmp_path / "flat"  # with a class named test
