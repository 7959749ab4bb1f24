"""The sample set: complete, the same every time, each drawing whole, and not to be told apart by colour alone."""

import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classifier.cli import UserError
from classifier.data.drawings import CLASSES, SIZE, draw, draw_sample_set, holds_sample_set
from tests.conftest import ENVIRONMENT, REPOSITORY
from tests.raw_images import plain, tree


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "sample"
    draw_sample_set(root)
    return root


def test_the_set_is_complete_all_drawings_differ_and_never_change(root):
    expected = {
        f"{split}/{kind}/{kind}.{number}.png"
        for split, count in (("train", 300), ("test", 60))
        for kind in CLASSES
        for number in range(count)
    }
    assert set(tree(root)) == expected and holds_sample_set(root)
    assert [path.name for path in root.parent.iterdir()] == [root.name]  # no temporary folder is left behind
    images = [Image.open(path) for path in root.rglob("*.png")]
    assert {(image.mode, image.size) for image in images} == {("RGB", (SIZE, SIZE))}
    assert len({image.tobytes() for image in images}) == 720
    for split, kind, number in (("train", "cat", 0), ("train", "dog", 299), ("test", "cat", 59)):
        stored = Image.open(root / split / kind / f"{kind}.{number}.png").tobytes()
        assert draw(split, kind, number).tobytes() == draw(split, kind, number).tobytes() == stored


def test_a_killed_process_leaves_whole_drawings_and_the_next_one_draws_the_others(root, tmp_path):
    def drawings() -> dict:
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.png")}

    folder = tmp_path / "sample"
    code = (
        "import pathlib, sys; from classifier.data import drawings as d; d.draw_sample_set(pathlib.Path(sys.argv[1]))"
    )
    drawing = subprocess.Popen([sys.executable, "-c", code, folder], cwd=REPOSITORY, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not (folder / "train" / "cat" / "cat.9.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    drawing.kill()
    drawing.wait()
    (folder / "train" / "cat" / "cat.1.png").unlink()
    (folder / "README.md").write_text("mine")
    left = drawings()
    assert 9 <= len(left) < 719
    draw_sample_set(folder)
    assert left.items() <= drawings().items()  # what was there is not drawn again
    assert tree(root).items() <= tree(folder).items() and (folder / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_other_images_are_not_mixed_in(tmp_path):
    photo = tmp_path / "train" / "cat" / "tom.png"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(plain("red"))
    with pytest.raises(UserError, match=r"tom\.png is not one of the drawings"):
        draw_sample_set(tmp_path)
    assert tree(tmp_path) == {"train/cat/tom.png": plain("red")} and not holds_sample_set(tmp_path)


def linear_accuracy(train, test) -> float:
    """Logistic regression fitted on `train`; its accuracy on `test` with the best of five weight decays."""
    fitted = (make_pipeline(StandardScaler(), LogisticRegression(C=10.0**c, max_iter=1000)) for c in range(-4, 1))
    return max(model.fit(*train).score(*test) for model in fitted)


@pytest.mark.parametrize("side", [8, 1, 0])  # 1: the mean colour; 0: the brightness
def test_a_linear_classifier_fails(root, side):
    def thumbnails(split: str) -> tuple[np.ndarray, np.ndarray]:
        paths = [path for kind in CLASSES for path in sorted((root / split / kind).iterdir())]
        sides = (max(1, side),) * 2
        x = np.stack([np.asarray(Image.open(path).resize(sides, Image.Resampling.BOX)).ravel() / 255 for path in paths])
        return x if side else x.mean(1, keepdims=True), np.array([CLASSES.index(path.parent.name) for path in paths])

    train, test = map(thumbnails, ("train", "test"))
    assert linear_accuracy(train, test) < 0.75
    # the same classifier finds dogs with a little more red in the first corner, so the line above says something
    first = np.eye(train[0].shape[1])[0]
    assert linear_accuracy(*((x + 0.6 * y[:, None] * first, y) for x, y in (train, test))) > 0.9
