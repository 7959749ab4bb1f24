"""A tiny network for tests of training, which can cause a fault in its n-th forward pass; and lives of a run.

python -m tests.tiny FOLDER FAULT N ARGUMENTS...       one run of train.py in FOLDER with the fault in step N
"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by torchrun, as a file

import train
from classifier import cli
from zoo import MODELS

FAULTS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "none": lambda x: None,
    "nan": lambda x: x * float("nan"),
    "bug": lambda x: x @ torch.zeros(3, 3, 3),
    "memory": lambda x: torch.empty(1 << 50),  # a million gigabytes
    "read error": lambda x: Path("/nowhere/file").read_bytes(),
    "SIGTERM": lambda x: os.kill(os.getpid(), signal.SIGTERM),
    "SIGKILL": lambda x: os.kill(os.getpid(), signal.SIGKILL),
}


class Tiny(nn.Module):
    """A network that is saved in some milliseconds; it has batch norm and dropout, whose states have to be resumed.

    Args:
        num_classes: its outputs.
        fault: called with the features of the training forward pass number `at`; what it returns takes their place.
        at: counted from 1; 0: in each.
    """

    def __init__(self, num_classes: int = 1000, fault: Callable | None = None, at: int = 0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16)
        self.relu, self.dropout, self.fc = nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, num_classes)
        self.fault, self.at, self.calls = fault, at, 0

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, 16, H/4, W/4)"""
        return self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))

    def forward_head(self, features: Tensor) -> Tensor:
        """(N, 16, h, w) -> (N, num_classes)"""
        return self.fc(self.dropout(features.mean((2, 3))))

    def forward(self, x: Tensor) -> Tensor:
        features = self.forward_features(x)
        if self.training and self.fault and torch.is_grad_enabled():
            self.calls += 1
            if self.at in (0, self.calls) and (changed := self.fault(features)) is not None:
                features = changed
        return self.forward_head(features)


def register(fault: Callable | str = "none", at: int = 0) -> None:
    """Make the tiny network known as --model tiny, with this fault."""
    MODELS["tiny"] = functools.partial(Tiny, fault=FAULTS.get(fault, fault), at=at)


@contextlib.contextmanager
def own_signals():
    """Give back the handlers of the signals that train.py catches."""
    numbers = [signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGCHLD", signal.SIGINT)]
    before = [signal.getsignal(number) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler or signal.SIG_DFL)


if __name__ == "__main__":
    folder, kind, number, *arguments = sys.argv[1:]
    os.chdir(folder)
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" or os.environ.get("RANK", "1") != "1":
        kind = "none"  # of several processes the second one has the fault, once
    register(kind, int(number))
    cli.run(lambda: train.main(arguments))
