"""A run of train.py: how far it is, how it begins or is resumed, and when it is saved."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from classifier import checkpoint, distributed
from classifier.checkpoint import LAST, Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.evaluation import metrics
from classifier.files import file_lock, remove_leftovers
from classifier.inference.calibration import fit_temperature
from classifier.text import plural, quoted
from classifier.training import config
from classifier.training.config import TrainConfig
from classifier.training.optim import image_size_at

MODULE, LOGS = Path("module"), Path("logs")
MAX_SAVING_SHARE = 0.02  # of the time of a run


@dataclass
class RunState:
    """How far a run is. With the tensors of model, EMA, optimizer and gradient scaler, all that resuming needs."""

    logs: str = ""  # TensorBoard's folder
    format: str = ""  # of numbers
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
    """A run that has the lock on its files.

    Attributes:
        name: of its files.
        best_path: NAME.pth, the weights of the best epoch.
        last_path: NAME.last.pth, the state to resume from.
        state: how far it is.
        saved: what it resumes, or None.
        resume_command: the command that resumes it.
    """

    def __init__(self, name: str, folder: Path, state: RunState, saved: Checkpoint | None = None):
        self.name, self.state, self.saved = name, state, saved
        self.best_path, self.last_path = folder / f"{name}.pth", folder / f"{name}{LAST}"
        self.resume_command = f"python train.py --resume {quoted(self.last_path)}"


# ---- begin or resume


def open_run(description: str, argv: Sequence[str] | None, stack: contextlib.ExitStack) -> tuple[TrainConfig, Run]:
    """Read the command line; find the run to resume or begin one. `stack` holds the lock on its files.

    Raises:
        UserError: a mistake on the command line, a state that cannot be resumed, or another train.py is running.
        SystemExit: there is nothing left to do.
    """
    resume, saved = config.peek_resume(argv), None
    if resume not in ("", config.AUTO):
        saved = _lock_and_load(Path(resume), stack)
    cfg = config.parse_config(description, argv, saved)
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # by torchrun, with the same command
    if not saved and (cfg.resume == config.AUTO or restarted):
        saved = _find_unfinished(cfg, stack)
    began = time.strftime("%Y%m%d-%H%M%S")
    if saved:
        name = saved.path.name.removesuffix(LAST)
        state = read_state(saved)
        if state.done and len(state.history) >= cfg.epochs:
            raise UserError(
                f"{saved.path} has finished its {plural(len(state.history), 'epoch')}. --epochs {2 * cfg.epochs} would "
                "train it further, with schedules that span all of them."
            )
        if name != saved.settings["name"]:  # a copy is a run of its own
            state.logs = (LOGS / cfg.model / f"{began}-{name}").as_posix()
        return cfg, Run(name, saved.path.parent, replace(state, done=False), saved)
    run = Run(cfg.name or f"{cfg.model}-{began}", MODULE, RunState())
    run.state.logs = (LOGS / cfg.model / (f"{began}-{cfg.name}" if cfg.name else began)).as_posix()
    _lock(run.last_path, stack)
    if taken := [path for path in (run.best_path, run.last_path) if path.exists()]:
        resume = f", or go on with it: --resume {quoted(run.last_path)}" if run.last_path in taken else ""
        raise UserError(f"{' and '.join(map(str, taken))} would be overwritten. Choose another --name{resume}.")
    return cfg, run


def _lock(last_path: Path, stack: contextlib.ExitStack) -> None:
    name = last_path.name.removesuffix(LAST)
    message = f"Another train.py is writing {last_path}. Wait for it, or end it."
    stack.enter_context(file_lock(last_path.with_name(f".{name}.lock"), message))
    remove_leftovers(last_path)
    remove_leftovers(last_path.with_name(f"{name}.pth"))


def _lock_and_load(path: Path, stack: contextlib.ExitStack) -> Checkpoint:
    if path.is_file():
        _lock(path, stack)
    saved = checkpoint.load(path)
    if not saved.resume or not path.name.endswith(LAST):
        raise UserError(
            f"{path} cannot be resumed; module/<run>{LAST} can. To start from its weights: --weights {path}"
        )
    read_state(saved)
    return saved


def _find_unfinished(cfg: TrainConfig, stack: contextlib.ExitStack) -> Checkpoint | None:
    """Return the newest unfinished run with these settings, locked, or None.

    Where the run of that --name has finished, the process ends with status 0.
    """
    for path in sorted(MODULE.glob(f"*{LAST}"), key=lambda path: path.stat().st_mtime, reverse=True):
        with contextlib.suppress(Exception):  # `_lock_and_load` says what is wrong with a damaged file
            settings, done = checkpoint.glance(path)
            if not config.same_run(cfg, settings) or (done and not cfg.name):
                continue
        with contextlib.ExitStack() as attempt:
            try:
                saved = _lock_and_load(path, attempt)
            except CheckpointError as error:
                print(f"--resume auto skips this file: {error}")
                continue
            if config.same_run(cfg, saved.settings):
                if not saved.resume["done"]:
                    stack.push(attempt.pop_all())
                    return saved
                if cfg.name:
                    print(f"The run {cfg.name} has finished: {path}. Nothing is left to do.")
                    sys.exit(0)
    return None


def read_state(saved: Checkpoint) -> RunState:
    """Return the state in a .last.pth. Raises CheckpointError where it cannot be resumed."""
    names = {entry.name for entry in fields(RunState)}
    if not names | {"network", "optimizer", "scaler"} <= saved.resume.keys():
        raise CheckpointError(
            f"{saved.path} was written by an earlier version, whose runs this one cannot resume. Its weights can be "
            f"used: python train.py --weights {saved.path}"
        )
    state = RunState(**{name: saved.resume[name] for name in names})
    kinds = {
        name: (int, float) if isinstance(value, float) else type(value) for name, value in vars(RunState()).items()
    }
    wrong = [name for name, kind in kinds.items() if not isinstance(getattr(state, name), kind)]
    if wrong or checkpoint.shapes(saved.resume["network"]) != checkpoint.shapes(saved.state_dict):
        raise CheckpointError(f"{saved.path} is damaged ({', '.join(wrong) or 'shapes of weights'}). Start a new run.")
    return state


def check_image_size(model: nn.Module, cfg: TrainConfig) -> None:
    """Raise a UserError where the first epoch's images are too small for the network."""
    smallest, first = getattr(model, "smallest", 1), image_size_at(0, cfg)
    if first < smallest:
        raise UserError(
            f"{cfg.model} needs images of at least {smallest} pixels, but the first epoch's have {first}. "
            f"Use a --size of at least {smallest}, and --grow-from 1."
        )


# ---- save and restore


class Saver:
    """Write NAME.pth and NAME.last.pth when it is time to.

    NAME.pth goes first: wherever a run is killed, its last state knows no epoch whose weights were not written. A save
    that fails is reported and tried again at the next occasion.

    Args:
        run: says where, and how far the run is.
        meta: what both files say besides tensors.
        ema: the averaged weights.
        parts: "network", "optimizer", "scaler": what has a state_dict.
        flush: brings TensorBoard's curves to the disk.
        minutes: between saves within an epoch; 0: after every step; infinity: never.
    """

    def __init__(
        self, run: Run, meta: Checkpoint, ema: nn.Module, parts: dict, flush: Callable[[], None], minutes: float
    ):
        self.run, self.meta, self.ema, self.parts, self.flush, self.minutes = run, meta, ema, parts, flush, minutes
        self.pending: Checkpoint | None = None  # the best epoch, not written yet
        self.last_save, self.save_seconds = time.monotonic(), 0.0

    def keep_best(self, logits: Tensor, labels: Tensor) -> None:
        """Take the averaged weights for the best epoch's, with its validation logits; the next save writes them."""
        history = list(self.run.state.history)
        val = history[-1]["val"] | {"epoch": len(history), "count": len(labels)}
        weights, temperature = checkpoint.in_half(self.ema.state_dict()), fit_temperature(logits, labels)
        scores = {"val": val, "history": history}
        self.pending = replace(self.meta, state_dict=weights, scores=scores, temperature=temperature)

    def save(self) -> None:
        """Save. Raises CheckpointError, and UserError for weights that are not finite; older files stay as they are."""
        if not distributed.IS_MAIN:
            return
        start, state = time.monotonic(), self.run.state
        self.flush()
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
        if self.minutes and not (epoch_ended and math.isinf(self.minutes)):  # shards need every finished epoch
            interval = max(interval, self.save_seconds / MAX_SAVING_SHARE)
        if time.monotonic() - self.last_save >= interval:
            try:
                self.save()
            except CheckpointError as error:
                self.last_save = time.monotonic()
                print(f"not saved: {error} Training goes on, and the next save will be tried.", flush=True)


def restore(
    saved: Checkpoint,
    model: nn.Module,
    ema: AveragedModel,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Load the saved tensors. Raises CheckpointError where the optimizer's belong to other parameters."""
    model.load_state_dict(saved.resume["network"])
    ema.module.load_state_dict(saved.state_dict)
    ema.n_averaged.fill_(saved.resume["step"])
    try:
        optimizer.load_state_dict(saved.resume["optimizer"])
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:  # in the parameter's memory format, as the fused step requires
                    values[name] = torch.empty_like(parameter).copy_(value)
                elif value.ndim:
                    raise ValueError(f"{name} has another shape than its parameter")
        if scaler.is_enabled() and saved.resume["scaler"]:  # empty if the run computed in another format before
            scaler.load_state_dict(saved.resume["scaler"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{saved.path}: the optimizer's state does not fit ({error}). Start a new run.") from None
