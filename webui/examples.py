"""Images to try the page with."""

import contextlib
from itertools import chain
from pathlib import Path

from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.data.formats import ImageError, is_image
from classifier.data.images import load_image
from classifier.data.sample_set import is_drawing
from webui.models import learned_from_drawings

MAX_EXAMPLES = 8
THUMBNAIL_SIDE = 160  # pixels


def examples(checkpoint: Checkpoint) -> list[Path]:
    """Return up to MAX_EXAMPLES test images, whose classes alternate; a folder always gives the same ones.

    They come from the data set that the network was trained on, if it is below the working directory, or from
    dataset/test; drawings only for a network that learned from drawings, which gets nothing else.
    """
    drawings = learned_from_drawings(checkpoint)
    root = Path(str(checkpoint.data.get("root", "")))
    for test in [root / "test"] if drawings else [root / "test", Path("dataset/test")]:
        if test.is_absolute() or ".." in test.parts or not test.is_dir():
            continue
        folders = [folder for folder in sorted(test.iterdir()) if folder.name in checkpoint.classes and folder.is_dir()]
        images = [sorted(filter(is_image, folder.iterdir())) for folder in folders]
        found = [[path for path in paths if drawings or not is_drawing(path)][:MAX_EXAMPLES] for paths in images]
        if any(found):
            return list(chain(*zip(*filter(None, found), strict=False)))[:MAX_EXAMPLES]
    return []


def thumbnail(path: Path) -> Image.Image:
    """Return a small copy; a grey square for an image that cannot be read (a click on it shows why)."""
    image = Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "grey")
    with contextlib.suppress(ImageError):
        image = load_image(path, THUMBNAIL_SIDE)
    image.thumbnail((2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
    return image
