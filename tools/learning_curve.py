"""How many images are enough? The accuracy with fewer of them, and what twice and four times as many would bring.

    python tools/learning_curve.py                       the images of dataset/
    python tools/learning_curve.py --data photos         or any flags of train.py

The network is frozen, by default EfficientNet-Lite0 with ImageNet's weights (requirements-pretrained.txt), so features
are computed once and many last layers can be fitted: for each number of images per class, to several random draws of
the training images. All are scored on the same test images or, where there are none, on the validation images. The
table is printed, and written with a plot to logs/learning-curve/.

The extrapolation is the power law a + b n^-c of the error (Hestness et al., "Deep Learning Scaling is Predictable,
Empirically", 2017) through the means; its interval holds 90% of the fits to draws and scored images that were
themselves drawn again, with replacement. It says nothing about images of another kind, nor about training all layers.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project, when this is started as a script

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from classifier import cli
from classifier.cli import UserError, plural, print_table
from classifier.data import image_folder
from classifier.evaluation import plots
from classifier.training import datasets, frozen

SIZES = (3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)  # images per class
DRAWS = 8
VALIDATION_SHARE = 0.2  # of a draw, chooses the penalty
RESAMPLES = 200
OUTPUT = Path("logs/learning-curve")

Features = tuple[Tensor, Tensor]  # (N, D), labels (N,)


def main(argv: Sequence[str] | None = None) -> None:
    """Compute features, fit, print the table and draw the curve."""
    cfg = frozen.parse(__doc__, sys.argv[1:] if argv is None else argv)
    found = datasets.read(cfg)
    if found.is_sharded:
        raise UserError("The learning curve needs folders of images, not shards: --data DIR.")
    test, part = found.validation, "validation"
    if image_folder.has_images(Path(found.root, "test")):
        test, part = image_folder.read_folder(Path(found.root, "test"), classes=found.training.classes), "test"
    training, scored = frozen.features_of(cfg, (found.training, test))
    smallest = training[1].bincount().min().item()
    sizes = [*(n for n in SIZES if n < 0.7 * smallest), smallest]
    if len(sizes) < 4:
        raise UserError(f"The smallest class has {plural(smallest, 'training image')}; a curve needs at least 15.")
    wrong = np.stack([errors(training, scored, n) for n in sizes])  # (sizes, draws, scored images) of 0 and 1

    rates, future = 1 - wrong.mean(2), [2 * smallest, 4 * smallest]
    rows = list(zip(sizes, rates.mean(1), rates.min(1), rates.max(1), strict=True))
    rows += zip(future, *extrapolate(sizes, wrong, future), strict=True)
    print(f"accuracy on {plural(len(test), f'{part} image')} of a frozen {cfg.model}, {plural(DRAWS, 'draw')} each")
    heading = ("images per class", "accuracy", "from", "to")
    print_table([heading, *((f"{n:,}{' *' * (n > smallest)}", *(f"{v:.1%}" for v in values)) for n, *values in rows)])
    print("* extrapolated, with an interval that should hold the truth nine times in ten")
    OUTPUT.mkdir(parents=True, exist_ok=True)
    draw(rows, smallest).savefig(OUTPUT / "curve.png", dpi=130)
    with (OUTPUT / "curve.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([heading, *rows])
    print(f"written    {OUTPUT / 'curve.png'}, {OUTPUT / 'curve.csv'}")


def errors(training: Features, scored: Features, size: int) -> np.ndarray:
    """Return (DRAWS, N) of whether each scored image is classified wrongly after `size` images of each class."""
    (x, labels), (test_x, test_labels) = training, scored
    found = []
    for seed in range(DRAWS):
        generator, own, held_out = torch.Generator().manual_seed(seed), [], []
        for label in range(int(labels.max()) + 1):
            members = (labels == label).nonzero().flatten()
            drawn = members[torch.randperm(len(members), generator=generator)[:size]]
            first = max(1, round(VALIDATION_SHARE * size))
            held_out.append(drawn[:first])
            own.append(drawn[first:])
        own, held_out = torch.cat(own), torch.cat(held_out)
        _, strength = frozen.fit_best(x[own], labels[own], x[held_out], labels[held_out])
        both = torch.cat([own, held_out])
        (layer,) = frozen.fit(x[both], labels[both], [strength])
        found.append(layer(test_x).argmax(1) != test_labels)
    return torch.stack(found).numpy()


def extrapolate(sizes: Sequence[int], wrong: np.ndarray, future: Sequence[int]) -> tuple[np.ndarray, ...]:
    """Return the accuracies expected of so many images per class, and the ends of their 90% intervals.

    `wrong` (sizes, draws, N) is what `errors` gives for each size.
    """
    rng = np.random.default_rng(0)
    _, draws, count = wrong.shape
    predicted = []
    for _ in range(RESAMPLES):
        images, chosen = rng.integers(count, size=count), rng.integers(draws, size=(len(sizes), draws))
        rates = np.stack([own[which][:, images].mean() for own, which in zip(wrong, chosen, strict=True)])
        predicted.append(power_law(sizes, rates, future))
    low, high = np.quantile(predicted, [0.05, 0.95], axis=0)
    return 1 - power_law(sizes, wrong.mean((1, 2)), future), 1 - high, 1 - low


def power_law(sizes: Sequence[int], rates: np.ndarray, future: Sequence[int]) -> np.ndarray:
    """Return a + b n^-c at each n of `future`, fitted to error rates; a and b are not negative, c is at most 1."""
    from scipy.optimize import least_squares

    n, rates = np.asarray(sizes, float), rates.clip(1e-4)
    start = (rates[-1] / 2, rates[0] * n[0] ** 0.5, 0.5)
    fitted = least_squares(lambda p: (p[0] + p[1] * n ** -p[2]) / rates - 1, start, bounds=([0, 0, 0.01], [1, 100, 1]))
    a, b, c = fitted.x
    return a + b * np.asarray(future, float) ** -c


@plots.styled()
def draw(rows: Sequence[tuple], smallest: int) -> Figure:
    """Draw accuracy over images per class, from `main`'s rows; beyond `smallest` they are extrapolated."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    n, mean, low, high = (np.array(column, float) for column in zip(*rows, strict=True))
    measured, ahead = n <= smallest, n > smallest
    axes.fill_between(n[measured], low[measured], high[measured], alpha=0.2, lw=0)
    axes.plot(n[measured], mean[measured], "o-", label="measured: mean, and all draws")
    axes.plot(n[n >= smallest], mean[n >= smallest], "--", color=plots.FAINT, zorder=0)
    reach = [(mean - low)[ahead], (high - mean)[ahead]]
    axes.errorbar(n[ahead], mean[ahead], reach, fmt="o", capsize=3, label="extrapolated: 90% interval")
    axes.set(xscale="log", xlabel="training images per class", ylabel="accuracy")
    axes.set_xticks(n, [f"{size:,.0f}" for size in n], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="y")
    axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    cli.run(main)
