"""What train.py prints: what is about to happen, each epoch, and where everything is in the end."""

import sys
from pathlib import Path

from torch import nn

from classifier import distributed
from classifier.checkpoint import Checkpoint
from classifier.data import image_folder
from classifier.device import Compute
from classifier.text import quoted
from classifier.training.config import Settings
from classifier.training.datasets import TrainingSet
from classifier.training.schedules import size_of_epoch


def announce(settings: Settings, network: nn.Module, found: TrainingSet, compute: Compute) -> None:
    """Print what is about to happen."""
    training, validation, kind = found.training, found.validation, found.kind
    size, parts = settings.batch_size, distributed.WORLD_SIZE * settings.accumulate
    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"{settings.model}: {parameters:.1f} million parameters, {len(training.classes)} classes")
    for name, count in training.counts().items():
        print(f"  {name}: {count:,} {kind} to train with, {validation.counts()[name]:,} to choose the best epoch with")
    if training.corrected:
        print(f"  {training.corrected}")
    if warning := image_folder.imbalance_warning(training):
        print(f"{warning}; --balance {settings.balance}")
    print(
        f"{settings.epochs} epochs of {len(training) // size} steps, each of {size} images, "
        f"{size_of_epoch(0, settings)} to {settings.size} pixels wide"
    )
    if parts > 1:
        print(
            f"each step: {distributed.WORLD_SIZE} x {settings.accumulate} (--accumulate) x {size // parts} images, "
            f"--lr {settings.lr:g} is for all {size} together"
        )
    print(f"on {compute}")
    if settings.freeze:
        until = f"for {settings.unfreeze_after} epochs" if settings.unfreeze_after else "to the end"
        print(f"only the last layer learns, {until}")
    sys.stdout.flush()


def changes(saved: Checkpoint, settings: Settings, processes: int) -> str:
    """ "workers 4 -> 2": what is not as it was when the run was saved, in so many `processes`."""
    now = {key: value for key, value in vars(settings).items() if key not in ("resume", "data", "name")}
    then = saved.settings | {"processes": processes}
    now["processes"] = distributed.WORLD_SIZE
    return ", ".join(f"{key} {then.get(key)} -> {value}" for key, value in now.items() if then.get(key) != value)


def summary(entry: dict, best: dict, epochs: int) -> str:
    """The line on an epoch."""
    train, val, epoch = entry["train"], entry["val"], entry["epoch"]
    return (
        f"epoch {epoch:>{len(str(epochs))}}/{epochs}"
        f"   train loss {train['loss']:.3f}, accuracy {train['accuracy']:.1%}"
        f"   val loss {val['loss']:.3f}, accuracy {val['accuracy']:.1%}{'*' if best is entry else ' '}"
        f"   {entry['images_per_second']:,.0f} images/s, {entry['minutes'] / epoch * (epochs - epoch):.0f} min left"
    )


def farewell(run: dict, best: dict, found: TrainingSet, best_path: Path, last_path: Path) -> str:
    """The best epoch, the files, and what can be done with them."""
    return (
        f"\nbest: epoch {best['epoch']} (*), {best['val']['accuracy']:.2%} of {len(found.validation):,} validation "
        f"{found.kind}; {run['minutes']:.1f} minutes of training\n"
        f"  {best_path}   the weights of that epoch\n"
        f"  {last_path}   the state at the end\n"
        f"  {run['logs']}   for TensorBoard\n"
        "next:\n"
        f"  python evaluate.py {quoted(best_path)}\n"
        f"  python app.py {quoted(best_path)}\n"
        f"  tensorboard --logdir {Path(run['logs']).parts[0]}"
    )
