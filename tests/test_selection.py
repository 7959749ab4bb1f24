"""Which images a network is evaluated on: its own test images, others, or exactly its validation images."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from classifier.checkpoint import SHIPPED, Checkpoint
from classifier.cli import UserError
from classifier.data import corrections, image_folder
from classifier.data.transforms import Preprocess
from classifier.evaluation.selection import remarks, select_images
from tests.conftest import make_images


@pytest.fixture
def root(tmp_path, monkeypatch):
    """photos/train with two classes of 20 and 12 images."""
    monkeypatch.chdir(tmp_path)
    return make_images(Path("photos/train"), {"cat": 20, "dog": 12}).parent


def trained(root, val=0.25, name="run", **settings):
    """What train.py notes of a run on these images, as they are now."""
    training, validation = image_folder.train_and_val(root, val, 1)
    data = {"root": str(root), "train": len(training), "val": len(validation), "fingerprint": training.fingerprint()}
    path, settings = Path("module") / f"{name}.pth", {"val": val} | settings
    return Checkpoint("resnet18", ["cat", "dog"], Preprocess(), {}, data=data, settings=settings, path=path)


def validation_paths(checkpoint, data=None):
    _, (folder,) = select_images([checkpoint], "val", data)
    return [Path(path).relative_to(folder.root).as_posix() for path in folder.paths]


def refuses(match, *arguments):
    with pytest.raises(UserError, match=match):
        select_images(*arguments)


def test_validation_images_are_part_of_the_training_images_or_in_a_folder(root):
    _, (found,) = select_images([trained(root)], "val", None)
    assert found.root == root / "train" and found.counts() == {"cat": 5, "dog": 3}
    (root / "test" / "cat").mkdir(parents=True)  # without an image
    assert select_images([trained(root)], "auto", root)[0] == "val"
    shutil.copytree(root / "train", root / "val")
    run = trained(root)
    _, (found,) = select_images([run], "val", None)
    assert found.root == root / "val" and len(found) == 32
    (root / "val" / "cat" / "0.png").unlink()
    refuses(r"does not say which images of photos.*: --data photos.val --part test$", [run], "val", None)
    assert select_images([run], "test", root / "val")[1][0].paths == found.paths[1:]


def test_a_moved_folder_is_recognised_and_a_changed_one_refused(root):
    run = trained(root)
    for unknown in ({"settings": {}}, {"data": {}}):
        refuses("does not say which images", [dataclasses.replace(run, **unknown)], "val", root)
    paths = validation_paths(run)
    root.rename("elsewhere")
    refuses(r"photos.train does not exist.*--data DIR", [run], "val", None)
    for data in ("elsewhere", "elsewhere/train"):
        assert validation_paths(run, Path(data)) == paths
    new = shutil.copy("elsewhere/train/cat/0.png", "elsewhere/train/cat/new.png")
    refuses("module.run.pth does not say which images of elsewhere", [run], "val", Path("elsewhere"))
    Path(new).unlink()
    Path("elsewhere/train/cat/0.png").rename("elsewhere/train/dog/other.png")  # the same files, another label
    refuses("relabelled", [run], "val", Path("elsewhere"))


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


def test_a_network_that_began_with_anothers_weights_may_know_the_validation_images(root):
    _, (folder,) = select_images([trained(root)], "val", None)
    for weights, said in (("", False), ("imagenet", False), ("module/older.pth", True)):
        found = remarks(trained(root, weights=weights), folder, "val")
        assert any("Training started from module/older.pth" in text for text in found) is said
