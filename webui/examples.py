"""Images to try the page with."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.data.drawings import draw
from classifier.data.images import ImageError, has_image_extension, load_image
from webui.choices import learned_from_drawings

MAX_EXAMPLES = 8
THUMBNAIL_SIDE = 160  # pixels
SHOWN_BY_BROWSERS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".bmp"}


def examples(checkpoint: Checkpoint, uploads: Path) -> tuple[list[Path], bool]:
    """Return up to MAX_EXAMPLES images, and whether they are drawings.

    They come from dataset/test, or from the test folder of the checkpoint's data set if it is below the working
    directory; otherwise they are drawings of cats and dogs. Classes alternate; a folder always gives the same images.
    """
    root = checkpoint.data.get("root")
    below = isinstance(root, str) and not Path(root).is_absolute() and ".." not in Path(root).parts
    for folder in (Path("dataset/test"), *([Path(root) / "test"] if below else [])):
        with contextlib.suppress(OSError, ValueError):
            if found := _from_folder(folder, checkpoint.classes):
                return found, learned_from_drawings(checkpoint)
    kinds = [name for name in checkpoint.classes if name in ("cat", "dog")]
    return [_drawing(kind, number, uploads) for number in range(MAX_EXAMPLES // 2) for kind in kinds], True


def thumbnail(path: Path) -> Image.Image:
    """Return a small copy; a grey square for an image that cannot be read (a click on it shows why)."""
    try:
        image = load_image(path, THUMBNAIL_SIDE)
    except ImageError:
        return Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), "grey")
    image.thumbnail((2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
    return image


def _from_folder(folder: Path, classes: Sequence[str]) -> list[Path]:
    labels = [label for label in classes if (folder / label).is_dir()][:MAX_EXAMPLES]
    each = -(-MAX_EXAMPLES // max(1, len(labels)))  # rounded up
    columns = [_spread(folder / label, each) for label in labels]
    return [column[row] for row in range(each) for column in columns if row < len(column)][:MAX_EXAMPLES]


def _spread(folder: Path, count: int) -> list[Path]:
    """Return `count` images of a folder, spread evenly over its names."""
    paths = [path for path in folder.iterdir() if has_image_extension(path)]
    paths = sorted(path for path in paths if path.suffix.lower() in SHOWN_BY_BROWSERS)
    return [path for path in paths[:: max(1, len(paths) // count)][:count] if path.is_file()]


def _drawing(kind: str, number: int, uploads: Path) -> Path:
    path = uploads / "drawings" / f"{kind}-{number}.png"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        draw("test", kind, number).save(path)
    return path
