"""Images to try the page with."""

import contextlib
import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.data.drawings import draw
from classifier.data.images import ImageError, has_image_extension, load_image

EXAMPLES = 8
SIDE = 160  # of a thumbnail, in pixels
IN_BROWSERS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".bmp"}


def examples(checkpoint: Checkpoint, uploads: Path) -> tuple[list[Path], bool]:
    """Up to EXAMPLES images, and whether they are drawings.

    They come from dataset/test, or from the test folder that the weights name, if it lies below this one; else they are
    drawings of cats and dogs. The classes take turns; the same folder always gives the same images.
    """
    root = checkpoint.data.get("root")
    below = isinstance(root, str) and not Path(root).is_absolute() and ".." not in Path(root).parts
    drawn = checkpoint.data.get("kind") == "drawings"
    for folder in (Path("dataset/test"), *([Path(root) / "test"] if below else [])):
        with contextlib.suppress(OSError, ValueError):
            if found := _from_folder(folder, checkpoint.classes):
                return found, drawn
    kinds = [name for name in checkpoint.classes if name in ("cat", "dog")]
    drawings = [(kind, number) for number in range(EXAMPLES // 2) for kind in kinds]
    return [_drawing(kind, number, uploads) for kind, number in drawings], True


def _from_folder(folder: Path, classes: Sequence[str]) -> list[Path]:
    here = [label for label in classes if (folder / label).is_dir()][:EXAMPLES]
    each = -(-EXAMPLES // max(1, len(here)))  # rounded up
    columns = [_some(folder / label, each) for label in here]
    return [column[row] for row in range(each) for column in columns if row < len(column)][:EXAMPLES]


def _drawing(kind: str, number: int, uploads: Path) -> Path:
    path = uploads / "drawings" / f"{kind}-{number}.png"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        draw("test", kind, number).save(path)
    return path


def thumbnail(path: Path) -> Image.Image:
    """A small copy; a grey square for an image that cannot be read, of which the page then says why."""
    try:
        image = load_image(path, SIDE)
    except ImageError:
        return Image.new("RGB", (SIDE, SIDE), "grey")
    image.thumbnail((2 * SIDE, 2 * SIDE))
    return image


def copied(path: Path, uploads: Path) -> str | None:
    """A copy in Gradio's own folder, the only one that is served; None where the image has gone."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    target = uploads / hashlib.sha256(content).hexdigest() / path.name  # so that equal names do not meet
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        unfinished = target.with_name(f".{path.name}.{threading.get_ident()}.tmp")
        unfinished.write_bytes(content)
        unfinished.replace(target)
    return str(target)


def _some(folder: Path, count: int) -> list[Path]:
    """`count` images of a folder, spread evenly over its names."""
    paths = sorted(
        path for path in folder.iterdir() if has_image_extension(path) and path.suffix.lower() in IN_BROWSERS
    )
    return [path for path in paths[:: max(1, len(paths) // count)][:count] if path.is_file()]
