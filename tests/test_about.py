"""The model card: all that the .pth holds, nothing that it does not, and no name as HTML."""

import html
import re
from dataclasses import replace
from pathlib import Path

import pytest

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
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
        "18,995 images in dataset",
        "Pretrained on earlier.pth",
        "Taught by b0.pth, r.pth",
        "95.6% on 2,000 test images (95% interval 94.6% to 96.4%)",
        "expected calibration error 0.7 percentage points",
        "3 epochs in 30 min; epoch 2 was the best",
        "75 of 1,000 test images of class dog were classified as cat",
        "Of the 2,000 test images, 104 were.",
        "cat 92.9% 98.7% 95.7% 1,000",  # precision, recall, F1
        "cat 987 13 dog 75 925",
    ):
        assert words in said, words
    assert "somebody" not in said  # whose home the images are in is nobody's business
    assert "resnet18，1120 万个参数" in text(full, "zh")


def test_what_is_not_known_is_left_out_and_what_is_known_limits_the_answers(full):
    foreign = Checkpoint("vgg11", ["class 0", "class 1"], Preprocess(64), {}, assumed="crop to 64", path=Path("a.pth"))
    for checkpoint, words, absent in (
        (foreign, "not tested yet: python evaluate.py", ("Trained on", "Training", "Scores", "None")),
        (foreign, "Assumed crop to 64", ()),
        (replace(full, scores={"history": HISTORY[:1]}), "1 epoch in 10 min", ()),
        (replace(full, scores={"val": full.scores["val"]}), "on the 500 validation images that chose the epoch", ()),
        (replace(full, data=full.data | {"kind": "drawings"}), "answer to a photograph is a guess", ()),
        (full, "the whole image, resized to 192 × 192 pixels", ("guess",)),
        (replace(full, preprocess=Preprocess(192, "crop")), "What is outside the largest square", ()),
    ):
        said = text(checkpoint)
        assert words in said and not any(word in said for word in absent), words


def test_names_are_never_html(full):
    evil = '<img src=x onerror="alert(1)">'
    told = {"data": {"root": evil, "train": 5}, "settings": {"weights": "<u>"}, "created": "<i>" * 9, "assumed": evil}
    shown = card(replace(full, classes=[evil, "dog"], path=Path("<b>.pth"), **told))
    assert not {"b", "i", "u"} & set(re.findall(r"<(\w+)", shown)) and "&lt;img src=x onerror=" in shown
    assert len(re.findall(r"<img", shown)) == 1  # the curves
