"""The images of a report: in the cells of the confusion matrix, on the map, in TensorBoard's projector."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from classifier.evaluation import gallery
from classifier.evaluation.gallery import Gallery, page_rows
from tests.test_evaluate import COLORS, RUN, project, report_of, run  # noqa: F401 (a fixture)
from tests.test_page import CHROMIUM, FLAGS


def test_a_report_has_every_image_with_its_own_answer(project):  # noqa: F811
    run()
    page = (report_of("colors") / "report.html").read_text(encoding="utf-8")
    images = json.loads(re.search(r'<script type="application/json" id="images">(.*?)</script>', page)[1])
    classes, names = ["blue", "红", "green"], [row[0] for row in images]
    assert len(set(names)) == 13 and [row[3] for row in images] == sorted((row[3] for row in images), reverse=True)
    for path, label, answer, _, x, y, thumbnail in images:
        file = io.BytesIO(base64.b64decode(thumbnail.removeprefix("data:image/webp;base64,")))
        middle = np.asarray(Image.open(file).convert("RGB"))[36, 36].astype(int)
        assert np.abs(middle - COLORS[classes[answer]]).max() < 25  # the network sees colours, right or wrong
        assert Path(path).parent.name == classes[label] and 0 <= x <= 1 and 0 <= y <= 1
    assert sorted(Path(row[0]).stem for row in images if row[1] != row[2]) == ["4", "5"]

    projector = report_of("colors") / "projector"
    features = np.loadtxt(projector / "00000" / "default" / "tensors.tsv")
    names = (projector / "00000" / "default" / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    assert names[0] == "label\tprediction" and len(names) == 14 and names.count("红\tblue") == 2
    for name, feature in zip(names[1:], features, strict=True):
        assert np.abs(feature * 255 - COLORS[name.split("\t")[1]]).max() < 2  # the input of the last layer
    assert list(projector.glob("events*"))  # without one TensorBoard would not list the folder


def test_the_page_stays_small_and_each_cell_has_thumbnails():
    n = 1200
    noise = torch.randint(0, 256, (n, 3, gallery.SIDE, gallery.SIDE), dtype=torch.uint8)  # nothing is larger in WebP
    labels, probabilities = torch.zeros(n, dtype=torch.int64), torch.tensor([[0.9, 0.1]]).repeat(n, 1)
    probabilities[-30:] = torch.tensor([[0.4, 0.6]])
    rows = page_rows(
        Gallery(torch.arange(n), torch.ones(n, 1), noise), [f"{i}" for i in range(n)], labels, probabilities
    )
    assert 2_500_000 < sum(len(row[-1]) for row in rows) <= gallery.MAX_THUMBNAILS < sum(map(len, map(str, rows)))
    assert all(row[-1] for row in rows if row[2] == 1) and not all(row[-1] for row in rows)


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt install chromium, or Google Chrome")
def test_in_a_browser(project):  # noqa: F811
    run()
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as browser:
        page, failed = browser.new_page(viewport={"width": 390, "height": 800}), []
        page.on("pageerror", lambda error: failed.append(error))
        page.goto((report_of("colors") / "report.html").resolve().as_uri())
        page.click("button[data-label='红'][data-prediction='blue']")
        assert page.locator("#cell .card").count() == page.locator(".map circle.wrong").count() == 2
        assert "dataset/test/红/" in page.locator("#cell .card").first.inner_text()
        page.click(".map svg")
        assert page.locator("#point img").count() == 1 and page.locator(".map circle").count() == 13
        assert page.evaluate("document.documentElement.scrollWidth") == 390 and not failed
