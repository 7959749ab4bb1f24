"""The Review tab: which images it shows, and that nothing is decided unseen. Its keys: test_page.py."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, quoted
from classifier.data import image_folder
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
from classifier.inference.predictor import Prediction
from tests.conftest import make_images
from tests.running_page import ROTATED, list_issues
from webui.i18n import Translator, macros
from webui.models import Loaded
from webui.review import Review, label_issues

ANT = "ant" if os.name == "nt" else "<i>ant"
CLASSES = [ANT, "cat", "dog"]
TABLE = Path("dataset/corrections.csv")


def network(path="w.pth") -> Loaded:
    """A network that gives the same probabilities to every image."""

    def predict(pixels):
        values = torch.tensor([[0.02, 0.01, 0.97]])
        return Prediction(values.log(), values, torch.tensor([False])), torch.ones(1, 3, 2, 2)

    checkpoint = Checkpoint("resnet18", CLASSES, Preprocess(size=8), {}, path=Path(path))
    return Loaded(checkpoint, select_compute("cpu", "fp32"), predict)


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(Path("dataset/test"), dict.fromkeys(CLASSES, 4))
    list_issues(tmp_path, "dataset", {"cat/0.png": 0.91, "cat/1.png": 0.99, f"{ANT}/2.png": 0.95})
    return tmp_path


def click(button=None, who="", loaded=None) -> tuple[Review, str]:
    """Do what the page does for a click: what is shown then, and the message."""
    review = Review(loaded or network(), Path("logs"))
    message = review.record(button or {}, Translator(), who)
    review.find_next()
    return review, message


def asked(shown, action, choice="") -> dict:
    """What the browser sends for a button of what was shown."""
    if action == "undone":
        return {"action": action, "file": shown.last.file, "digest": shown.last.digest, "line": str(shown.last.line)}
    return {"action": action, "file": shown.issue.file, "digest": shown.digest, "choice": choice}


def files(shown: Review) -> tuple:
    return shown.issue and shown.issue.file, shown.done, shown.total


def html(shown: Review, message="") -> str:
    return macros("review", "en").card(shown, message, quoted(shown.loaded.checkpoint.path))


def test_the_most_confident_answer_comes_first_and_all_come_to_an_end(project):
    shown, message = click()
    assert shown.image.size == (600, 600)  # of 40 x 40
    assert files(shown) == ("test/cat/1.png", 0, 3) and shown.answer.best == "dog"
    assert shown.choices == [(ANT, "1"), ("dog", "3")]  # a class keeps its key
    assert "The model&#39;s answer: dog, with 97% confidence." in html(shown)
    shown, message = click(asked(shown, "relabel", "dog"), "Ann")
    assert files(shown) == (f"test/{ANT}/2.png", 1, 3) and not message
    for action, expected in (("leave out", ("test/cat/0.png", 2, 3)), ("keep", (None, 3, 3))):
        shown, message = click(asked(shown, action))
        assert files(shown) == expected
    assert "All decided: 3" in html(shown)
    assert image_folder.read_folder(Path("dataset/test")).counts() == {ANT: 3, "cat": 3, "dog": 5}


def test_a_second_reviewer_and_a_double_key_press_decide_nothing_unseen(project):
    before = click()[0]
    mine, message = click(asked(before, "keep"))
    theirs, message = click(asked(before, "leave out"))
    assert message == "test/cat/1.png has been decided elsewhere in the meantime. Nothing was changed."
    assert files(theirs) == files(mine) == (f"test/{ANT}/2.png", 1, 3)
    click(asked(theirs, "leave out"))
    again, message = click(asked(mine, "undone"))  # takes back what it showed, not what came last
    assert not message and files(again) == ("test/cat/1.png", 1, 3)
    assert "decided elsewhere" in click(asked(mine, "undone"))[1]


def test_images_that_changed_are_shown_again_and_those_that_are_gone_or_damaged_counted(project):
    before = click()[0]
    shutil.copy("dataset/test/dog/0.png", before.issue.path)
    again, message = click(asked(before, "keep"))
    assert "has changed since it was shown" in message and files(again) == files(before)
    after, message = click(asked(again, "keep"))
    assert not message and after.done == 1
    shutil.copy("dataset/test/dog/1.png", again.issue.path)
    assert click()[0].done == 0  # what is decided was another image
    Path(again.issue.path).unlink()
    Path(f"dataset/test/{ANT}/2.png").write_bytes(b"no image")
    shown = click()[0]
    assert files(shown) == ("test/cat/0.png", 0, 1) and "cannot be opened: 2" in html(shown)
    assert files(click(asked(shown, "keep"))[0]) == (None, 1, 1)


def test_what_no_button_asks_for_is_not_done(project):
    shown, undo = click()[0], {"action": "undone"}
    wrong = [{}, {"action": "delete"}, {"action": "relabel", "choice": "bird"}, undo]
    wrong += [undo | {"line": "-1"}, undo | {"line": "0"}, {"action": "keep", "file": "../w.pth"}]
    for one in (*wrong, {"action": ["keep"], "file": {"a": 1}}):
        click(asked(shown, "") | one)
        assert not TABLE.exists(), one


def test_the_newest_list_of_these_weights_is_taken(project):
    list_issues(project, "dataset", {"cat/2.png": 0.93}, "20260301-100000")
    list_issues(project, "dataset", {"cat/3.png": 0.94}, "20260401-100000", "other.pth")
    own = Checkpoint("resnet18", ["cat", "dog"], Preprocess(32), {}, path=Path("w.pth"))
    Path("logs/evaluate/w/20260501-100000").mkdir()  # without a list: it learned from the images
    assert [issue.file for issue in label_issues(own, Path("logs"))[1]] == ["test/cat/2.png"]
    older = list_issues(project, "dataset", {"cat/1.png": 0.99}, "20260201-100000")
    report = json.loads((older / "report.json").read_text(encoding="utf-8")) | {"part": "val"}
    (older / "report.json").write_text(json.dumps(report), encoding="utf-8")  # of other images: it counts as well
    root, issues = label_issues(own, Path("logs"))
    assert root == project / "dataset" / "test" and len(issues) == click()[0].total == 2


def test_without_a_list_it_says_which_command_makes_one_and_which_report_cannot_be_read(project):
    loaded = network(project / "new one.pth")
    assert re.search("python evaluate.py &#34;.*new one.pth", html(click(loaded=loaded)[0]))
    folder = list_issues(project, "dataset", {}, weights="new one.pth")
    assert "There are no label issues." in html(click(loaded=loaded)[0])
    for name, content in (("suspects.csv", "path,sure\nx"), ("report.json", '{"folder": 1, "weights": "w.pth"}')):
        (folder / name).write_text(content)
        with pytest.raises(UserError, match=r"The report logs.evaluate.new one.20260101-100000 cannot be read"):
            click(loaded=loaded)


def test_the_image_is_part_of_the_page_small_and_everything_foreign_is_escaped(project):
    path = project / "dataset" / "test" / ANT / ("&lt;.jpg" if os.name == "nt" else '"><img src=x>.jpg')
    Image.new("RGB", (2400, 1200), "teal").save(path, exif=ROTATED)
    list_issues(project, "dataset", {f"{ANT}/{path.name}": 0.99}, "20260301-100000")
    shown = click()[0]
    card = html(shown, "<b>message</b>")
    assert shown.image.size == (300, 600)
    assert set(re.findall(r'src="(.{5})', card)) == {"data:"}
    assert "<i>" not in card and "<img src=x" not in card and "<b>message" not in card
    assert str(project) not in card
