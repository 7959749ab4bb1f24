"""Which learning rate? A short trial at rising rates (Smith, https://arxiv.org/abs/1506.01186)."""

import math
from collections.abc import Callable
from pathlib import Path

STEPS = 100
LOWEST, HIGHEST = 1e-6, 1.0
MEMORY = 0.95  # of the running mean of the losses
FALL = 0.01  # of the first loss; less is none
TOO_LARGE = 4  # times the smallest loss: there the trial ends


def find_learning_rate(step: Callable[[float], float]) -> tuple[list[float], list[float], float | None]:
    """Train with rates that rise from LOWEST to HIGHEST, until the loss grows.

    Args:
        step: one training step at a rate; gives its loss.

    Returns:
        The rates, the smoothed losses, and a rate to try: where the loss falls fastest, counted per factor of the rate;
        None where it falls nowhere.
    """
    rates, losses, mean = [], [], 0.0
    for i in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (i / (STEPS - 1))
        loss = step(rate)
        mean = MEMORY * mean + (1 - MEMORY) * loss
        smooth = mean / (1 - MEMORY ** (i + 1))
        if not math.isfinite(loss) or (losses and smooth > TOO_LARGE * min(losses)):
            break
        rates.append(rate)
        losses.append(smooth)
    lowest = losses.index(min(losses)) if losses else 0
    if not losses or losses[lowest] >= (1 - FALL) * losses[0]:
        return rates, losses, None
    slopes = [losses[min(i + 1, lowest)] - losses[i - 1] for i in range(1, lowest + 1)]
    return rates, losses, rates[1 + slopes.index(min(slopes))]


def report(step: Callable[[float], float], folder: Path) -> None:
    """Try rates with `step`, put the curve into `folder`, and say which one it suggests."""
    from classifier.evaluation import plots  # not at the top: processes that open images do without matplotlib

    rates, losses, best = find_learning_rate(step)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "learning_rate.png"
    plots.learning_rates(rates, losses, best).savefig(path, dpi=150)
    if best is None:
        print(f"the loss falls at no rate, so none is suggested; the curve is in {path}")
        return
    print(f"the loss falls fastest at {best:.1e}; the curve is in {path}\nnext: python train.py --lr {best:.1e}")
