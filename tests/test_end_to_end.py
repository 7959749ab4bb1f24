"""The three scripts after one another, as a person runs them; and that all of them see the same pixels."""

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
from tests.conftest import run_script
from tests.running_page import address, app_process, image
from tests.tiny import own_signals
from webui.classify import classify
from webui.models import Loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A project folder whose dataset/ holds some of the drawings."""
    folder = tmp_path_factory.mktemp("project")
    for split, count in (("train", 40), ("test", 8)):
        for kind in ("cat", "dog"):
            target = folder / "dataset" / split / kind
            target.mkdir(parents=True)
            for number in range(count):
                draw(split, kind, number).save(target / f"{number}.png")
    return folder


def test_train_evaluate_app(folder):
    trained = run_script("train.py", "--epochs", 2, "--size", 64, "--batch-size", 8, "--workers", 1, cwd=folder)
    assert trained.returncode == 0, trained.stderr
    (weights,) = [path for path in (folder / "module").glob("*.pth") if not path.name.endswith(".last.pth")]

    evaluated = run_script("evaluate.py", "--precision", "fp32", "--workers", 1, cwd=folder)
    assert evaluated.returncode == 0 and evaluated.stderr == "", evaluated.stderr  # no bar and no warning in a pipe
    (written,) = (folder / "logs" / "evaluate").glob("*/*/report.json")
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["count"] == 16
    test = checkpoint.load(weights).scores["test"]
    assert (test["accuracy"], test["count"]) == (report["accuracy"], 16)

    with app_process(folder) as said:
        client = Client(address(said), verbose=False)
        paths = sorted((folder / "dataset" / "test").rglob("*.png"))
        answers = [client.predict(handle_file(path), api_name="/classify") for path in paths]
    right = sum(answer["label"] == path.parent.name for answer, path in zip(answers, paths, strict=True))
    assert right / len(paths) == report["accuracy"]  # the page answers as the evaluation did


def test_with_no_images_at_all_the_drawings_are_learned(tmp_path):
    flags = ("--epochs", 5, "--batch-size", 16, "--size", 64, "--grow-from", 1)
    trained = run_script("train.py", *flags, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "holds no photographs yet" in trained.stdout and "python prepare.py --download" in trained.stdout
    assert "cat: 270 training drawings" in trained.stdout
    evaluated = run_script("evaluate.py", "--precision", "fp32", cwd=tmp_path)
    assert "trained on drawings" in evaluated.stdout
    (written,) = (tmp_path / "logs" / "evaluate").glob("*/*/report.json")
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["count"] == 120 and report["accuracy"] >= 0.8


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

        def forward(self, x):
            seen.extend(x.detach().clone())
            return self.fc(x.mean(dim=(2, 3)))

    monkeypatch.setitem(zoo.MODELS, "resnet18", Notes)
    monkeypatch.chdir(tmp_path)
    sizes = f"--size 48 --grow-from 1 --resize {resize}"
    arguments = "--data odd --name odd --batch-size 4 --epochs 1 --augment off --workers 0 --val 0.3 " + sizes
    with own_signals():
        train.main([*arguments.split(), "--device", "cpu", "--precision", "fp32"])
    trained = [x for x in seen if x.any()]  # TensorBoard's graph is drawn with a black image

    folder = image_folder.read_folder(root)
    saved = checkpoint.load(tmp_path / "module" / "odd.pth")
    assert saved.preprocess.resize == resize
    compute = select_compute("cpu", "fp32")
    seen.clear()
    batches = loaders.loader(loaders.ImageDataset(folder, saved.preprocess), 4, workers=0)
    metrics.infer(
        optimize_for_inference(saved.network(), compute), loaders.on_device(batches, compute.device), saved.preprocess
    )
    evaluated = list(seen)
    assert len(evaluated) == 6

    loaded = Loaded(saved, compute, cam_predictor(saved, compute))
    seen.clear()
    for path in folder.paths:
        classify(loaded, str(path))
    for there, here in zip(evaluated, seen, strict=True):
        assert torch.equal(there, here)
    assert len(trained) == 6  # four to train with, two to validate with
    for x in trained:
        assert any(torch.equal(x, other) for other in evaluated)
    assert len({x.numpy().tobytes() for x in trained}) == 3
