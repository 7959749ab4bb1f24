"""Killed at any moment, in the middle of a save or anywhere else, a run that goes on ends as if nothing had been.

LONG=1 python -m pytest tests/test_kill.py        20 kills of a ResNet-18; without, 7 of a tiny network
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import checkpoint
from classifier.training.tensorboard import Records
from tests.conftest import ENVIRONMENT, REPOSITORY
from tests.killed_runs import MOST, Tiny
from zoo import MODELS

KILLS, MODEL = (20, "resnet18") if os.environ.get("LONG") else (7, "tiny")
STEPS = 4  # of an epoch
EPOCHS = KILLS * MOST // STEPS + 1  # more than all lives but the last can do
SETTINGS = (
    "--model", MODEL, "--size", 32, "--batch-size", 16, "--epochs", EPOCHS, "--precision", "bf16",
    "--workers", 0, "--name", "run", "--save-every", 0, "--resume", "auto",
)  # fmt: skip


def lives(folder: Path, kills: int, bars: Path) -> list[tuple[str, int]]:
    """(how, status) of each life of a run in `folder`, the last one undisturbed."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.killed_runs", folder, kills, 7, "--data", bars, *SETTINGS]
    done = subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    rows = [line.rsplit(" ", 2) for line in done.stdout.splitlines()]
    return [(way, int(status)) for way, _, status in rows]


def curves(logs: Path, part: str) -> dict[str, list[int]]:
    """Tag -> the steps or epochs of its points, as TensorBoard shows them."""
    events = EventAccumulator(str(logs / part), {"scalars": 0, "images": 0}).Reload()
    found = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return found | {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


def check_curves(logs: Path, epochs: int) -> None:
    """Each step and each epoch is there once, in order."""
    train, val = curves(logs, "train"), curves(logs, "val")
    for tag in ("loss", "accuracy", "learning rate"):
        assert train[f"step/{tag}"] == list(range(1, epochs * STEPS + 1)), tag
    for tag in ("loss", "accuracy"):
        assert train[f"epoch/{tag}"] == val[f"epoch/{tag}"] == list(range(1, epochs + 1)), tag
        assert val[f"step/{tag}"] == list(range(STEPS, epochs * STEPS + 1, STEPS)), tag
    assert train["epoch/images per second"] == val["pictures/predictions"] == list(range(1, epochs + 1))
    assert train["pictures/augmented"] == train["best/val loss"] == [0]


def equal(a: object, b: object) -> bool:
    """Bit for bit, whatever the nesting."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks, which this system has not")
def test_killed_at_random_moments_it_ends_with_the_same_weights_and_curves(bars, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert lives(whole, 0, bars) == [("to the end", 0)], (whole / "said.txt").read_text()
    ends = lives(parts, KILLS, bars)
    said = (parts / "said.txt").read_text()
    assert "Traceback" not in said and "error:" not in said, said
    assert [status for _, status in ends] == [-signal.SIGKILL] * KILLS + [0], (ends, said)
    for name in ("run.pth", "run.last.pth"):
        expected, found = (checkpoint.load(folder / "module" / name) for folder in (whole, parts))
        assert equal(expected.state_dict, found.state_dict), name
        assert (expected.temperature, expected.model) == (found.temperature, found.model)
    for part in ("network", "optimizer", "scaler", "step"):
        assert equal(expected.resume[part], found.resume[part]), part
    for there, here in zip(expected.resume["history"], found.resume["history"], strict=True):
        assert (there["val"], there["train"]) == (here["val"], here["train"])
    check_curves(parts / found.resume["logs"], EPOCHS)
    assert sorted(file.name for file in (parts / "module").iterdir()) == ["run.last.pth", "run.pth"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(6))
def test_curves_join_whatever_was_recorded_since_the_last_save_and_whatever_the_clock_says(tmp_path, monkeypatch, seed):
    """Some thirty lives of the records alone, each ended without a word to them."""
    chance, real, saved, finished = random.Random(seed), time.time, (0, 0), False
    entry = {part: {"loss": 1.0, "accuracy": 0.5} for part in ("train", "val")} | {"images_per_second": 9.0}
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    while not finished:
        shift = chance.choice([0, 0, -3e7, 3e7])
        monkeypatch.setattr(time, "time", lambda shift=shift: real() + shift)
        (step, epoch), records = saved, Records(tmp_path, *saved)
        if step == 0:
            records.beginning(Tiny(2), {"lr": 1}, torch.rand(2, 3, 8, 8))
        for _ in range(chance.randint(0, 7)):  # of steps, ends of epochs, and saves between them
            if step == STEPS * (epoch + 1):
                epoch += 1
                records.epoch(epoch, step, entry)
                records.predictions(epoch, pixels, ["a", "b"], ["a", "a"])
            elif step < 3 * STEPS:
                step += 1
                records.step(step, 1.0, 0.5, 0.1)
            if chance.random() < 0.4:
                records.flush()
                saved = step, epoch
            finished = epoch == 3
        if finished:
            records.end({"lr": 1}, entry)
        else:
            records.flush()  # here nobody is killed, and what is written late would go into files of the next life
    check_curves(tmp_path, 3)
