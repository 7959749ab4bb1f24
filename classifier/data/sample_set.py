"""The built-in sample set: 720 drawings of cats and dogs, for a first run with nothing downloaded.

They are in sample.zip, as WebP without loss, which is half as large as the PNG files that it becomes; docs/drawings.py
has drawn them.
"""

import re
import zipfile
from pathlib import Path

from PIL import Image

from classifier.cli import UserError
from classifier.data.formats import is_image
from classifier.files import atomic_write

ARCHIVE = Path(__file__).with_name("sample.zip")


def is_drawing(path: Path) -> bool:
    """Whether a file has the name of a drawing, such as cat/cat.0.png; Kaggle's photographs end in .jpg."""
    return bool(re.fullmatch(r"(cat|dog)/\1\.\d+\.(png|webp)", "/".join(path.parts[-2:])))


def unpack(root: Path) -> None:
    """Write those of `root`/train/<class>/* (300 each) and `root`/test/<class>/* (60 each) that are not there yet.

    Raises:
        UserError: `root` holds other images, which a sample set must not be mixed with.
    """
    with zipfile.ZipFile(ARCHIVE) as archive:
        drawings = {root / Path(name).with_suffix(".png"): name for name in archive.namelist()}
        for path in (path for split in ("train", "test") for path in (root / split).rglob("*")):
            if is_image(path) and path not in drawings:
                raise UserError(f"{path} is not one of the drawings: the sample set needs an empty folder, not {root}.")
        for path, name in drawings.items():
            if not path.is_file():
                with atomic_write(path, fsync=False) as file, archive.open(name) as packed:
                    Image.open(packed).save(file, "PNG")
