"""Killed at any moment, in the middle of a save or anywhere else, a resumed run ends as if nothing had happened.

LONG=1 python -m pytest tests/test_kill.py        20 kills of a ResNet-18; without, 8 of a tiny network

Each life of the run is a fork of one process, which has imported everything and started no thread: a process of its
own would need seconds to begin. A moment is chosen by what the run does to its files.
"""

import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import checkpoint, cli
from classifier.data.image_folder import stat_or_none
from tests.conftest import REPOSITORY, TINY, same

KILLS, MODEL = (20, "resnet18") if os.environ.get("LONG") else (8, "tiny")
STEPS, EPOCHS = 4, KILLS + 2  # of an epoch; more than the lives that are killed can do
SETTINGS = (*TINY[2:], "--model", MODEL, "--epochs", EPOCHS, "--save-every", 0, "--resume", "auto")
# while it writes a file, after the best weights, after the state to resume from, after the curves
MOMENTS = ("module/.run*.tmp", "module/run.pth", "module/run.last.pth", "logs/*/*/train/*")


def wait_for_change(folder: Path, pattern: str) -> None:
    """Return as soon as a file of this pattern appears, grows or vanishes."""

    def look() -> list:
        stats = [(path.name, stat_or_none(path)) for path in folder.glob(pattern)]
        return [(name, stat.st_mtime_ns, stat.st_size) for name, stat in stats if stat]

    before, end = look(), time.monotonic() + 20
    while look() == before and time.monotonic() < end:
        time.sleep(0.0002)


def train(folder: Path, arguments: list[str]) -> None:
    """Begin or resume the run in `folder`."""
    from tests import tiny

    os.chdir(folder)
    torch.set_num_threads(1)
    tiny.register()
    cli.run(lambda: tiny.train.main(arguments))


def life(folder: Path, bars: Path, kill_after: list[str]) -> int:
    """One life of the run, killed after a change of each of these patterns; its status."""
    folder.mkdir(exist_ok=True)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["tests.tiny", "torch.utils.tensorboard"])
    process = server.Process(target=train, args=(folder, [str(word) for word in ("--data", bars, *SETTINGS)]))
    process.start()
    for pattern in kill_after:
        wait_for_change(folder, pattern)
    if kill_after:
        process.kill()
    process.join(300)
    return process.exitcode


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks, which this system has not")
def test_killed_at_any_moment_it_ends_with_the_same_weights_and_curves(bars, tmp_path, monkeypatch, capfd):
    from tests import tiny

    monkeypatch.setitem(tiny.MODELS, "tiny", tiny.Tiny)
    monkeypatch.chdir(REPOSITORY)  # where the process to be forked finds what it imports
    whole, parts, chance = tmp_path / "whole", tmp_path / "parts", random.Random(7)
    for kills in range(KILLS):
        assert life(parts, bars, [MOMENTS[kills % len(MOMENTS)]] * chance.randint(1, 4)) == -signal.SIGKILL
    assert (life(parts, bars, []), life(whole, bars, [])) == (0, 0)
    said = capfd.readouterr().err
    assert "Traceback" not in said and "error:" not in said, said
    for name in ("run.pth", "run.last.pth"):
        expected, found = (checkpoint.load(folder / "module" / name) for folder in (whole, parts))
        assert same(expected.state_dict, found.state_dict) and expected.temperature == found.temperature, name
    for part in ("network", "optimizer", "scaler", "step"):
        assert same(expected.resume[part], found.resume[part]), part
    for there, here in zip(expected.resume["history"], found.resume["history"], strict=True):
        assert (there["val"], there["train"]) == (here["val"], here["train"])
    logs = parts / found.resume["logs"]
    curves = [EventAccumulator(str(logs / part), {"scalars": 0}).Reload() for part in ("train", "val")]
    for tag in ("loss", "accuracy", "learning rate"):  # each step is there once, in order
        assert [event.step for event in curves[0].Scalars(f"step/{tag}")] == list(range(1, EPOCHS * STEPS + 1)), tag
    for events, tag in itertools.product(curves, ("loss", "accuracy")):  # and each epoch, perhaps twice
        assert {event.step for event in events.Scalars(f"epoch/{tag}")} == set(range(1, EPOCHS + 1)), tag
    assert sorted(file.name for file in (parts / "module").glob("*[!k]")) == ["run.last.pth", "run.pth"]
