"""The command line of train.py: what a run depends on, and four recipes of values for it."""

import argparse
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro import conf

from classifier import checkpoint, cli
from classifier.checkpoint import LAST, Checkpoint
from classifier.cli import UserError
from classifier.device import Precision
from classifier.files import safe_name
from zoo import MODELS, shapes_of, unknown


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on; the default recipe's values."""

    recipe: Literal["default", "quick", "long", "classic"] = "default"
    """quick: a third of the default's time. long: four times its epochs. classic: a published baseline at 224 px."""
    model: Annotated[str, conf.arg(metavar="NAME", help=f"The network: {', '.join(MODELS)}.")] = "resnet18"
    data: str = "dataset"
    """Folder or URL that holds train/<class>/* or WebDataset shards; or the shards: "DIR/{00000..00127}.tar"."""
    name: str = ""
    """Name of the run and of its weights, module/NAME.pth. Empty: network and time."""
    resume: str = ""
    """Resume the run of this NAME.last.pth. auto: the newest unfinished run with these settings, or a new one."""

    weights: Annotated[str, conf.arg(metavar="FILE")] = ""
    """Start from this .pth, or from imagenet; size, resizing, mean and std come with it. Empty: random weights."""
    freeze: bool = False
    """Train only the last layer on top of --weights. Without --augment on, the features below it are computed once."""
    freeze_bn: bool = False
    """Batch norm keeps the statistics of --weights, which suits few images: the default with those of ImageNet."""
    teacher: Annotated[str, conf.arg(metavar="FILE,...")] = ""
    """Learn the mean of these networks' answers in place of the labels (knowledge distillation)."""

    epochs: int = 10
    """How often every image is shown. The schedules span all epochs, also with --resume."""
    batch_size: int = 0
    """Images per step, of all processes together. 0: 64, or for fewer than 1,024 images 32, 16 or 8."""
    accumulate: int = 1
    """Micro-batches per step: they go through the network one after another and need less memory."""
    sync_bn: bool = False
    """With several processes (torchrun) on GPUs: batch norm over the images of all of them."""
    lr: float = 2e-3
    """Largest learning rate (AdamW)."""
    weight_decay: float = 0.05
    """Decoupled from the gradient, as in AdamW; 0 is plain Adam. Not on biases and batch norm."""
    warmup: float = 0.1
    """Share of the run in which the learning rate rises."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: half a cosine down to 0, or constant."""
    label_smoothing: float = 0.1
    """Share of each label that is spread over all classes."""
    ema: float = 0.998
    """Decay per step of the moving average of the weights, which is what is validated and saved. 0: no average."""

    size: int = 160
    """Side of the square training images at the end of training, in pixels."""
    grow_from: float = 0.4
    """Side in the first epoch, as a share of --size; it grows evenly. Small images cost a fraction and teach much."""
    enlarge: float = 1.0
    """Side for validation and prediction, as a share of --size. More than 1 suits small crops, which enlarge things."""
    resize: Literal["crop", "squash", "pad"] = "squash"
    """crop: the largest square from the centre. squash: the whole image, distorted. pad: undistorted, with bars."""
    normalize: Literal["imagenet", "half", "weights"] = "imagenet"
    """Mean and std that are subtracted and divided by: ImageNet's, 0.5, or those of --weights."""
    augment: Literal["on", "off"] = "on"
    """Random crops, flips, brightness, contrast and saturation in training."""
    crop: float = 0.65
    """Smallest share of a training image's area that a random crop keeps; 1: no crops. Less suits long runs."""
    cover: float = 0.0
    """Share of the training images of which a random part is erased. More suits long runs."""
    mix: Literal["off", "mixup", "cutmix", "both"] = "off"
    """Mix the images of a batch and their labels: blended, a part of one pasted into another, or either."""
    balance: Literal["off", "weights"] = "off"
    """weights: small classes count more in the loss."""

    val: float = 0.1
    """Share of the training images used for validation, which chooses the best epoch, where there is no DATA/val."""
    fold: int = 1
    """Which share is used for validation: --val 0.5 --fold 1 and 2 together validate every image."""
    seed: int = 0
    """Seed of initial weights, order of images and augmentation."""
    cache: bool = True
    """Keep decoded images in DATA/.cache; --no-cache decodes them in every epoch."""
    save_every: float = 10.0
    """Minutes between saves within an epoch, at most a fiftieth of the time (not with shards). 0: after every step."""
    workers: int = min(4, os.cpu_count() or 1)
    """Processes that decode images."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU is faster with it, otherwise fp32."""
    compile: bool = False
    """Use torch.compile: 45 s at the start on two cores, and no faster there; meant for GPUs."""

    @property
    def fits_last_layer(self) -> bool:
        """Whether every image has the same features in every epoch, so that the last layer is fitted to them."""
        return self.freeze and self.augment == "off" and self.mix == "off" and not self.teacher


RECIPES = {
    "default": TrainConfig(),
    "quick": TrainConfig(recipe="quick", epochs=6, size=96, grow_from=0.67),
    "long": TrainConfig(recipe="long", epochs=44, enlarge=1.2, crop=0.35, cover=0.25),
    "classic": TrainConfig(
        recipe="classic", epochs=10, batch_size=32, lr=1e-4, weight_decay=0.0, warmup=0.0, schedule="constant",
        label_smoothing=0.0, ema=0.0, size=224, grow_from=1.0, resize="squash",
        normalize="half", augment="off", precision="fp32",
    ),
}  # fmt: skip

# over the default recipe: weights that know something need smaller steps; a last layer alone learns fast
FINE_TUNING = {"lr": 5e-4}
FROM_IMAGENET = {"lr": 1e-4, "batch_size": 32, "grow_from": 1.0}  # batch norm's statistics are of images of this size
TAUGHT = {"label_smoothing": 0.0}  # a teacher's answers are smooth already
FROZEN = {"lr": 1e-2, "augment": "off", "grow_from": 1.0, "enlarge": 1.0}

# what a network needs besides the default recipe: at 2e-3 AlexNet and VGG stay at chance
NETWORKS = {name: {"lr": 3e-4} for name in MODELS if name.startswith(("alexnet", "vgg"))}

# setting -> smallest and largest value that makes sense
RANGES = {
    "epochs": (1, 100_000), "batch_size": (0, 65_536), "lr": (1e-9, 100), "weight_decay": (0, 100), "warmup": (0, 0.99),
    "label_smoothing": (0, 0.99), "ema": (0, 0.99999), "size": (32, 1024), "grow_from": (0.1, 1), "enlarge": (0.5, 2),
    "val": (0.001, 0.9), "seed": (0, 2**31), "workers": (0, 256), "crop": (0.05, 1),
    "cover": (0, 1), "fold": (1, 1000), "accumulate": (1, 65_536), "save_every": (0, 100_000),
}  # fmt: skip

HOW_IT_COMPUTES = {"resume", "accumulate", "cache", "save_every", "workers", "device", "precision", "compile"}
MAY_CHANGE_ON_RESUME = HOW_IT_COMPUTES | {"epochs", "data"}
EARLIER = {"freeze_bn": False}  # what the runs of the version before do not record, as it was
AUTO = "auto"  # as --resume
LARGEST_BATCH = 64  # where --batch-size is left open
MIN_STEPS = 16  # of an epoch: so many updates at least, likewise
IMAGENET = "imagenet"  # as --weights


def peek(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the flags that decide about the others' defaults; `parse_config` reports mistakes."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flags = {"--recipe": "default", "--resume": "", "--model": "", "--weights": "", "--teacher": ""}
    for flag, default in flags.items():
        parser.add_argument(flag, nargs="?", default=default, const=default)
    parser.add_argument("--freeze", action="store_true")
    return parser.parse_known_args(argv)[0]


def parse_config(description: str, argv: Sequence[str] | None = None, saved: Checkpoint | None = None) -> TrainConfig:
    """Return the command line, laid over the recipe's values or over those of the run to resume.

    Raises UserError: a value out of range, settings that exclude each other, or one that a resumed run cannot change.
    """
    resumed = TrainConfig(**saved.settings | {"name": "", "resume": str(saved.path)}) if saved else None
    defaults = resumed or _recipe(peek(argv))
    cfg = cli.parse(TrainConfig, description, argv, default=defaults)
    if cfg.fits_last_layer:  # to the end, which is one epoch
        cfg = replace(cfg, epochs=1)
    _check(cfg)
    changed = {name for name in vars(cfg) if getattr(cfg, name) != getattr(defaults, name)}
    moved = {"teacher"} if cfg.teacher and defaults.teacher else set()  # teacher.py compares the weights
    if saved and (refused := sorted(changed - MAY_CHANGE_ON_RESUME - moved)):
        listed = ", ".join(f"{name} {getattr(defaults, name)} -> {getattr(cfg, name)}" for name in refused)
        raise UserError(
            f"A resumed run keeps its settings, but these differ: {listed}. To change them, start a new run from its "
            f"weights: --weights {saved.path}"
        )
    return cfg


def batch_size_for(images: int, cfg: TrainConfig) -> int:
    """Return --batch-size or, left open, 64, and for few images 32, 16 or 8, so that an epoch has MIN_STEPS steps."""
    if cfg.batch_size or cfg.fits_last_layer:
        return cfg.batch_size or LARGEST_BATCH
    return next((size for size in (LARGEST_BATCH, 32, 16) if images >= MIN_STEPS * size), 8)


def same_run(cfg: TrainConfig, saved: Checkpoint) -> bool:
    """Whether the settings in a .last.pth are those of `cfg`, but for how it computes and the name."""
    settings, names = EARLIER | saved.settings, vars(cfg).keys() - HOW_IT_COMPUTES - {"name"}
    cfg = replace(cfg, batch_size=batch_size_for(saved.data.get("train", 0), cfg))
    return settings.keys() == vars(cfg).keys() and all(settings[name] == getattr(cfg, name) for name in names)


def _recipe(chosen: argparse.Namespace) -> TrainConfig:
    """Return the recipe's values, with what the network needs and what belongs to the weights to begin with."""
    recipe = RECIPES.get(chosen.recipe, TrainConfig())
    values: dict = {"model": chosen.model or recipe.model}
    if values["model"] not in MODELS:
        raise UserError(unknown(chosen.model))
    if chosen.weights:
        if chosen.weights == IMAGENET:
            preprocess = checkpoint.usual_preprocess(values["model"])
            from_imagenet = values["freeze_bn"] = True
        else:
            weights = checkpoint.load(Path(chosen.weights), trunk=True)
            values["model"], preprocess = chosen.model or weights.model, weights.preprocess
            from_imagenet = _knows_imagenet(weights)
            values["freeze_bn"] = from_imagenet and not without_statistics(weights)
        values |= FROZEN if chosen.freeze else FROM_IMAGENET if from_imagenet else FINE_TUNING
        size = round(preprocess.size / values.get("enlarge", recipe.enlarge))
        values |= {"weights": chosen.weights, "size": size, "resize": preprocess.resize, "normalize": "weights"}
    if chosen.teacher:
        values |= TAUGHT
    if recipe.recipe != "classic":
        values = NETWORKS.get(values["model"], {}) | values
    return replace(recipe, **values)


def _knows_imagenet(weights: Checkpoint) -> bool:
    """Whether these began as ImageNet's or kept their statistics, or are another program's for as many classes."""
    settings = weights.settings
    began = settings.get("weights") == IMAGENET or settings.get("freeze_bn", False)
    return began or (not settings and len(weights.classes) == 1000)


def without_statistics(weights: Checkpoint) -> list[str]:
    """Return the batch norms of the network whose statistics are not among the weights; auxiliary ones do not count."""
    names = [name.removesuffix(".running_var") for name in shapes_of(weights.model, 2) if name.endswith("running_var")]
    return [name for name in names if f"{name}.running_var" not in weights.state_dict and not name.startswith("aux")]


def _check(cfg: TrainConfig) -> None:
    """Raise a UserError for values out of range and settings that make no sense together."""
    for name, (low, high) in RANGES.items():
        if not low <= getattr(cfg, name) <= high:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(cfg, name)}; expected {low} to {high}.")
    if (cfg.fold - 1) * cfg.val >= 1:
        raise UserError(f"--fold is {cfg.fold}, but with --val {cfg.val} there are {math.ceil(1 / cfg.val)} folds.")
    needs = {"--freeze": cfg.freeze, "--freeze-bn": cfg.freeze_bn, "--normalize weights": cfg.normalize == "weights"}
    if not cfg.weights and any(needs.values()):
        raise UserError(f"{next(filter(needs.get, needs))} needs trained weights: --weights FILE.")
    possible = safe_name(cfg.name).removesuffix(LAST.removesuffix(".pth"))
    if cfg.name and cfg.name != possible:
        raise UserError(f"--name {cfg.name} cannot be the name of a file on every system; {possible} can.")
