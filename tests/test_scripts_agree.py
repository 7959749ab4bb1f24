"""The scripts one after the other, as a person runs them on folders of a kind that people have."""

import shutil
from pathlib import Path

import pytest

from classifier import checkpoint
from tests.conftest import make_images, run_script

TRAIN = ("--size", 32, "--grow-from", 1, "--epochs", 1, "--workers", 0, "--device", "cpu", "--name", "run")


def ran(name: str, *arguments: object, cwd: Path) -> str:
    done = run_script(name, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path) -> Path:
    make_images(tmp_path / "dataset" / "train", {"daisy": 12, "rose": 12, "tulip": 12})
    return tmp_path


def test_a_class_without_test_images_is_trained_and_evaluated_with_none(folder):
    make_images(folder / "dataset" / "test", {"daisy": 5, "tulip": 5}, seed=1)
    assert "python evaluate.py module/run.pth" in ran("train.py", *TRAIN, cwd=folder)
    said = ran("evaluate.py", "module/run.pth", "--device", "cpu", cwd=folder)
    assert "on 10 images" in said and "There are no images of rose." in said
    (row,) = (line.split() for line in said.splitlines() if line.startswith("rose "))
    assert row[-1] == "0" and "-" in row
    scores = checkpoint.load(folder / "module" / "run.pth").scores["test"]
    assert scores["count"] == 10 and "There are no images of rose." in scores["remarks"]


def test_val_without_test_chooses_the_epoch_and_is_never_called_a_test(folder):
    make_images(folder / "dataset" / "val", {"daisy": 4, "rose": 4, "tulip": 4}, seed=1)
    shutil.copy(folder / "dataset/train/rose/3.png", folder / "dataset/val/rose/0.png")
    said = ran("train.py", *TRAIN, cwd=folder)
    assert "rose: 12 training images, 4 for validation" in said
    leak = "1 of 12 validation images is also a training image (for example, dataset/val/rose/0.png is the same as "
    assert leak + "dataset/train/rose/3.png)" in said
    shutil.copy(Path(checkpoint.__file__).parents[1] / "module" / checkpoint.SHIPPED, folder / "module")
    said = ran("evaluate.py", "module/catdog-resnet18.pth", "module/run.pth", "--device", "cpu", cwd=folder)
    assert "dataset/val, 12 validation images of" in said and "This is no test score" in said and leak in said
    assert "left out   module/catdog-resnet18.pth: " in said and said.endswith("python app.py module/run.pth\n")
    assert "test" not in checkpoint.load(folder / "module" / "run.pth").scores


def test_test_images_that_are_training_images_are_named(folder):
    make_images(folder / "dataset" / "test", {"daisy": 5, "rose": 5, "tulip": 5}, seed=1)
    for number in range(3):
        shutil.copy(folder / f"dataset/train/rose/{number}.png", folder / f"dataset/test/rose/{number}.png")
    leak = "3 of 15 test images are also training images (for example, dataset/test/rose/0.png is the same as "
    leak += "dataset/train/rose/0.png)"
    assert leak in ran("train.py", *TRAIN, cwd=folder)
    assert leak in ran("evaluate.py", "--device", "cpu", cwd=folder)
    (page,) = folder.glob("logs/evaluate/run/*/report.html")
    assert "3 of 15 test images" in page.read_text(encoding="utf-8")
    assert leak in checkpoint.load(folder / "module" / "run.pth").scores["test"]["remarks"][0]


def test_a_resumed_run_whose_images_changed_or_moved_is_told_so(folder):
    ran("train.py", *TRAIN, cwd=folder)
    resume = ("train.py", "--resume", "module/run.last.pth", "--epochs", 2)
    shutil.copy(folder / "dataset/train/rose/0.png", folder / "dataset/train/rose/new.png")
    done = run_script(*resume, cwd=folder)
    assert done.returncode == 2 and "1 image more than then" in done.stderr and "--weights module" in done.stderr
    (folder / "dataset" / "train").rename(folder / "moved")
    done = run_script(*resume, cwd=folder)
    assert done.returncode == 2 and "dataset/train does not exist" in done.stderr and "--data DIR" in done.stderr
