"""Damaged and crafted files: whatever they hold, the answer is a result or one sentence, soon and in little memory.

FUZZ=10000 python -m pytest tests/test_fuzz.py        as many as were tried before a release; 100 each without
"""

import functools
import io
import os
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.data import archives
from classifier.data.images import ImageError, load_image
from classifier.data.transforms import Preprocess
from classifier.preparation import sources
from zoo import MODELS

resource = pytest.importorskip("resource")  # Windows does not tell how much memory was taken
TRIED = int(os.environ.get("FUZZ", "100"))
MAX_S, MAX_MB = 5, 2000  # of computing, and that the process may grow by
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "TIFF", "PPM")
fuzzed = settings(
    max_examples=TRIED,
    deadline=None,  # `judged` has one of its own: the machine may be busy
    database=None,
    derandomize=TRIED == 100,  # the same files each time, so that a failure is somebody's change
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def judged(refusal: type[UserError] = UserError):
    """Fails after MAX_S of computing, where the process has grown by MAX_MB, and at errors other than a sentence."""

    def peak_mb() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)

    begun, before = time.process_time(), peak_mb()
    try:
        yield
    except refusal as error:
        assert 0 < len(str(error)) < 3000
    assert time.process_time() - begun < MAX_S
    assert peak_mb() - before < MAX_MB, f"{before:.0f} MB before, {peak_mb():.0f} MB now"


def changes(length: int) -> st.SearchStrategy:
    """What is done to a file of so many bytes: (from, to, what replaces that part), up to six times."""
    place = st.integers(0, max(0, length - 1))
    odd = st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80"])
    part = st.one_of(st.binary(min_size=1, max_size=8), odd)
    one = st.one_of(
        st.builds(lambda at, new: (at, at + len(new), new), place, part),
        st.builds(lambda at, new: (at, at, new), place, part),
        st.builds(lambda at, count: (at, at + count, b""), place, st.integers(1, 64)),
        st.builds(lambda at: (at, None, b""), place),
    )
    return st.lists(one, min_size=1, max_size=6)


def changed(content: bytes, plan: list) -> bytes:
    found = bytearray(content)
    for start, stop, new in plan:
        found[start:stop] = new
    return bytes(found)


@functools.cache
def image(kind: str) -> bytes:
    ramp = np.linspace(0, 255, 48 * 36 * 3).reshape(36, 48, 3).astype(np.uint8)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    options = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF") else {}
    Image.fromarray(ramp).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_images(kind):
    content = image(kind)

    @fuzzed
    @given(changes(len(content)), st.sampled_from([0, 16, 224]))
    def check(plan, side):
        with judged(ImageError):
            found = load_image(changed(content, plan), side)
            assert found.mode == "RGB" and min(found.size) > 0

    check()


@fuzzed
@given(st.binary(max_size=200), st.sampled_from([b"", *(image(kind)[:16] for kind in FORMATS)]))
def test_anything_behind_the_head_of_an_image(content, head):
    with judged(ImageError):
        load_image(head + content)


@functools.cache
def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as members:
        for split in ("train", "test"):
            for name in ("cat", "dog"):
                for number in range(2):
                    members.writestr(f"pets/{split}/{name}/{number}.jpg", image("JPEG"))
        members.writestr("pets/readme.txt", "some text " * 20)
    return file.getvalue()


LIST = "".join(f"cat/{number}.jpg cat\ndog/{number}.jpg\tdog\n" for number in range(4)).encode()


@pytest.mark.parametrize(("name", "content"), [("pets.zip", archive()), ("pets.txt", LIST), ("pets.csv", LIST)])
def test_what_prepare_reads(name, content, tmp_path):
    (tmp_path / "scratch").mkdir()

    @fuzzed
    @given(changes(len(content)))
    def check(plan):
        source = tmp_path / name
        source.write_bytes(changed(content, plan))
        with judged():
            try:
                for entry in sources.read_source(source, tmp_path / "scratch").images:
                    assert not Path(entry.name).is_absolute() and ".." not in Path(entry.name).parts
                    with judged():
                        load_image(sources.read_bytes(entry))
            finally:
                archives.open_zip.cache_clear()

    check()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> bytes:
    """A small .pth, as train.py writes it."""
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.manual_seed(0)
    state = MODELS["resnet18"](num_classes=2).state_dict()
    small = {name: values.flatten()[:4].clone() for name, values in state.items()}  # loading compares shapes later
    checkpoints.save(Checkpoint("resnet18", ["cat", "dog"], Preprocess(size=32), small, {"val": {}}), path)
    return path.read_bytes()


def test_weights(weights, tmp_path):
    path = tmp_path / "fuzzed.pth"

    @fuzzed
    @given(changes(len(weights)))
    def check(plan):
        path.write_bytes(changed(weights, plan))
        with judged(CheckpointError):
            checkpoints.load(path)

    check()
