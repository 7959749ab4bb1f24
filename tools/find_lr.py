"""Learning-rate range test: try rates that rise from step to step, and suggest one (https://arxiv.org/abs/1506.01186).

python tools/find_lr.py [flags of train.py]         a hundred steps; nothing is saved
"""

import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project, when this is started as a script

import torch

from classifier import cli
from classifier.cli import UserError, print_table
from classifier.data import loaders
from classifier.device import select_compute
from classifier.training import datasets, frozen, pretrained
from classifier.training.config import parse_config
from classifier.training.optim import param_groups, set_lr, train_mode, training_loss
from classifier.training.run import check_image_size
from zoo import MODELS

RATES = torch.logspace(-6, 0, 100).tolist()
SMOOTHING = 0.9  # of the running mean of the losses
DIVERGED = 4  # times the smallest smoothed loss: there the test ends


def main(argv: list[str] | None = None) -> None:
    """Set up as train.py does, make a step at each rate, print the smoothed losses and a suggestion."""
    cfg = parse_config(__doc__, argv)
    if cfg.teacher:
        raise UserError("Here the network learns from the labels. Leave out --teacher.")
    compute, found = select_compute(cfg.device, cfg.precision), datasets.read(cfg)
    classes = found.training.classes
    torch.manual_seed(cfg.seed)
    model = MODELS[cfg.model](num_classes=len(classes))
    check_image_size(model, replace(cfg, grow_from=1.0))
    origin = pretrained.load(model, cfg, classes) if cfg.weights else None
    if cfg.freeze:
        frozen.freeze(model)
    model = model.to(compute.device, memory_format=compute.memory_format)
    train_mode(model, cfg)
    data = datasets.build_loaders(found, origin, cfg, compute)
    optimizer = torch.optim.AdamW(param_groups(model, cfg.weight_decay))
    batches = itertools.chain.from_iterable(loaders.on_device(data.train, compute.device) for _ in RATES)
    mean, smoothed = 0.0, []
    for step, (rate, (images, labels)) in enumerate(zip(RATES, batches, strict=False)):
        set_lr(optimizer, rate)
        x, targets = data.training_input(images, labels, cfg.size, step, 0, len(labels))
        with compute.autocast():
            outputs = model(x)
        loss = training_loss(outputs, targets, cfg.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss.item()
        smoothed.append(mean / (1 - SMOOTHING ** (step + 1)))
        if not smoothed[-1] <= DIVERGED * min(smoothed) < math.inf:
            break
    rows = [(f"{rate:.1e}", f"{loss:.3f}") for rate, loss in zip(RATES, smoothed, strict=False)]
    print_table([("learning rate", "smoothed loss"), *rows[::4]])
    best = RATES[smoothed.index(min(smoothed))] / 10  # the usual rule
    print(f"a tenth of the rate with the smallest loss: python train.py --lr {best:.1e}")


if __name__ == "__main__":
    cli.run(main)
