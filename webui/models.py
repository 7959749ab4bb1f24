"""The .pth files that the page can answer with: what each says of itself, which is the best, and their networks."""

import dataclasses
import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from classifier import checkpoint as checkpoints
from classifier.checkpoint import UNSTATED, Checkpoint, CheckpointError, Stated
from classifier.cli import UserError, shorten
from classifier.device import Compute, Precision
from classifier.evaluation.metrics import wilson_interval
from classifier.inference import onnx_file
from classifier.inference.cam import cam_predictor
from webui.i18n import Translator

MAX_LOADED = 8  # networks; beyond these, the least recently used is dropped
TITLES = {
    "test": "{name}: {accuracy} accuracy on {count} test images",
    "val": "{name}: {accuracy} accuracy on {count} validation images",
    "": "{name}: not tested",
}
# one thread at a time: torch.fx, which optimizes a network, changes all modules, and answers pass through hooks
_computing = threading.Lock()


@dataclass(frozen=True)
class Loaded:
    """A network that answers; `checkpoint` has no weights any more.

    `predict` takes pixels (N, 3, H, W) uint8 on the device and returns a `Prediction` and class activation maps.
    """

    checkpoint: Checkpoint
    compute: Compute
    predict: Callable[[Tensor], tuple]


@dataclass(frozen=True)
class Models:
    """The .pth files in `folder`, but for those to resume from, and `first`, a .pth or .onnx anywhere, preselected.

    `stated` is what `first` does not say of itself. Each is loaded when it is first asked for, and anew when its file
    has changed. Any thread may call the methods.
    """

    folder: Path
    first: Path | None = None
    device: str = "auto"
    precision: Precision = "auto"
    stated: Stated = UNSTATED

    def found(self) -> dict[str, Checkpoint | UserError]:
        """Return all .pth files by name, newest first: without weights, or why it cannot be loaded."""
        files = sorted(((_stamp(path), name, path) for name, path in self._paths().items()), reverse=True)
        return {name: _read_without_weights(path, stamp, self._stated_of(path)) for stamp, name, path in files}

    def titles(self, _: Translator) -> list[tuple[str, str]]:
        """Return (title, name) of all models, newest first; the title has the accuracy, or an error."""

        def title(name: str, found: Checkpoint | UserError) -> str:
            if isinstance(found, UserError):
                return _.error(found)
            part, accuracy, count, *_interval = score_of(found)
            text = _(TITLES[part], name=name, accuracy=f"{accuracy:.1%}", count=f"{count:,}")
            return _("{title} (drawings)", title=text) if learned_from_drawings(found) else text

        return [(title(name, found), name) for name, found in self.found().items()]

    def best(self) -> str:
        """Return the name to preselect: `first`, or the most accurate of those that rank highest.

        Only those with the same classes as the newest of these compete, by the lower ends of their 95% intervals: 100%
        of 20 images promise less than 97% of 2,000. Raises UserError where no .pth can be loaded.
        """
        if self.first:
            return checkpoints.name_of(self.first)
        found = self.found()
        good = {name: checkpoint for name, checkpoint in found.items() if isinstance(checkpoint, Checkpoint)}
        if not good:
            missing = "{folder} holds no .pth yet. Train a network first: python train.py"
            raise next(iter(found.values()), CheckpointError(missing, folder=self.folder))
        newest = max(good.values(), key=_rank)  # of equal ranks, the first
        kind = _rank(newest), set(newest.classes)
        alike = [name for name, one in good.items() if (_rank(one), set(one.classes)) == kind]
        return max(alike, key=lambda name: score_of(good[name])[3])

    def get(self, name: str) -> Loaded:
        """Return the network of that name. Raises UserError where there is no such .pth, or it cannot be loaded."""
        path = self._paths().get(name)
        if path is None:  # a path would not be looked up, whatever it is
            raise CheckpointError("There is no model called {name} here.", name=shorten(str(name)[:99], 60))
        with _computing:  # so that two requests load a network once, too
            return _load(path, _stamp(path), self._stated_of(path), self.device, self.precision)

    def _stated_of(self, path: Path) -> Stated:
        return self.stated if path == self.first else UNSTATED

    def _paths(self) -> dict[str, Path]:
        """Return name -> file of all that may be asked for."""
        found = {checkpoints.name_of(self.first): self.first} if self.first else {}
        first = self.first and self.first.resolve()
        for path in sorted(self.folder.glob("[!.]*.pth")):
            if not path.name.endswith(checkpoints.LAST) and path.resolve() != first:
                found[path.as_posix() if path.stem in found else path.stem] = path
        return found


def score_of(checkpoint: Checkpoint) -> tuple[str, float, int, float, float]:
    """Return part ("test", "val", or "" without a score), accuracy, images, and the ends of the 95% interval."""
    for part in ("test", "val"):
        if score := checkpoint.scores.get(part):
            accuracy, count = score["accuracy"], score["count"]
            return part, accuracy, count, *wilson_interval(round(accuracy * count), count)
    return "", 0.0, 0, 0.0, 1.0


def learned_from_drawings(checkpoint: Checkpoint) -> bool:
    """Return whether the network was trained with the drawn sample set only."""
    return checkpoint.data.get("kind") == "drawings"


def _rank(checkpoint: Checkpoint) -> tuple[bool, bool, bool]:
    """Return what goes before accuracy: photographs, known class names (no plain state_dict), a user's own weights."""
    return not learned_from_drawings(checkpoint), checkpoint.named, checkpoint.path.name not in checkpoints.SHIPPED


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes with the file: evaluate.py adds scores without changing its date. () where it is missing."""
    try:
        state = path.stat()
    except OSError:
        return ()
    return state.st_mtime_ns, state.st_ctime_ns, state.st_size


@functools.lru_cache(200)
def _read_without_weights(path: Path, stamp: tuple[int, ...], stated: Stated) -> Checkpoint | UserError:
    try:
        return dataclasses.replace(_read(path, stated), state_dict={}, resume={}, ood_stats={}, session=None)
    except CheckpointError as error:
        return error.with_traceback(None)


def _read(path: Path, stated: Stated) -> Checkpoint:
    """Return the checkpoint. Raises CheckpointError, also where weights are not numbers."""
    checkpoint = onnx_file.load(path, stated)
    if not checkpoints.finite(checkpoint.state_dict):
        raise CheckpointError("{file} holds weights that are not numbers. Train it again.", file=path)
    return checkpoint


@functools.lru_cache(MAX_LOADED)
def _load(path: Path, stamp: tuple[int, ...], stated: Stated, device: str, precision: Precision) -> Loaded:
    checkpoint = _read(path, stated)
    compute, size = onnx_file.select_compute(checkpoint, device, precision), checkpoint.preprocess.size
    try:
        predict = cam_predictor(checkpoint, compute)
        predict(torch.zeros(1, 3, size, size, dtype=torch.uint8, device=compute.device))  # the first is the slowest
    except (RuntimeError, ValueError, MemoryError) as error:
        reason = str(error).split("\n")[0][:200]
        raise CheckpointError("{file} cannot be used here ({reason}).", file=path, reason=reason) from error
    checkpoint.state_dict, checkpoint.resume = {}, {}  # `predict` has its own

    def predict_alone(pixels: Tensor) -> tuple:
        with _computing:
            return predict(pixels)

    return Loaded(checkpoint, compute, predict_alone)
