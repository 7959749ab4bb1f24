"""What predict.py makes of its table: a summary, a contact sheet, copies by class, and Kaggle's submission.

`rows` are rows of the table: path, class ("" where the image cannot be read), probabilities, note.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.distributed import WORLD_SIZE
from classifier.evaluation import plots
from classifier.files import atomic_write, safe_name
from classifier.prediction.sources import UnlabelledImage, key, read_image
from classifier.text import plural, print_table, shorten

MAX_SHEET_IMAGES = 64
MAX_SHEET_SIDE = 256  # pixels
MAX_UNREADABLE_LISTED = 5
MAX_CLASSES_IN_TABLE = 12
MAX_PROBABILITY = 0.995  # in Kaggle's file, whose log loss for a confident mistake is unbounded


def print_header(checkpoint: Checkpoint, compute: Compute) -> None:
    """Print which network labels the images, and on what."""
    print(f"weights    {checkpoint.path}")
    if checkpoint.data.get("kind") == "drawings":
        print(f"           trained on drawings only; for photographs use --weights module/{checkpoints.SHIPPED}")
    if checkpoint.assumed:
        print(f"assumed    {checkpoint.assumed}")
    size = checkpoint.preprocess.size
    print(
        f"network    {checkpoint.model}, {plural(len(checkpoint.classes), 'class', 'classes')}, {size} x {size} pixels"
    )
    print(f"device     {compute}", flush=True)


def print_summary(rows: Sequence[list[str]], new: int, others: int, seconds: float) -> None:
    """Print how many images each class has and which cannot be read.

    Args:
        rows: of all images that the command names.
        new: how many of them were labelled just now.
        others: how many files were passed over.
        seconds: how long the new ones took.
    """
    counts = Counter(row[1] for row in rows if row[1])
    problems = [f"{row[0]} {row[-1]}" for row in rows if not row[1]]
    if counts:
        common = counts.most_common(MAX_CLASSES_IN_TABLE)
        print()
        print_table([("class", "images"), *((shorten(name, 30), f"{count:,}") for name, count in common)])
    if len(counts) > MAX_CLASSES_IN_TABLE:
        print(f"... and {plural(len(counts) - MAX_CLASSES_IN_TABLE, 'more class', 'more classes')}")
    print()
    if problems:
        more = len(problems) - MAX_UNREADABLE_LISTED
        listed = problems[:MAX_UNREADABLE_LISTED] + [f"... and {more:,} more; see the notes in the table"] * (more > 0)
        print(f"unreadable {len(problems):,}: " + "\n           ".join(listed))
    if others:
        print(f"skipped    {plural(others, 'other file')}")
    processes = f" with {WORLD_SIZE} processes" if WORLD_SIZE > 1 else ""
    print(f"labelled   {plural(counts.total(), 'image')}")
    print(
        f"new        {plural(new, 'image')}"
        + (f" in {seconds:.1f} s, {new / seconds:,.0f} images/s{processes}") * (new > 0)
    )


def draw_sheet(
    rows: Sequence[list[str]], images: Mapping[str, UnlabelledImage], preprocess: Preprocess, path: Path
) -> list[Path]:
    """Draw images from all over the table, by class, the most confident first. Return [path], or [] without any image.

    Out-of-distribution images have a red title.
    """
    cells = []
    shrink = -(-preprocess.size // MAX_SHEET_SIDE)
    labelled = [row for row in rows if row[1]]
    for name, label, *probabilities, note in labelled[:: -(-len(labelled) // MAX_SHEET_IMAGES) or 1]:
        pixels = read_image(images[key(name)], preprocess.read)
        if not isinstance(pixels, UserError):  # the file may have been removed since
            confidence = max(map(float, probabilities))
            title = f"{label}{'' if note else f' {confidence:.0%}'}\n{safe_name(Path(name).name)}"
            cells.append((label, -confidence, title, bool(note), pixels[:, ::shrink, ::shrink]))
    if not cells:
        return []
    *_, titles, is_ood, pixels = zip(*sorted(cells, key=lambda cell: cell[:3]), strict=True)
    with atomic_write(path) as file:
        plots.contact_sheet(torch.stack(pixels), titles, wrong=is_ood).savefig(file, format="png", dpi=150)
    return [path]


def copy_by_class(
    rows: Iterable[list[str]], images: Mapping[str, UnlabelledImage], folders: Mapping[str, str], target: Path
) -> Path:
    """Copy each image to `target`/<folder of its class>/<its name>, or <its name>-2 and so on where that is taken.

    A copy that an earlier run has made is recognised by its content.
    """
    last = Counter()  # path -> number of its last copy, so that of a thousand equal names not all are tried each time
    for name, label, *_ in tqdm([row for row in rows if row[1]], unit=" copies", leave=False, disable=None):
        image = images[key(name)]
        try:
            content, times = image.read(), Path(image.file).stat()
        except (UserError, OSError) as error:
            print(f"not copied {name} ({error})")
            continue
        wanted = target / folders[label] / safe_name(Path(name).name)
        same_path = str(wanted).casefold()  # A.jpg and a.jpg are one file on Windows and macOS
        for number in itertools.count(last[same_path] + 1):
            copy = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
            if not os.path.lexists(copy):
                with atomic_write(copy, fsync=False) as file:
                    file.write(content)
                os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
                break
            if copy.is_file() and copy.stat().st_size == len(content) and copy.read_bytes() == content:
                break
        last[same_path] = number
    return target


def check_kaggle(classes: Sequence[str], names: Iterable[str]) -> None:
    """Raise a UserError where these classes or file names cannot make a submission to "Dogs vs. Cats Redux"."""
    if len(classes) != 2 or "dog" not in map(str.casefold, classes):
        raise UserError(
            f"--kaggle needs weights with two classes, one of them called dog; these have {len(classes)}: "
            f"{', '.join(classes[:MAX_CLASSES_IN_TABLE])}. Leave --kaggle out, or choose other --weights."
        )
    numbers: set[int] = set()
    for name in names:
        if (number := _kaggle_id(name)) in numbers:
            raise UserError(f"{name}: another image has the same number. Leave out --kaggle or one of the images.")
        numbers.add(number)


def _kaggle_id(name: str) -> int:
    number = re.fullmatch("[^0-9]*([0-9]{1,18})[^0-9]*", Path(name).stem)
    if not number:
        raise UserError(f"{name}: --kaggle needs file names with one number, such as 123.jpg. Leave --kaggle out.")
    return int(number[1])


def write_kaggle(rows: Iterable[list[str]], classes: Sequence[str], path: Path) -> Path:
    """Write `id,label` by id: the probability of dog, 0.5 where the image could not be read."""
    column = 2 + [name.casefold() for name in classes].index("dog")
    answers = {_kaggle_id(row[0]): float(row[column] or 0.5) for row in rows}
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("id,label\n")
        for number, p in sorted(answers.items()):
            file.write(f"{number},{min(max(p, 1 - MAX_PROBABILITY), MAX_PROBABILITY):.5g}\n")
    return path
