"""The built-in sample set: 720 drawings of cats and dogs, for a first run with nothing downloaded.

They are in sample.zip, which docs/drawings.py has drawn.
"""

import zipfile
from pathlib import Path

from classifier.cli import UserError
from classifier.data.images import has_image_extension
from classifier.files import atomic_write

ARCHIVE = Path(__file__).with_name("sample.zip")


def unpack(root: Path) -> None:
    """Write those of `root`/train/<class>/* (300 each) and `root`/test/<class>/* (60 each) that are not there yet.

    Raises:
        UserError: `root` holds other images, which a sample set must not be mixed with.
    """
    with zipfile.ZipFile(ARCHIVE) as archive:
        drawings = {root / name: archive.read(name) for name in archive.namelist()}
    for path in (path for split in ("train", "test") for path in (root / split).rglob("*")):
        if has_image_extension(path.name) and path.with_suffix(".webp") not in drawings:
            raise UserError(f"{path} is not one of the drawings: the sample set needs an empty folder, not {root}.")
    for path, content in drawings.items():
        if not path.is_file() and not path.with_suffix(".png").is_file():  # as earlier versions wrote it
            with atomic_write(path, fsync=False) as file:
                file.write(content)
