"""--teacher: what the student learns from, and what a resumed run insists on; batch norm's statistics."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from classifier import checkpoint
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
from classifier.inference.predictor import build_predictor
from classifier.training import datasets, teacher
from classifier.training.config import TrainConfig
from classifier.training.run import RunState
from tests import tiny
from tests.conftest import same

CLASSES, CPU = ["across", "down"], select_compute("cpu", "fp32")
STUDENT = Preprocess(32, "squash", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SLOW = ("--epochs", 3, "--lr", 0.02)


@pytest.fixture
def taught(run):
    """Writes a teacher with these outputs whatever the image, or random ones, and gives its path."""

    def write(path: str, *outputs: float, classes=CLASSES, seed=0, size=48, **fields) -> Path:
        torch.manual_seed(seed)
        network = tiny.Tiny(len(classes))
        if outputs:
            nn.init.zeros_(network.fc.weight)
            network.fc.bias.data = torch.tensor(outputs)
        checkpoint.save(Checkpoint("tiny", classes, Preprocess(size), network.state_dict(), **fields), Path(path))
        return Path(path)

    return write


def best(name: str = "run") -> Checkpoint:
    return checkpoint.load(Path(f"module/{name}.pth"))


def test_the_targets_are_the_mean_of_the_calibrated_answers_to_the_same_pixels(taught):
    paths = [taught("a.pth", temperature=0.1), taught("b.pth", seed=1, size=32)]
    pixels = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    shown = STUDENT.normalize(pixels)
    for names in (paths[:1], paths):
        cfg = TrainConfig(teacher=",".join(map(str, names)))
        found = teacher.load(cfg, RunState(), CLASSES, STUDENT, CPU)(shown)
        alone = []
        for one in map(checkpoint.load, names):
            seen = datasets.resize_batch(pixels.float(), one.preprocess.size)
            alone.append(build_predictor(one, CPU)(seen).probabilities)
        torch.testing.assert_close(found, torch.stack(alone).mean(0), atol=1e-4, rtol=1e-3)
        assert found.requires_grad is False and not found.is_inference()


def test_the_student_believes_the_teacher_and_not_the_labels(run, taught, capsys):
    run("--teacher", taught("down.pth", -3.0, 3.0), *SLOW)
    assert "learns from the answers of down.pth (tiny)" in capsys.readouterr().out
    student = best()
    assert student.settings["teacher"] == "down.pth" and student.settings["label_smoothing"] == 0
    assert student.scores["history"][-1]["train"]["accuracy"] == pytest.approx(0.5, abs=0.1)  # of the labels
    images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
    assert build_predictor(student, CPU)(images).logits.diff(dim=1).min() > 2
    frozen = TrainConfig(weights="any.pth", freeze=True, augment="off")  # its last layer could be fitted to labels
    assert frozen.fits_last_layer and not replace(frozen, teacher="any.pth").fits_last_layer


def test_a_resumed_run_ends_with_the_same_weights_and_refuses_another_teacher(run, taught):
    command = ("--teacher", taught("a.pth"), *SLOW, "--mix", "both")
    run(*command, "--name", "whole")
    with pytest.raises(SystemExit):
        run(*command, fault="SIGTERM", at=6)
    with pytest.raises(UserError, match="the run began with other weights"):
        run("--resume", "module/run.last.pth", "--teacher", taught("other.pth", seed=1))
    with pytest.raises(UserError, match=r"these differ: teacher a\.pth -> "):
        run("--resume", "module/run.last.pth", "--teacher", "")
    Path("moved").mkdir()
    checkpoint.amend(Path("a.pth"), scores={"test": {"accuracy": 0.5}})  # as evaluate.py does
    shutil.move("a.pth", "moved/a.pth")
    run("--resume", "module/run.last.pth", "--teacher", "moved/a.pth")
    whole, resumed = (checkpoint.load(Path(f"module/{name}.last.pth")) for name in ("whole", "run"))
    assert same(whole.state_dict, resumed.state_dict) and same(best("whole").state_dict, best().state_dict)


def test_a_teacher_of_other_classes_or_none_is_refused(run, taught):
    taught("cats.pth", classes=["cat", "dog"])
    others = r"cats\.pth knows cat, dog; expected .* the training images, across"
    for names, message in (("cats.pth", others), ("missing.pth", r"missing\.pth"), (" , ", "names no file")):
        with pytest.raises(UserError, match=message):
            run("--teacher", names)


def test_validation_means_something_from_the_first_epoch(run):
    """What is validated and saved has the statistics that its own weights give on all 73 images, 4 batches and one."""
    run("--epochs", 1, "--lr", 0.05, "--augment", "off", "--precision", "fp32", "--val", 0.09)
    network, cfg = best().network(), TrainConfig(**best().settings | {"name": "", "resume": ""})
    found = datasets.read(cfg)
    pixels = datasets.build_loaders(found, None, cfg, CPU)
    maps = network.conv1(torch.cat([pixels.preprocess.normalize(images) for images, _ in pixels.train_once]))
    torch.testing.assert_close(network.bn1.running_mean, maps.mean((0, 2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(network.bn1.running_var, maps.var((0, 2, 3)), atol=0, rtol=0.05)
    assert all(value.isfinite().all() for value in best().state_dict.values())
