"""Pictures to try the page with."""

import shutil
from pathlib import Path

from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.pictures import PictureError, is_candidate, open_picture

SAMPLE = Path("dataset/sample")  # where the drawn sample set lies
EXAMPLES = 8
SIDE = 160  # of a thumbnail, in pixels
IN_BROWSERS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".avif", ".bmp"}


def examples(checkpoint: Checkpoint) -> tuple[list[Path], bool]:
    """Up to EXAMPLES pictures, and whether they are drawings.

    They come from the test folder of the weights, else from the drawn sample set. The classes take turns; the same
    folder always gives the same pictures.
    """
    data = checkpoint.data
    places = [(SAMPLE / "test", True)]
    if data.get("root"):
        places.insert(0, (Path(data["root"]) / "test", data.get("kind") == "drawings"))
    for folder, drawn in places:
        classes = [label for label in checkpoint.classes if (folder / label).is_dir()][:EXAMPLES]
        each = -(-EXAMPLES // max(1, len(classes)))  # rounded up
        columns = [_some(folder / label, each) for label in classes]
        found = [column[row] for row in range(each) for column in columns if row < len(column)][:EXAMPLES]
        if found:
            return found, drawn
    return [], False


def thumbnail(path: Path) -> Image.Image:
    """A small copy; a grey square for a picture that cannot be read, of which the page then says why."""
    try:
        picture = open_picture(path, SIDE)
    except PictureError:
        return Image.new("RGB", (SIDE, SIDE), "grey")
    picture.thumbnail((2 * SIDE, 2 * SIDE))
    return picture


def copied(path: Path, uploads: Path) -> str:
    """A copy in Gradio's own folder, the only one that is served."""
    target = uploads / "examples" / path.parent.name / path.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
    return str(target)


def _some(folder: Path, count: int) -> list[Path]:
    """`count` pictures of a folder, spread evenly over its names."""
    paths = sorted(path for path in folder.iterdir() if is_candidate(path) and path.suffix.lower() in IN_BROWSERS)
    return paths[:: max(1, len(paths) // count)][:count]
