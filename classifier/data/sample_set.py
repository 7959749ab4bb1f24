"""The built-in sample set: drawings of cats and dogs, for a first run with nothing downloaded.

They are drawings, made here with Pillow, and called drawings wherever they appear: no photograph is among them, and
a network trained on them knows nothing of photographs.

2 x 300 for training and 2 x 60 for testing, PNG of 192 x 192, 9 MB in all, drawn in about 7 seconds of one core.

Both classes take fur, markings, poses, scenes and clutter from the same tables; ears, head, face and tail differ.
So colour tells almost nothing and shape nearly everything. Right on the test part:

    logistic regression on brightness, mean colour, 8 x 8 thumbnails    53%, 53%, 61%  (best of five weight decays)
    ResNet-18 from scratch, `python train.py` where dataset/ is empty   99%            (61 seconds on two cores)
"""

import tempfile
from pathlib import Path

from classifier.cli import UserError
from classifier.data.drawings import draw
from classifier.data.images import has_image_extension

CLASSES = ("cat", "dog")
COUNTS = {"train": 300, "test": 60}  # per class


def sample_files() -> dict[Path, tuple[str, str, int]]:
    """Every file of the set, relative to its root, with the split, class and number that make its drawing."""
    numbered = [(split, kind, n) for split, count in COUNTS.items() for kind in CLASSES for n in range(count)]
    return {Path(split, kind, f"{kind}.{n}.png"): (split, kind, n) for split, kind, n in numbered}


def holds_sample_set(root: Path) -> bool:
    """Whether `root` holds drawings: most of the sample set."""
    files = sample_files()
    return sum((root / file).is_file() for file in files) > len(files) / 2


def move(source: Path, target: Path) -> None:
    """Rename a file or folder; where the target folder exists and is not empty, move what is inside instead."""
    try:
        source.replace(target)
    except OSError:
        if not (source.is_dir() and target.is_dir()):
            raise
        for child in sorted(source.iterdir()):
            move(child, target / child.name)


def draw_sample_set(root: Path) -> None:
    """Draw the sample set into `root`/train/<class> (300 each) and `root`/test/<class> (60 each).

    A complete set is left alone, an incomplete one is completed. Drawings are made in a folder next to `root` and
    renamed into place when all are there, so a reader sees none or all of them.

    Raises:
        UserError: `root` holds other images, which a sample set must not be mixed with.
    """
    root = Path(root)
    files = sample_files()
    for split in COUNTS:
        for path in (root / split).rglob("*"):
            if has_image_extension(path.name) and path.relative_to(root) not in files:
                raise UserError(f"{path} is not one of the drawings: the sample set needs an empty folder, not {root}")
    missing = [file for file in files if not (root / file).is_file()]
    if not missing:
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as staging:
        fresh = Path(staging, "set")
        for file in missing:
            (fresh / file).parent.mkdir(parents=True, exist_ok=True)
            draw(*files[file]).save(fresh / file)
        move(fresh, root)
