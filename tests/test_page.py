"""The page as people see it, in a real browser. pytest --basetemp=DIR keeps the screenshots in DIR."""

import re
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.running_page import CLASSES, picture

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic"]
PERCENT = re.compile(r"^[<>]?\d+%$")
SIZES = {"desktop": (1280, 900), "phone": (375, 812)}

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
    hosts, faults, pages = set(), [], []

    def visit(size: str = "desktop", query: str = "") -> Page:
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height})
        pages.append(page)
        page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
        page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).hostname))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(server.address + query)
        expect(page.locator("#answer h2")).to_have_text("The answer appears here", timeout=20_000)
        return page

    yield visit
    for page in pages:
        page.close()
    assert hosts - {None} == {"127.0.0.1"}  # None: data: and blob:
    assert not faults


def upload(page: Page, path) -> None:
    page.locator("#picture input[type=file]").first.set_input_files(path)


def expect_answer(page: Page) -> None:
    expect(page.locator("#answer h2 b")).to_have_text(PERCENT, timeout=10_000)
    expect(page.locator("#answer li")).to_have_count(len(CLASSES))


@pytest.fixture
def photo(tmp_path):
    picture((400, 300)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


@pytest.mark.parametrize(
    ("size", "query"), [("desktop", ""), ("desktop", "?__theme=dark"), ("phone", ""), ("phone", "?__theme=dark")]
)
def test_a_picture_is_answered_by_itself(size, query, open_page, photo, tmp_path):
    page = open_page(size, query)
    upload(page, photo)
    expect_answer(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    shot = tmp_path / f"{size}{'-dark' if query else ''}.png"
    page.screenshot(path=shot, full_page=True)
    red, green, blue = Image.open(shot).convert("RGB").getpixel((3, 3))  # the paper; the ink is the title's
    ink = page.evaluate("getComputedStyle(document.querySelector('h1')).color.match(/\\d+/g).map(Number)")
    assert max(red, green, blue) < 60 < 200 < min(ink[:3]) if query else max(ink[:3]) < 60 < 200 < min(red, green, blue)


def test_another_picture_and_none(open_page, photo, tmp_path):
    page = open_page()
    upload(page, photo)
    expect_answer(page)
    page.get_by_label("Remove Image").or_(page.get_by_label("Clear")).first.click()
    expect(page.locator("#answer h2")).to_have_text("The answer appears here")


def test_an_unreadable_file_gives_a_sentence(open_page, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    page = open_page()
    upload(page, tmp_path / "text.jpg")
    expect(page.get_by_role("alert")).to_contain_text("This file is not a picture that can be read", timeout=10_000)
    page.screenshot(path=tmp_path / "unreadable.png", full_page=True)


def test_an_example_is_answered(open_page):
    page = open_page()
    examples = page.locator("#examples button img")
    expect(examples).to_have_count(6)
    examples.nth(1).click()
    expect_answer(page)


def test_the_page_says_which_weights_answer(open_page):
    page = open_page()
    about = page.locator("#about")
    for text in ("three.pth, trained", "97.3% of 2,000", "96.5 to 98.0%", "900 photographs in photos", *CLASSES):
        expect(about).to_contain_text(text)
    expect(page.locator("footer")).to_have_count(0)
