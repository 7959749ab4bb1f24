"""Numbers and images to figures: their style, contact sheets, and how training went. Scores have score_plots.py.

Figures are made without pyplot, which would keep every one of them alive and ask for a window: `figure.savefig(path)`
works anywhere, and a figure nobody holds is gone.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from classifier.evaluation.metrics import best_epoch
from classifier.text import shorten

# Fonts with Chinese characters, of Linux, Windows and macOS; the first that is installed helps out where the usual one
# lacks a character.
CJK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Microsoft YaHei", "SimHei", "PingFang SC",
    "Hiragino Sans GB", "Heiti SC", "STHeiti", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Noto Sans CJK JP",
    "Arial Unicode MS",
)  # fmt: skip
INK, FAINT, RED = "#222222", "#999999", "#c1272d"
# distinct for colour-blind eyes too: Okabe and Ito, "Color Universal Design", 2008
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

# Without such a font a box is drawn in place of the character, which says it all.
MISSING_GLYPH = r"Glyph \d+ .* missing from"
warnings.filterwarnings("ignore", message=MISSING_GLYPH)


@functools.cache
def fonts() -> tuple[str, ...]:
    """The font families that figures use: matplotlib's own, then one with Chinese characters if there is any."""
    manager = font_manager.fontManager
    if not any(font.name in CJK_FONTS for font in manager.ttflist):  # installed after matplotlib made its list, perhaps
        for path in sorted(set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}):
            with contextlib.suppress(Exception):  # those that it cannot use are not in its list either
                manager.addfont(path)
    installed = {font.name for font in manager.ttflist}
    return "DejaVu Sans", *[name for name in CJK_FONTS if name in installed][:1]


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in this file's style and leave the caller's as it is. Names are text even where they hold a $."""
    style = {"text.parse_math": False, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT}
    style |= {"xtick.color": INK, "ytick.color": INK, "font.size": 10, "axes.titlesize": 11, "axes.grid": False}

    @functools.wraps(draw)
    def wrapper(*args, **kwargs) -> Figure:
        with matplotlib.rc_context({**style, "font.family": list(fonts())}):
            return draw(*args, **kwargs)

    return wrapper


def percent() -> FuncFormatter:
    """For one axis: a formatter holds the figure that it is of."""
    return FuncFormatter(lambda value, _: f"{100 * value:.4g}%")


@styled
def contact_sheet(
    pixels: Tensor, titles: Sequence[str], columns: int = 8, wrong: Sequence[bool] | None = None
) -> Figure:
    """Images in a grid, each under its title.

    Args:
        pixels: (N, 3, H, W) uint8.
        titles: N texts of one or more lines; a line too long for its image is cut.
        columns: images per row.
        wrong: N values; where True the title is red.
    """
    n, _, height, width = pixels.shape
    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    side, gap, line, size = 1.5, 0.08, 0.16, 8  # inches: an image's width, between images, a line of a title; points
    tall = side * height / max(width, 1)
    step_x, step_y = side + gap, tall + gap + line * lines + 0.04
    figure = Figure(figsize=(columns * step_x + gap, max(rows, 1) * step_y + gap))
    axes = figure.add_axes((0, 0, 1, 1))  # in inches, y downwards
    axes.set(xlim=(0, columns * step_x + gap), ylim=(max(rows, 1) * step_y + gap, 0))
    axes.axis("off")
    for i, image in enumerate(pixels.cpu().permute(0, 2, 3, 1).numpy()):
        left, bottom = gap + i % columns * step_x, (i // columns + 1) * step_y
        axes.imshow(image, extent=(left, left + side, bottom, bottom - tall), aspect="auto")
        text = "\n".join(shorten(text, int(side * 72 / (0.56 * size))) for text in titles[i].split("\n"))
        color = RED if wrong is not None and wrong[i] else INK
        axes.text(left, bottom - tall - 0.05, text, fontsize=size, va="bottom", color=color, linespacing=1.15)
    axes.set(xlim=(0, columns * step_x + gap), ylim=(max(rows, 1) * step_y + gap, 0))  # imshow has set its own
    return figure


@styled
def curves(histories: Mapping[str, list[dict]]) -> Figure:
    """Loss and accuracy over the epochs of one or several runs: training dashed, validation solid, its best marked.

    Args:
        histories: name of a run -> its epochs, each
            {"epoch": 1, "minutes": 0.4, "train": {"loss": 0.6, "accuracy": 0.7}, "val": {"loss": ..., "accuracy": ...}}
    """
    figure = Figure(figsize=(9, 3.6 + 0.22 * len(histories)), layout="constrained")
    panels = figure.subplots(1, 2)
    runs = []
    for number, (name, history) in enumerate(histories.items()):
        color = COLORS[number % len(COLORS)]
        epochs = [entry["epoch"] for entry in history]
        marker = {"marker": "o", "markersize": 3} if len(epochs) <= 30 else {}
        for axes, key in zip(panels, ("loss", "accuracy"), strict=True):
            for part, look in (("train", {"linestyle": "--", "lw": 1.1, "alpha": 0.8}), ("val", {"lw": 1.8})):
                axes.plot(epochs, [entry[part][key] for entry in history], color=color, **look, **marker)
        best = best_epoch(history)
        panels[1].plot(best["epoch"], best["val"]["accuracy"], "o", markersize=9, color=color, markerfacecolor="none")
        label = f"{shorten(name, 40)}: best {best['val']['accuracy']:.2%} in epoch {best['epoch']}"
        runs.append(Line2D([], [], color=color, lw=1.8, label=label))
    for axes, title in zip(panels, ("loss (cross-entropy)", "accuracy"), strict=True):
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5")
        axes.set_axisbelow(True)
    panels[1].yaxis.set_major_formatter(percent())
    parts = [Line2D([], [], color=INK, lw=1.2, linestyle=style) for style in ("--", "-")]
    panels[0].legend(parts, ["training", "validation"], loc="upper right", frameon=False)
    figure.legend(handles=runs, loc="outside lower center", ncols=min(2, len(runs)), frameon=False)
    return figure


@styled
def accuracy_over_time(histories: Mapping[str, list[dict]]) -> Figure:
    """Validation accuracy over the minutes of training of one or several runs, a point per epoch.

    Args:
        histories: as for `curves`.
    """
    figure = Figure(figsize=(7, 3.4 + 0.22 * len(histories)), layout="constrained")
    axes, runs = figure.subplots(), []
    for number, (name, history) in enumerate(histories.items()):
        color = COLORS[number % len(COLORS)]
        minutes = [entry["minutes"] for entry in history]
        axes.plot(minutes, [entry["val"]["accuracy"] for entry in history], "o-", color=color, lw=1.8, markersize=3)
        best = best_epoch(history)
        label = f"{shorten(name, 40)}: {best['val']['accuracy']:.2%} after {best['minutes']:.0f} min"
        runs.append(Line2D([], [], color=color, lw=1.8, label=label))
    axes.set_title("validation accuracy", loc="left")
    axes.set_xlabel("minutes of training")
    axes.set_xlim(0, None)
    axes.margins(y=0.15)
    axes.yaxis.set_major_formatter(percent())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    figure.legend(handles=runs, loc="outside lower center", frameon=False)
    return figure


@styled
def learning_rates(rates: Sequence[float], losses: Sequence[float], best: float | None) -> Figure:
    """Loss over the learning rate, and the rate that is suggested, if any."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color=COLORS[0], lw=1.8)
    if best:
        axes.axvline(best, color=RED, lw=1, linestyle="--")
        axes.annotate(f"{best:.1e}", (best, max(losses)), (4, -4), textcoords="offset points", color=RED, va="top")
    axes.set_xscale("log")
    axes.set_title("loss, smoothed", loc="left")
    axes.set_xlabel("learning rate")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")
    return figure
