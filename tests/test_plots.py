"""Figures: drawn without a window, without warnings, with or without a Chinese font, and true to the numbers."""

import io
import warnings

import matplotlib
import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from classifier.evaluation import plots
from classifier.evaluation.metrics import score
from tests.test_evaluate import HISTORY

CHINESE = "金渐层短毛猫"


def png(figure):
    """The figure as an image with something on it; any warning on the way is an error."""
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(stream, dpi=60)
    image = Image.open(stream)
    assert image.convert("L").getextrema()[0] < 100
    return image


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


@pytest.mark.parametrize("classes", [2, 100])
def test_confusion_matrix_calibration_and_rankings(classes):
    torch.manual_seed(0)
    names = [r"$\bad{ and longer than most names are" if i % 2 else CHINESE for i in range(classes)]  # no formula
    labels = torch.arange(3000) % classes
    logits = torch.randn(3000, classes) + 2 * torch.nn.functional.one_hot(labels, classes)
    matrix, (confidence, answers) = torch.diag(torch.full((classes,), 1208)), logits.softmax(1).max(1)
    figure = plots.confusion_matrix(matrix, names)
    assert max(png(figure).size) < 60 * 16
    assert CHINESE in texts(figure) and ("1,208" in texts(figure)) is (classes < 40)
    for correct in (answers == labels, torch.ones(3000).bool()):
        png(plots.calibration({"uncalibrated": confidence, "temperature 1.30": confidence**1.3}, correct))
    scores = score(logits, labels, names)["per_class"]
    png(figure := plots.rankings(logits.softmax(1), labels, scores))
    assert len(figure.axes[0].lines) == (1 if classes == 2 else 7)
    lowest = min(row["auroc"] for row in scores)
    assert f"(AUC = {lowest:.2f})" in figure.axes[0].get_legend().get_texts()[0].get_text()
    png(plots.rankings(logits.softmax(1), 0 * labels, score(logits, 0 * labels, names)["per_class"]))  # no curve


def test_curves_of_several_runs():
    figure = plots.curves({"resnet18": HISTORY, CHINESE: HISTORY[:1]}, [("loss", "epoch"), ("accuracy", "minutes")])
    png(figure)
    found = texts(figure)
    assert "resnet18: best 90.00% in epoch 2" in found and f"{CHINESE}: best 70.00% in epoch 1" in found
    losses, accuracies = figure.axes
    assert [list(line.get_ydata()) for line in losses.lines[:2]] == [[0.7, 0.5], [0.6, 0.4]]
    assert list(accuracies.lines[1].get_xdata()) == [0.5, 0.9] and list(accuracies.lines[1].get_ydata()) == [0.7, 0.9]


@pytest.mark.parametrize("installed", [[], ["SimHei", "Noto Sans SC"]])
def test_the_first_font_with_chinese_characters_is_used_or_boxes(monkeypatch, installed):
    fonts = [font for font in font_manager.fontManager.ttflist if font.name not in plots.CJK_FONTS]
    known = [font_manager.FontEntry(fname=fonts[0].fname, name=name) for name in installed]
    boxes = {plots.LAST_RESORT} & {font.name for font in fonts}  # from matplotlib 3.11 on
    monkeypatch.setattr(font_manager.fontManager, "ttflist", fonts + known)
    with plots.styled():
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", *installed[1:], *boxes]
    if boxes:  # without them, matplotlib warns of each character
        png(plots.curves({CHINESE: HISTORY}))
