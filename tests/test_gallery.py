"""The images of a report: in the cells of the confusion matrix, on the map, in TensorBoard's projector."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.test_evaluate import COLORS, RUN, project, report_of, run  # noqa: F401 (a fixture)
from tests.test_page import CHROMIUM, browser  # noqa: F401 (a fixture)


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


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt install chromium, or Google Chrome")
def test_in_a_browser(project, browser):  # noqa: F811
    run()
    page, failed = browser.new_page(viewport={"width": 390, "height": 800}), []
    page.on("pageerror", lambda error: failed.append(error))
    page.goto((report_of("colors") / "report.html").resolve().as_uri())
    page.click("button[data-label='红'][data-prediction='blue']")
    assert page.locator("#cell .card").count() == page.locator(".map circle.wrong").count() == 2
    assert "dataset/test/红/" in page.locator("#cell .card").first.inner_text()
    page.click(".map svg")
    assert page.locator("#point img").count() == 1 and page.locator(".map circle").count() == 13
    assert page.evaluate("document.documentElement.scrollWidth") == 390 and not failed
