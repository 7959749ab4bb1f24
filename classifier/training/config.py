"""What a training run depends on: the command line of train.py, and four recipes of values for it."""

import argparse
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro import conf

from classifier import checkpoint, cli, distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.device import Precision
from classifier.files import safe_name
from classifier.training import pretrained, run_state
from zoo import MODELS, unknown


@dataclass(frozen=True)
class Settings:
    """Everything a run depends on; the default recipe's values."""

    recipe: Literal["default", "quick", "long", "classic"] = "default"
    """default: the values below. quick: a third of its time. long: four times as many epochs; the weights that
    come with the project had it twice. classic: a published baseline, 224 px squashed, Adam 1e-4, no augmentation."""
    model: Annotated[str, conf.arg(metavar="NAME", help=f"The network: {', '.join(MODELS)}.")] = "resnet18"
    data: str = "dataset"
    """Folder that holds train/<class>/*, or WebDataset shards: "DIR/{00000..00127}.tar", the same after http(s)://, or
    the folder or URL with their shards.json."""
    name: str = ""
    """Name of the run and of its weights, module/NAME.pth. Empty: network and time."""
    resume: str = ""
    """Go on from this module/NAME.last.pth, with its settings; how long, where and how fast may change. auto: from the
    newest unfinished run with these settings, or begin."""

    weights: Annotated[str, conf.arg(metavar="FILE")] = ""
    """Fine-tune these instead of random ones: a .pth, or imagenet for torchvision's. Size, resizing, mean and std come
    with them. Empty: random ones."""
    freeze: bool = False
    """Train only the last layer on top of --weights; unless images are changed (--augment), what lies below is
    computed only once."""
    unfreeze_after: int = 0
    """With --freeze: after so many epochs the whole network learns. 0: never."""
    early_lr: float = 1.0
    """Learning rate of the first layers, as a share of the last ones'."""

    epochs: int = 10
    """How often every image is shown. Learning rate and size follow their course over all, also with --resume."""
    batch_size: int = 64
    """Images per step, of all processes together."""
    accumulate: int = 1
    """Parts of a step that go through the network one after the other, where all at once need too much memory."""
    sync_bn: bool = False
    """With several processes (torchrun): batch norm over the images of all, as if there were one."""
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
    """Side at the beginning, as a share of that: small images cost a fraction and teach much. It grows evenly."""
    enlarge: float = 1.0
    """Side of the images it is given afterwards, likewise. More than 1 after small crops, which enlarge things."""
    resize: Literal["crop", "squash"] = "squash"
    """crop: the largest square from the centre. squash: the whole image, whatever its proportions."""
    normalize: Literal["imagenet", "half", "weights"] = "imagenet"
    """Mean and std that are subtracted and divided by: ImageNet's, 0.5, or those of --weights."""
    augment: Literal["on", "off"] = "on"
    """In training random crops, flips, brightness, contrast, saturation, and a part that is covered."""
    crop: float = 0.65
    """Smallest share of a training image's area that a random crop keeps; 1: no crops. Less is harder to learn, and
    for long runs."""
    cover: float = 0.0
    """Share of the training images of which a part is covered: harder to learn, and for long runs."""
    mix: Literal["off", "mixup", "cutmix", "both"] = "off"
    """Mix the images of a batch, and their labels likewise: over each other, or a part of one into another."""
    balance: Literal["off", "weights"] = "off"
    """For classes of uneven size: small ones count more in the loss."""

    val: float = 0.1
    """Share of the training images that is set aside to choose the best epoch."""
    fold: int = 1
    """Which part is set aside, from 1 to 1 / --val: runs with --val 0.5 --fold 1 and 2 leave no image unjudged."""
    patience: int = 0
    """End the run when so many epochs in a row were no better. 0: never."""
    find_lr: bool = False
    """Do not train, but try which --lr suits: a hundred steps at rising rates, a plot and a suggestion."""
    seed: int = 0
    """Decides first weights, order and augmentation."""
    cache: bool = True
    """Open each image once and keep it as bytes in DATA/.cache; --no-cache opens it in every epoch."""
    save_every: float = 10.0
    """Minutes after which the state is saved, besides at the ends of epochs; that takes a fiftieth of the time at most.
    0: after every step."""
    workers: int = min(4, os.cpu_count() or 1)
    """How many images are opened side by side."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU computes it natively, otherwise fp32."""
    compile: bool = False
    """Let torch.compile turn the network into code of its own; on two cores 45 s to begin with, and no faster then."""


RECIPES = {
    "default": Settings(),
    "quick": Settings(recipe="quick", epochs=6, size=96, grow_from=0.67),
    "long": Settings(recipe="long", epochs=44, enlarge=1.2, crop=0.35, cover=0.25),
    "classic": Settings(
        recipe="classic", epochs=10, batch_size=32, lr=1e-4, weight_decay=0.0, warmup=0.0, schedule="constant",
        label_smoothing=0.0, ema=0.0, size=224, grow_from=1.0, resize="squash",
        normalize="half", augment="off", precision="fp32",
    ),
}  # fmt: skip

# over the default recipe: weights that know something need smaller steps; a last layer alone learns fast
FINE_TUNING = {"lr": 5e-4}
FROZEN = {"lr": 1e-2, "augment": "off", "grow_from": 1.0, "enlarge": 1.0}

# network -> what it needs besides the default recipe: at 2e-3 AlexNet and VGG-11, also with batch norm, stay at chance,
# at 3e-4 they learn
NETWORKS = {name: {"lr": 3e-4} for name in MODELS if name.startswith(("alexnet", "vgg"))}

# setting -> smallest and largest value that makes sense
RANGES = {
    "epochs": (1, 100_000), "batch_size": (2, 65_536), "lr": (1e-9, 100), "weight_decay": (0, 100), "warmup": (0, 0.99),
    "label_smoothing": (0, 0.99), "ema": (0, 0.99999), "size": (32, 1024), "grow_from": (0.1, 1),
    "enlarge": (0.5, 2), "val": (0.001, 0.9), "seed": (0, 2**31), "workers": (0, 256), "early_lr": (0, 1),
    "crop": (0.05, 1), "cover": (0, 1), "unfreeze_after": (0, 100_000), "fold": (1, 1000), "patience": (0, 100_000),
    "accumulate": (1, 65_536), "save_every": (0, 100_000),
}  # fmt: skip

MAY_CHANGE_ON_RESUME = {
    "resume", "epochs", "patience", "data", "accumulate", "cache", "save_every", "workers", "device", "precision",
    "compile",
}  # fmt: skip


AUTO = "auto"  # as --resume


def read_settings(description: str) -> tuple[Settings, Checkpoint | None]:
    """The command line, laid over the recipe's values or over those of the run to resume.

    Returns:
        The settings, and the .pth to resume from or None.

    Raises:
        UserError: a value out of range, or one that a resumed run cannot change.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # looks at some flags and reports no mistakes
    flags = {"--recipe": "default", "--resume": "", "--model": "", "--weights": ""}
    for flag, default in flags.items():
        first.add_argument(flag, nargs="?", default=default)
    first.add_argument("--freeze", action="store_true")
    first.add_argument("--unfreeze-after", "--unfreeze_after", nargs="?", default="0")
    chosen = first.parse_known_args()[0]
    saved = None
    if chosen.resume not in ("", AUTO):
        saved = checkpoint.load(Path(chosen.resume))
        if not saved.resume:
            raise UserError(f"{chosen.resume} cannot be resumed; module/<run>{checkpoint.LAST} can.")
        if "scaler" not in saved.resume or "crop" not in saved.settings:
            raise UserError(f"{chosen.resume} is of an older version of this project, which trained differently.")
        run_state.check(saved)
        try:
            defaults = Settings(**saved.settings | {"resume": chosen.resume})
        except TypeError as error:
            raise UserError(f"{chosen.resume} is of another version of this project ({error}).") from None
        for name, value in vars(Settings()).items():
            kind = (int, float) if isinstance(value, float) else type(value)
            if not isinstance(getattr(defaults, name), kind):
                raise UserError(f"{chosen.resume} says {name} {getattr(defaults, name)!r}, which makes no sense.")
    else:
        defaults = _defaults(chosen)
    settings = cli.parse(Settings, description, default=defaults)
    for name, (low, high) in RANGES.items():
        if not low <= getattr(settings, name) <= high:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; allowed is {low} to {high}.")
    _check_together(settings)
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


def _defaults(chosen: argparse.Namespace) -> Settings:
    """The recipe's values, and over them what the network needs and what belongs to the weights to begin with."""
    if chosen.model and chosen.model not in MODELS:
        raise UserError(unknown(chosen.model))
    recipe = RECIPES.get(chosen.recipe, Settings())
    values: dict = {"model": chosen.model or recipe.model}
    if chosen.weights:
        values["weights"] = chosen.weights
        values["model"], seen = pretrained.look(chosen.weights, chosen.model)
        values |= FROZEN if chosen.freeze and chosen.unfreeze_after == "0" else FINE_TUNING
        size = seen.size / values.get("enlarge", recipe.enlarge)
        values |= {"size": round(size), "resize": seen.resize, "normalize": "weights"}
    if recipe.recipe != "classic":
        values = NETWORKS.get(values["model"], {}) | values
    return replace(recipe, **values)


def _check_together(settings: Settings) -> None:
    """Raise a UserError for settings that make no sense beside each other."""
    if (settings.fold - 1) * settings.val >= 1:
        parts = math.ceil(1 / settings.val)
        raise UserError(f"--fold {settings.fold} is too many: with --val {settings.val} there are {parts} parts.")
    parts = distributed.WORLD_SIZE * settings.accumulate
    if settings.batch_size % parts or settings.batch_size < 2 * parts:
        raise UserError(
            f"--batch-size {settings.batch_size} cannot be shared out evenly: {distributed.WORLD_SIZE} processes times "
            f"--accumulate {settings.accumulate} make {parts} parts, of two images or more each. "
            f"Use --batch-size {max(2, round(settings.batch_size / parts)) * parts}."
        )
    if settings.find_lr and distributed.WORLD_SIZE > 1:
        raise UserError("--find-lr runs in one process: leave torchrun out.")
    if settings.freeze and not settings.weights:
        raise UserError("--freeze keeps random weights as they are, which tell nothing. Give it --weights to keep.")
    if settings.unfreeze_after and not settings.freeze:
        raise UserError("--unfreeze-after needs --freeze: without it the whole network learns from the beginning.")
    if settings.normalize == "weights" and not settings.weights:
        raise UserError("--normalize weights needs --weights.")
