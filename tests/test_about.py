"""The model card: all that the .pth holds, nothing that it does not, and no name as HTML."""

import base64
import html
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
from tests.conftest import run_code
from webui.about import about
from webui.models import Loaded

HISTORY = [
    {"epoch": i, "minutes": 10.0 * i, "train": {"loss": 1 / i, "accuracy": 0.5}, "val": {"loss": 0.5, "accuracy": val}}
    for i, val in enumerate([0.6, 0.9, 0.8], start=1)
]
TEST = {"accuracy": 0.956, "count": 2000, "confusion_matrix": [[987, 13], [75, 925]], "calibration_error": 0.0071,
        "neither": 104}  # fmt: skip


@pytest.fixture
def full():
    return Checkpoint(
        "resnet18", ["cat", "dog"], Preprocess(size=192, resize="squash"), {},
        scores={"test": TEST, "val": {"accuracy": 0.9, "count": 500}, "history": HISTORY},
        data={"root": "/home/somebody/dataset", "kind": "images", "train": 18995, "val": 500},
        settings={"weights": "module/earlier.pth", "teacher": "module/b0.pth,module/r.pth"},
        created="2026-11-22T15:31:38+00:00", temperature=0.38,
        ood_stats={"threshold": 2.5}, path=Path("module/pets.pth"),
    )  # fmt: skip


def card(checkpoint, language="en"):
    return about(Loaded(checkpoint, select_compute("cpu", "fp32"), len), language)


def text(checkpoint, language="en"):
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", card(checkpoint, language))).split())


def test_all_that_the_file_holds(full):
    said = text(full)
    for words in (
        "pets.pth, trained on 2026-11-22",
        "resnet18, 11.2 million parameters",
        "the whole image, resized to 192 × 192 pixels",
        "Classes 2: cat, dog",
        "18,995 images in dataset",
        "Pretrained on earlier.pth",
        "Taught by b0.pth, r.pth",
        "95.6% on 2,000 test images (95% interval 94.6% to 96.4%)",
        "expected calibration error 0.7 percentage points",
        "3 epochs in 30 min; epoch 2 was the best",
        "float32",
        "75 of 1,000 test images of class dog were classified as cat",
        "Of the 2,000 test images, 104 were.",
        "cat 92.9% 98.7% 95.7% 1,000",  # precision, recall, F1
        "cat 987 13 dog 75 925",
    ):
        assert words in said, words
    assert "somebody" not in said  # whose home the images are in is nobody's business
    assert "resnet18，1120 万个参数" in text(full, "zh")


def test_how_images_become_square(full):
    for resize, words, limit in (
        ("pad", "the whole image in its proportions, with bars up to a square of 192 × 192 pixels", "Small objects"),
        ("crop", "the largest square in the middle, at 192 × 192 pixels", "What is outside the largest square"),
    ):
        said = text(replace(full, preprocess=Preprocess(192, resize)))
        assert words in said and limit in said


def test_what_is_not_known_is_left_out(full):
    options = {"assumed": "crop to 64", "path": Path("a.pth")}
    said = text(Checkpoint("vgg11", ["class 0", "class 1"], Preprocess(size=64), {}, **options))
    assert "not tested yet: python evaluate.py" in said and "Assumed crop to 64" in said
    assert "the answer is one of them" in said and "not calibrated" in said
    assert not any(words in said for words in ("Trained on", "Training", "Scores", "None"))
    without_test = replace(full, scores={"val": full.scores["val"], "history": HISTORY[:1]})
    assert "90.0% on the 500 validation images that chose the epoch; not tested yet" in text(without_test)
    assert "1 epoch in 10 min" in text(without_test)
    said = text(replace(full, data=full.data | {"kind": "drawings"}))
    assert "18,995 drawings in dataset" in said and "answer to a photograph is a guess" in said
    assert "guess" not in text(full)


def test_names_are_never_html(full):
    evil = '<img src=x onerror="alert(1)">'
    told = {"data": {"root": evil, "train": 5}, "settings": {"weights": "<u>"}, "created": "<i>" * 9, "assumed": evil}
    shown = card(replace(full, classes=[evil, "dog"], path=Path("<b>.pth"), **told))
    assert not {"b", "i", "u"} & set(re.findall(r"<(\w+)", shown)) and "&lt;img src=x onerror=" in shown
    assert len(re.findall(r"<img", shown)) == 1  # the curves


def test_of_many_classes_the_worst_are_shown(full):
    matrix = torch.diag(torch.full((30,), 10))
    matrix[7, 7], matrix[7, 3] = 4, 6
    matrix[9] = 0  # no test images
    scores = {"test": TEST | {"confusion_matrix": matrix.tolist()}}
    checkpoint = replace(full, classes=[f"kind_{i}" for i in range(30)], scores=scores)
    said = text(checkpoint)
    assert "lowest recall is kind 7: 40.0% of 10 test images" in said and "kind 7 kind 3 6 / 10" in said
    assert "30: kind 0, kind 1" in said and "kind 19, ..." in said


def test_the_curves_say_what_they_show(full):
    [(source, alt)] = re.findall(r'<img src="data:image/svg\+xml;base64,([^"]*)" alt="([^"]*)"', card(full))
    assert "best of 3 epochs is epoch 2, with 90.0% validation accuracy" in alt
    svg = base64.b64decode(source).decode()
    assert "<svg" in svg and len(svg) < 100_000
    assert re.search(r'fill: ?#fff|style="fill: white', svg)  # a card of its own, in the dark as well


def test_the_page_starts_without_what_only_curves_need():
    done = run_code("import sys, webui.about; print('matplotlib' in sys.modules, 'sklearn' in sys.modules)")
    assert done.stdout.split() == ["False", "False"], done.stderr
