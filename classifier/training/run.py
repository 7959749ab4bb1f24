"""A run of train.py: how far it is, how it begins or is resumed, and when it is saved."""

import contextlib
import math
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from classifier import checkpoint, distributed
from classifier.checkpoint import LAST, Checkpoint, CheckpointError
from classifier.cli import UserError, plural, quoted
from classifier.evaluation import metrics
from classifier.files import file_lock, remove_leftovers
from classifier.inference.calibration import fit_temperature
from classifier.training import config, datasets
from classifier.training.config import TrainConfig
from classifier.training.optim import image_size_at

MODULE, LOGS = Path("module"), Path("logs")
MAX_SAVING_SHARE = 0.02  # of the time of a run


@dataclass
class RunState:
    """How far a run is. With the tensors of model, EMA, optimizer and gradient scaler, all that resuming needs."""

    logs: str = ""  # TensorBoard's folder
    format: str = ""  # of numbers
    teacher: str = ""  # digest of its weights
    step: int = 0  # steps made
    loss_sum: float = 0.0  # this and the next three are of the epoch under way
    correct: int = 0
    images: int = 0
    seconds: float = 0.0
    minutes: float = 0.0  # of training, in all finished epochs
    history: list[dict] = field(default_factory=list)  # an entry per finished epoch
    done: bool = False

    def add_step(self, loss_sum: float, correct: float, images: int, seconds: float) -> None:
        """Count a step."""
        self.step += 1
        self.loss_sum += loss_sum
        self.correct += round(correct)
        self.images += images
        self.seconds += seconds

    def close_epoch(self, image_size: int, val: dict) -> dict:
        """Return the new entry of the history, whose validation scores are `val`, and reset the sums."""
        self.minutes += self.seconds / 60
        entry = {
            "epoch": len(self.history) + 1,
            "minutes": self.minutes,
            "train": {"loss": self.loss_sum / self.images, "accuracy": self.correct / self.images},
            "val": val,
            "size": image_size,
            "images_per_second": self.images / max(self.seconds, 1e-9),
        }
        self.history.append(entry)
        self.loss_sum, self.correct, self.images, self.seconds = 0.0, 0, 0, 0.0
        return entry

    @property
    def best(self) -> dict:
        """The best epoch's entry; empty before the first epoch has finished."""
        return metrics.best_epoch(self.history) if self.history else {}


class Run:
    """A run that has the lock on its files: its name, how far it is, and what it resumes (or None)."""

    def __init__(self, name: str, folder: Path, state: RunState, saved: Checkpoint | None = None):
        self.name, self.state, self.saved = name, state, saved
        self.best_path = folder / f"{name}.pth"  # the weights of the best epoch
        self.last_path = folder / f"{name}{LAST}"  # the state to resume from
        self.resume_command = f"python train.py --resume {quoted(self.last_path)}"


# ---- begin or resume


def open_run(description: str, argv: Sequence[str] | None, stack: contextlib.ExitStack) -> tuple[TrainConfig, Run]:
    """Read the command line; find the run to resume or begin one. `stack` holds the lock on its files.

    Raises UserError, and SystemExit where nothing is left to do.
    """
    resume, saved, now = config.peek(argv).resume, None, time.strftime("%Y%m%d-%H%M%S")
    if resume not in ("", config.AUTO):
        saved = _lock_and_load(Path(resume), stack)
    cfg = config.parse_config(description, argv, saved)
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # by torchrun, with the same command
    if not saved and (cfg.resume == config.AUTO or restarted):
        saved = _find_unfinished(cfg, stack)
    if not saved:
        logs = LOGS / cfg.model / (f"{now}-{cfg.name}" if cfg.name else now)
        run = Run(cfg.name or f"{cfg.model}-{now}", MODULE, RunState(logs.as_posix()))
        _lock(run.last_path, stack)
        if taken := [str(path) for path in (run.best_path, run.last_path) if path.exists()]:
            raise UserError(f"{' and '.join(taken)} would be overwritten. Choose another --name, or --resume that run.")
        return cfg, run
    state = RunState(**{name: saved.resume[name] for name in vars(RunState())})
    run = Run(saved.path.name.removesuffix(LAST), saved.path.parent, state, saved)
    if state.done and len(state.history) >= cfg.epochs:
        raise UserError(
            f"{saved.path} has finished its {plural(len(state.history), 'epoch')}. --epochs {2 * cfg.epochs} would "
            "train it further, with schedules that span all of them."
        )
    if run.name != saved.settings["name"]:  # a copy is a run of its own
        state.logs = (LOGS / cfg.model / f"{now}-{run.name}").as_posix()
    state.done = False
    return cfg, run


def _lock(last_path: Path, stack: contextlib.ExitStack) -> None:
    name = last_path.name.removesuffix(LAST)
    message = f"Another train.py is writing {last_path}. Wait for it, or end it."
    stack.enter_context(file_lock(last_path.with_name(name), message))
    remove_leftovers(last_path)
    remove_leftovers(last_path.with_name(f"{name}.pth"))


def _lock_and_load(path: Path, stack: contextlib.ExitStack) -> Checkpoint:
    if path.is_file():
        _lock(path, stack)
    saved = checkpoint.load(path)
    saved.settings = config.EARLIER | saved.settings
    if not saved.resume or not path.name.endswith(LAST):
        raise UserError(
            f"{path} cannot be resumed; files named *{LAST} can. To start from its weights: --weights {path}"
        )
    kinds = {name: type(value) for name, value in vars(RunState()).items()}
    kinds |= {"network": OrderedDict, "optimizer": dict, "scaler": dict}
    found = {name: type(value) for name, value in saved.resume.items()}
    if found != kinds or saved.settings.keys() != vars(TrainConfig()).keys():
        raise UserError(
            f"{path} is damaged or was written by another version, whose runs this one cannot resume. Its weights can "
            f"be used: python train.py --weights {path}"
        )
    return saved


def _find_unfinished(cfg: TrainConfig, stack: contextlib.ExitStack) -> Checkpoint | None:
    """Return the newest unfinished run with these settings, or None; exit if the run of that --name has finished.

    Raises UserError where it has, but with other images.
    """
    for path in sorted(MODULE.glob(f"*{LAST}"), key=lambda path: path.stat().st_mtime, reverse=True):
        if cfg.name and path.name != cfg.name + LAST:
            continue
        try:
            saved = checkpoint.load(path, mmap=True)
        except CheckpointError as error:
            print(f"--resume auto skips {path}: {error}")
            continue
        if config.same_run(cfg, saved):
            if not saved.resume.get("done", True):
                return _lock_and_load(path, stack)
            if cfg.name:
                if distributed.WORLD_SIZE == 1:  # this is asked in the main process only
                    datasets.read(cfg, saved)  # refused where the images are others now
                print(f"The run {cfg.name} has finished: {path}. Nothing is left to do.")
                sys.exit(0)
    return None


def check_image_size(model: nn.Module, cfg: TrainConfig) -> None:
    """Raise a UserError where the first epoch's images are too small for the network."""
    smallest, first = getattr(model, "smallest", 1), image_size_at(0, cfg)
    if first < smallest:
        raise UserError(
            f"{cfg.model} needs at least {smallest} pixels, but the first epoch's images have {first}. "
            f"Use --grow-from 1 and --size {smallest} or more."
        )


# ---- save and restore


@dataclass
class Saver:
    """Write NAME.pth, then NAME.last.pth, so that no saved state knows an epoch whose weights were not written."""

    run: Run
    meta: Checkpoint  # what both files say besides tensors
    ema: nn.Module  # the moving average of the weights
    parts: dict  # "network", "optimizer", "scaler": what has a state_dict
    flush: Callable[[], None]  # brings TensorBoard's curves to the disk
    minutes: float  # between saves within an epoch; 0: after every step; infinity: never
    pending: Checkpoint | None = None  # the best epoch, not written yet
    last_save: float = field(default_factory=time.monotonic)
    save_seconds: float = 0.0

    def keep_best(self, logits: Tensor, labels: Tensor) -> None:
        """Take the averaged weights for the best epoch's, with its validation logits; the next save writes them."""
        history = list(self.run.state.history)
        scores = {"val": history[-1]["val"] | {"epoch": len(history), "count": len(labels)}, "history": history}
        weights, temperature = checkpoint.in_half(self.ema.state_dict()), fit_temperature(logits, labels)
        self.pending = replace(self.meta, state_dict=weights, scores=scores, temperature=temperature)

    def save(self) -> None:
        """Save. Raises CheckpointError, and UserError for weights that are not finite; older files stay as they are."""
        if not distributed.IS_MAIN:
            return
        start, state = time.monotonic(), self.run.state
        self.flush()
        if state.images:  # within an epoch, when batch norm's statistics are not estimated yet: those of training
            torch._foreach_copy_([*self.ema.buffers()], [*self.parts["network"].buffers()])
        tensors = {name: part.state_dict() for name, part in self.parts.items()}
        if not checkpoint.finite(tensors["network"]):
            raise UserError(f"The weights became infinite by step {state.step}. A smaller --lr may help.")
        if self.pending:
            checkpoint.save(self.pending, self.run.best_path)
            self.pending = None
        resume = asdict(state) | tensors
        checkpoint.save(replace(self.meta, state_dict=self.ema.state_dict(), resume=resume), self.run.last_path)
        self.last_save = time.monotonic()
        self.save_seconds = self.last_save - start

    def save_if_due(self, epoch_ended: bool = False) -> None:
        """Save every `minutes` and at the ends of epochs, but spend no more than MAX_SAVING_SHARE of the time on it."""
        interval = 0.0 if epoch_ended else 60 * self.minutes
        if 0 < self.minutes < math.inf:
            interval = max(interval, self.save_seconds / MAX_SAVING_SHARE)
        if time.monotonic() - self.last_save >= interval:
            try:
                self.save()
            except CheckpointError as error:
                self.last_save = time.monotonic()
                print(f"not saved: {error} Training goes on, and the next save will be tried.", flush=True)

    def restore(self, saved: Checkpoint) -> None:
        """Load the saved tensors. Raises CheckpointError where they do not fit."""
        try:
            for name, part in self.parts.items():
                if saved.resume[name]:  # the scaler's is empty if the run computed in another format before
                    part.load_state_dict(saved.resume[name])
            for parameter, values in self.parts["optimizer"].state.items():
                for name, value in values.items():
                    if value.ndim:  # in the parameter's memory format, as the fused step requires
                        values[name] = torch.empty_like(parameter).copy_(value)
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{saved.path} is damaged ({error}). Start a new run.") from None
        self.ema.load_state_dict(saved.state_dict)
