"""The Review tab: which images it shows, and that nothing is decided unseen. Its keys: test_page.py."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import evaluate
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
from classifier.inference.predictor import Prediction
from classifier.text import quoted
from tests.conftest import make_images
from tests.running_page import list_issues
from webui.i18n import Translator, macros
from webui.models import Loaded
from webui.review import Review, label_issues
from zoo import MODELS

_ = Translator()
ANT = "ant" if os.name == "nt" else "<i>ant"
CLASSES = [ANT, "cat", "dog"]


def network(path: Path, classes=tuple(CLASSES), probabilities=(0.02, 0.01, 0.97)) -> Loaded:
    """A network that gives the same probabilities to every image."""
    checkpoint = Checkpoint("resnet18", list(classes), Preprocess(size=8), {}, path=path)

    def predict(pixels):
        values = torch.tensor([probabilities])
        answer = Prediction(values.log(), values, torch.tensor([False]), torch.tensor([torch.nan]))
        return answer, torch.ones(1, len(classes), 2, 2)

    return Loaded(checkpoint, select_compute("cpu", "fp32"), predict)


@pytest.fixture
def project(tmp_path):
    make_images(tmp_path / "dataset" / "test", dict.fromkeys(CLASSES, 4))
    list_issues(tmp_path, "dataset", {"cat/0.png": 0.91, "cat/1.png": 0.99, f"{ANT}/2.png": 0.95})
    return tmp_path


@pytest.fixture
def review(project):
    """Makes a Review, as the page does for each click."""
    return lambda name="w.pth": Review(network(project / name), project / "logs")


def asked(view, action, choice="") -> dict:
    """What the browser sends for a button of this view."""
    if action == "undo":
        return {"action": action, "file": view.last.file, "digest": view.last.digest, "line": str(view.last.line)}
    return {"action": action, "file": view.issue.file, "digest": view.digest, "choice": choice}


def files(view) -> tuple:
    return view.issue and view.issue.file, view.done, view.total


def html(view, message="", weights="w.pth") -> str:
    return macros("review", "en").card(view, message, quoted(Path(weights)))


def test_the_most_confident_answer_comes_first_and_all_come_to_an_end(review, project):
    view = review().view()
    assert view.image.size == (600, 600)  # of 40 x 40
    assert files(view) == ("test/cat/1.png", 0, 3) and view.answer.best == "dog"
    assert view.choices == [(ANT, "1"), ("dog", "3")]  # a class keeps its key
    assert "The model&#39;s answer: dog, with 97% confidence." in html(view)
    view, message = review().act(asked(view, "relabel", "dog"), _, "Ann")
    assert files(view) == (f"test/{ANT}/2.png", 1, 3) and not message
    for action, expected in (("leave out", ("test/cat/0.png", 2, 3)), ("keep", (None, 3, 3))):
        view, message = review().act(asked(view, action), _)
        assert files(view) == expected
    assert "All decided: 3" in html(view)
    folder = image_folder.read_folder(project / "dataset" / "test")
    assert folder.counts() == {ANT: 3, "cat": 3, "dog": 5}
    assert folder.corrected == "corrections.csv: 1 relabelled, 1 left out"


def test_undo_goes_back_step_by_step(review, project):
    for action in ("keep", "leave out"):
        review().act(asked(review().view(), action), _)
    for expected in ((f"test/{ANT}/2.png", 1, 3), ("test/cat/1.png", 0, 3)):
        view, message = review().act(asked(review().view(), "undo"), _)
        assert files(view) == expected and not message
    assert view.last is None
    with (project / "dataset" / "corrections.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["decision"] for row in csv.DictReader(file)] == ["keep", "leave out", "undone", "undone"]


def test_a_second_reviewer_and_a_double_key_press_decide_nothing_unseen(review):
    mine = theirs = review().view()
    mine, message = review().act(asked(mine, "keep"), _)
    theirs, message = review().act(asked(theirs, "leave out"), _)
    assert message == "test/cat/1.png has been decided elsewhere in the meantime. Nothing was changed."
    assert files(theirs) == files(mine) == (f"test/{ANT}/2.png", 1, 3)
    theirs, message = review().act(asked(theirs, "leave out"), _)
    assert theirs.last.file == f"test/{ANT}/2.png"
    before = mine
    mine, message = review().act(asked(mine, "undo"), _)  # takes back what it showed, not what came last
    assert not message and files(mine) == ("test/cat/1.png", 1, 3)
    mine, message = review().act(asked(before, "undo"), _)
    assert "decided elsewhere" in message


def test_an_image_that_changed_since_it_was_shown_is_shown_again(review, project):
    view = review().view()
    shutil.copy(project / "dataset" / "test" / "dog" / "0.png", view.issue.path)
    again, message = review().act(asked(view, "keep"), _)
    assert "has changed since it was shown" in message and files(again) == files(view)
    assert again.digest != view.digest
    view, message = review().act(asked(again, "keep"), _)
    assert not message and view.done == 1
    shutil.copy(project / "dataset" / "test" / "dog" / "1.png", again.issue.path)
    assert review().view().done == 0  # what is decided was another image


def test_images_that_are_gone_or_damaged_are_counted_not_shown(review, project):
    (project / "dataset" / "test" / "cat" / "1.png").unlink()
    (project / "dataset" / "test" / ANT / "2.png").write_bytes(b"no image")
    view = review().view()
    assert files(view) == ("test/cat/0.png", 0, 1) and view.missing == 2
    view = review().act(asked(view, "keep"), _)[0]
    assert files(view) == (None, 1, 1) and "All decided: 1" in html(view)
    shutil.rmtree(project / "dataset" / "test")
    assert "None of the listed images exists any more." in html(review().view())


def test_what_no_button_asks_for_is_not_done(review, project):
    view, undo = review().view(), {"action": "undo"}
    wrong = [{}, {"action": "delete"}, {"action": "relabel", "choice": "bird"}, {"action": "undone"}]
    wrong += [undo | {"line": "-1"}, undo | {"line": "0"}, {"action": "keep", "file": "../w.pth"}]
    for one in (*wrong, {"action": ["keep"], "file": {"a": 1}}):
        review().act({"file": view.issue.file, "digest": view.digest} | one, _)
        assert not (project / "dataset" / "corrections.csv").exists(), one


def test_a_table_that_cannot_be_written_is_reported(review, project):
    view = review().view()
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5, limits[1]))  # a disk that is nearly full
    try:
        with pytest.raises(UserError, match="cannot be written"):
            review().act(asked(view, "keep"), _)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_of_many_classes_the_most_probable_have_keys(tmp_path):
    names = [f"class {number:02}" for number in range(14)]
    make_images(tmp_path / "dataset" / "test", dict.fromkeys(names[:6], 1))
    for name in names[6:]:
        (tmp_path / "dataset" / "test" / name).mkdir()
    list_issues(tmp_path, "dataset", {"class 03/0.png": 0.95})
    probabilities = [(index + 1) / 105 for index in range(14)]
    view = Review(network(tmp_path / "w.pth", names, probabilities), tmp_path / "logs").view()
    assert view.choices[:2] == [("class 13", "1"), ("class 12", "2")]
    assert len(view.choices) == 13 and view.choices[9] == ("class 04", "")
    assert html(view).count('data-action="relabel"') == 13


def test_the_newest_list_of_these_weights_is_taken(review, project):
    list_issues(project, "dataset", {"cat/2.png": 0.93}, "20260301-100000")
    list_issues(project, "dataset", {"cat/3.png": 0.94}, "20260401-100000", "other.pth")
    (project / "logs" / "evaluate" / "w" / "20260501-100000").mkdir()  # without a list: it learned from the images
    found = lambda: label_issues(project / "w.pth", project / "logs")  # noqa: E731
    assert [issue.file for issue in found()[1]] == ["test/cat/2.png"]
    older = list_issues(project, "dataset", {"cat/1.png": 0.99}, "20260201-100000")
    report = json.loads((older / "report.json").read_text(encoding="utf-8")) | {"part": "val"}
    (older / "report.json").write_text(json.dumps(report), encoding="utf-8")  # of other images: it counts as well
    root, issues, unreadable = found()
    assert root == project / "dataset" / "test" and len(issues) == review().view().total == 2 and not unreadable


@pytest.mark.parametrize("content", ["", "[]", '{"folder": "x"}', '{"folder": 1, "weights": "w.pth"}', "\0"])
def test_a_report_that_cannot_be_read_is_skipped_with_a_remark(content, review, project):
    broken = list_issues(project, "dataset", {"cat/2.png": 0.93}, "20260301-100000") / "report.json"
    broken.write_text(content)
    made = review()
    assert made.view().total == 3 and made.unreadable == ["evaluate/w/20260301-100000/report.json"]
    card = macros("review", "zh").card(made.view(), "", "", made.unreadable)
    assert "已跳过无法读取的文件：evaluate/w/20260301-100000/report.json" in card
    broken.unlink()
    assert review().view().total == 3


@pytest.mark.parametrize(
    "content", [b"path,label\r\n", b"path,sure\r\n/elsewhere/cat/2.png,0.9\r\n", b"path,sure\r\nx\r\n"]
)
def test_a_list_that_cannot_be_read_is_skipped_with_a_remark(content, review, project):
    broken = list_issues(project, "dataset", {"cat/2.png": 0.93}, "20260301-100000") / "suspects.csv"
    broken.write_bytes(content + b"dataset/test/cat/2.png,many\r\n")
    made = review()
    assert made.view().total == 3 and made.unreadable == ["evaluate/w/20260301-100000/suspects.csv"]


def test_without_a_list_it_says_which_command_makes_one(review, project):
    card = html(review("new one.pth").view(), weights=project / "new one.pth")
    assert "python evaluate.py &#34;" in card and "new one.pth" in card
    list_issues(project, "dataset", {}, weights="new one.pth")
    assert "There are no label issues." in html(review("new one.pth").view())


def test_the_image_is_part_of_the_page_small_and_everything_foreign_is_escaped(review, project):
    path = project / "dataset" / "test" / ANT / ("&lt;.jpg" if os.name == "nt" else '"><img src=x>.jpg')
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2400, 1200), "teal").save(path, exif=exif)
    list_issues(project, "dataset", {f"{ANT}/{path.name}": 0.99}, "20260301-100000")
    card = html(review().view(), "<b>message</b>")
    assert review().view().image.size == (300, 600)
    assert set(re.findall(r'src="(.{5})', card)) == {"data:"}
    assert "<i>" not in card and "<img src=x" not in card and "<b>message" not in card
    assert str(project) not in card


def test_the_list_of_a_real_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(Path("dataset") / "test", {"across": 6, "down": 6})
    torch.manual_seed(0)
    state_dict = MODELS["resnet18"](num_classes=2).state_dict()
    data = {"root": "dataset", "kind": "photographs", "train": 9, "val": 1}
    weights = Checkpoint("resnet18", ["across", "down"], Preprocess(size=32), state_dict, data=data)
    weights.temperature = 1e-4  # confident of everything
    checkpoints.save(weights, Path("module/w.pth"))
    evaluate.main(["module/w.pth", "--precision", "fp32", "--workers", "0"])
    view = Review(network(Path("module/w.pth"), ("across", "down"), (0.4, 0.6)), Path("logs")).view()
    assert view.total > 0 and view.issue.file.startswith("test/") and view.issue.confidence > 0.9
    assert view.issue.label != view.answer.best
