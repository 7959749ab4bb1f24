"""The page as people see it, in a real browser. Its screenshots: python -m docs.screenshots."""

import base64
import csv
import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.running_page import CLASSES, ROTATED, image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic", "--use-fake-device-for-media-stream"]
PERCENT = re.compile(r"^[<>]?\d+%$")
SIZES = {"desktop": (1280, 900), "phone": (375, 812)}
DARK = "?__theme=dark"
READY = {
    "One image": "#answer input",
    "Several images": ".answers tbody tr",
    "Compare": ".compared article",
    "About": "#about dl",
    "Review": "#review h2",
}  # tab -> what is there when it is

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt install chromium, or Google Chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, server):
    """Opens the page; at the end, nothing has been asked of another host and nothing has gone wrong in the browser."""
    hosts, faults, contexts = set(), [], []

    def visit(size: str = "desktop", query: str = "", locale: str = "en-GB") -> Page:
        width, height = SIZES[size]
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, locale=locale))
        page = contexts[-1].new_page()
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).hostname))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.address + query)
        expect(page.locator("#answer h2")).to_be_visible(timeout=20_000)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert hosts - {None} == {"127.0.0.1"}  # None: data: and blob:
    assert not faults


@pytest.fixture
def photo(tmp_path) -> Path:
    image((400, 300)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.fixture
def holiday(tmp_path, photo) -> Path:
    with zipfile.ZipFile(tmp_path / "holiday.zip", "w") as archive:
        archive.write(photo, "inner/1.jpg")
        archive.writestr("inner/2.jpg", "no image")
        archive.writestr("film.bin", bytes(25 << 20))  # as large as a zip of a phone's photographs
    return tmp_path / "holiday.zip"


def upload(page: Page, *paths: Path, where: str = "#image") -> None:
    page.locator(f"{where} input[type=file]").first.set_input_files(paths)


def ask(page: Page, path: Path) -> None:
    """Give an image, and wait for the answer."""
    upload(page, path)
    answered(page)


def answered(page: Page) -> None:
    """Wait for the answer to the image that was given last."""
    expect(page.locator("#answer .old, #answer .quiet")).to_have_count(0, timeout=15_000)
    expect(page.locator("#answer li b").first).to_have_text(PERCENT, timeout=15_000)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def laid_over(page: Page) -> tuple[str, float]:
    """The address and the opacity of the heat map that lies over the image."""
    style = "getComputedStyle(document.querySelector('#image .image-frame'), '::after')"
    return page.evaluate(f"{style}.backgroundImage"), float(page.evaluate(f"{style}.opacity"))


def axe_finds_nothing(page: Page) -> None:
    """No serious violation of WCAG A and AA."""
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).response
    bad = [(one["id"], one["nodes"]) for one in found["violations"] if one["impact"] in ("serious", "critical")]
    assert not bad, bad


@pytest.mark.parametrize(("size", "query"), [("phone", ""), ("desktop", DARK)])
def test_every_tab_fits_is_accessible_and_has_its_colours(size, query, open_page, photo, holiday, tmp_path):
    """axe's rules for WCAG A and AA, and no scrolling sideways."""
    page = open_page(size, query)
    ask(page, photo)
    page.screenshot(path=tmp_path / "shot.png", full_page=True)
    paper = Image.open(tmp_path / "shot.png").convert("RGB").getpixel((3, 3))
    ink = page.evaluate("getComputedStyle(document.querySelector('h1')).color.match(/\\d+/g).map(Number)")[:3]
    assert max(paper) < 60 < 200 < min(ink) if query else max(ink) < 60 < 200 < min(paper)
    for name, ready in READY.items():
        tab(page, name)
        if name == "Several images":
            upload(page, photo, holiday, where="#files")
            expect(page.locator(ready)).to_have_count(3, timeout=15_000)
        expect(page.locator(ready).first).to_be_visible(timeout=15_000)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], name
        axe_finds_nothing(page)


def test_an_example_is_answered_with_a_heat_map_that_can_be_faded_and_feedback_is_recorded(open_page, server, photo):
    page = open_page()
    ask(page, photo)
    page.get_by_role("button", name="Correct").click()
    expect(page.locator("#noted")).to_contain_text("Recorded")
    examples = page.locator("#examples button img")
    expect(examples).to_have_count(8)
    examples.nth(1).click()
    expect(page.locator("#truth")).to_be_visible(timeout=10_000)
    answered(page)
    first, opacity = laid_over(page)
    assert first.startswith('url("data:image/png;base64,') and 0 < opacity < 1
    frame, shown = (page.locator(f"#image .image-frame{inner}").bounding_box() for inner in ("", " img"))
    for key in ("x", "y", "width", "height"):
        assert frame[key] == pytest.approx(shown[key], abs=1), key
    page.locator("#answer li label").nth(1).click()
    assert laid_over(page)[0].startswith("url(") and laid_over(page)[0] != first
    page.locator("#strength input").fill("20")
    assert laid_over(page)[1] == pytest.approx(0.2)
    page.locator("#truth input").click()
    page.get_by_role("option", name="None of these").click()
    expect(page.locator("#noted")).to_contain_text("Recorded")
    rows = (server.folder / "logs" / "feedback.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(rows) == 3 and rows[2].split(",")[4] == "neither"
    assert not (server.folder / "logs" / "feedback").exists()
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    expect(page.locator("#answer h2")).to_have_text("The answer appears here")


def test_refusals_are_told_in_the_chosen_language_and_the_earlier_answer_is_faint(open_page, photo, tmp_path):
    page = open_page(locale="zh-CN")
    expect(page.get_by_role("tab").first).to_have_text("单张图片")
    expect(page.locator("h1")).to_have_text("猫、狗还是<i>ant？")
    assert page.evaluate("document.documentElement.lang") == "zh"
    buttons, alert = page.locator("#image .source-selection button"), page.get_by_role("alert")
    expect(buttons).to_have_count(3)
    file, camera, clipboard = buttons.all()
    camera.click()
    page.locator("#image .image-container > div button:visible").first.click()
    expect(alert).to_contain_text("使用摄像头")
    clipboard.click()
    expect(alert).to_contain_text("读取剪贴板")
    file.click()
    expect(page.locator("#told")).to_have_text("")
    for name, size, reason in (("large.jpg", 21 << 20, "large.jpg：超过 20 MB"), ("empty.jpg", 0, "这个文件是空的")):
        (tmp_path / name).write_bytes(bytes(size))
        upload(page, tmp_path / name)
        expect(alert).to_contain_text(reason, timeout=15_000)
    page.get_by_text("English").click()
    expect(alert).to_have_text("This file is empty (0 bytes).")
    expect(page).to_have_url(re.compile("lang=en"))
    ask(page, photo)
    image((300, 300)).save(tmp_path / "other.png")
    page.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "Queue is full."}))
    upload(page, tmp_path / "other.png")
    expect(page.locator("#told")).to_have_text("The page is busy. Try again in a moment.")
    expect(page.locator("#answer .old h2, #answer h2.old")).to_have_css("opacity", "0.3")
    assert laid_over(page)[0] == "none"
    page.unroute("**/queue/join*")
    ask(page, photo)
    assert laid_over(page)[0].startswith("url(")
    tab(page, "Several images")
    words = "getComputedStyle(document.querySelector('#files [data-testid=upload-text]'), '::after').content"
    expect(page.locator("#files")).to_be_visible()
    assert "Drop images here" in page.evaluate(words)  # the browser's language is another


def test_several_images_and_a_zip_with_bad_ones_among_them(open_page, photo, holiday, tmp_path):
    (tmp_path / "=bad.jpg").write_text("no image")
    (tmp_path / "huge.jpg").write_bytes(bytes(21 << 20))
    page = open_page()
    tab(page, "Several images")
    upload(page, photo, tmp_path / "=bad.jpg", tmp_path / "huge.jpg", holiday, where="#files")
    expect(page.locator("#told")).to_contain_text("huge.jpg: larger than 20 MB")  # which costs only itself
    rows = page.locator(".answers tbody tr")
    expect(rows).to_have_count(4, timeout=15_000)
    expect(page.locator("#several .summary")).to_contain_text("2 images answered. 2 files could not be read.")
    expect(page.locator(".answers .bad").first).to_contain_text("This file is not an image")
    expect(rows.nth(2)).to_contain_text("holiday.zip/inner/1.jpg")
    for order in ("ascending", "descending"):
        page.get_by_role("button", name="File", exact=True).click()
        expect(page.locator(".answers th").first).to_have_attribute("aria-sort", order)
        names = page.locator(".answers tbody td:nth-child(2)").all_inner_texts()
        assert names == sorted(names, key=str.lower, reverse=order == "descending")
    with page.expect_download() as download:
        page.get_by_text("Download CSV").click()
    text = Path(download.value.path()).read_text(encoding="utf-8-sig")
    assert text.count("\n") == 5 and "photo.jpg," in text and "\n=" not in text


def test_other_weights_and_two_side_by_side(open_page, photo):
    page = open_page()
    ask(page, photo)
    tab(page, "Compare")  # the image comes along
    articles = page.locator(".compared article")
    expect(articles).to_have_count(2, timeout=15_000)
    expect(articles.locator("h3")).to_have_text(["three", "other"])
    assert len(set(page.locator(".compared .heat").evaluate_all("all => all.map(one => one.src)"))) == 2
    page.locator("#compared-weights label").nth(1).click()
    expect(articles).to_have_count(1)
    tab(page, "About")
    for text in ("three.pth", "97.3% on 2,000", "96.5% to 97.9%", "900 photographs", *CLASSES[1:], "curl"):
        expect(page.locator("#about")).to_contain_text(text, timeout=15_000)
    tab(page, "One image")
    first = page.locator("#answer ol").inner_text()
    choose(page, "other")
    expect(page.locator("#answer ol")).not_to_have_text(first, use_inner_text=True)
    choose(page, "broken.pth is damaged")
    expect(page.get_by_role("alert")).to_contain_text("broken.pth")


def test_labels_are_reviewed_by_keyboard(open_page, server):
    table = server.folder / "photos" / "corrections.csv"
    page = open_page()
    tab(page, "Review")
    expect(page.locator("#review .file")).to_have_text("test/dog/1.jpg", timeout=20_000)
    progress = page.locator("#review .progress [role=status]")
    for visible in (False, True):
        page.keyboard.press("h")
        expect(page.locator("#review .heat")).to_be_visible(visible=visible)
    tab(page, "About")
    page.keyboard.press("k")  # on another tab a key means nothing
    tab(page, "Review")
    page.evaluate("document.body.append(document.createElement('textarea'))")
    page.locator("body > textarea").press("k")  # nor does it in a text
    page.wait_for_timeout(600)
    assert not table.exists()
    page.locator("#review h2").click()
    page.keyboard.press("1")  # the first class, by name
    page.keyboard.press("1")  # too early: nobody has seen the next one
    expect(progress).to_have_text("1 of 3 decided")
    expect(page.locator("#review .last")).to_contain_text("test/dog/1.jpg: <i>ant")
    for key, text in (("u", "0 of 3"), ("k", "1 of 3"), ("x", "2 of 3"), ("k", "All decided: 3")):
        page.wait_for_timeout(400)
        page.keyboard.press(key)
        expect(page.locator("#review")).to_contain_text(text)
    for text in ("2 of 3 decided", "1 of 3 decided"):
        page.wait_for_timeout(400)
        page.get_by_role("button", name="Undo").click()
        expect(progress).to_have_text(text)
    decisions = [row["decision"] for row in csv.DictReader(table.open(encoding="utf-8-sig"))]
    assert decisions == ["relabel", "undone", "keep", "leave out", "keep", "undone", "undone"]


GIVE = """([where, files]) => {  // drop files there; returns whether the browser was kept from opening them
  const transfer = new DataTransfer();
  for (const [name, type, data] of files) {
    transfer.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, { type }));
  }
  if (!files.length) transfer.setData("text/uri-list", "https://example.org/cat.jpg");
  const options = { bubbles: true, cancelable: true, dataTransfer: transfer };
  const given = (name) => !document.querySelector(where).dispatchEvent(new DragEvent(name, options));
  return given("dragenter") | given("dragover") & given("drop"); }"""


def drop(page: Page, where: str, *paths: Path) -> None:
    """Drop files, whose types the browser does not know, or an address."""
    files = [(path.name, "", base64.b64encode(path.read_bytes()).decode()) for path in paths]
    assert page.evaluate(GIVE, [where, files]), "the browser would have opened it"


def shown(page: Page, box: str = "#image") -> Image.Image:
    """The image that the page shows in a box, when it is its own copy."""
    frame = page.locator(f"{box} .image-frame img")
    expect(frame).to_have_css("content", re.compile('^url."data:image/jpeg;base64,'), timeout=15_000)
    uri = frame.evaluate("one => getComputedStyle(one).content")
    return Image.open(io.BytesIO(base64.b64decode(uri.split("base64,")[1].rstrip("')\""))))


def test_images_are_dropped_beside_the_box_pasted_and_shown_as_the_network_saw_them(open_page, tmp_path):
    """Files that browsers do not know, turn another way or do not show; the ending and the type may be wrong."""
    upright = image((300, 400))
    files = {"IMG_0004.HEIC": "JPEG", "scan.jpg": "TIFF", "turned.webp": "WEBP", "none": "PNG"}
    for name, kind in files.items():
        options = {"exif": ROTATED} if name == "turned.webp" else {}
        stored = upright.transpose(Image.Transpose.ROTATE_90) if options else upright
        stored.save(tmp_path / name, kind, **options)
    page = open_page()
    accepted = page.locator("#image input[type=file]").get_attribute("accept").split(",")
    assert {"image/*", ".heic", ".HEIC"} <= set(accepted)
    places = ("body", "h1", "#image .image-container", "#answer")
    for place, name in zip(places, files, strict=True):
        drop(page, place, tmp_path / name)
        answered(page)
        copy = shown(page)
        assert copy.size == (300, 400) and copy.mode == "RGB", name
        assert abs(copy.getpixel((5, 5))[0] - upright.getpixel((5, 5))[0]) < 12, name
        frame, over = page.locator("#image .image-frame").bounding_box(), laid_over(page)[0]
        assert over.startswith("url(") and frame["width"] / frame["height"] == pytest.approx(0.75, abs=0.02), name
    drop(page, "body")
    expect(page.locator("#told")).to_have_text("Give the image itself, not its address.")
    tab(page, "About")
    drop(page, "#about", tmp_path / "IMG_0004.HEIC")  # no box here: on the first tab
    expect(page.locator("#answer li b").first).to_be_visible(timeout=15_000)
    drop(page, "body", *(tmp_path / name for name in files))  # several: on theirs
    expect(page.locator(".answers tbody tr")).to_have_count(4, timeout=15_000)
    expect(page.locator(".answers .bad")).to_have_count(0)
    page = open_page()
    tab(page, "Compare")
    drop(page, "h1", tmp_path / "scan.jpg")
    assert shown(page, "#second").size == (300, 400)


def test_paste_and_copy(open_page, tmp_path):
    page = open_page("phone")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    image((400, 300)).save(tmp_path / "photo.png")
    write = """(data) => navigator.clipboard.write([new ClipboardItem({ "image/png":
        new Blob([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], { type: "image/png" }) })])"""
    page.evaluate(write, base64.b64encode((tmp_path / "photo.png").read_bytes()).decode())
    for source in (0, 1):  # with the camera chosen, too
        page.locator("#image .source-selection button").nth(source).click()
        page.locator("h1").click()
        page.keyboard.press("Control+V")
        answered(page)
        assert shown(page).size == (400, 300)
    page.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.locator("#answer li b").first.inner_text() in page.evaluate("navigator.clipboard.readText()")


def choose(page: Page, model: str) -> None:
    page.wait_for_timeout(3000)  # Gradio may lose what is chosen while the page is still being set up
    page.locator("#weights input").click()
    page.get_by_role("option", name=model).click()
    expect(page.locator("#weights input")).to_have_value(re.compile(f"^{model}"))


def test_neither_says_one_thing_everywhere(open_page, tmp_path):
    page = open_page()
    choose(page, "catdog-resnet18")
    expect(page.locator("#examples")).to_contain_text("Try an image of your own", timeout=20_000)
    expect(page).to_have_title("Cat or dog?")
    image((400, 300)).save(tmp_path / "ramp.png")  # neither a cat nor a dog
    upload(page, tmp_path / "ramp.png")
    answer = page.locator("#answer")
    expect(answer.locator("h2")).to_have_text("Neither", timeout=15_000)
    expect(answer.locator("li").first).to_be_hidden()
    assert "%" not in answer.inner_text() and laid_over(page)[0] == "none"
    answer.get_by_text("If it were one of these").click()
    expect(answer.locator("li").first).to_be_visible()
    assert laid_over(page)[0].startswith("url(")
    for dark in (False, True):
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", dark)  # as Gradio does
        page.wait_for_timeout(500)  # colours change gradually
        axe_finds_nothing(page)
    tab(page, "Several images")
    upload(page, tmp_path / "ramp.png", where="#files")
    cells = page.locator(".answers tbody td")
    expect(cells.nth(2)).to_have_text("Neither", timeout=15_000)
    expect(cells.nth(3)).to_have_text("–")
    tab(page, "Compare")
    for name in ("three", "other", "catdog-resnet18"):
        page.locator("#compared-weights label", has_text=name).click()
    expect(page.locator(".compared h2")).to_have_text(["Neither"], timeout=15_000)
    expect(page.locator(".compared .heat")).to_have_count(0)
