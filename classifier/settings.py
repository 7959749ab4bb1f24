"""What a training run depends on: the command line of train.py, and two recipes of values for it."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from classifier import checkpoint, cli
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.intake.names import safe_name
from classifier.precision import Precision
from zoo import MODELS


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; the default recipe's values."""

    recipe: Literal["default", "classic"] = "default"
    """default: the values below. classic: a published baseline, 224 px squashed, plain Adam 1e-4, no augmentation."""
    model: Literal[tuple(MODELS)] = "resnet18"
    """The network."""
    data: str = "dataset"
    """Folder that holds train/<class>/*."""
    name: str = ""
    """Name of the run and of its weights, module/NAME.pth. Empty: network and time."""
    resume: str = ""
    """Go on from this module/NAME.last.pth, with its settings; how long, where and how fast may change."""

    epochs: int = 10
    """How often every picture is shown. Learning rate and size follow their course over all, also with --resume."""
    batch_size: int = 64
    """Pictures per step."""
    lr: float = 2e-3
    """Largest learning rate (Adam)."""
    weight_decay: float = 0.05
    """Decoupled from the gradient, as in AdamW; 0 is plain Adam. Not on biases and batch norm."""
    warmup: float = 0.1
    """Share of the run in which the learning rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What the learning rate does then: it falls to 0 along half a cosine, or stays."""
    label_smoothing: float = 0.1
    """Share of the truth that is spread over all classes."""
    ema: float = 0.998
    """Decay per step of the average of the weights, which is what is scored and saved. 0: no average."""

    size: int = 160
    """Side of the square that the network sees at the end of training, in pixels."""
    grow_from: float = 0.4
    """Side at the beginning, as a share of that: small pictures cost a fraction and teach much. It grows evenly."""
    enlarge: float = 1.2
    """Side of the pictures it is given afterwards, likewise: crops, as in training, show things larger."""
    resize: Literal["crop", "squash"] = "squash"
    """crop: the largest square from the centre. squash: the whole picture, whatever its proportions."""
    normalize: Literal["imagenet", "half"] = "imagenet"
    """Mean and std that are subtracted and divided by: ImageNet's, or 0.5."""
    augment: Literal["on", "off"] = "on"
    """In training random crops, flips, brightness, contrast, saturation, and a part that is covered."""

    val: float = 0.1
    """Share of the training pictures that is set aside to choose the best epoch."""
    seed: int = 0
    """Decides first weights, order and augmentation."""
    cache: bool = True
    """Open each picture once and keep it as bytes in DATA/.cache; --no-cache opens it in every epoch."""
    workers: int = min(4, os.cpu_count() or 1)
    """How many pictures are opened side by side."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: what a short trial on this machine shows to be fastest."""
    compile: bool = False
    """Let torch.compile turn the network into code of its own; on two cores 45 s to begin with, and no faster then."""


RECIPES = {
    "default": Settings(),
    "classic": Settings(
        recipe="classic", epochs=10, batch_size=32, lr=1e-4, weight_decay=0.0, warmup=0.0, schedule="constant",
        label_smoothing=0.0, ema=0.0, size=224, grow_from=1.0, enlarge=1.0, resize="squash",
        normalize="half", augment="off", precision="fp32",
    ),
}  # fmt: skip

# setting -> smallest and largest value that makes sense
RANGES = {
    "epochs": (1, 100_000), "batch_size": (2, 65_536), "lr": (1e-9, 100), "weight_decay": (0, 100), "warmup": (0, 0.99),
    "label_smoothing": (0, 0.99), "ema": (0, 0.99999), "size": (32, 1024), "grow_from": (0.1, 1),
    "enlarge": (0.5, 2), "val": (0.001, 0.9), "seed": (0, 2**31),
    "workers": (0, 256),
}  # fmt: skip

MAY_CHANGE_ON_RESUME = {"resume", "epochs", "data", "cache", "workers", "device", "precision", "compile"}


def read_settings(description: str) -> tuple[Settings, Checkpoint | None]:
    """The command line, laid over the recipe's values or over those of the run to resume.

    Returns:
        The settings, and the .pth to resume from or None.

    Raises:
        UserError: a value out of range, or one that a resumed run cannot change.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # looks at two flags and reports no mistakes
    first.add_argument("--recipe", nargs="?", default="default")
    first.add_argument("--resume", nargs="?", default="")
    chosen = first.parse_known_args()[0]
    saved = None
    defaults = RECIPES.get(chosen.recipe, Settings())
    if chosen.resume:
        saved = checkpoint.load(Path(chosen.resume))
        if not saved.resume:
            raise UserError(f"{chosen.resume} cannot be resumed; module/<run>{checkpoint.LAST} can.")
        if "scaler" not in saved.resume:
            raise UserError(f"{chosen.resume} is of an older version of this project, which trained differently.")
        try:
            defaults = Settings(**saved.settings | {"resume": chosen.resume})
        except TypeError as error:
            raise UserError(f"{chosen.resume} is of another version of this project ({error}).") from None
    settings = cli.parse(Settings, description, default=defaults)
    for name, (low, high) in RANGES.items():
        if not low <= getattr(settings, name) <= high:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; allowed is {low} to {high}.")
    if settings.name and (safe_name(settings.name) != settings.name or settings.name.endswith(".last")):
        possible = safe_name(settings.name).removesuffix(".last")
        raise UserError(f"--name {settings.name} cannot be the name of a file on every system; {possible} can.")
    if saved:
        changed = {key for key in vars(settings) if getattr(settings, key) != getattr(defaults, key)}
        refused = sorted(changed - MAY_CHANGE_ON_RESUME)
        if refused:
            listed = ", ".join(f"{key} {getattr(defaults, key)} -> {getattr(settings, key)}" for key in refused)
            raise UserError(
                f"A resumed run keeps its settings; these differ: {listed}. Start a new run to change them."
            )
    return settings, saved
