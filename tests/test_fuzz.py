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
SECONDS, MEGABYTES = 5, 2000
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF", "TIFF", "PPM")
fuzzed = settings(
    max_examples=TRIED,
    deadline=None,  # `soon` has one of its own: the machine may be busy
    database=None,
    derandomize=TRIED == 100,  # the same files each time, so that a failure is somebody's change
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def soon():
    """Fails after SECONDS of computing, or where the process has grown by MEGABYTES."""
    begun, before = time.process_time(), peak()
    yield
    assert time.process_time() - begun < SECONDS
    assert peak() - before < MEGABYTES, f"{before:.0f} MB before, {peak():.0f} MB now"


def peak() -> float:
    """MB that the process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def changes(length: int) -> st.SearchStrategy:
    """What is done to a file of so many bytes: bytes replaced, cut out and put in, the end cut off."""
    place = st.integers(0, max(0, length - 1))
    odd = st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80"])
    part = st.one_of(st.binary(min_size=1, max_size=8), odd)
    one = st.one_of(
        st.tuples(st.just("replace"), place, part),
        st.tuples(st.just("insert"), place, part),
        st.tuples(st.just("delete"), place, st.integers(1, 64)),
        st.tuples(st.just("end"), place, st.just(0)),
    )
    return st.lists(one, min_size=1, max_size=6)


def changed(content: bytes, plan: list) -> bytes:
    found = bytearray(content)
    for kind, place, what in plan:
        if kind == "replace":
            found[place : place + len(what)] = what
        elif kind == "insert":
            found[place:place] = what
        elif kind == "delete":
            del found[place : place + what]
        else:
            del found[place:]
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
        with soon():
            try:
                found = load_image(changed(content, plan), side)
            except ImageError as error:
                assert 0 < len(str(error)) < 1000
            else:
                assert found.mode == "RGB" and min(found.size) > 0

    check()


@fuzzed
@given(st.binary(max_size=200), st.sampled_from([b"", *(image(kind)[:16] for kind in FORMATS)]))
def test_anything_behind_the_head_of_a_image(content, head):
    with soon():
        try:
            load_image(head + content)
        except ImageError as error:
            assert str(error)


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
        with soon():
            try:
                found = sources.read_source(source, tmp_path / "scratch")
                for entry in found.images:
                    assert not Path(entry.name).is_absolute() and ".." not in Path(entry.name).parts
                    try:
                        load_image(sources.read_bytes(entry))
                    except UserError as error:
                        assert str(error)
            except UserError as error:
                assert 0 < len(str(error)) < 3000
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
        with soon():
            try:
                checkpoints.load(path)
            except CheckpointError as error:
                assert 0 < len(str(error)) < 3000

    check()
