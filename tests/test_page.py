"""The page as people see it, in a real browser. Its screenshots: python -m docs.screenshots."""

import csv
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

from tests.running_page import CLASSES, image

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
    expect(page.locator("#answer h2")).not_to_have_class("quiet", timeout=10_000)
    expect(page.locator("#answer li")).to_have_count(len(CLASSES))
    expect(page.locator("#answer li b").first).to_have_text(PERCENT)


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def laid_over(page: Page) -> tuple[str, float]:
    """The address and the opacity of the heat map that lies over the image."""
    style = "getComputedStyle(document.querySelector('#image .image-frame'), '::after')"
    return page.evaluate(f"{style}.backgroundImage"), float(page.evaluate(f"{style}.opacity"))


@pytest.mark.parametrize("query", ["", DARK])
@pytest.mark.parametrize("size", SIZES)
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
        found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).response
        bad = [(one["id"], one["nodes"]) for one in found["violations"] if one["impact"] in ("serious", "critical")]
        assert not bad, (name, bad)


def test_the_heat_map_is_that_of_the_chosen_class_lies_over_the_image_and_can_be_faded(open_page, photo, tmp_path):
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
    image((400, 300)).save(tmp_path / "scan.tiff")  # browsers do not show it
    ask(page, tmp_path / "scan.tiff")
    frame = page.locator("#image .image-frame img")
    expect(frame).to_have_css("content", re.compile('^url."data:image/jpeg;base64,'), timeout=10_000)


def test_examples_no_image_and_an_unreadable_one(open_page, tmp_path):
    page = open_page()
    examples = page.locator("#examples button img")
    expect(examples).to_have_count(8)
    examples.nth(1).click()
    expect(page.locator("#answer input")).to_have_count(len(CLASSES), timeout=10_000)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    expect(page.locator("#answer h2")).to_have_text("The answer appears here")
    (tmp_path / "text.jpg").write_text("no image")
    upload(page, tmp_path / "text.jpg")
    expect(page.get_by_role("alert")).to_contain_text("This file is not an image that can be read", timeout=10_000)


REFUSALS = {
    "en-GB": ("does not let this page use the camera", "read the clipboard", "larger than 20 MB", "not an image"),
    "zh-CN": ("使用摄像头", "读取剪贴板", "文件超过 20 MB", "不是图片"),
}


@pytest.mark.parametrize("locale", REFUSALS)
def test_what_the_browser_refuses_is_told(locale, open_page, photo, tmp_path):
    page, (camera, clipboard, large, other) = open_page(locale=locale), REFUSALS[locale]
    page.locator("#image button[aria-label^='Capture from camera']").click()
    page.locator("#image .image-container > div button:visible").first.click()
    expect(page.get_by_role("alert")).to_contain_text(camera)
    page.locator("#image button[aria-label^='Paste from']").click()
    expect(page.get_by_role("alert")).to_contain_text(clipboard)
    page.locator("#image button[aria-label='Upload file']").click()
    expect(page.locator("#told")).to_have_text("")
    for name, size, reason in (("large.jpg", 21 << 20, large), ("notes.txt", 9, other)):
        (tmp_path / name).write_bytes(bytes(size))
        upload(page, tmp_path / name)
        expect(page.get_by_role("alert")).to_contain_text(reason, timeout=15_000)
    ask(page, photo)


def test_until_the_next_answer_the_earlier_one_is_faint_also_while_the_page_is_busy(open_page, photo, tmp_path):
    image((300, 300)).save(tmp_path / "other.png")
    page = open_page()
    ask(page, photo)
    held, waiting = [], [True]
    page.route("**/queue/join*", lambda route: held.append(route) if waiting else route.continue_())
    upload(page, tmp_path / "other.png")
    expect(page.locator("#answer .old h2, #answer h2.old")).to_have_css("opacity", "0.3")
    expect(page.locator("#right")).to_be_hidden()
    assert laid_over(page)[0] == "none"
    waiting.clear()
    for route in held:
        route.continue_()
    expect(page.locator("#answer .old")).to_have_count(0, timeout=10_000)
    assert laid_over(page)[0].startswith("url(")

    page.unroute("**/queue/join*")
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
    page = open_page()
    tab(page, "Several images")
    upload(page, photo, tmp_path / "=bad.jpg", holiday, where="#files")
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
    page.locator("#weights input").click()
    expect(page.get_by_role("option")).to_have_count(3)
    page.get_by_role("option", name="other").click()
    expect(page.locator("#answer ol")).not_to_have_text(first, use_inner_text=True)
    page.locator("#weights input").click()
    page.get_by_role("option", name="broken.pth is damaged").click()
    expect(page.get_by_role("alert")).to_contain_text("broken.pth")


def test_feedback_is_recorded(open_page, server, photo):
    page = open_page()
    ask(page, photo)
    page.get_by_role("button", name="Correct").click()
    expect(page.locator("#noted")).to_contain_text("Recorded")
    page.locator("#examples button img").first.click()
    expect(page.locator("#truth")).to_be_visible(timeout=10_000)
    page.locator("#truth input").click()
    page.get_by_role("option", name="Neither").click()
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
    assert "lang=en" in page.url
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

    def decisions() -> list[str]:
        return [row["decision"] for row in csv.DictReader(table.open(encoding="utf-8-sig"))] if table.exists() else []

    def visit() -> Page:
        page = open_page()
        tab(page, "Review")
        expect(page.locator("#review .file")).to_have_text("test/dog/1.jpg", timeout=20_000)
        page.wait_for_timeout(400)
        return page

    page, second = visit(), visit()
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
    assert decisions() == []
    page.locator("#review h2").click()
    page.keyboard.press("1")  # the first class, by name
    page.keyboard.press("1")  # too early: nobody has seen the next one
    expect(progress).to_have_text("1 of 3 decided")
    expect(page.locator("#review .last")).to_contain_text("test/dog/1.jpg: <i>ant")

    second.keyboard.press("x")
    expect(second.get_by_role("alert")).to_contain_text("decided elsewhere")
    expect(second.locator("#review .file")).to_have_text("test/猫/2.jpg")
    assert decisions() == ["relabel"]

    for key, text in (("u", "0 of 3"), ("k", "1 of 3"), ("x", "2 of 3"), ("k", "All decided: 3")):
        page.wait_for_timeout(400)
        page.keyboard.press(key)
        expect(page.locator("#review")).to_contain_text(text)
    assert decisions() == ["relabel", "undone", "keep", "leave out", "keep"]
    page.wait_for_timeout(400)
    page.get_by_role("button", name="Undo").click()
    expect(progress).to_have_text("2 of 3 decided")
