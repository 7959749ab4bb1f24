"""A run of train.py: how far it is, where it is kept, and when, so that it can go on where it stopped."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import Tensor

from classifier import checkpoint
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.evaluation import metrics
from classifier.files import file_lock, remove_leftovers
from classifier.text import quoted
from classifier.training import run_state
from classifier.training.config import MAY_CHANGE_ON_RESUME, Settings

SHARE = 0.02  # of the time of a run, at most, goes into saving


def new(settings: Settings, logs: Path) -> dict:
    """What a run that has not begun yet knows of itself; all of it is kept in NAME.last.pth."""
    began = time.strftime("%Y%m%d-%H%M%S")
    return {
        "name": settings.name or f"{settings.model}-{began}",
        "logs": (logs / settings.model / began).as_posix(),
        "format": "",  # of numbers, once it is chosen
        "step": 0,  # steps made
        "totals": [0.0, 0, 0, 0.0],  # of the epoch under way: sum of losses, correct images, images, seconds
        "minutes": 0.0,  # of training, in all finished epochs
        "history": [],  # a dictionary per finished epoch
        "done": False,
    }


def places(run: dict, module: Path) -> tuple[Path, Path]:
    """NAME.pth and NAME.last.pth."""
    return module / f"{run['name']}.pth", module / f"{run['name']}{checkpoint.LAST}"


def states(module: Path) -> dict[str, tuple[int, int]]:
    """Which states to go on from lie there, by name, and size and time of each, by which a newer one is told."""
    stats = {path.name: path.stat() for path in module.glob(f"*{checkpoint.LAST}")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


@contextlib.contextmanager
def reserved(run: dict, saved: Checkpoint | None, module: Path, before: dict[str, tuple[int, int]]) -> Iterator[None]:
    """Keep other runs out of the places of this one for the time being.

    Args:
        run: from `new`, or what is known of it in `saved`.
        saved: the state to go on from.
        module: the folder of weights.
        before: `states` before `saved` was read: that was done without keeping others out, who may have gone on.

    Raises:
        UserError: the weights of another run are there, or it is under way, or was it until now.
    """
    best, last = places(run, module)
    with file_lock(module / f".{run['name']}.lock", f"Another train.py is writing {last}. Wait for it, or end it."):
        taken = [str(path) for path in (best, last) if path.exists()]
        if taken and not (saved and saved.path.resolve() == last.resolve()):
            raise UserError(
                f"{' and '.join(taken)} would be overwritten. Choose another --name, or --resume {quoted(last)}"
            )
        if before.get(last.name) != states(module).get(last.name):
            raise UserError(
                f"{last} was written by another train.py while this one was starting. Give the same command again."
            )
        remove_leftovers(best)
        remove_leftovers(last)
        yield


def close_epoch(run: dict, side: int, logits: Tensor, labels: Tensor) -> dict:
    """End the epoch under way: what the .pth keeps of it, from its totals and the answers to validation images."""
    total_loss, correct, count, seconds = run["totals"]
    run["minutes"] += seconds / 60
    entry = {
        "epoch": len(run["history"]) + 1,
        "minutes": run["minutes"],
        "train": {"loss": total_loss / count, "accuracy": correct / count},
        "val": {"loss": metrics.loss(logits, labels), "accuracy": metrics.accuracy(logits, labels)},
        "size": side,
        "images_per_second": count / seconds,
    }
    run["history"].append(entry)
    run["totals"] = [0.0, 0, 0, 0.0]
    return entry


def unfinished(module: Path, settings: Settings) -> Checkpoint | None:
    """The newest run in `module` that has these settings and has not come to its end; None where there is none.

    Where the one of that --name has, there is nothing to do, and the process ends with status 0.
    """
    keys = vars(settings).keys() - (MAY_CHANGE_ON_RESUME - {"data", "epochs", "patience"})

    def meant(its: dict) -> bool:
        wanted = vars(settings) | {"name": settings.name or its.get("name")}
        return all(its.get(key) == wanted[key] for key in keys)

    files = sorted(module.glob(f"*{checkpoint.LAST}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files:
        with contextlib.suppress(Exception):  # of a file that is none, which `load` tells
            its, done = checkpoint.glance(path)
            if not meant(its) or (done and not settings.name):
                continue
        try:
            saved = checkpoint.load(path)
            run_state.check(saved)
        except CheckpointError as error:
            print(f"--resume auto leaves it out: {error}")
            continue
        if meant(saved.settings):
            if not saved.resume.get("done", True):
                return saved
            if settings.name:
                print(f"The run {settings.name} has come to its end: {path}. Nothing is left to do.")
                sys.exit(0)
    return None


class Saves:
    """Writes NAME.pth and NAME.last.pth when it is time to.

    NAME.pth goes first, so that wherever a run is killed, its last state knows no epoch whose weights are not there.
    A save that fails is told, and tried again at the next occasion.
    """

    def __init__(self, best: Path, last: Path, minutes: float, state: Callable[[], Checkpoint]):
        self.best_path, self.last_path, self.minutes, self.state = best, last, minutes, state
        self.best: Checkpoint | None = None  # not written yet
        self.seconds = 0.0  # that the last save took
        self.at = time.monotonic()

    def if_due(self, epoch_ended: bool = False) -> None:
        """Save every so many minutes and at the end of epochs, but no more often than costs SHARE of the time."""
        passed = time.monotonic() - self.at
        wait = self.seconds / SHARE if epoch_ended else max(60 * self.minutes, self.seconds / SHARE)
        if self.minutes == 0 or passed >= wait:
            try:
                self.now()
            except CheckpointError as error:
                self.at = time.monotonic()
                print(f"not saved: {error} Training goes on, and saving is tried again.", flush=True)

    def now(self) -> None:
        """Save. Raises CheckpointError, and UserError for weights past use; what was saved before is still there."""
        start = time.monotonic()
        state = self.state()
        if not checkpoint.finite(state.resume["network"]):
            raise UserError(f"The weights became infinite by step {state.resume['step']}. A smaller --lr may help.")
        self.write_best()
        checkpoint.save(state, self.last_path)
        self.at = time.monotonic()
        self.seconds = self.at - start

    def write_best(self) -> None:
        """Write the best epoch's weights, where that has not been done."""
        if self.best:
            checkpoint.save(self.best, self.best_path)
            self.best = None
