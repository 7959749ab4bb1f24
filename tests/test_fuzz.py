"""Damaged and crafted files: whatever they hold, the answer is a result or one sentence, soon and in little memory.

FUZZ=10000 python -m pytest tests/test_fuzz.py        as many as were tried before a release; 100 each without
"""

import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from classifier.cli import UserError
from classifier.data import archives
from classifier.data.images import ImageError, load_image
from classifier.preparation import sources
from tests.conftest import soon_and_small
from tests.raw_images import encode, make_zip
from tests.running_page import ROTATED

TRIED = int(os.environ.get("FUZZ", "100"))
fuzzed = settings(
    max_examples=TRIED,
    deadline=None,  # `judged` has one of its own: the machine may be busy
    database=None,
    derandomize=TRIED == 100,  # the same files each time, so that a failure is somebody's change
    suppress_health_check=list(HealthCheck),
)

RAMP = Image.fromarray(np.linspace(0, 255, 48 * 36 * 3).reshape(36, 48, 3).astype(np.uint8))
IMAGES = {kind: encode(RAMP, kind, exif=ROTATED) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF")}
IMAGES |= {kind: encode(RAMP, kind) for kind in ("GIF", "BMP", "PPM")}
LIST = "".join(f"cat/{number}.jpg cat\ndog/{number}.jpg\tdog\n" for number in range(4)).encode()


@contextmanager
def judged(refusal: type[UserError] = UserError):
    """Fails at errors other than a sentence, and where it takes long or much memory."""
    with soon_and_small():
        try:
            yield
        except refusal as error:
            assert 0 < len(str(error)) < 3000


def damaged(content: bytes) -> st.SearchStrategy:
    """This file with one to six of its parts overwritten, pushed aside or taken out, or cut off."""
    odd = st.sampled_from([b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80"])
    start, count = st.integers(0, max(0, len(content) - 1)), st.one_of(st.integers(0, 64), st.just(len(content)))
    change = st.tuples(start, count, st.one_of(st.binary(max_size=8), odd, st.binary(max_size=200)))

    def changed(changes: list) -> bytes:
        found = bytearray(content)
        for start, count, new in changes:
            found[start : start + count] = new
        return bytes(found)

    return st.lists(change, min_size=1, max_size=6).map(changed)


@pytest.mark.parametrize("kind", IMAGES)
def test_images(kind):
    @fuzzed
    @given(damaged(IMAGES[kind]), st.sampled_from([0, 16, 224]))
    def check(content, side):
        with judged(ImageError):
            found = load_image(content, side)
            assert found.mode == "RGB" and min(found.size) > 0

    check()


@pytest.mark.parametrize("name", ["pets.zip", "pets.txt", "pets.csv"])
def test_what_prepare_reads(name, tmp_path):
    source, scratch = tmp_path / name, tmp_path / "scratch"
    scratch.mkdir()
    names = [f"pets/{split}/{kind}/{i}.jpg" for split in ("train", "test") for kind in ("cat", "dog") for i in (0, 1)]
    members = dict.fromkeys(names, IMAGES["JPEG"]) | {"pets/readme.txt": b"some text " * 20}

    @fuzzed
    @example(b"a\rb")
    @given(damaged(make_zip(source, members).read_bytes() if name == "pets.zip" else LIST))
    def check(content):
        source.write_bytes(content)
        with judged():
            try:
                for entry in sources.read_source(source, scratch).images:
                    assert not Path(entry.name).is_absolute() and ".." not in Path(entry.name).parts
                    with judged():
                        load_image(sources.read_bytes(entry))
            finally:
                archives.open_zip.cache_clear()

    check()
