"""The test split of prepare.py never changes: weights are judged on images that no earlier version trained on."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import prepare
from tests.conftest import run_script
from tests.raw_images import make_zip, tree

KAGGLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "dogs-vs-cats" / "train.zip"
KAGGLE_2000 = "2000 71bb020b27af04184a4287544f18817746a121cab933b1c6ecae2ed7f1a0b122"
MADE_23 = "23 3d3471def14ea01db044b38106c74a1948dec5e8c5a580c43a6d290bf8c92d97"


def digest_of_test_part(output: Path) -> str:
    """One hash over class and SHA-256 of each test image, whatever the files are called."""
    files = (output / "test").glob("*/*")
    lines = sorted(f"{file.parent.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files)
    return f"{len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}"


def ppm(seed: int, brighter: int = 0) -> bytes:
    """A 48 x 48 image whose bytes depend on no encoder."""
    noise = np.random.default_rng(seed).integers(0, 240, (16, 16, 3), dtype=np.uint8) + np.uint8(brighter)
    return b"P6 48 48 255\n" + noise.repeat(3, 0).repeat(3, 1).tobytes()


def test_made_images(tmp_path):
    members = {f"{label}/{i}.ppm": ppm(1000 * k + i) for k, label in enumerate(("cat", "dog")) for i in range(40)}
    members |= {f"cat/{i} brighter.ppm": ppm(i, 9) for i in range(12)}  # look-alikes, on one side
    members |= {f"dog/{i} copy.ppm": ppm(1000 + i) for i in range(5)} | {"dog/a cat.ppm": ppm(20, 7)}
    (tmp_path / "out").mkdir()
    prepare.prepare(make_zip(tmp_path / "a.zip", members), tmp_path / "out", 0.25)
    assert len(tree(tmp_path / "out" / "train")) == 70 and digest_of_test_part(tmp_path / "out") == MADE_23


@pytest.mark.skipif(not KAGGLE.is_file(), reason="needs Kaggle's photographs of cats and dogs, shared/data")
def test_kaggles_photographs(tmp_path):
    done = run_script("prepare.py", KAGGLE, "--test", 1000, "--output", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert digest_of_test_part(tmp_path / "out") == KAGGLE_2000
