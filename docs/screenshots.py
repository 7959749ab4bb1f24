"""Make the screenshots of the page: python -m docs.screenshots [FOLDER], into docs/page/; three minutes.

They show networks that learned the drawings, which are anybody's; to review, some drawings lie in the wrong folder.
Needs Chromium and requirements-dev.txt.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import run_script
from tests.running_page import address, app_process
from tests.test_page import CHROMIUM, DARK, FLAGS, READY, upload

SIZES = {"desktop": ((1280, 900), ""), "desktop-dark": ((1280, 900), DARK), "phone": ((390, 844), "?lang=zh")}


def prepare(folder: Path) -> list[Path]:
    """Train two networks, evaluate them; returns the drawings to test with."""
    for options in (("--name", "careful"), ("--name", "quick", "--recipe", "quick")):
        run_script("train.py", *options, cwd=folder).check_returncode()
    test = folder / "dataset" / "sample" / "test"
    shutil.copytree(test, folder / "mistaken")
    for number, path in enumerate(sorted((folder / "mistaken" / "dog").iterdir())[:9]):
        path.rename(folder / "mistaken" / "cat" / f"dog-{number}.png")
    for name in ("quick", "careful"):
        run_script("evaluate.py", f"module/{name}.pth", cwd=folder).check_returncode()
    run_script("evaluate.py", "module/careful.pth", "--data", "mistaken", cwd=folder).check_returncode()
    return sorted(test.rglob("*.png"))


def shoot(page: Page, images: list[Path], target: Path, name: str) -> None:
    """Save a picture of each tab."""
    expect(page.locator("#answer h2")).to_be_visible(timeout=20_000)
    page.locator("#examples button").nth(1).click()
    for number, (tab, ready) in enumerate(READY.items()):
        page.get_by_role("tab").nth(number).click()
        if number == 1:
            upload(page, *images[:: len(images) // 6][:6], where="#files")
        expect(page.locator(ready).first).to_be_visible(timeout=20_000)
        page.wait_for_timeout(700)
        path = target / f"{tab.split()[0].lower()}-{name}.png"
        page.screenshot(path=path, full_page=True)
        Image.open(path).convert("RGB").quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)


def main(target: Path) -> None:
    """Make all of them."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        images = prepare(Path(folder))
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        with app_process(Path(folder), "--review") as printed:
            for name, ((width, height), query) in SIZES.items():
                context = browser.new_context(viewport={"width": width, "height": height}, is_mobile=name == "phone")
                page = context.new_page()
                page.goto(address(printed) + query)
                shoot(page, images, target, name)
                context.close()
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent / "page")
