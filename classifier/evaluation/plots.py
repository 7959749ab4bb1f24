"""Figures of training and of scores, drawn without pyplot, which would keep every figure alive and ask for a window."""

import contextlib
import functools
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from classifier.evaluation.metrics import Calibration, best_epoch
from classifier.text import shorten, text_width

# Fonts with Chinese characters, of Linux, Windows and macOS
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC",
    "Hiragino Sans GB", "Heiti SC", "STHeiti", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Noto Sans CJK JP",
    "Arial Unicode MS",
)  # fmt: skip
LAST_RESORT = "Last Resort High-Efficiency"  # comes with matplotlib, has a box for every character
INK, FAINT, RED = "#222222", "#999999", "#c1272d"
# distinct for colour-blind eyes too: Okabe and Ito, "Color Universal Design", 2008
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MAX_CLASSES_WITH_NAMES = 40  # in a confusion matrix; with more, neither names nor counts are legible


@functools.cache
def fonts() -> tuple[str, ...]:
    """Return the font families that figures use: matplotlib's own, an installed one with Chinese characters, boxes."""
    manager = font_manager.fontManager
    if not any(font.name in CJK_FONTS for font in manager.ttflist):  # it may be younger than matplotlib's cached list
        for path in sorted(set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}):
            with contextlib.suppress(Exception):  # a font that matplotlib cannot read
                manager.addfont(path)
    installed = {font.name for font in manager.ttflist}
    return "DejaVu Sans", *[name for name in CJK_FONTS if name in installed][:1], LAST_RESORT


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this file's style and leave the caller's as it is. Names are text even where they hold a $."""
    style = {"text.parse_math": False, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT}
    style |= {
        "xtick.color": INK,
        "ytick.color": INK,
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
    }
    style |= {"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "grid.color": "#e5e5e5"}
    style |= {"axes.grid": False, "legend.frameon": False}

    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with matplotlib.rc_context({**style, "font.family": list(fonts())}):
            return draw(*args, **kwargs)

    return wrapper


def _in_percent(axes: Axes, *names: str) -> None:
    for name in names:
        getattr(axes, f"{name}axis").set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


@styled
def contact_sheet(
    pixels: Tensor, titles: Sequence[str], columns: int = 8, wrong: Sequence[bool] | None = None
) -> Figure:
    """Draw images in a grid, each under its title.

    Args:
        pixels: (N, 3, H, W) uint8.
        titles: N texts of one or more lines; a line too long for its image is cut.
        columns: images per row.
        wrong: N values; where True the title is red.
    """
    n, _, height, width = pixels.shape
    columns = max(1, min(columns, n))
    rows = max(1, -(-n // columns))
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    side, gap, line, size = 1.5, 0.08, 0.16, 8  # inches: an image's width, between images, a line of a title; points
    tall = side * height / max(width, 1)
    step_x, step_y = side + gap, tall + gap + line * lines + 0.04
    figure = Figure(figsize=(columns * step_x + gap, rows * step_y + gap))
    axes = figure.add_axes((0, 0, 1, 1))  # in inches, y downwards
    axes.axis("off")
    for i, image in enumerate(pixels.cpu().permute(0, 2, 3, 1).numpy()):
        left, bottom = gap + i % columns * step_x, (i // columns + 1) * step_y
        axes.imshow(image, extent=(left, left + side, bottom, bottom - tall), aspect="auto")
        text = "\n".join(shorten(text, int(side * 72 / (0.56 * size))) for text in titles[i].split("\n"))
        color = RED if wrong is not None and wrong[i] else INK
        axes.text(left, bottom - tall - 0.05, text, fontsize=size, va="bottom", color=color, linespacing=1.15)
    axes.set(xlim=(0, columns * step_x + gap), ylim=(rows * step_y + gap, 0))
    return figure


@styled
def curves(
    histories: Mapping[str, list[dict]],
    panels: Sequence[tuple[str, str]] = (("loss", "epoch"), ("accuracy", "epoch")),
) -> Figure:
    """Draw loss and accuracy of training runs: training dashed, validation solid, the best epoch marked.

    Args:
        histories: name of a run -> its epochs, each
            {"epoch": 1, "minutes": 0.4, "train": {"loss": 0.6, "accuracy": 0.7}, "val": {"loss": ..., "accuracy": ...}}
        panels: (what is drawn, over what).
    """
    figure = Figure(figsize=(4.5 * max(1.5, len(panels)), 3.6 + 0.22 * len(histories)), layout="constrained")
    runs = {}
    for axes, (key, x) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for color, (name, history) in zip(itertools.cycle(COLORS), histories.items(), strict=False):
            best = best_epoch(history)
            for part, line in (("train", {"linestyle": "--", "lw": 1.1, "alpha": 0.8}), ("val", {"lw": 1.8})):
                axes.plot(*zip(*((epoch[x], epoch[part][key]) for epoch in history), strict=True), color=color, **line)
            axes.plot(best[x], best["val"][key], "o", markersize=9, color=color, markerfacecolor="none")
            label = f"{shorten(name, 40)}: best {best['val']['accuracy']:.2%} in epoch {best['epoch']}"
            runs[name] = Line2D([], [], color=color, lw=1.8, label=label)
        axes.set(title=key if key == "accuracy" else "loss (cross-entropy)", xlabel=x)
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        if key == "accuracy":
            _in_percent(axes, "y")
    parts = [Line2D([], [], color=INK, lw=1.2, linestyle=style) for style in ("--", "-")]
    figure.axes[0].legend(parts, ["training", "validation"], loc="best")
    figure.legend(handles=list(runs.values()), loc="outside lower center", ncols=min(2, len(runs)))
    return figure


def accuracy_over_time(histories: Mapping[str, list[dict]]) -> Figure:
    """Draw accuracy over the minutes of training; `histories` as for `curves`."""
    return curves(histories, [("accuracy", "minutes")])


@styled
def learning_rates(rates: Sequence[float], losses: Sequence[float], best: float | None) -> Figure:
    """Draw the loss over the learning rate, and the rate that is suggested, if any."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLORS[0], lw=1.8)
    if best:
        axes.axvline(best, color=RED, lw=1, linestyle="--")
        axes.annotate(f"{best:.1e}", (best, max(losses)), (4, -4), textcoords="offset points", color=RED, va="top")
    axes.set(title="loss, smoothed", xlabel="learning rate", xscale="log")
    axes.grid(axis="y")
    return figure


@styled
def confusion_matrix(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """Draw counts of images, labels downwards and predictions to the right; correct ones blue, wrong ones red.

    The depth of the colour is the share of the row, so rare classes are as easy to read as frequent ones.

    Args:
        matrix: (classes, classes) int, as `metrics.confusion_matrix` returns it.
        classes: their names.
    """
    n, correct, total = len(classes), int(matrix.trace()), int(matrix.sum())
    shares, counts = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy(), matrix.numpy()
    colors = matplotlib.colormaps["Reds"](0.75 * np.sqrt(shares))[..., :3]  # the root, so that few errors show too
    diagonal = np.arange(n)
    colors[diagonal, diagonal] = matplotlib.colormaps["Blues"](0.85 * shares[diagonal, diagonal])[..., :3]
    colors[counts == 0] = 1

    legible, few = n <= MAX_CLASSES_WITH_NAMES, n <= 4
    cell = 1.25 if few else 0.8 if n <= 8 else 0.48 if legible else 9 / n  # inches
    names = ["\n".join(textwrap.wrap(name, 14)) if few else shorten(name, 28) for name in classes] if legible else [""]
    longest = 0.085 * max(text_width(line) for name in names for line in name.split("\n"))  # inches
    figure = Figure(figsize=(cell * n + longest + 0.8, cell * n + longest + 0.8), layout="constrained")
    axes = figure.add_subplot(aspect="equal")
    axes.pcolormesh(colors, edgecolors="#dddddd" if legible else "face", linewidth=0.8)
    axes.invert_yaxis()
    axes.spines[:].set_visible(not legible)
    axes.tick_params(length=0)
    axes.set_title(f"accuracy {correct / max(total, 1):.2%} ({correct:,} of {total:,})")
    if not legible:
        axes.set(xlabel="index of the predicted class", ylabel="index of the label")
        return figure
    axes.set(xlabel="prediction", ylabel="label")
    axes.set_xticks(
        diagonal + 0.5, names, **({} if few else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"})
    )
    axes.set_yticks(diagonal + 0.5, names)
    size = min(14 if few else 10, cell * 72 / (0.7 * len(str(counts.max())) + 0.8))
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count}\n{shares[row, column]:.1%}" if few and count else str(count) if few or count else ""
        dark = colors[row, column] @ (0.299, 0.587, 0.114) < 0.55
        color = "white" if dark else INK if count else FAINT
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color, fontsize=size, linespacing=1.4)
    return figure


@styled
def calibration(before: Calibration, after: Calibration, temperature: float) -> Figure:
    """Draw accuracy over confidence (a reliability diagram) and how many images have which confidence.

    Args:
        before: without the temperature.
        after: with it.
        temperature: named in the legend.
    """
    figure = Figure(figsize=(4.6, 5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=FAINT, lw=1, linestyle="--")
    for bins, color, name in ((before, FAINT, "uncalibrated"), (after, COLORS[0], f"temperature {temperature:.2f}")):
        filled, label = bins.count > 0, f"{name}: calibration error {bins.error:.3f}"
        axes.plot(bins.confidence[filled], bins.accuracy[filled], "o-", color=color, lw=1.6, markersize=4, label=label)
    figure.legend(loc="outside lower center")  # inside the panel it would cover one curve or another
    edges = np.linspace(0, 1, len(after.count) + 1)
    counts.bar(edges[:-1], after.count.numpy(), width=edges[1], align="edge", color=COLORS[0])
    lowest = min(value for bins in (before, after) for value in bins.confidence[bins.count > 0].tolist())
    axes.set(title="accuracy", xlim=(max(0, lowest - 0.05), 1))
    counts.set(title="images", xlabel="confidence (probability of the predicted class)")
    _in_percent(axes, "x", "y")
    return figure


@styled
def rankings(probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Figure:
    """Draw ROC and precision-recall curves; of two classes for the second, of more for each against the rest.

    Args:
        probabilities: (N, classes).
        labels: (N,).
        classes: names; of more than seven only those with the smallest areas are drawn.
    """
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn = []
    for number in range(1 if len(classes) == 2 else 0, len(classes)):
        positive, scores = (labels == number).numpy(), probabilities[:, number].numpy()
        if 0 < positive.sum() < len(positive):
            drawn.append((roc_auc_score(positive, scores), number, positive, scores))
    for color, (area, number, positive, scores) in zip(COLORS, sorted(drawn, key=lambda entry: entry[0]), strict=False):
        name, line = shorten(classes[number], 24), {"color": color, "lw": 1.6}
        false_positives, true_positives, _ = roc_curve(positive, scores)
        left.plot(false_positives, true_positives, label=f"{name}: area {area:.4f}", **line)
        precision, recall, _ = precision_recall_curve(positive, scores)
        mean = average_precision_score(positive, scores)
        right.plot(recall, precision, label=f"{name}: AP {mean:.4f}", **line)
    left.set(title="ROC curve", xlabel="false positive rate", ylabel="true positive rate (recall)")
    right.set(title="precision-recall curve (AP: average precision)", xlabel="recall", ylabel="precision")
    for axes, corner in ((left, "lower right"), (right, "lower left")):
        if drawn:
            axes.legend(loc=corner)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        _in_percent(axes, "x", "y")
    return figure


@styled
def accuracy_over_cost(names: Sequence[str], reports: Sequence[Mapping], key: str, title: str) -> Figure:
    """Draw accuracy with its interval over a cost, a point per network.

    Args:
        names: of the networks.
        reports: their scores: "accuracy", "interval" and `key`.
        key: of the cost.
        title: of its axis.
    """
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for color, name, report in zip(itertools.cycle(COLORS), names, reports, strict=False):
        low, high = report["interval"]
        point, error = (report[key], report["accuracy"]), [[report["accuracy"] - low], [high - report["accuracy"]]]
        axes.errorbar(*point, error, fmt="o", color=color, capsize=3, lw=1.2)
        axes.annotate(shorten(name, 30), point, (7, 4), textcoords="offset points", color=color, fontsize=9)
    axes.margins(x=0.25)
    axes.set(title="accuracy with its 95% interval", xlabel=title, xscale="log")
    axes.xaxis.set(major_locator=LogLocator(subs=(1, 1.5, 2, 3, 5, 7)), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if value < 1000 else EngFormatter()(value))  # "1.5 G"
    _in_percent(axes, "y")
    axes.grid(axis="y")
    return figure
