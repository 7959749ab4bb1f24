"""Killed at any moment, in the middle of a save or anywhere else, a resumed run ends as if nothing had happened.

LONG=1 python -m pytest tests/test_kill.py        20 kills of a ResNet-18; without, 8 of a tiny network

Each life of the run is a fork of one process, which has imported everything and started no thread: a process of its
own would need seconds to begin. A moment is chosen by what the run does to its files, or by the clock.
"""

import contextlib
import itertools
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


def moment(way: str, folder: Path, chance: random.Random) -> None:
    """Wait for it."""
    module, begun = folder / "module", time.monotonic()

    def stamp(pattern: str) -> list:
        with contextlib.suppress(FileNotFoundError):
            return sorted((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in folder.glob(pattern))
        return []

    patterns = {"while saving": "module/.run*.tmp", "best written": "module/run.pth", "saved": "module/run.last.pth"}
    patterns |= {"curves written": "logs/*/*/train/*"}
    if way in patterns:
        count = chance.randint(1, 4)
        while count and time.monotonic() - begun < 20:
            before = stamp(patterns[way])
            while stamp(patterns[way]) == before and time.monotonic() - begun < 20:
                time.sleep(0.0002)
            count -= 1
    else:
        while not (module / "run.last.pth").exists() and time.monotonic() - begun < 20:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))


def life(folder: Path, arguments: list[str], way: str, chance: random.Random) -> int:
    """One life in `folder`; its status as waitpid gives it. What it prints goes to FOLDER/said.txt."""
    from classifier import cli
    from tests import tiny

    child = os.fork()
    if not child:
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
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
    if way != "to the end":
        moment(way, folder, chance)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """The run, killed so many times, and then to its end."""
    import torch.utils.tensorboard

    folder, kills, arguments = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    chance = random.Random(7)
    ways = itertools.cycle(("while saving", "by the clock", "best written", "saved", "curves written"))
    for way in (*itertools.islice(ways, kills), "to the end"):
        print(life(folder, arguments, way, chance), way, flush=True)


def lives(folder: Path, kills: int, bars: Path) -> list[int]:
    """The status of each life of a run in `folder`."""
    folder.mkdir()
    command = [sys.executable, "-m", "tests.test_kill", folder, kills, "--data", bars, *SETTINGS]
    done = subprocess.run(
        list(map(str, command)), cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [int(line.split()[0]) for line in done.stdout.splitlines()]


def check_curves(logs: Path) -> None:
    """Each step is there once, in order; each epoch, too, perhaps twice where it was repeated."""
    found = {}
    for part in ("train", "val"):
        events = EventAccumulator(str(logs / part), {"scalars": 0}).Reload()
        found[part] = {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag in ("loss", "accuracy", "learning rate"):
        assert found["train"][f"step/{tag}"] == list(range(1, EPOCHS * STEPS + 1)), tag
    epochs = list(range(1, EPOCHS + 1))
    for tag in ("loss", "accuracy"):
        assert sorted(set(found["train"][f"epoch/{tag}"])) == sorted(set(found["val"][f"epoch/{tag}"])) == epochs, tag


@pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forks, which this system has not")
def test_killed_at_any_moment_it_ends_with_the_same_weights_and_curves(bars, tmp_path, monkeypatch):
    from tests import tiny

    monkeypatch.setitem(tiny.MODELS, "tiny", tiny.Tiny)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert lives(whole, 0, bars) == [0], (whole / "said.txt").read_text()
    ends = lives(parts, KILLS, bars)
    said = (parts / "said.txt").read_text()
    assert "Traceback" not in said and "error:" not in said, said
    assert ends == [-signal.SIGKILL] * KILLS + [0], (ends, said)
    for name in ("run.pth", "run.last.pth"):
        expected, found = (checkpoint.load(folder / "module" / name) for folder in (whole, parts))
        assert same(expected.state_dict, found.state_dict), name
        assert expected.temperature == found.temperature
    for part in ("network", "optimizer", "scaler", "step"):
        assert same(expected.resume[part], found.resume[part]), part
    for there, here in zip(expected.resume["history"], found.resume["history"], strict=True):
        assert (there["val"], there["train"]) == (here["val"], here["train"])
    check_curves(parts / found.resume["logs"])
    assert sorted(file.name for file in (parts / "module").glob("*[!k]")) == ["run.last.pth", "run.pth"]


if __name__ == "__main__":
    main()
