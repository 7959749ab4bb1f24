"""Figures of a network's scores: its mistakes, how sure it is, and what it costs; in the style of plots.py."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve
from torch import Tensor

from classifier.evaluation.metrics import Calibration
from classifier.evaluation.plots import COLORS, FAINT, INK, percent, styled
from classifier.text import shorten, text_width


@styled
def confusion_matrix(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """Counts of images, truth downwards and prediction to the right; right answers blue, wrong ones red.

    The depth of the colour is the share of the row, so rare classes are as easy to read as frequent ones.

    Args:
        matrix: (classes, classes) int, as `metrics.confusion_matrix` gives it.
        classes: their names.
    """
    n = len(classes)
    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    colors = matplotlib.colormaps["Reds"](0.75 * np.sqrt(shares))[..., :3]  # the root, so that few mistakes show too
    diagonal = np.arange(n)
    colors[diagonal, diagonal] = matplotlib.colormaps["Blues"](0.85 * shares[diagonal, diagonal])[..., :3]
    colors[matrix.numpy() == 0] = 1

    cell = 1.25 if n <= 4 else 0.8 if n <= 8 else 0.48 if n <= 40 else 9 / n  # inches
    names = [shorten(name, 28) for name in classes] if n <= 40 else [""]
    if n <= 4:  # there is room for names of several lines
        names = ["\n".join(textwrap.wrap(name.replace("_", "_ "), 14)).replace("_ ", "_") for name in names]
    longest = 0.085 * max(text_width(line) for name in names for line in name.split("\n"))  # inches
    slanted = longest > cell
    below = 0.75 * longest if slanted else 0.3
    figure = Figure(figsize=(cell * n + longest + 0.8, cell * n + below + 0.8), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(colors, interpolation="nearest")
    axes.set(xlabel="predicted", ylabel="true")
    right, total = int(matrix.trace()), int(matrix.sum())
    axes.set_title(f"{right:,} of {total:,} images right ({right / max(total, 1):.2%})", loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if n > 40:  # neither names nor numbers would be legible
        axes.spines[:].set_visible(True)
        axes.set(xlabel="predicted class, by number", ylabel="true class, by number")
        return figure

    axes.set_xticks(diagonal, names, **({"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}))
    axes.set_yticks(diagonal, names)
    axes.set_xticks(np.arange(n + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(n + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.8, clip_on=False)
    axes.tick_params(which="minor", length=0)
    digits = len(str(int(matrix.max())))
    size = min(14 if n <= 4 else 10, cell * 72 / (0.7 * digits + 0.8))
    for row in range(n):
        for column in range(n):
            count = int(matrix[row, column])
            text = f"{count}\n{shares[row, column]:.1%}" if n <= 4 and count else str(count) if n <= 4 or count else ""
            dark = colors[row, column] @ (0.299, 0.587, 0.114) < 0.55
            color = "white" if dark else INK if count else FAINT
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=size, linespacing=1.4)
    return figure


@styled
def calibration(before: Calibration, after: Calibration, temperature: float) -> Figure:
    """How often answers are right, by how sure the network is of them, and how many answers are how sure.

    Args:
        before: without the temperature.
        after: with it.
        temperature: named in the legend.
    """
    figure = Figure(figsize=(4.6, 5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1, linestyle="--")
    for found, color, name in ((before, FAINT, "as it is"), (after, COLORS[0], f"temperature {temperature:.2f}")):
        some = found.count > 0
        label = f"{name}: error {found.error:.3f}"
        axes.plot(found.confidence[some], found.accuracy[some], "o-", color=color, lw=1.6, markersize=4, label=label)
    axes.set_title("share of right answers", loc="left")
    figure.legend(loc="outside lower center", frameon=False)  # in the panel, it would cover one curve or another
    edges = np.linspace(0, 1, len(after.count) + 1)
    counts.bar(edges[:-1], after.count.numpy(), width=edges[1], align="edge", color=COLORS[0])
    counts.set_title("images", loc="left")
    counts.set_xlabel("how sure the network is of its answer")
    for panel in (axes, counts):
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_formatter(percent())
    axes.yaxis.set_major_formatter(percent())
    least = min([value for found in (before, after) for value in found.confidence[found.count > 0].tolist()], default=0)
    axes.set_xlim(max(0, least - 0.05), 1)
    return figure


@styled
def rankings(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Figure:
    """ROC and precision-recall curves; of two classes for the second, of more for each against the rest.

    Args:
        probabilities: (N, classes).
        labels: (N,).
        classes: names; of more than seven only those with the smallest areas are drawn.
    """
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = []
    for number in range(1 if len(classes) == 2 else 0, len(classes)):
        truth, scores = (labels == number).numpy(), probabilities[:, number].double().numpy()
        if 0 < truth.sum() < len(truth):
            drawn.append((roc_auc_score(truth, scores), number, truth, scores))
    for color, (area, number, truth, scores) in zip(COLORS, sorted(drawn, key=lambda entry: entry[0]), strict=False):
        wrong, found, _ = roc_curve(truth, scores)
        left.plot(wrong, found, color=color, lw=1.6, label=f"{shorten(classes[number], 24)}: area {area:.4f}")
        precision, recall, _ = precision_recall_curve(truth, scores)
        mean = average_precision_score(truth, scores)
        right.plot(recall, precision, color=color, lw=1.6, label=f"{shorten(classes[number], 24)}: mean {mean:.4f}")
    left.set_title("ROC: found, over falsely taken", loc="left")
    left.set(xlabel="share of the others falsely taken for it", ylabel="share of the class that is found")
    right.set_title("precision over recall", loc="left")
    right.set(xlabel="share of the class that is found", ylabel="share of what was taken for it that is")
    for axes, corner in ((left, "lower right"), (right, "lower left")):
        axes.legend(loc=corner, frameon=False)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_formatter(percent())
        axes.yaxis.set_major_formatter(percent())
    return figure


@styled
def accuracy_over_cost(names: Sequence[str], reports: Sequence[Mapping], key: str, title: str) -> Figure:
    """Accuracy with its interval over what it costs, a point per network.

    Args:
        names: of the networks.
        reports: their scores: "accuracy", "interval" and `key`.
        key: of the cost.
        title: of its axis.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for number, (name, report) in enumerate(zip(names, reports, strict=True)):
        color = COLORS[number % len(COLORS)]
        low, high = report["interval"]
        error = [[report["accuracy"] - low], [high - report["accuracy"]]]
        axes.errorbar(report[key], report["accuracy"], error, fmt="o", color=color, capsize=3, lw=1.2)
        axes.annotate(shorten(name, 30), (report[key], report["accuracy"]), (7, 4), textcoords="offset points",
                      color=color, fontsize=9)  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_title("accuracy, with its 95% interval", loc="left")
    axes.set_xlabel(title)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else ""))
    axes.yaxis.set_major_formatter(percent())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")
    return figure
