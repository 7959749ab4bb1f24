"""The sample set: complete, the same every time, each drawing whole, and not to be told apart by colour alone."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from classifier.cli import UserError
from classifier.data.drawings import CLASSES, SIZE, draw, draw_sample_set, holds_sample_set
from tests.conftest import ENVIRONMENT, REPOSITORY


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "sample"
    draw_sample_set(root)
    return root


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """The bytes of every file, and when it was written."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_the_set_is_complete_and_all_drawings_differ(root):
    expected = {
        f"{split}/{kind}/{kind}.{number}.png"
        for split, count in (("train", 300), ("test", 60))
        for kind in CLASSES
        for number in range(count)
    }
    assert set(contents(root)) == expected and holds_sample_set(root)
    assert [path.name for path in root.parent.iterdir()] == [root.name]  # no temporary folder is left behind
    images = [Image.open(path) for path in root.rglob("*.png")]
    assert {(image.mode, image.size) for image in images} == {("RGB", (SIZE, SIZE))}
    assert len({image.tobytes() for image in images}) == 720


@pytest.mark.parametrize(("split", "kind", "number"), [("train", "cat", 0), ("train", "dog", 299), ("test", "cat", 59)])
def test_same_pixels_every_time(root, split, kind, number):
    first, second = (draw(split, kind, number).tobytes() for _ in range(2))
    assert first == second == Image.open(root / split / kind / f"{kind}.{number}.png").tobytes()


def test_an_incomplete_set_is_completed_and_nothing_else_changed(root, tmp_path):
    copied = shutil.copytree(root, tmp_path / "sample")
    (copied / "README.md").write_text("mine")
    whole = contents(copied)
    draw_sample_set(copied)
    assert contents(copied) == whole
    for name in ("train/cat/cat.1.png", "test/cat/cat.0.png"):
        (copied / name).unlink()
    shutil.rmtree(copied / "test" / "dog")
    left = contents(copied)
    draw_sample_set(copied)
    assert {name: data for name, (data, _) in contents(copied).items()} == {
        name: data for name, (data, _) in whole.items()
    }
    assert left.items() <= contents(copied).items()  # what was there is not drawn again
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_a_killed_process_leaves_whole_drawings_only(root, tmp_path):
    code = (
        "import pathlib, sys; from classifier.data import drawings; drawings.draw_sample_set(pathlib.Path(sys.argv[1]))"
    )
    drawing = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=REPOSITORY, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not (tmp_path / "train" / "cat" / "cat.9.png").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    drawing.kill()
    drawing.wait()
    drawn = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.png")}
    assert 10 <= len(drawn) < 720 and all((root / path).read_bytes() == data for path, data in drawn.items())


def test_other_images_are_not_mixed_in(tmp_path):
    photo = tmp_path / "dataset" / "train" / "cat" / "tom.jpg"
    photo.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(photo)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"tom\.jpg is not one of the drawings"):
        draw_sample_set(tmp_path / "dataset")
    assert contents(tmp_path) == before and not holds_sample_set(tmp_path / "dataset")


# ---- how far colour alone goes


def thumbnails(folder: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """All drawings of a split as (N, side * side * 3) in 0..1, and their labels (N,)."""
    paths = [(path, label) for label, kind in enumerate(CLASSES) for path in sorted((folder / kind).iterdir())]
    small = [Image.open(path).resize((side, side), Image.Resampling.BOX) for path, _ in paths]
    return np.stack([np.asarray(image).ravel() / 255 for image in small]), np.array([label for _, label in paths])


def linear_accuracy(train, test) -> float:
    """Logistic regression fitted on `train`; its accuracy on `test` with the best of five weight decays."""
    fitted = (make_pipeline(StandardScaler(), LogisticRegression(C=10.0**c, max_iter=1000)) for c in range(-4, 1))
    return max(model.fit(*train).score(*test) for model in fitted)


@pytest.mark.parametrize("side", [8, 1, 0])  # 1: the mean colour; 0: the brightness
def test_a_linear_classifier_fails(root, side):
    train, test = (thumbnails(root / split, max(1, side)) for split in ("train", "test"))
    if side == 0:
        train, test = ((x.mean(1, keepdims=True), y) for x, y in (train, test))
    assert linear_accuracy(train, test) < 0.75
    # the same classifier finds dogs with a little more red in the first corner, so the line above says something
    first = np.eye(train[0].shape[1])[0]
    tinted = [(x + 0.6 * y[:, None] * first, y) for x, y in (train, test)]
    assert linear_accuracy(*tinted) > 0.9
