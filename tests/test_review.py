"""The Review tab: which images it shows, that nothing is decided unseen, and its keys in a real browser."""

import csv
import json
import os
import re
import shutil
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect, sync_playwright

import evaluate
from app import head
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import corrections, image_folder
from classifier.data.images import ImageError
from classifier.data.transforms import Preprocess
from tests.conftest import make_images
from webui import review as tab
from webui.answers import Answer
from webui.doubts import Review, newest_lists, read_list
from webui.site import Site
from webui.words import Speaker
from zoo import MODELS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SAY = Speaker()
ANT = "ant" if os.name == "nt" else "<i>ant"
CLASSES = [ANT, "cat", "dog"]


def png(size=(8, 8)) -> bytes:
    file = BytesIO()
    Image.new("RGBA", size, (255, 0, 0, 90)).save(file, "PNG")
    return file.getvalue()


def look(path: str) -> tuple[dict[str, float], bytes]:
    return {"dog": 0.97, ANT: 0.02, "cat": 0.01}, png()


def list_doubts(project: Path, doubts: dict[str, float], when: str = "20260101-100000", weights: str = "w.pth") -> Path:
    """What evaluate.py leaves, of the doubts it has of `<class>/<file>`: how sure it is that they are dogs."""
    folder = project / "logs" / "evaluate" / Path(weights).stem / when
    folder.mkdir(parents=True)
    report = {"weights": (project / weights).as_posix(), "folder": (project / "dataset" / "test").as_posix()}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    with (folder / "suspects.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "answer", "sure"))
        for name, sure in doubts.items():
            path = project / "dataset" / "test" / name
            writer.writerow((str(path), path.parent.name, "dog", f"{sure:.4f}"))
    return folder


@pytest.fixture
def project(tmp_path):
    make_images(tmp_path / "dataset" / "test", dict.fromkeys(CLASSES, 4))
    list_doubts(tmp_path, {"cat/0.png": 0.91, "cat/1.png": 0.99, f"{ANT}/2.png": 0.95})
    return tmp_path


@pytest.fixture
def review(project):
    return Review(project / "w.pth", look, project / "logs")


def asked(view, action, choice="") -> dict:
    """What the browser sends for a button of this view."""
    if action == "undo":
        return {"action": action, "file": view.last.file, "digest": view.last.digest, "line": str(view.last.line)}
    return {"action": action, "file": view.image.doubt.file, "digest": view.image.digest, "choice": choice}


def shown(view) -> Image.Image:
    kind, content = view.image.image.split(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(BytesIO(b64decode(content)))


def files(view) -> tuple:
    return view.image and view.image.doubt.file, view.done, view.total


def test_the_largest_doubt_comes_first_and_all_come_to_an_end(review, project):
    view = review.view()
    assert shown(view).size == (400, 400)  # of 40 x 40
    assert files(view) == ("test/cat/1.png", 0, 3) and (view.image.answer, view.image.sure) == ("dog", 0.97)
    assert view.image.choices == [(ANT, "1"), ("dog", "3")]  # a class keeps its key
    view, told = review.act(asked(view, "relabel", "dog"), SAY, "Ann")
    assert files(view) == (f"test/{ANT}/2.png", 1, 3) and not told
    view, _ = review.act(asked(view, "leave out"), SAY)
    assert files(view) == ("test/cat/0.png", 2, 3)
    view, _ = review.act(asked(view, "keep"), SAY)
    assert files(view) == (None, 3, 3)
    assert "All 3 decided." in tab.card(view, SAY)
    folder = image_folder.read_folder(project / "dataset" / "test")
    assert folder.counts() == {ANT: 3, "cat": 3, "dog": 5}
    assert folder.corrected == "corrections.csv: 1 relabelled, 1 left out"


def test_undo_goes_back_step_by_step_also_after_a_restart(review, project):
    for action in ("keep", "leave out"):
        view, _ = review.act(asked(review.view(), action), SAY)
    review = Review(review.weights, look, review.logs)
    view, told = review.act(asked(review.view(), "undo"), SAY)
    assert files(view) == (f"test/{ANT}/2.png", 1, 3) and not told
    view, _ = review.act(asked(view, "undo"), SAY)
    assert files(view) == ("test/cat/1.png", 0, 3) and view.last is None
    with (project / "dataset" / "corrections.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["decision"] for row in csv.DictReader(file)] == ["keep", "leave out", "undone", "undone"]


def test_a_second_reviewer_and_a_double_key_press_decide_nothing_unseen(review):
    mine = theirs = review.view()
    mine, _ = review.act(asked(mine, "keep"), SAY)
    theirs, told = review.act(asked(theirs, "leave out"), SAY)
    assert told == "test/cat/1.png has been decided elsewhere meanwhile. Nothing was changed."
    assert files(theirs) == files(mine) == (f"test/{ANT}/2.png", 1, 3)
    theirs, _ = review.act(asked(theirs, "leave out"), SAY)
    assert theirs.last.file == f"test/{ANT}/2.png"
    before = mine
    mine, told = review.act(asked(mine, "undo"), SAY)  # takes back what it showed, not what came last
    assert not told and files(mine) == ("test/cat/1.png", 1, 3)
    mine, told = review.act(asked(before, "undo"), SAY)
    assert "decided elsewhere" in told


def test_a_image_that_changed_since_it_was_shown_is_shown_again(review, project):
    view = review.view()
    shutil.copy(project / "dataset" / "test" / "dog" / "0.png", view.image.doubt.path)
    again, told = review.act(asked(view, "keep"), SAY)
    assert "has changed since it was shown" in told and files(again) == files(view)
    assert again.image.digest != view.image.digest
    view, told = review.act(asked(again, "keep"), SAY)
    assert not told and view.done == 1
    shutil.copy(project / "dataset" / "test" / "dog" / "1.png", again.image.doubt.path)
    assert review.view().done == 0  # what is decided was another image


def test_images_that_are_gone_or_damaged_are_told_not_shown(review, project):
    (project / "dataset" / "test" / "cat" / "1.png").unlink()
    (project / "dataset" / "test" / ANT / "2.png").write_bytes(b"no image")
    view = review.view()
    assert files(view) == ("test/cat/0.png", 0, 1) and view.gone == 2
    view, _ = review.act(asked(view, "keep"), SAY)
    assert files(view) == (None, 1, 1) and "All 1 decided." in tab.card(view, SAY)
    shutil.rmtree(project / "dataset" / "test")
    assert "None of the listed images is there any more." in tab.card(review.view(), SAY)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"action": "delete"},
        {"action": "relabel", "choice": "bird"},
        {"action": "undone"},
        {"action": "undo", "line": "-1"},
        {"action": "keep", "file": "../w.pth"},
        {"action": ["keep"], "file": {"a": 1}},
    ],
)
def test_what_no_button_asks_for_is_not_done(wrong, review, project):
    view = review.view()
    review.act({"file": view.image.doubt.file, "digest": view.image.digest} | wrong, SAY)
    assert not (project / "dataset" / "corrections.csv").exists()


def test_a_table_that_cannot_be_written_is_told(review, project, monkeypatch):
    view = review.view()

    def refused(*_):
        raise UserError("corrections.csv cannot be written (no space).")

    monkeypatch.setattr(corrections, "record", refused)
    again, told = review.act(asked(view, "keep"), SAY)
    assert told == "Nothing was recorded: corrections.csv cannot be written (no space)."
    assert files(again) == files(view)


def test_without_the_network_the_list_has_its_answer(project):
    def gone(path):
        raise ImageError("is damaged")

    view = Review(project / "w.pth", gone, project / "logs").view()
    assert (view.image.answer, view.image.sure, view.image.overlay) == ("dog", 0.99, "")


def test_of_many_classes_the_most_probable_have_keys(tmp_path):
    names = [f"class {number:02}" for number in range(14)]
    for name in names:
        (tmp_path / "dataset" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(tmp_path / "dataset" / "test" / name / "0.png")
    list_doubts(tmp_path, {"class 03/0.png": 0.95})
    probabilities = {name: (place + 1) / 105 for place, name in enumerate(names)}
    view = Review(tmp_path / "w.pth", lambda path: (probabilities, None), tmp_path / "logs").view()
    assert view.image.choices[:2] == [("class 13", "1"), ("class 12", "2")]
    assert len(view.image.choices) == 13 and view.image.choices[9] == ("class 04", "")
    assert tab.card(view, SAY).count('data-action="relabel"') == 13


def test_the_newest_list_of_these_weights_is_taken(project):
    newest = list_doubts(project, {"cat/2.png": 0.93}, "20260301-100000")
    list_doubts(project, {"cat/3.png": 0.94}, "20260401-100000", "other.pth")
    (project / "logs" / "evaluate" / "w" / "20260501-100000").mkdir()  # without doubts: it learned from them
    broken = list_doubts(project, {"cat/3.png": 0.94}, "20260601-100000")
    (broken / "report.json").write_text("{")
    root = project / "dataset" / "test"
    assert newest_lists(project / "w.pth", project / "logs") == [(newest / "suspects.csv", root)]
    older = list_doubts(project, {"cat/1.png": 0.99}, "20260201-100000")
    report = json.loads((older / "report.json").read_text(encoding="utf-8")) | {"part": "val"}
    (older / "report.json").write_text(json.dumps(report), encoding="utf-8")  # of other images: it counts as well
    assert len(newest_lists(project / "w.pth", project / "logs")) == 2
    assert Review(project / "w.pth", look, project / "logs").view().total == 2
    assert [doubt.file for doubt in read_list(newest / "suspects.csv", root)] == ["test/cat/2.png"]


def test_without_a_list_it_says_which_command_makes_one(project):
    view = Review(project / "new one.pth", look, project / "logs").view()
    assert "python evaluate.py &#34;" in tab.card(view, SAY) and "new one.pth" in tab.card(view, SAY)
    list_doubts(project, {}, weights="new one.pth")
    view = Review(project / "new one.pth", look, project / "logs").view()
    assert "There is no label to doubt." in tab.card(view, SAY)


def test_the_image_is_part_of_the_page_small_and_everything_foreign_is_escaped(review, project):
    path = project / "dataset" / "test" / ANT / ("&lt;.jpg" if os.name == "nt" else '"><img src=x>.jpg')
    Image.new("RGB", (2400, 1200), "teal").save(path, exif=turned())
    list_doubts(project, {f"{ANT}/{path.name}": 0.99}, "20260301-100000")
    html = tab.card(review.view(), SAY, "<b>told</b>")
    assert shown(review.view()).size == (400, 800)
    assert set(re.findall(r'src="(.{5})', html)) == {"data:"}
    assert "<i>" not in html and "<img src=x" not in html and "<b>told" not in html
    assert str(project) not in html


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_the_list_of_a_real_evaluation(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(Path("dataset") / "test", {"across": 6, "down": 6})
    torch.manual_seed(0)
    network = MODELS["resnet18"](num_classes=2)
    data = {"root": "dataset", "kind": "photographs", "train": 9, "val": 1}
    weights = Checkpoint("resnet18", ["across", "down"], Preprocess(size=32), network.state_dict(), data=data)
    weights.temperature = 1e-4  # very sure of everything
    checkpoints.save(weights, Path("module/w.pth"))
    evaluate.main(["module/w.pth", "--precision", "fp32", "--workers", "0"])
    view = Review(Path("module/w.pth"), look).view()
    assert view.total > 0 and view.image.doubt.file.startswith("test/") and view.image.doubt.sure > 0.9
    assert view.image.doubt.label != view.image.doubt.answer


@pytest.fixture
def served(project, monkeypatch):
    """The tab in a page of its own, with a text field beside it."""
    answer = Answer({"dog": 0.97, "cat": 0.03}, False, {"dog": png()})
    monkeypatch.setattr(tab, "ask", lambda loaded, path: answer)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    loaded = SimpleNamespace(checkpoint=SimpleNamespace(path=project / "w.pth"))
    site = Site(SimpleNamespace(get=lambda name: loaded), project / "logs", project, "en", False, False)
    with gr.Blocks() as blocks:
        weights = gr.Dropdown(["w"], value="w", visible=False)
        language = gr.Radio(["en", "zh"], value="en", label="Language")
        with gr.Tabs():
            with gr.Tab("Another"):
                gr.Textbox(label="A text")
            with gr.Tab("Review") as it:
                gr.Textbox(label="Notes")
                tab.review_tab(site, weights, language, it)
    _, address, _ = blocks.launch(
        server_name="127.0.0.1",
        head=head(),
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
    )
    yield address
    blocks.close(verbose=False)


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt install chromium, or Google Chrome")
def test_the_keys_in_a_browser(served, project, tmp_path):
    table = project / "dataset" / "corrections.csv"

    def decisions() -> list[str]:
        return [row["decision"] for row in csv.DictReader(table.open(encoding="utf-8-sig"))] if table.exists() else []

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        faults = []

        def visit():
            page = browser.new_page(viewport={"width": 1000, "height": 800})
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.goto(served)
            page.get_by_role("tab", name="Review").click()
            expect(page.locator("#review .file")).to_have_text("test/cat/1.png", timeout=20_000)
            page.wait_for_timeout(400)
            return page

        page, second = visit(), visit()
        progress = page.locator("#review .progress [role=status]")
        page.screenshot(path=tmp_path / "review.png", full_page=True)
        page.keyboard.press("h")
        expect(page.locator("#review .heat")).to_be_hidden()
        page.keyboard.press("h")
        expect(page.locator("#review .heat")).to_be_visible()
        page.get_by_role("tab", name="Another").click()
        page.keyboard.press("k")  # on another tab a key means nothing
        page.get_by_role("tab", name="Review").click()
        page.get_by_label("Notes").fill("")
        page.get_by_label("Notes").press("k")
        page.get_by_label("Notes").press("x")
        page.wait_for_timeout(600)
        assert decisions() == []
        page.locator("body").click(position={"x": 2, "y": 2})
        page.keyboard.press("3")  # dog
        page.keyboard.press("3")  # too early: nobody has seen the next one
        expect(progress).to_have_text("1 of 3 decided")
        expect(page.locator("#review .last")).to_contain_text("test/cat/1.png: dog")

        second.keyboard.press("x")
        expect(second.get_by_role("alert")).to_contain_text("decided elsewhere")
        expect(second.locator("#review .file")).to_have_text(f"test/{ANT}/2.png")
        assert decisions() == ["relabel"]

        page.wait_for_timeout(400)
        page.keyboard.press("u")
        expect(progress).to_have_text("0 of 3 decided")
        for number, key in enumerate("kxk", 1):
            page.wait_for_timeout(400)
            page.keyboard.press(key)
            expect(page.locator("#review")).to_contain_text("All 3" if number == 3 else f"{number} of 3 decided")
        assert decisions() == ["relabel", "undone", "keep", "leave out", "keep"]
        page.wait_for_timeout(400)
        page.get_by_role("button", name="Undo").click()
        expect(progress).to_have_text("2 of 3 decided")
        browser.close()
    assert not faults
