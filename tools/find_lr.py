"""Learning-rate range test: try rates that rise from step to step, and suggest one (https://arxiv.org/abs/1506.01186).

python tools/find_lr.py [flags of train.py]         a hundred steps; nothing is saved
"""

import math
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project, when this is started as a script

import torch

from classifier import cli
from classifier.data import loaders
from classifier.data.transforms import NORMALIZATIONS, Augment, TrainingInput
from classifier.device import select_compute
from classifier.text import print_table
from classifier.training import datasets, pretrained
from classifier.training.config import parse_config
from classifier.training.optim import param_groups, training_loss
from zoo import MODELS

STEPS, LOWEST, HIGHEST = 100, 1e-6, 1.0
SMOOTHING = 0.95  # of the running mean of the losses
DIVERGED = 4  # times the smallest smoothed loss: there the test ends
MIN_FALL = 0.01  # of the first loss


def find_lr(step: Callable[[float], float]) -> tuple[list[float], list[float], float | None]:
    """Return the rates tried, the smoothed losses, and the rate where the loss falls fastest, None if it does not fall.

    Args:
        step: makes one training step at a rate and returns its loss.
    """
    rates, losses, mean = [], [], 0.0
    for i in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (i / (STEPS - 1))
        loss = step(rate)
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth = mean / (1 - SMOOTHING ** (i + 1))
        if not math.isfinite(loss) or (losses and smooth > DIVERGED * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
    lowest = losses.index(min(losses)) if losses else 0
    if not losses or losses[lowest] >= (1 - MIN_FALL) * losses[0]:
        return rates, losses, None
    slopes = [losses[min(i + 1, lowest)] - losses[i - 1] for i in range(1, lowest + 1)]
    return rates, losses, rates[1 + slopes.index(min(slopes))]


def main(argv: list[str] | None = None) -> None:
    """Set up as train.py does, make the steps, print the smoothed losses."""
    cfg = parse_config(__doc__, argv)
    compute, found = select_compute(cfg.device, cfg.precision), datasets.read(cfg)
    classes = found.training.classes
    torch.manual_seed(cfg.seed)
    model = MODELS[cfg.model](num_classes=len(classes))
    origin = pretrained.load(model, cfg, classes)
    model = model.to(compute.device, memory_format=compute.memory_format).train(not cfg.freeze)
    if cfg.freeze:
        pretrained.freeze(model)
    normalization = origin.preprocess if cfg.normalize == "weights" else NORMALIZATIONS[cfg.normalize]
    data = datasets.build_loaders(found, normalization, cfg, compute.device)
    augment = Augment(min_area=cfg.crop, erasing=cfg.cover) if cfg.augment == "on" else None
    prepare = TrainingInput(augment, cfg.mix, len(classes), data.preprocess, compute.memory_format)
    optimizer = torch.optim.AdamW(param_groups(model, cfg.weight_decay, cfg.early_lr))
    batches = (batch for _ in iter(int, 1) for batch in loaders.on_device(data.train, compute.device))
    seeds = iter(range(STEPS))

    def step(rate: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_scale"]
        images, labels = next(batches)
        x, targets = prepare(images, labels, cfg.size, next(seeds), 0, len(labels))
        with compute.autocast():
            outputs = model(x)
        loss = training_loss(outputs, targets, cfg.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    rates, losses, best = find_lr(step)
    rows = [(f"{rate:.1e}", f"{loss:.3f}") for rate, loss in zip(rates, losses, strict=True)]
    print_table([("learning rate", "smoothed loss"), *rows[::4]])
    print(f"python train.py --lr {best:.1e}" if best else "no suggestion: the loss falls at no rate")


if __name__ == "__main__":
    cli.run(main)
