"""The three scripts after one another, as a person runs them; and that all of them see the same pixels."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from PIL import Image

import app
from classifier import checkpoint, data, device, metrics
from classifier.checkpoint import Checkpoint
from classifier.drawing import draw
from classifier.pictures import ORIENTATION
from classifier.preprocess import Preprocess
from tests.conftest import run_script
from tests.running_page import address, app_process, picture


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
    assert evaluated.returncode == 0, evaluated.stderr
    (written,) = (folder / "logs" / "evaluate").glob("*/*/report.json")
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["count"] == 16
    test = checkpoint.load(weights).scores["test"]
    assert (test["accuracy"], test["count"]) == (report["accuracy"], 16)

    with app_process(folder, 7861) as said:
        client = Client(address(said), verbose=False)
        paths = sorted((folder / "dataset" / "test").rglob("*.png"))
        answers = [client.predict(handle_file(path), api_name="/classify") for path in paths]
    right = sum(answer["label"] == path.parent.name for answer, path in zip(answers, paths, strict=True))
    assert right / len(paths) == report["accuracy"]  # the page answers as the evaluation did


def test_training_evaluation_and_page_see_the_same_pixels(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture().save(tmp_path / "a" / "turned.jpg", exif=exif)
    clear = picture().convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    clear.save(tmp_path / "a" / "clear.png")
    Image.fromarray(np.arange(0, 65536, 7, dtype=np.uint16)[:9000].reshape(90, 100)).save(tmp_path / "a" / "grey.png")
    shutil.copytree(tmp_path / "a", tmp_path / "b")

    seen: list[torch.Tensor] = []

    class Notes(torch.nn.Module):
        def forward(self, x):
            seen.extend(x.clone())
            return torch.zeros(len(x), 2)

    preprocess = Preprocess(48)
    described = Checkpoint("resnet18", ["a", "b"], preprocess, {})
    monkeypatch.setattr(Checkpoint, "network", lambda self: Notes())
    compute = device.choose("cpu", "fp32")
    folder = data.read_folder(tmp_path)
    batches = data.loader(data.Pictures(folder, preprocess), 4, workers=0)
    metrics.infer(Notes(), data.on_device(batches, compute.device), preprocess, compute)
    evaluated = list(seen)
    assert len(evaluated) == 6

    classify = app.classifier(described, compute)
    seen.clear()
    for path in folder.paths:
        classify(path)
    trained = [preprocess.normalize(data.Pictures(folder, preprocess)[i][0]) for i in range(6)]
    for there, here, page in zip(evaluated, trained, seen, strict=True):
        assert torch.equal(there, here)
        assert torch.equal(there, page)
