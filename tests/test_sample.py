"""The sample set: complete, the same every time, never half there, and not to be told apart by colour alone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from classifier.cli import UserError
from classifier.data import drawings, sample_set

STRENGTHS = (
    1.0,
    1e-1,
    1e-2,
    1e-3,
    1e-4,
)  # of weight decay; the best on the test part counts, which flatters the classifier


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "sample"
    sample_set.draw_sample_set(root)
    return root


@pytest.fixture
def few(monkeypatch):
    """Sets of ten drawings, for the tests that draw their own."""
    monkeypatch.setattr(sample_set, "COUNTS", {"train": 3, "test": 2})


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    """What every file holds and when it was written."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_counts_and_names(root):
    for split, count in (("train", 300), ("test", 60)):
        assert sorted(path.name for path in (root / split).iterdir()) == ["cat", "dog"]
        for kind in ("cat", "dog"):
            expected = {f"{kind}.{number}.png" for number in range(count)}
            assert {path.name for path in (root / split / kind).iterdir()} == expected
    assert [path.name for path in root.parent.iterdir()] == [root.name]  # no temporary folder is left behind


def test_opens_and_all_differ(root):
    seen = set()
    for path in root.rglob("*.png"):
        image = Image.open(path)
        assert image.mode == "RGB" and image.size == (drawings.SIZE, drawings.SIZE)
        seen.add(image.tobytes())
    assert len(seen) == 720


@pytest.mark.parametrize(("split", "kind", "number"), [("train", "cat", 0), ("train", "dog", 299), ("test", "cat", 59)])
def test_same_pixels_every_time(root, split, kind, number):
    first, second = (drawings.draw(split, kind, number).tobytes() for _ in range(2))
    assert first == second == Image.open(root / split / kind / f"{kind}.{number}.png").tobytes()


def test_sets_are_the_same_files(few, tmp_path):
    for name in ("one", "two"):
        sample_set.draw_sample_set(tmp_path / "new" / name)
    one, two = ({name: data for name, (data, _) in state(tmp_path / "new" / n).items()} for n in ("one", "two"))
    assert one == two and len(one) == 10


def test_complete_set_is_left_alone(root, monkeypatch):
    before = state(root)
    monkeypatch.setattr(sample_set, "draw", None)  # a call would fail
    sample_set.draw_sample_set(root)
    assert state(root) == before


@pytest.mark.parametrize(
    "lost", [["train/cat/cat.1.png"], ["test"], ["train/dog", "test/cat/cat.0.png"], ["train", "test"]]
)
def test_incomplete_set_is_completed(few, tmp_path, lost):
    root = tmp_path / "sample"
    sample_set.draw_sample_set(root)
    (root / "README.md").write_text("mine")
    whole = state(root)
    for name in lost:
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    left = state(root)
    sample_set.draw_sample_set(root)
    assert {name: data for name, (data, _) in state(root).items()} == {name: data for name, (data, _) in whole.items()}
    assert left.items() <= state(root).items()  # what was there is not drawn again
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_interruption_leaves_nothing(few, tmp_path, monkeypatch):
    draw, drawn = sample_set.draw, []

    def interrupted(*which):
        drawn.append(which)
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return draw(*which)

    monkeypatch.setattr(sample_set, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample_set.draw_sample_set(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []
    sample_set.draw_sample_set(tmp_path / "sample")
    assert len(state(tmp_path / "sample")) == 10


def test_other_images_are_not_mixed_in(few, tmp_path):
    photo = tmp_path / "dataset" / "train" / "cat" / "tom.jpg"
    photo.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(photo)
    before = state(tmp_path)
    with pytest.raises(UserError, match=r"tom\.jpg"):
        sample_set.draw_sample_set(tmp_path / "dataset")
    assert state(tmp_path) == before


# ---- how far colour alone goes


def thumbnails(folder: Path, side: int) -> tuple[np.ndarray, np.ndarray]:
    """All drawings of a split as (N, side * side * 3) in 0..1, and their labels (N,)."""
    pixels, labels = [], []
    for label, kind in enumerate(sample_set.CLASSES):
        for path in sorted((folder / kind).iterdir()):
            pixels.append(np.asarray(Image.open(path).resize((side, side), Image.Resampling.BOX)).ravel() / 255)
            labels.append(label)
    return np.array(pixels), np.array(labels)


def linear_accuracy(train, test) -> float:
    """Logistic regression fitted on `train` to convergence; its accuracy on `test` at the best of STRENGTHS."""
    (x, y), (x_test, y_test) = train, test
    mean, std = x.mean(0), x.std(0) + 1e-6
    x, x_test = (np.c_[(part - mean) / std, np.ones(len(part))] for part in (x, x_test))
    weights, scores = np.zeros(x.shape[1]), []
    for strength in STRENGTHS:  # strongest first: each solution is a safe start of Newton's method for the next
        decay = np.diag([2 * strength] * (x.shape[1] - 1) + [0])  # none on the bias
        for _ in range(20):
            p = 1 / (1 + np.exp(-x @ weights))
            gradient = x.T @ (p - y) / len(y) + decay @ weights
            if np.abs(gradient).max() < 1e-6:
                break
            weights -= np.linalg.solve((x.T * (p * (1 - p))) @ x / len(y) + decay, gradient)
        else:
            raise AssertionError("the linear classifier has not converged")
        scores.append(((x_test @ weights > 0) == y_test).mean())
    return max(scores)


@pytest.mark.parametrize("side", [8, 1])  # 1: the mean colour
def test_linear_classifier_fails(root, side):
    train, test = thumbnails(root / "train", side), thumbnails(root / "test", side)
    assert linear_accuracy(train, test) < 0.75
    # The same classifier finds dogs with more red in the top left corner, so the line above says something.
    first = np.eye(train[0].shape[1])[0]
    tinted = [(x + 0.6 * y[:, None] * first, y) for x, y in (train, test)]
    assert linear_accuracy(*tinted) > 0.9


def test_brightness_fails(root):
    train, test = ((x.mean(1, keepdims=True), y) for x, y in (thumbnails(root / s, 1) for s in ("train", "test")))
    assert linear_accuracy(train, test) < 0.75
