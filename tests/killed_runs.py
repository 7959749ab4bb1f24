"""train.py, killed again and again and gone on with, for tests/test_kill.py.

    python -m tests.killed_runs FOLDER KILLS SEED ARGUMENTS...

Each life of the run is a fork of this process, which has imported everything and started no thread: as a process of its
own it would need four seconds to begin. It ends by SIGKILL, at a moment that the seed decides. What is printed is one
line per life: how it was to be killed, and its status.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from torch import Tensor, nn

import train
from classifier import checkpoint, cli
from classifier.training import tensorboard  # records: train.py imports it only when it begins, so here in advance
from zoo import MODELS

WAYS = ("time", "step", "half written", "before the disk", "before the name", "after the name", "records")
MOST = 4  # steps that a life saves


class Tiny(nn.Module):
    """A network that is saved in some milliseconds; with batch norm, whose means have to come back, and with chance."""

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16)
        self.relu, self.dropout, self.fc = nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 16, H/4, W/4)"""
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))

    def forward_head(self, features: Tensor) -> Tensor:
        """(N, 16, h, w) -> (N, num_classes)"""
        return self.fc(self.dropout(features.mean((2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def die() -> None:
    """As if by `kill -9`: nothing is flushed, nothing is tidied up."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(module: object, name: str, count: int, after: bool = False, half: bool = False) -> None:
    """Let the process be killed in the `count`-th call of a function: before what it does, after, or in the middle."""
    real, calls = getattr(module, name), []

    def call(*arguments, **options):
        calls.append(1)
        if len(calls) < count:
            return real(*arguments, **options)
        if half:
            content = arguments[1].tell
            real(*arguments, **options)
            arguments[1].truncate(content() // 2)
        elif after:
            real(*arguments, **options)
        die()

    setattr(module, name, call)


def prepare_death(way: str, count: int) -> None:
    """Make ready for a death of this kind, the `count`-th time that it is possible."""
    if way == "time":  # a fast machine must not come to the run's end before the time has come
        die_at(train, "update_ema", MOST + 1)
    elif way == "step":
        die_at(train, "update_ema", count, after=True)
    elif way == "half written":
        die_at(torch, "save", count, half=True)
    elif way == "before the disk":
        die_at(os, "fsync", count)
    elif way in ("before the name", "after the name"):
        die_at(checkpoint, "_replace", count, after=way.startswith("after"))
    elif way == "records":
        die_at(tensorboard.Records, "flush", count, after=True)


def life(folder: Path, arguments: list[str], way: str = "", count: int = 0, seconds: float = 0) -> int:
    """One life in `folder`, to its end; its status as waitpid gives it. What it says goes to FOLDER/said.txt."""
    child = os.fork()
    if not child:
        said = os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.chdir(folder)
        sys.argv = ["train.py", *arguments]
        status = 70
        try:
            prepare_death(way, count)
            cli.run(train.main)
            status = 0
        except SystemExit as end:
            status = end.code or 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    if way == "time":
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """The run, killed so many times, and then to its end."""
    folder, kills, seed, arguments = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
    torch.set_num_threads(1)
    MODELS["tiny"] = Tiny
    chance = random.Random(seed)
    ways = [WAYS[i % len(WAYS)] for i in range(kills)]
    chance.shuffle(ways)
    for way in ways:
        count = chance.randint(1, MOST)
        print(way, count, life(folder, arguments, way, count, chance.uniform(0.2, 3)), flush=True)
    print("to the end", 0, life(folder, arguments), flush=True)


if __name__ == "__main__":
    main()
