"""The scripts one after the other, as a person runs them on folders as people have them; all see the same pixels."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from gradio_client import Client, handle_file

import evaluate
import train
import zoo
from classifier import checkpoint
from classifier.data import image_folder, loaders
from classifier.data.transforms import RESIZES
from classifier.device import select_compute
from classifier.evaluation import metrics
from classifier.inference.cam import cam_predictor
from classifier.inference.predictor import optimize_for_inference
from tests.conftest import make_images, run_script
from tests.raw_images import make_folder
from tests.running_page import address, app_process
from tests.test_images import whole_images
from tests.tiny import Tiny, own_signals
from webui.classify import classify
from webui.models import Loaded

TRAIN = ("--size", 32, "--grow-from", 1, "--epochs", 1, "--workers", 0, "--device", "cpu", "--name", "run")


def ran(name: str, *arguments: object, cwd: Path) -> str:
    done = run_script(name, *arguments, cwd=cwd)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    return done.stdout


def test_with_no_images_at_all_the_drawings_are_learned_and_the_page_answers_as_the_evaluation(tmp_path):
    said = ran("train.py", "--epochs", 5, "--batch-size", 16, "--size", 64, "--grow-from", 1, cwd=tmp_path)
    assert "holds no photographs yet" in said and "python prepare.py --download" in said
    assert "cat: 270 training drawings" in said
    assert "trained on drawings" in ran("evaluate.py", "--precision", "fp32", cwd=tmp_path)
    (written,) = tmp_path.glob("logs/evaluate/*/*/report.json")
    report = json.loads(written.read_text(encoding="utf-8"))
    assert report["count"] == 120 and report["accuracy"] >= 0.8
    assert checkpoint.load(tmp_path / report["weights"]).scores["test"]["accuracy"] == report["accuracy"]
    table = written.with_name("predictions.csv").read_text(encoding="utf-8-sig")
    with app_process(tmp_path) as said:
        client = Client(address(said), verbose=False)
        for row in list(csv.DictReader(table.splitlines()))[::10]:
            answer = client.predict(handle_file(tmp_path / row["path"]), api_name="/classify")
            assert answer["label"] == row["answer"]


def test_images_in_two_parts_and_classes_without_any_are_named_and_validation_is_no_test(tmp_path, monkeypatch, capsys):
    data = tmp_path / "dataset"
    make_images(data / "train", {"daisy": 12, "rose": 12, "tulip": 12})
    make_images(data / "val", {"daisy": 4, "rose": 4, "tulip": 4}, seed=1)
    make_images(data / "test", {"daisy": 5, "tulip": 5}, seed=2)
    shutil.copy(data / "train/rose/3.png", data / "val/rose/0.png")
    shutil.copy(data / "train/tulip/0.png", data / "test/tulip/0.png")
    shutil.copy(data / "val/tulip/1.png", data / "test/tulip/1.png")
    in_val = "1 of 12 validation images is also a training image (for example, dataset/val/rose/0.png is the same as"
    in_test = "2 of 10 test images are also training or validation images (for example, dataset/test/tulip/0.png is"
    said = ran("train.py", *TRAIN, cwd=tmp_path)
    assert "rose: 12 training images, 4 for validation" in said and in_val in said and in_test in said

    shutil.copy(Path(checkpoint.__file__).parents[1] / "module" / checkpoint.SHIPPED[-1], tmp_path / "module")
    monkeypatch.chdir(tmp_path)
    arguments = ["module/catdog-resnet18.pth", "module/run.pth", "--device", "cpu"]
    evaluate.main([*arguments, "--part", "val"])
    said = capsys.readouterr().out
    assert "dataset/val, 12 validation images of" in said and "This is no test score" in said and in_val in said
    assert "left out   module/catdog-resnet18.pth: " in said and said.endswith("python app.py module/run.pth\n")
    assert "test" not in checkpoint.load(tmp_path / "module" / "run.pth").scores
    evaluate.main(arguments)
    said = capsys.readouterr().out
    assert "on 10 images" in said and "There are no images of rose." in said and in_test in said
    (row,) = (line.split() for line in said.splitlines() if line.startswith("rose "))
    assert row[-1] == "0" and "-" in row
    remarks = checkpoint.load(tmp_path / "module" / "run.pth").scores["test"]["remarks"]
    assert "There are no images of rose." in remarks and any(in_test in remark for remark in remarks)


@pytest.mark.parametrize("resize", RESIZES)
def test_training_evaluation_and_page_see_the_same_pixels(tmp_path, monkeypatch, resize):
    root = tmp_path / "odd" / "train"
    corpus = dict(whole_images(("JPEG", "PNG")))
    names = {"a.jpg": "JPEG RGB 0 turned 6", "b.png": "PNG RGBA 0 turned 1", "c.png": "PNG I;16 0 turned 1"}
    make_folder(root / "a", {name: corpus[kind] for name, kind in names.items()})
    shutil.copytree(root / "a", root / "b")

    seen: list[torch.Tensor] = []

    class Notes(Tiny):
        """A network that notes what it is given."""

        def forward_features(self, x):
            seen.extend(x.detach().clone())
            return super().forward_features(x)

    monkeypatch.setitem(zoo.MODELS, "resnet18", Notes)
    monkeypatch.chdir(tmp_path)
    arguments = f"--data odd --batch-size 4 --augment off --val 0.3 --precision fp32 --resize {resize}"
    with own_signals():
        train.main([*map(str, TRAIN), "--size", "48", *arguments.split()])
    *trained, blurred = [x for x in seen if x.any()]  # TensorBoard's graph is drawn with a black image

    images = image_folder.read_folder(root)
    saved = checkpoint.load(tmp_path / "module" / "run.pth")
    assert saved.preprocess.resize == resize
    compute = select_compute("cpu", "fp32")
    seen.clear()
    batches = loaders.on_device(loaders.loader(loaders.ImageDataset(images, saved.preprocess), 4), compute.device)
    metrics.infer(optimize_for_inference(saved.network(), compute), batches, saved.preprocess)
    evaluated = list(seen)
    assert len(evaluated) == 6

    loaded = Loaded(saved, compute, cam_predictor(saved, compute))
    seen.clear()
    for path in images.paths:
        classify(loaded, str(path))
    for there, here in zip(evaluated, seen, strict=True):
        assert torch.equal(there, here)
    assert len(trained) == 16  # four, also for batch norm, two to validate with, and all again for what is unlike them
    for x in trained:
        assert any(torch.equal(x, other) for other in evaluated)
    assert len({x.numpy().tobytes() for x in trained}) == 3
    assert not any(torch.equal(blurred, other) for other in evaluated)  # the last, for what is unlike all of them
