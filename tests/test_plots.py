"""Figures: drawn without a window, without warnings, and saying what the numbers say."""

import gc
import io
import warnings
import weakref

import matplotlib
import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from classifier.evaluation import plots, score_plots
from classifier.text import shorten
from tests.conftest import run_code

CHINESE = "金渐层短毛猫"
HISTORY = [
    {"epoch": i, "minutes": 0.1 * i, "train": {"loss": 1 / i, "accuracy": 0.5 + i / 20}, "val": dict(val)}
    for i, val in enumerate([{"loss": 0.9, "accuracy": 0.6}, {"loss": 0.5, "accuracy": 0.8}], start=1)
]


def png(figure):
    """The figure as an image; any warning on the way is an error."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(stream, dpi=60)
    return Image.open(stream)


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("classes", [2, 3, 7, 20, 45])
def test_confusion_matrix(classes):
    names = [f"class_{i} with a name longer than most are" if i % 2 else CHINESE for i in range(classes)]
    matrix = torch.diag(torch.full((classes,), 8))
    matrix[0, 1] = 2
    figure = score_plots.confusion_matrix(matrix, names)
    image = png(figure)
    assert max(image.size) < 60 * 15
    found = texts(figure)
    assert any(f"{8 * classes:,} of {8 * classes + 2:,} images right" in text for text in found)
    if classes <= 40:
        assert any(text.split("\n")[0] == "2" for text in found)


def test_confusion_matrix_shows_right_answers_blue_and_wrong_ones_red():
    figure = score_plots.confusion_matrix(torch.tensor([[9, 1], [0, 0]]), ["a", "b"])
    colors = figure.axes[0].images[0].get_array()
    assert colors[0, 0, 2] > colors[0, 0, 0] and colors[0, 1, 0] > colors[0, 1, 2]
    assert (colors[1] == 1).all()  # white: no images


def test_names_are_text_not_formulas():
    figure = score_plots.confusion_matrix(torch.eye(2).int(), ["$x^2$", r"$\bad{"])
    png(figure)
    assert "$x^2$" in texts(figure)


def test_contact_sheet_marks_wrong_answers():
    pixels = torch.randint(0, 256, (11, 3, 20, 30), dtype=torch.uint8)
    titles = [f"cat {i}%\nis {CHINESE}" for i in range(11)]
    figure = plots.contact_sheet(pixels, titles, columns=4, wrong=[i == 3 for i in range(11)])
    axes = figure.axes[0]
    assert len(axes.images) == 11
    assert [text.get_color() == plots.RED for text in axes.texts] == [i == 3 for i in range(11)]
    assert (axes.images[5].get_array() == pixels[5].permute(1, 2, 0).numpy()).all()
    png(figure)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_contact_sheet_of_any_count(count):
    png(plots.contact_sheet(torch.zeros(count, 3, 8, 8, dtype=torch.uint8), ["a"] * count))


def test_curves_of_several_runs():
    figure = plots.curves({"resnet18": HISTORY, CHINESE: HISTORY[:1]})
    png(figure)
    found = texts(figure)
    assert "resnet18: best 80.00% in epoch 2" in found and f"{CHINESE}: best 60.00% in epoch 1" in found
    losses, accuracies = figure.axes
    assert [list(line.get_ydata()) for line in losses.lines[:2]] == [[1, 0.5], [0.9, 0.5]]
    assert list(accuracies.lines[1].get_ydata()) == [0.6, 0.8]


def test_shorten_counts_chinese_characters_twice():
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
    assert shorten(CHINESE, 12) == CHINESE
    assert shorten(CHINESE, 11) == CHINESE[:5] + "…"


def test_style_stays_inside():
    before = dict(matplotlib.rcParams)
    plots.curves({"a": HISTORY})
    assert dict(matplotlib.rcParams) == before


def test_a_missing_chinese_font_is_no_warning():
    code = """
import io, torch
from classifier import plots, score_plots
plots.fonts = lambda: ("DejaVu Sans",)
score_plots.confusion_matrix(torch.eye(2).int(), ["\u732b", "b"]).savefig(io.BytesIO())
print("drawn")
"""
    done = run_code(code)
    assert (done.stdout, done.stderr) == ("drawn\n", "")


def test_a_chinese_font_installed_after_matplotlib_is_found(monkeypatch):
    if len(plots.fonts()) == 1:
        pytest.skip("no font with Chinese characters is installed")
    listed = font_manager.fontManager.ttflist
    later = {font.fname for font in listed if font.name in plots.CJK_FONTS}  # a file may hold several fonts
    others = [font for font in listed if font.fname not in later]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", others)
    plots.fonts.cache_clear()
    assert plots.fonts()[1:] and plots.fonts()[1] in plots.CJK_FONTS


def test_a_figure_nobody_holds_is_gone():
    figure = weakref.ref(plots.curves({"a": HISTORY}))
    gc.collect()
    assert figure() is None


def test_accuracy_over_time_has_a_point_per_epoch():
    history = [
        {"epoch": i + 1, "minutes": 2.0 * (i + 1), "train": {}, "val": {"accuracy": 0.5 + i / 10, "loss": 1 - i / 10}}
        for i in range(4)
    ]
    figure = plots.accuracy_over_time({"slow": history, "fast": history[:2]})
    (axes,) = figure.axes
    slow, fast = axes.lines
    assert slow.get_xdata().tolist() == [2, 4, 6, 8] and fast.get_xdata().tolist() == [2, 4]
    assert slow.get_ydata().tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8])
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["slow: 80.00% after 8 min", "fast: 60.00% after 4 min"]
