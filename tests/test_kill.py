"""Killed at any moment, in the middle of a save or anywhere else, a resumed run ends as if nothing had happened.

LONG=1 python -m pytest tests/test_kill.py        20 kills of a ResNet-18; without, 8 of a tiny network

Each life of the run is a fork of one process, which has imported everything and started no thread: a process of its
own would need seconds to begin. A moment is chosen by what the run does to its files.
"""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import checkpoint
from tests.conftest import ENVIRONMENT, REPOSITORY, TINY, same

KILLS, MODEL = (20, "resnet18") if os.environ.get("LONG") else (8, "tiny")
STEPS, EPOCHS = 4, KILLS + 2  # of an epoch; more than the lives that are killed can do
SETTINGS = (*TINY[2:], "--model", MODEL, "--epochs", EPOCHS, "--save-every", 0, "--resume", "auto")
# while it writes a file, after the best weights, after the state to resume from, after the curves
MOMENTS = ("module/.run*.tmp", "module/run.pth", "module/run.last.pth", "logs/*/*/train/*")


def wait_for_change(folder: Path, pattern: str) -> None:
    """Return as soon as a file of this pattern appears, grows or vanishes."""

    def look() -> list:
        found = []
        for path in folder.glob(pattern):
            try:
                found.append((path.name, path.stat().st_mtime_ns, path.stat().st_size))
            except FileNotFoundError:
                continue
        return found

    before, end = look(), time.monotonic() + 20
    while look() == before and time.monotonic() < end:
        time.sleep(0.0002)


def life(arguments: list[str], kill_after: list[str]) -> int:
    """One life in this folder, killed after a change of each of these patterns; its status as waitpid gives it."""
    from classifier import cli
    from tests import tiny

    child = os.fork()
    if not child:
        os.dup2(2, 1)
        status = 70
        try:
            tiny.register()
            cli.run(lambda: tiny.train.main(arguments))
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
    for pattern in kill_after:
        wait_for_change(Path(), pattern)
    if kill_after:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """The run in this folder, killed so many times, and then to its end."""
    import torch.utils.tensorboard

    kills, arguments = int(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    chance = random.Random(7)
    for number in range(kills):
        moment = MOMENTS[number % len(MOMENTS)]
        print(life(arguments, [moment] * chance.randint(1, 4)), flush=True)
    print(life(arguments, []))


def lives(folder: Path, kills: int, bars: Path) -> tuple[list[int], str]:
    """The status of each life of a run in `folder`, and all that they print."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.test_kill", kills, "--data", bars, *SETTINGS]
    environment = ENVIRONMENT | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    return [int(status) for status in done.stdout.split()], done.stderr


def check_curves(logs: Path) -> None:
    """Each step is there once, in order; each epoch, too, perhaps twice where it was repeated."""
    train, val = (EventAccumulator(str(logs / part), {"scalars": 0}).Reload() for part in ("train", "val"))
    for tag in ("loss", "accuracy", "learning rate"):
        assert [event.step for event in train.Scalars(f"step/{tag}")] == list(range(1, EPOCHS * STEPS + 1)), tag
    for events in (train, val):
        for tag in ("loss", "accuracy"):
            assert {event.step for event in events.Scalars(f"epoch/{tag}")} == set(range(1, EPOCHS + 1)), tag


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks, which this system has not")
def test_killed_at_any_moment_it_ends_with_the_same_weights_and_curves(bars, tmp_path, monkeypatch):
    from tests import tiny

    monkeypatch.setitem(tiny.MODELS, "tiny", tiny.Tiny)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert lives(whole, 0, bars)[0] == [0]
    ends, said = lives(parts, KILLS, bars)
    assert ends == [-signal.SIGKILL] * KILLS + [0] and "Traceback" not in said and "error:" not in said, (ends, said)
    for name in ("run.pth", "run.last.pth"):
        expected, found = (checkpoint.load(folder / "module" / name) for folder in (whole, parts))
        assert same(expected.state_dict, found.state_dict) and expected.temperature == found.temperature, name
    for part in ("network", "optimizer", "scaler", "step"):
        assert same(expected.resume[part], found.resume[part]), part
    for there, here in zip(expected.resume["history"], found.resume["history"], strict=True):
        assert (there["val"], there["train"]) == (here["val"], here["train"])
    check_curves(parts / found.resume["logs"])
    assert sorted(file.name for file in (parts / "module").glob("*[!k]")) == ["run.last.pth", "run.pth"]


if __name__ == "__main__":
    main()
