"""The scripts one after the other, as a person runs them on folders as people have them; all see the same pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image

import train
import zoo
from classifier import checkpoint
from classifier.data import image_folder, loaders
from classifier.data.images import ORIENTATION
from classifier.data.transforms import RESIZES
from classifier.device import select_compute
from classifier.evaluation import metrics
from classifier.inference.cam import cam_predictor
from classifier.inference.predictor import optimize_for_inference
from docs.drawings import draw
from tests.conftest import make_images, run_script
from tests.running_page import address, app_process, image
from tests.tiny import own_signals
from webui.classify import classify
from webui.models import Loaded

TRAIN = ("--size", 32, "--grow-from", 1, "--epochs", 1, "--workers", 0, "--device", "cpu", "--name", "run")


def ran(name: str, *arguments: object, cwd: Path) -> str:
    done = run_script(name, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def read_report(folder: Path) -> dict:
    (written,) = (folder / "logs" / "evaluate").glob("*/*/report.json")
    return json.loads(written.read_text(encoding="utf-8"))


def test_train_evaluate_app(tmp_path):
    for split, count in (("train", 40), ("test", 8)):
        for kind in ("cat", "dog"):
            (tmp_path / "dataset" / split / kind).mkdir(parents=True)
            for number in range(count):
                draw(split, kind, number).save(tmp_path / "dataset" / split / kind / f"{number}.png")
    ran("train.py", "--epochs", 2, "--size", 64, "--batch-size", 8, "--workers", 1, "--name", "run", cwd=tmp_path)
    ran("evaluate.py", "--precision", "fp32", "--workers", 1, cwd=tmp_path)
    report = read_report(tmp_path)
    test = checkpoint.load(tmp_path / "module" / "run.pth").scores["test"]
    assert (test["accuracy"], test["count"], report["count"]) == (report["accuracy"], 16, 16)

    with app_process(tmp_path) as said:
        client = Client(address(said), verbose=False)
        paths = sorted((tmp_path / "dataset" / "test").rglob("*.png"))
        answers = [client.predict(handle_file(path), api_name="/classify") for path in paths]
    right = sum(answer["label"] == path.parent.name for answer, path in zip(answers, paths, strict=True))
    assert right / len(paths) == report["accuracy"]  # the page answers as the evaluation did


def test_with_no_images_at_all_the_drawings_are_learned(tmp_path):
    said = ran("train.py", "--epochs", 5, "--batch-size", 16, "--size", 64, "--grow-from", 1, cwd=tmp_path)
    assert "holds no photographs yet" in said and "python prepare.py --download" in said
    assert "cat: 270 training drawings" in said
    assert "trained on drawings" in ran("evaluate.py", "--precision", "fp32", cwd=tmp_path)
    report = read_report(tmp_path)
    assert report["count"] == 120 and report["accuracy"] >= 0.8


@pytest.fixture
def folder(tmp_path) -> Path:
    make_images(tmp_path / "dataset" / "train", {"daisy": 12, "rose": 12, "tulip": 12})
    return tmp_path


def test_a_class_without_test_images_and_test_images_that_are_training_images_are_named(folder):
    make_images(folder / "dataset" / "test", {"daisy": 5, "tulip": 5}, seed=1)
    for number in range(3):
        shutil.copy(folder / f"dataset/train/tulip/{number}.png", folder / f"dataset/test/tulip/{number}.png")
    leak = "3 of 10 test images are also training images (for example, dataset/test/tulip/0.png is the same as "
    leak += "dataset/train/tulip/0.png)"
    said = ran("train.py", *TRAIN, cwd=folder)
    assert "python evaluate.py module/run.pth" in said and leak in said
    said = ran("evaluate.py", "module/run.pth", "--device", "cpu", cwd=folder)
    assert "on 10 images" in said and "There are no images of rose." in said and leak in said
    (row,) = (line.split() for line in said.splitlines() if line.startswith("rose "))
    assert row[-1] == "0" and "-" in row
    scores = checkpoint.load(folder / "module" / "run.pth").scores["test"]
    assert scores["count"] == 10 and "There are no images of rose." in scores["remarks"]
    assert any(leak in remark for remark in scores["remarks"])
    (page,) = folder.glob("logs/evaluate/run/*/report.html")
    assert "3 of 10 test images" in page.read_text(encoding="utf-8")


def test_val_without_test_chooses_the_epoch_and_is_never_called_a_test(folder):
    make_images(folder / "dataset" / "val", {"daisy": 4, "rose": 4, "tulip": 4}, seed=1)
    shutil.copy(folder / "dataset/train/rose/3.png", folder / "dataset/val/rose/0.png")
    said = ran("train.py", *TRAIN, cwd=folder)
    assert "rose: 12 training images, 4 for validation" in said
    leak = "1 of 12 validation images is also a training image (for example, dataset/val/rose/0.png is the same as "
    assert leak + "dataset/train/rose/3.png)" in said
    shutil.copy(Path(checkpoint.__file__).parents[1] / "module" / checkpoint.SHIPPED[-1], folder / "module")
    said = ran("evaluate.py", "module/catdog-resnet18.pth", "module/run.pth", "--device", "cpu", cwd=folder)
    assert "dataset/val, 12 validation images of" in said and "This is no test score" in said and leak in said
    assert "left out   module/catdog-resnet18.pth: " in said and said.endswith("python app.py module/run.pth\n")
    assert "test" not in checkpoint.load(folder / "module" / "run.pth").scores


def test_a_resumed_run_whose_images_changed_or_moved_is_told_so(folder):
    ran("train.py", *TRAIN, cwd=folder)
    resume = ("train.py", "--resume", "module/run.last.pth", "--epochs", 2)
    shutil.copy(folder / "dataset/train/rose/0.png", folder / "dataset/train/rose/new.png")
    done = run_script(*resume, cwd=folder)
    assert done.returncode == 2 and "1 image more than then" in done.stderr and "--weights module" in done.stderr
    (folder / "dataset" / "train").rename(folder / "moved")
    done = run_script(*resume, cwd=folder)
    assert done.returncode == 2 and "dataset/train does not exist" in done.stderr and "--data DIR" in done.stderr


@pytest.mark.parametrize("resize", RESIZES)
def test_training_evaluation_and_page_see_the_same_pixels(tmp_path, monkeypatch, resize):
    root = tmp_path / "odd" / "train"
    (root / "a").mkdir(parents=True)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image().save(root / "a" / "turned.jpg", exif=exif)
    clear = image().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(root / "a" / "clear.png")
    Image.fromarray(np.arange(0, 65536, 7, dtype=np.uint16)[:9000].reshape(90, 100)).save(root / "a" / "grey.png")
    shutil.copytree(root / "a", root / "b")

    seen: list[torch.Tensor] = []

    class Notes(torch.nn.Module):
        """A network that notes what it is given."""

        def __init__(self, num_classes: int):
            super().__init__()
            self.fc = torch.nn.Linear(3, num_classes)

        def forward_features(self, x):
            seen.extend(x.detach().clone())
            return x

        def forward_head(self, features):
            return self.fc(features.mean(dim=(2, 3)))

        def forward(self, x):
            return self.forward_head(self.forward_features(x))

    monkeypatch.setitem(zoo.MODELS, "resnet18", Notes)
    monkeypatch.chdir(tmp_path)
    sizes = f"--size 48 --grow-from 1 --resize {resize}"
    arguments = "--data odd --name odd --batch-size 4 --epochs 1 --augment off --workers 0 --val 0.3 " + sizes
    with own_signals():
        train.main([*arguments.split(), "--device", "cpu", "--precision", "fp32"])
    *trained, blurred = [x for x in seen if x.any()]  # TensorBoard's graph is drawn with a black image

    images = image_folder.read_folder(root)
    saved = checkpoint.load(tmp_path / "module" / "odd.pth")
    assert saved.preprocess.resize == resize
    compute = select_compute("cpu", "fp32")
    seen.clear()
    batches = loaders.loader(loaders.ImageDataset(images, saved.preprocess), 4, workers=0)
    metrics.infer(
        optimize_for_inference(saved.network(), compute), loaders.on_device(batches, compute.device), saved.preprocess
    )
    evaluated = list(seen)
    assert len(evaluated) == 6

    loaded = Loaded(saved, compute, cam_predictor(saved, compute))
    seen.clear()
    for path in images.paths:
        classify(loaded, str(path))
    for there, here in zip(evaluated, seen, strict=True):
        assert torch.equal(there, here)
    assert len(trained) == 12  # four to train with, two to validate with, and all again for what is unlike them
    for x in trained:
        assert any(torch.equal(x, other) for other in evaluated)
    assert len({x.numpy().tobytes() for x in trained}) == 3
    assert not any(torch.equal(blurred, other) for other in evaluated)  # the last, for what is unlike all of them
