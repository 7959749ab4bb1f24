"""The .pth files that the page can answer with; their networks are loaded on demand."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.device import Compute, Precision, select_compute
from classifier.inference.cam import cam_predictor
from classifier.text import shorten
from webui.choices import Choice, Stamp, best_of, read, read_choice, stamp_of


@dataclass(frozen=True)
class Loaded:
    """A network that answers; `checkpoint` has no weights any more.

    `predict` takes pixels (N, 3, H, W) uint8 on the device and returns a `Prediction` and class activation maps.
    """

    stamp: Stamp
    checkpoint: Checkpoint
    compute: Compute
    predict: Callable[[Tensor], tuple]


class Models:
    """The .pth files in a folder, each loaded when it is first asked for. All methods may be called by any thread.

    Args:
        folder: holds the .pth files; those to resume from are left out.
        first: another one, wherever it is; it is preselected.
        device, precision: as for `device.select_compute`.
        keep: networks that stay loaded; beyond these, the least recently used is dropped.
        build: makes `Loaded.predict` of a checkpoint and a compute.
    """

    def __init__(
        self,
        folder: Path,
        first: Path | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        keep: int = 8,
        build: Callable[[Checkpoint, Compute], Callable[[Tensor], tuple]] = cam_predictor,
    ):
        self._folder, self._first, self.keep, self._build = folder, first, keep, build
        self._device, self._precision = device, precision
        self._known: dict[Path, Choice] = {}
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()  # the most recently used last
        self._lock = threading.RLock()  # one file at a time is read, so that one file's weights are in memory
        self._computing = threading.Lock()  # torch.fx, which optimizes a network, changes all modules meanwhile

    def choices(self) -> list[Choice]:
        """Return all .pth files, newest first. Only files that are new or have changed are read."""
        with self._lock:
            found = [self._choice(name, path) for name, path in self._paths().items()]
        return sorted(found, key=lambda choice: choice.stamp or (), reverse=True)

    def best(self) -> str:
        """Return the name to preselect: `first`, or the best. Raises UserError where no .pth can be loaded."""
        if self._first:
            return self._first.stem
        choices = self.choices()
        if not choices:
            raise CheckpointError(f"{self._folder} holds no .pth yet. Train a network first: python train.py")
        return best_of(choices).name

    def get(self, name: str) -> Loaded:
        """Return the network of that name, anew if its file has changed; one whose file is gone answers while loaded.

        Raises:
            UserError: there is no such .pth, or it cannot be loaded.
        """
        with self._lock:
            path = self._paths().get(name)
            if path is None:  # a path would not be looked up, whatever it is
                name = shorten(str(name)[:99], 60)
                raise CheckpointError("There is no model called {name} here.", name=name)
            stamp, loaded = stamp_of(path), self._loaded.get(name)
            if loaded is None or stamp not in (None, loaded.stamp):
                self._loaded.pop(name, None)  # requests under way hold it
                loaded = self._loaded[name] = self._load(path, stamp)
                if len(self._loaded) > self.keep:
                    self._loaded.popitem(last=False)
            self._loaded.move_to_end(name)
            return loaded

    def _paths(self) -> dict[str, Path]:
        """Return name -> file of all that may be asked for."""
        found = {self._first.stem: self._first} if self._first else {}
        first = self._first and self._first.resolve()
        for path in sorted(self._folder.glob("[!.]*.pth")):
            if not path.name.endswith(checkpoints.LAST) and path.resolve() != first:
                found[path.as_posix() if path.stem in found else path.stem] = path
        return {name: loaded.checkpoint.path for name, loaded in self._loaded.items()} | found

    def _choice(self, name: str, path: Path) -> Choice:
        stamp, known, loaded = stamp_of(path), self._known.get(path), self._loaded.get(name)
        if loaded and stamp in (None, loaded.stamp):
            return Choice(name, path, loaded.stamp, loaded.checkpoint)
        if known is None or known.stamp != stamp:
            known = self._known[path] = read_choice(name, path, stamp)
        return known

    def _load(self, path: Path, stamp: Stamp) -> Loaded:
        checkpoint, compute = read(path), select_compute(self._device, self._precision)
        size = checkpoint.preprocess.size
        try:
            with self._computing:
                predict = self._build(checkpoint, compute)
                predict(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=compute.device))  # the slowest one
        except (RuntimeError, ValueError, MemoryError) as error:
            reason = str(error).split("\n")[0][:200]
            raise CheckpointError("{file} cannot be used here ({reason}).", file=path, reason=reason) from error
        checkpoint.state_dict, checkpoint.resume = {}, {}  # `predict` has its own, and may hold the checkpoint

        def predict_alone(pixels: Tensor) -> tuple:
            with self._computing:
                return predict(pixels)

        return Loaded(stamp, checkpoint, compute, predict_alone)
