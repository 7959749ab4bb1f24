"""Tiny images, zips and folders such as people bring them."""

import io
import os
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of a file of this kind."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def image(seed: int, quality: int = 90, size: int = 48) -> bytes:
    """A JPEG of its own for each seed; quality and size change the bytes, not what is seen."""
    noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    return encode(Image.fromarray(noise).resize((size, size), Image.Resampling.BICUBIC), "JPEG", quality=quality)


def plain(colour: str) -> bytes:
    """An image of one colour."""
    return encode(Image.new("RGB", (48, 48), colour), "PNG")


class RawName(zipfile.ZipInfo):
    """A member whose name is stored as given bytes, without the UTF-8 flag."""

    raw = b""

    def _encodeFilenameFlags(self):  # noqa: N802 (zipfile's)
        return self.raw, self.flag_bits & ~0x800


def make_zip(path: Path, members: dict[str, bytes], encoding: str | None = None) -> Path:
    """A zip; with an encoding, of names in it without the UTF-8 flag."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            if encoding:
                info = RawName(f"{len(archive.filelist)}")
                info.raw = name.encode(encoding)
            archive.writestr(info, content)
    return path


def make_folder(path: Path, members: dict[str, bytes]) -> Path:
    """The same as a folder."""
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def cats_and_dogs(number: int = 10, first: int = 0, pattern: str = "{label}/{i}.jpg") -> dict[str, bytes]:
    """`number` images of each class."""
    starts = {"cat": first, "dog": first + 1000}
    return {pattern.format(label=x, i=i): image(start + i) for x, start in starts.items() for i in range(number)}


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def run_prepare(*arguments: object) -> None:
    """Run prepare.py in this process."""
    import prepare  # which most tests do without

    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "sync", raising=False)  # waits for everything that the whole machine is writing
        patch.setattr(sys, "argv", ["prepare.py", *map(str, arguments)])
        prepare.main()
