"""The page as people see it, in a real browser. Its screenshots: python -m docs.screenshots."""

import base64
import contextlib
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
from PIL import Image, ImageChops, ImageStat
from playwright.sync_api import Browser, Page, expect, sync_playwright

from classifier.data.images import load_image
from tests.running_page import CLASSES, ROTATED, image

CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "images"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic", "--use-fake-device-for-media-stream"]
PERCENT = re.compile(r"^[<>]?\d+%$")
SIZES = {"desktop": (1280, 900), "phone": (375, 812), "wide": (1600, 1000)}
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


@pytest.mark.parametrize(("size", "query"), [("desktop", ""), ("phone", ""), ("wide", DARK)])
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


def test_the_heat_map_is_that_of_the_chosen_class_lies_over_the_image_and_can_be_faded(open_page, photo):
    page = open_page()
    ask(page, photo)
    first, opacity = laid_over(page)
    assert first.startswith('url("data:image/png;base64,') and 0 < opacity < 1
    frame, shown = (page.locator(f"#image .image-frame{inner}").bounding_box() for inner in ("", " img"))
    for key in ("x", "y", "width", "height"):
        assert frame[key] == pytest.approx(shown[key], abs=1), key
    page.locator("#answer li label").nth(1).click()
    assert laid_over(page)[0].startswith("url(") and laid_over(page)[0] != first
    page.locator("#strength input").fill("20")
    assert laid_over(page)[1] == pytest.approx(0.2)


def test_examples_and_no_image(open_page):
    page = open_page()
    examples = page.locator("#examples button img")
    expect(examples).to_have_count(8)
    examples.nth(1).click()
    expect(page.locator("#answer input")).to_have_count(len(CLASSES), timeout=10_000)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    expect(page.locator("#answer h2")).to_have_text("The answer appears here")


def test_what_the_browser_refuses_is_told(open_page, photo, tmp_path):
    page = open_page(locale="zh-CN")
    buttons = page.locator("#image .source-selection button")
    expect(buttons).to_have_count(3)
    file, camera, clipboard = buttons.all()
    camera.click()
    page.locator("#image .image-container > div button:visible").first.click()
    expect(page.get_by_role("alert")).to_contain_text("使用摄像头")
    clipboard.click()
    expect(page.get_by_role("alert")).to_contain_text("读取剪贴板")
    file.click()
    expect(page.locator("#told")).to_have_text("")
    for name, size, reason in (("large.jpg", 21 << 20, "large.jpg：超过 20 MB"), ("notes.txt", 9, "不是可读取的图片")):
        (tmp_path / name).write_bytes(bytes(size))
        upload(page, tmp_path / name)
        expect(page.get_by_role("alert")).to_contain_text(reason, timeout=15_000)
    ask(page, photo)


@contextlib.contextmanager
def held(page: Page, pattern: str) -> Iterator[None]:
    """For the block, these requests wait."""
    routes, waiting = [], [True]
    page.route(pattern, lambda route: routes.append(route) if waiting else route.continue_())
    yield
    waiting.clear()
    for route in routes:
        route.continue_()


def test_until_the_next_answer_the_earlier_one_is_faint_also_while_the_page_is_busy(open_page, photo, tmp_path):
    image((300, 300)).save(tmp_path / "other.png")
    page = open_page()
    ask(page, photo)
    with held(page, "**/queue/join*"):
        with held(page, "**/upload*"):
            upload(page, tmp_path / "other.png")
            expect(page.locator("#answer .old h2, #answer h2.old")).to_have_css("opacity", "0.3")
            expect(page.locator("#right")).to_be_hidden()
        expect(page.locator("#image .image-frame")).to_be_visible()
        assert laid_over(page)[0] == "none"
    expect(page.locator("#answer .old")).to_have_count(0, timeout=10_000)
    assert laid_over(page)[0].startswith("url(")

    page.route("**/queue/join*", lambda route: route.fulfill(status=503, json={"detail": "Queue is full."}))
    upload(page, photo)
    expect(page.locator("#told")).to_have_text("The page is busy. Try again in a moment.")
    expect(page.locator("#answer .old")).not_to_have_count(0)
    expect(page.locator("#right")).to_be_hidden()
    page.unroute("**/queue/join*")
    ask(page, tmp_path / "other.png")
    expect(page.locator("#right")).to_be_visible()


def test_several_images_and_a_zip_with_bad_ones_among_them(open_page, photo, holiday, tmp_path):
    (tmp_path / "=bad.jpg").write_text("no image")
    (tmp_path / "huge.jpg").write_bytes(bytes(21 << 20))
    with zipfile.ZipFile(holiday, "a") as archive:  # as large as a zip of a phone's photographs
        archive.writestr("film.bin", bytes(25 << 20))
    page = open_page()
    tab(page, "Several images")
    expect(page.locator("#limits")).to_have_text(re.compile("500 images.*20 MB.*500 MB"))
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
    shares = page.locator(".answers td:last-child:not(.bad)").evaluate_all("all => all.map(one => one.dataset.value)")
    assert len(shares) == 2 and all(re.fullmatch(r"[01]\.\d{6}", share) for share in shares)  # sorted digit by digit
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


def test_feedback_is_recorded(open_page, server, photo):
    page = open_page()
    ask(page, photo)
    page.get_by_role("button", name="Correct").click()
    expect(page.locator("#noted")).to_contain_text("Recorded")
    page.locator("#examples button img").first.click()
    expect(page.locator("#truth")).to_be_visible(timeout=10_000)
    page.locator("#truth input").click()
    page.get_by_role("option", name="None of these").click()
    expect(page.locator("#noted")).to_contain_text("Recorded")
    rows = (server.folder / "logs" / "feedback.csv").read_text(encoding="utf-8-sig").splitlines()
    assert len(rows) == 3 and rows[2].split(",")[4] == "neither"
    assert not (server.folder / "logs" / "feedback").exists()


def test_chinese_by_the_browser_and_by_the_switch(open_page, tmp_path):
    page = open_page(locale="zh-CN")
    expect(page.get_by_role("tab").first).to_have_text("单张图片")
    expect(page.locator("h1")).to_have_text("猫、狗还是<i>ant？")
    (tmp_path / "empty.jpg").write_bytes(b"")
    upload(page, tmp_path / "empty.jpg")
    expect(page.get_by_role("alert")).to_have_text("这个文件是空的（0 字节）。")
    assert page.evaluate("document.documentElement.lang") == "zh"
    page.get_by_text("English").click()
    expect(page.get_by_role("alert")).to_have_text("This file is empty (0 bytes).")
    expect(page.get_by_role("tab").nth(1)).to_have_text("Several images")
    expect(page).to_have_url(re.compile("lang=en"))
    tab(page, "Several images")
    words = "getComputedStyle(document.querySelector('#files [data-testid=upload-text]'), '::after').content"
    expect(page.locator("#files")).to_be_visible()
    assert "Drop images here" in page.evaluate(words)  # the browser's language is another


OUTLINED = """(() => {  // the element with the focus, or one that holds it
  let one = document.activeElement;
  const seen = ({ outlineStyle, boxShadow }) => outlineStyle != 'none' || boxShadow != 'none';
  for (let i = 0; i < 4 && one; i++, one = one.parentElement) if (seen(getComputedStyle(one))) return true;
  return document.activeElement == document.body; })()"""


def test_everything_is_reached_by_keyboard(open_page, photo):
    page = open_page()
    ask(page, photo)
    seen = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.closest('[id]')?.id ?? ''"))
        assert page.evaluate(OUTLINED), page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    assert {"heat-0", "right"} <= seen and any("tab" in name or "one" in name for name in seen), seen


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
    page.wait_for_timeout(400)
    page.get_by_role("button", name="Undo").click()
    expect(progress).to_have_text("2 of 3 decided")
    decisions = [row["decision"] for row in csv.DictReader(table.open(encoding="utf-8-sig"))]
    assert decisions == ["relabel", "undone", "keep", "leave out", "keep", "undone"]


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
    for path in sorted(CASES.glob("*.HEIC")) + sorted(CASES.glob("*orientation*")):  # of other projects, where at hand
        drop(page, "body", path)
        answered(page)
        right = load_image(path)
        copy, small = shown(page), right.copy()
        small.thumbnail((960, 960))
        assert copy.size == small.size and ImageStat.Stat(ImageChops.difference(copy, small)).mean[0] < 12, path.name
    drop(page, "body")
    expect(page.locator("#told")).to_have_text("Give the image itself, not its address.")
    tab(page, "Compare")
    before = shown(page, "#second").tobytes()  # the image of the first tab comes along
    drop(page, "h1", tmp_path / "scan.jpg")
    for _ in range(60):
        if shown(page, "#second").tobytes() != before:
            break
        page.wait_for_timeout(250)
    assert shown(page, "#second").size == (300, 400)
    tab(page, "About")
    drop(page, "#about", tmp_path / "IMG_0004.HEIC")  # no box here: on the first tab
    expect(page.locator("#answer li b").first).to_be_visible(timeout=15_000)
    drop(page, "body", *(tmp_path / name for name in files))  # several: on theirs
    expect(page.locator(".answers tbody tr")).to_have_count(4, timeout=15_000)
    expect(page.locator(".answers .bad")).to_have_count(0)


def test_paste_sources_and_copies(open_page, tmp_path):
    page = open_page("phone")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    image((400, 300)).save(tmp_path / "photo.png")
    write = """(data) => navigator.clipboard.write([new ClipboardItem({ "image/png":
        new Blob([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], { type: "image/png" }) })])"""
    page.evaluate(write, base64.b64encode((tmp_path / "photo.png").read_bytes()).decode())
    for source in (2, 1, 0):  # with the camera or the clipboard chosen, too
        button = page.locator("#image .source-selection button").nth(source)
        button.click()
        label = button.evaluate("one => getComputedStyle(one, '::after').content.split('\"')[1]")
        assert label and label.lower() in button.get_attribute("aria-label").lower()
        if source == 2:  # it pastes at once
            answered(page)
            page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
            expect(page.locator("#answer h2.quiet")).to_be_visible()
        axe_finds_nothing(page)
        page.locator("h1").click()
        page.keyboard.press("Control+V")
        answered(page)
        assert shown(page).size == (400, 300)
    page.get_by_role("button", name="Copy the answer").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert page.locator("#answer li b").first.inner_text() in copied
    page.keyboard.press("Control+V")  # text: nothing to classify
    page.evaluate("navigator.clipboard.writeText('https://example.org/cat.jpg')")
    page.keyboard.press("Control+V")
    expect(page.locator("#told")).to_have_text("Give the image itself, not its address.")


def choose(page: Page, model: str) -> None:
    page.wait_for_timeout(3000)  # Gradio may lose what is chosen while the page is still being set up
    page.locator("#weights input").click()
    page.get_by_role("option", name=model).click()
    expect(page.locator("#weights input")).to_have_value(re.compile(f"^{model}"))


def test_neither_says_one_thing_everywhere(open_page, tmp_path):
    page = open_page()
    choose(page, "catdog-resnet18")
    expect(page.locator("#examples")).to_contain_text("Try an image of your own", timeout=20_000)
    expect(page.locator("h1")).to_have_text("Cat or dog?")
    expect(page).to_have_title("Cat or dog?")
    image((400, 300)).save(tmp_path / "ramp.png")  # neither a cat nor a dog
    upload(page, tmp_path / "ramp.png")
    answer = page.locator("#answer")
    expect(answer.locator("h2")).to_have_text("Neither", timeout=15_000)
    expect(answer.locator("li").first).to_be_hidden()
    assert "%" not in answer.inner_text() and laid_over(page)[0] == "none"
    assert answer.locator("[data-copy]").get_attribute("data-copy") == "Neither"
    axe_finds_nothing(page)
    answer.get_by_text("If it were one of these").click()
    expect(answer.locator("li").first).to_be_visible()
    muted = "one => getComputedStyle(one, '::after').backgroundImage"
    assert len(set(answer.locator("li").evaluate_all(f"all => all.map({muted})"))) == 1  # none stands out
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


def test_a_phone_is_not_told_to_drag(browser, server):
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, locale="zh-CN", is_mobile=True, has_touch=True
    )
    page = context.new_page()
    page.goto(server.address)
    expect(page.locator("#answer h2")).to_be_visible(timeout=20_000)
    choose(page, "catdog-resnet18")
    expect(page.locator("#examples")).to_contain_text("试试您自己的图片", timeout=20_000)
    assert "拖" not in page.locator("#examples").inner_text()
    words = "getComputedStyle(document.querySelector('#image [data-testid=upload-text]'), '::after').content"
    assert "点击选择图片" in page.evaluate(words) and "20 MB" in page.evaluate(words)
    tab(page, "关于模型")
    curves = page.locator("#about .curves img")
    expect(curves).to_be_visible(timeout=20_000)
    svg = base64.b64decode(curves.get_attribute("src").split("base64,")[1]).decode()
    assert all(word in svg for word in ("损失", "准确率", "轮次", "虚线：训练")) and "training" not in svg
    context.close()
