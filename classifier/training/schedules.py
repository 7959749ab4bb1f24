"""What changes over a run: the learning rate by the step, the images' size by the epoch."""

import math

from classifier.training.config import Settings


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to 0 (https://arxiv.org/abs/1608.03983) or no change."""
    warmup_steps = round(settings.warmup * steps)
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2


def size_of_epoch(epoch: int, settings: Settings) -> int:
    """Side of the training images: from `grow_from * size` evenly to `size`, in steps of 16 pixels."""
    done = epoch / (settings.epochs - 1) if settings.epochs > 1 else 1.0
    side = settings.size * (settings.grow_from + done * (1 - settings.grow_from))
    return settings.size if settings.size - side < 8 else max(32, 16 * round(side / 16))
