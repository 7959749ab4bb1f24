"""Figures of training and of scores, drawn without pyplot, which would keep every figure alive and ask for a window."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import matplotlib
from matplotlib import font_manager
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from classifier.cli import shorten
from classifier.evaluation.metrics import BINS, best_epoch

# Fonts with Chinese characters, of Linux, Windows and macOS
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC",
    "Hiragino Sans GB", "Heiti SC", "STHeiti", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Noto Sans CJK JP",
    "Arial Unicode MS",
)  # fmt: skip
LAST_RESORT = "Last Resort High-Efficiency"  # has a box for every character; comes with matplotlib from 3.11 on
INK, FAINT, RED = "#222222", "#999999", "#c1272d"
# distinct for colour-blind eyes too: Okabe and Ito, "Color Universal Design", 2008
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
STYLE = {
    "text.parse_math": False,  # a name may hold a $
    "axes.prop_cycle": matplotlib.cycler(color=COLORS),
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
}
MAX_CLASSES_WITH_NAMES = 40  # in a confusion matrix; with more, neither names nor counts are legible


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in this file's style and leave the caller's as it is.

    The fonts are matplotlib's own, the first with Chinese characters that it knows, and boxes.
    """
    known = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *[name for name in CJK_FONTS if name in known][:1], *known & {LAST_RESORT}]
    with matplotlib.rc_context(STYLE | {"font.family": fonts}):
        yield


@styled()
def contact_sheet(
    pixels: Tensor, titles: Sequence[str], columns: int = 8, wrong: Sequence[bool] | None = None
) -> Figure:
    """Draw images (N, 3, H, W) uint8 in a grid, each under its title, whose lines are cut to its width.

    Where `wrong` (N values) is True, the title is red.
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


@styled()
def curves(
    histories: Mapping[str, list[dict]],
    panels: Sequence[tuple[str, str]] = (("loss", "epoch"), ("accuracy", "epoch")),
    _: Callable[..., str] = str.format,
) -> Figure:
    """Draw loss and accuracy of training runs: training dashed, validation solid, the best epoch marked.

    Takes the epochs of each run by its name, as in the .pth, for each panel what is drawn over what, and what
    translates a template and fills it.
    """
    figure = Figure(figsize=(4.5 * max(1.5, len(panels)), 3.6 + 0.22 * len(histories)), layout="constrained")
    for axes, (key, x) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for color, (name, history) in zip(itertools.cycle(COLORS), histories.items(), strict=False):
            best, positions = best_epoch(history), [epoch[x] for epoch in history]
            axes.plot(positions, [epoch["train"][key] for epoch in history], "--", color=color, lw=1)
            values = {"name": shorten(name, 40), "accuracy": f"{best['val']['accuracy']:.2%}", "epoch": best["epoch"]}
            label = _("{name}: best {accuracy} in epoch {epoch}", **values)
            mark = {"marker": "o", "markevery": [history.index(best)], "markersize": 9, "markerfacecolor": "none"}
            axes.plot(positions, [epoch["val"][key] for epoch in history], color=color, label=label, **mark)
        axes.set(title=_("{quantity} (training dashed, validation solid)", quantity=_(key)), xlabel=_(x))
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.grid(axis="y")
        if key == "accuracy":
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(2, len(histories)))
    return figure


@styled()
def confusion_matrix(matrix: Tensor, classes: Sequence[str]) -> Figure:
    """Draw counts of images, a row per label and a column per prediction; the colour is the share of the row."""
    from sklearn.metrics import ConfusionMatrixDisplay

    n, legible = len(classes), len(classes) <= MAX_CLASSES_WITH_NAMES
    side = max(4, 0.5 * n + 2) if legible else 9  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy()
    display = ConfusionMatrixDisplay(shares)
    power = {"norm": PowerNorm(0.4, vmin=0, vmax=1)}  # of the shares, so that few errors show too
    display.plot(ax=axes, include_values=legible, cmap="Blues", colorbar=False, im_kw=power, text_kw={"fontsize": 9})
    ticks = range(0, n, 1 if legible else 10)
    names = [shorten(classes[i], 28) for i in ticks]
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="prediction", ylabel="label")
    for text, count in zip(display.text_.flat if legible else (), matrix.flatten().tolist(), strict=legible):
        text.set_text(f"{count:,}" if count or n <= 10 else "")
    return figure


@styled()
def calibration(confidences: Mapping[str, Tensor], correct: Tensor) -> Figure:
    """Draw accuracy over confidence (a reliability diagram) and how many images have which confidence.

    Takes the (N,) confidences without and with the temperature, by their names, and whether N images are correct.
    """
    from sklearn.calibration import CalibrationDisplay

    figure = Figure(figsize=(4.6, 5), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for color, (name, confidence) in zip((FAINT, COLORS[0]), confidences.items(), strict=True):
        drawing = {"n_bins": BINS, "name": name, "ax": axes, "color": color, "markersize": 4}
        CalibrationDisplay.from_predictions(correct.int(), confidence, pos_label=1, **drawing)
    axes.get_legend().remove()  # inside the panel it would cover one curve or another
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    counts.hist(confidence, bins=BINS, range=(0, 1), color=COLORS[0])
    lowest = min(confidence.min().item() for confidence in confidences.values())
    axes.set(title="accuracy", xlabel="", ylabel="", xlim=(max(0, lowest - 0.05), 1))
    counts.set(title="images", xlabel="confidence (probability of the predicted class)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    return figure


@styled()
def rankings(probabilities: Tensor, labels: Tensor, per_class: Sequence[Mapping]) -> Figure:
    """Draw ROC and precision-recall curves: of two classes the second's, of more the seven with the smallest areas.

    Takes probabilities (N, classes), labels (N,) and what `metrics.score` says of each class.
    """
    from sklearn.metrics import PrecisionRecallDisplay, RocCurveDisplay

    figure = Figure(figsize=(9, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    first = 1 if len(per_class) == 2 else 0
    areas = {i: row["auroc"] for i, row in enumerate(per_class) if row["auroc"] is not None and i >= first}
    for i in sorted(areas, key=areas.get)[: len(COLORS)]:
        name, scores = shorten(per_class[i]["class"], 24), probabilities[:, i]
        RocCurveDisplay.from_predictions(labels == i, scores, ax=left, name=name)
        PrecisionRecallDisplay.from_predictions(labels == i, scores, ax=right, name=name)
    left.set(title="ROC curve", xlabel="false positive rate", ylabel="true positive rate (recall)")
    right.set(title="precision-recall curve", xlabel="recall", ylabel="precision")
    return figure
