"""What the page says of weights: all that the .pth holds, nothing that it does not, and no name as HTML."""

import base64
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.evaluation import plots
from tests.conftest import run_code
from webui.about import about
from webui.citation import bibtex, network_name
from webui.weaknesses import mistakes, table
from webui.words import Speaker
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.contiguous_format, "", "")
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
        settings={"weights": "module/earlier.pth"},
        created="2026-11-22T15:31:38+00:00", temperature=0.38,
        ood_stats={"threshold": 2.5}, path=Path("module/pets.pth"),
    )  # fmt: skip


class Text(HTMLParser):
    """The words of a page, and its tags; a tag that is not closed by its like is an error."""

    def __init__(self, html):
        super().__init__()
        self.words, self.tags, self.open = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def text(checkpoint, say=Speaker()):  # noqa: B008
    return " ".join(" ".join(Text(about(checkpoint, CPU, say)).words).split())


def test_all_that_the_file_holds(full):
    said = text(full)
    for words in (
        "pets.pth, trained on 2026-11-22",
        "ResNet-18, 11.2 million parameters",
        "the whole image, squashed to 192 × 192 pixels",
        "Classes 2: cat, dog",
        "18,995 images, in dataset",
        "Began with earlier.pth",
        "95.6% of 2,000 test images, which it had never seen; 95% interval 94.6% to 96.4%",
        "off by 0.7 points on average",
        "3 epochs in 30 min; the best was epoch 2",
        "float32",
        "75 of 1,000 test images of dog taken for cat",
        "it was 104 of 2,000",
        "cat 92.9% 98.7% 95.7% 1,000",  # precision, recall, F1
        "cat 987 13 dog 75 925",
        "@misc{pets,",
        "@inproceedings{he2016resnet,",
    ):
        assert words in said, words
    assert "somebody" not in said  # whose home the images lie in is nobody's business


def test_what_is_not_known_is_left_out(full):
    seen = Preprocess(size=64)
    plain = Checkpoint("vgg11", ["class 0", "class 1"], seen, {}, assumed="crop to 64", path=Path("a.pth"))
    said = text(plain)
    assert "not tested; to test it: python evaluate.py" in said and "Assumed crop to 64" in said
    assert "names one of them" in said and "not been compared" in said
    for words in ("Learned from", "Training", "How it learned", "class by class", "None", "@misc{a, year"):
        assert words not in said, words
    without_test = replace(full, scores={"val": full.scores["val"]})
    assert "90.0% of 500 validation images, by which the best epoch was chosen. Not tested yet" in text(without_test)


@pytest.mark.parametrize(
    "scores",
    [
        {"test": 5, "val": None, "history": "long"},
        {"test": {"accuracy": "high", "confusion_matrix": [[1]]}, "history": [{"epoch": 1}]},
        {"test": TEST | {"confusion_matrix": [[1, -2], [3, 4]], "calibration_error": "small", "neither": "few"}},
        {"test": TEST | {"confusion_matrix": "none"}, "history": []},
    ],
)
def test_strange_scores_break_nothing(scores, full):
    said = text(replace(full, scores=scores, data={"train": "many"}, settings={"weights": 3}, created="once"))
    assert "ResNet-18" in said and "class by class" not in said


def test_drawings_are_said_to_be_drawings(full):
    said = text(replace(full, data=full.data | {"kind": "drawings"}))
    assert "18,995 drawings made by a program" in said and "What it says of a photograph is a guess" in said
    assert "guess" not in text(full)


def test_names_are_never_html(full):
    evil = '<img src=x onerror="alert(1)">'
    scores = {"test": TEST, "history": HISTORY}
    told = {"data": {"root": evil, "train": 5}, "settings": {"weights": "<u>"}, "created": "<i>" * 9, "assumed": evil}
    checkpoint = replace(full, classes=[evil, "dog"], path=Path("<b>.pth"), scores=scores, **told)
    html = about(checkpoint, CPU, Speaker())
    tags = {tag for tag, _ in Text(html).tags}
    assert not tags & {"b", "i", "u"} and "onerror" in html
    assert [attributes.keys() for tag, attributes in Text(html).tags if tag == "img"] == [{"src", "alt"}]


def test_tables_can_be_read_aloud_and_reached_by_keyboard(full):
    tags = Text(about(full, CPU, Speaker())).tags
    assert [tag for tag, _ in tags].count("table") == [tag for tag, _ in tags].count("caption") == 2
    assert {attributes.get("scope") for tag, attributes in tags if tag == "th"} == {"col", "row"}
    wide = [attributes for _, attributes in tags if "wide" in attributes.get("class", "")]
    assert len(wide) == 3 and all(part["tabindex"] == "0" and part["aria-label"] for part in wide)
    assert [attributes["class"] for tag, attributes in tags if tag == "td" and "class" in attributes] == ["right"] * 2


def test_of_many_classes_the_worst_are_shown(full):
    classes = [f"kind_{i}" for i in range(30)]
    matrix = torch.diag(torch.full((30,), 10))
    matrix[7, 7], matrix[7, 3] = 4, 6
    matrix[9] = 0  # no test images
    scores = {"test": TEST | {"confusion_matrix": matrix.tolist()}}
    checkpoint = replace(full, classes=classes, scores=scores)
    assert mistakes(checkpoint) == [("kind_7", "kind_3", 6, 10)]
    shown = table(checkpoint, Speaker())
    assert shown["classes"][0].name == "kind_7" and len(shown["classes"]) == 12 and not shown["few"]
    said = text(checkpoint)
    assert "kind 7, 40.0% of 10 test images" in said and "kind 7 kind 3 6 / 10" in said
    assert "30: kind 0, kind 1" in said and "kind 19, ..." in said


def test_the_curves_are_drawn_once_and_say_what_they_show(full, monkeypatch):
    image = next(attributes for tag, attributes in Text(about(full, CPU, Speaker())).tags if tag == "img")
    assert image["alt"] == "Loss and accuracy over 3 epochs. The best validation accuracy is 90.0%, in epoch 2."
    head, content = image["src"].split(",")
    svg = base64.b64decode(content).decode()
    assert head == "data:image/svg+xml;base64" and "<svg" in svg and len(svg) < 100_000
    assert re.search(r'fill: ?#fff|style="fill: white', svg)  # a card of its own, in the dark as well


def test_the_curves_of_the_same_run_are_drawn_once(full, monkeypatch):
    drawn, draw = [], plots.curves
    monkeypatch.setattr(plots, "curves", lambda histories: drawn.append(1) or draw(histories))
    checkpoint = replace(full, path=Path("once.pth"))
    with ThreadPoolExecutor(4) as pool:
        pages = list(pool.map(lambda _: about(checkpoint, CPU, Speaker()), range(8)))
    assert len(set(pages)) == len(drawn) == 1


def test_the_page_starts_without_what_only_curves_need():
    done = run_code("import sys, webui.about; print('matplotlib' in sys.modules, 'sklearn' in sys.modules)")
    assert done.stdout.split() == ["False", "False"], done.stderr


@pytest.mark.parametrize("name", MODELS)
def test_every_network_has_a_paper(name, full):
    entries = bibtex(replace(full, model=name)).split("\n\n")
    assert len(entries) == 2 and network_name(name)[0].isupper()
    for entry in entries:
        assert entry.count("{") == entry.count("}")


def test_network_names():
    given = {"resnet50": "ResNet-50", "vgg16_bn": "VGG-16 BN", "alexnet": "AlexNet", "googlenet": "GoogLeNet",
             "densenet121": "DenseNet-121", "own": "own"}  # fmt: skip
    assert {name: network_name(name) for name in given} == given


def test_a_citation_is_what_latex_takes(full):
    odd = replace(full, path=Path("我的_100%.pth"), classes=["a_b", "c{d}", "e\\f"], created="")
    own = bibtex(odd).split("\n\n")[0]
    assert own.startswith("@misc{100,") and r"我的\_100\%" in own and r"a\_b, cd, e\textbackslash f" in own
    assert r"18,995 training images; 95.6\% of 2,000 test images right" in own and "year" not in own
    assert "year = {2026}" in bibtex(full)
