"""The weights that the page can answer with, each loaded when it is first asked for."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.device import Compute, Precision, select_compute
from classifier.inference.predictor import build_predictor
from classifier.text import shorten
from webui.choices import Choice, Stamp, best_of, look_into, read, stamp_of


@dataclass(frozen=True)
class Loaded:
    """A network that answers; `look` is what `load` made of it, and `checkpoint` has no weights any more."""

    name: str
    path: Path
    stamp: Stamp
    checkpoint: Checkpoint
    compute: Compute
    look: Callable[[Tensor], object]


class Models:
    """The weights in a folder; each is loaded once, when it is asked for first. All of it may be used by any thread.

    Args:
        folder: where the .pth files lie; those to resume from are left out.
        first: another one, wherever it lies; it is preselected.
        device, precision: as for `device.select_compute`.
        keep: how many networks stay loaded; beyond them, the one that was not asked for longest is dropped.
        load: makes a function of a checkpoint, on the CPU, and a compute; it takes pixels (N, 3, H, W) uint8.
    """

    def __init__(
        self,
        folder: Path,
        first: Path | None = None,
        device: str = "auto",
        precision: Precision = "auto",
        keep: int = 3,
        load: Callable[[Checkpoint, Compute], Callable[[Tensor], object]] = build_predictor,
    ):
        self._folder, self._first, self.keep, self._make = folder, first, keep, load
        self._device, self._precision = device, precision
        self._known: dict[Path, Choice] = {}
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()  # the one asked for last at the end
        self._changing = threading.Lock()  # held for moments: around the three dictionaries
        self._reading = threading.Lock()  # one file at a time, so that one file's weights are in memory
        # by who answers and by who makes a network ready: torch.fx, which does that, changes all modules meanwhile
        self._computing = threading.Lock()
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def choices(self) -> list[Choice]:
        """All weights, newest first. Only files that are new or have changed are read."""
        found = [self._choice(name, path) for name, path in self._paths().items()]
        return sorted(found, key=lambda choice: choice.stamp or (), reverse=True)

    def best(self) -> str:
        """The name to preselect: `first`; else, of the newest weights and those with the same classes, the best.

        The score on test images counts, without one that on validation images; among equals the newer ones win.

        Raises:
            CheckpointError: there are no weights, or none that can be loaded.
        """
        if self._first:
            return self._first.stem
        choices = self.choices()
        if not choices:
            raise CheckpointError(f"{self._folder} holds no .pth yet. Train a network first: python train.py")
        return best_of(choices).name

    def get(self, name: str) -> Loaded:
        """The network of that name, ready to answer; one whose file has been replaced meanwhile is loaded anew.

        One whose file is gone answers as long as it is loaded.

        Raises:
            UserError: no weights of that name, or they cannot be loaded; the message is one that visitors may read.
        """
        path = self._paths().get(name)
        if path is None:  # a path would not be looked up, whatever it is
            raise CheckpointError(f"There are no weights called {shorten(str(name)[:99], 60)} here.")
        with self._changing:
            lock = self._loading[name]
        with lock:
            stamp = stamp_of(path)
            with self._changing:
                if (loaded := self._loaded.get(name)) and stamp in (None, loaded.stamp):
                    self._loaded.move_to_end(name)
                    return loaded
                self._loaded.pop(name, None)  # requests under way hold it
            loaded = self._load(name, path, stamp)
            with self._changing:
                self._loaded[name] = loaded
                while len(self._loaded) > self.keep:
                    self._loaded.popitem(last=False)
            return loaded

    def _paths(self) -> dict[str, Path]:
        """Name -> file, of all that may be asked for."""
        found = {self._first.stem: self._first} if self._first else {}
        first = self._first and self._first.resolve()
        for path in sorted(self._folder.glob("[!.]*.pth")):
            if not path.name.endswith(checkpoints.LAST) and path.resolve() != first:
                found[path.as_posix() if path.stem in found else path.stem] = path
        with self._changing:
            for name, loaded in self._loaded.items():  # gone from the disk, perhaps
                found.setdefault(name, loaded.path)
        return found

    def _choice(self, name: str, path: Path) -> Choice:
        with self._reading:
            stamp = stamp_of(path)
            with self._changing:
                known, loaded = self._known.get(path), self._loaded.get(name)
            if loaded and stamp in (None, loaded.stamp):
                return Choice(name, path, loaded.stamp, loaded.checkpoint)
            if not known or known.stamp != stamp:
                known = look_into(name, path, stamp)
                with self._changing:
                    self._known[path] = known
            return known

    def _load(self, name: str, path: Path, stamp: Stamp) -> Loaded:
        with self._changing:
            known = self._known.get(path)
        if known and known.stamp == stamp and known.problem:
            raise CheckpointError(known.problem)
        try:
            checkpoint = read(path)
            with self._computing:
                compute, look = self._made_ready(checkpoint)
        except MemoryError:  # may be better in a minute, so it is not remembered
            raise CheckpointError(f"There is not enough memory for {path.name} at present.") from None
        except CheckpointError as error:
            with self._changing:
                self._known[path] = Choice(name, path, stamp, None, str(error))
            raise
        checkpoint.state_dict, checkpoint.resume = {}, {}  # `look` has its own, and may hold on to the checkpoint

        def look_alone(pixels: Tensor) -> object:
            with self._computing:
                return look(pixels)

        return Loaded(name, path, stamp, checkpoint, compute, look_alone)

    def _made_ready(self, checkpoint: Checkpoint) -> tuple[Compute, Callable[[Tensor], object]]:
        size = checkpoint.preprocess.size
        compute = select_compute(self._device, self._precision)
        try:
            look = self._make(checkpoint, compute)
            blank = torch.zeros(1, 3, size, size, dtype=torch.uint8, device=compute.device)
            look(blank)  # the first answer is the slowest
            return compute, look
        except torch.OutOfMemoryError:
            raise MemoryError from None
        except (RuntimeError, ValueError) as error:
            reason = str(error).split("\n")[0][:200]
            raise CheckpointError(f"{checkpoint.path.name} cannot answer here ({reason}). Train it again.") from error
