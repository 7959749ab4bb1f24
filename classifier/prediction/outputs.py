"""What predict.py makes of its table: a summary, a contact sheet, copies by class, and Kaggle's submission.

`rows` are images with their rows of the table: path, class ("" where the image cannot be read), probabilities, note.
"""

import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, plural, print_table, shorten
from classifier.data.formats import list_endings
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.distributed import WORLD_SIZE
from classifier.evaluation import plots
from classifier.files import atomic_write, safe_name
from classifier.prediction.sources import UnlabelledImage, read_image
from classifier.prediction.table import Table

MAX_SHEET_IMAGES = 64
MAX_PROBABILITY = 0.995  # in Kaggle's file, whose log loss for a confident mistake is unbounded

Rows = Sequence[tuple[UnlabelledImage, list[str]]]


def print_header(checkpoint: Checkpoint, compute: Compute) -> None:
    """Print which network labels the images, and on what."""
    print(f"weights    {checkpoint.path}")
    if checkpoint.data.get("kind") == "drawings":
        print(f"           trained on drawings only; for photographs use --weights module/{checkpoints.SHIPPED[0]}")
    if checkpoint.assumed:
        print(f"assumed    {checkpoint.assumed}")
    classes, size = plural(len(checkpoint.classes), "class", "classes"), checkpoint.preprocess.size
    print(f"network    {checkpoint.model}, {classes}, {size} x {size} pixels")
    print(f"device     {compute}", flush=True)


def print_kept(table: Table, count: int) -> None:
    """Print how many rows of an earlier run stand for images named today (`count`), and how many were removed."""
    if count:
        print(f"kept       {plural(count, 'row')} in {table.path}")
    if table.removed:
        print(f"removed    {plural(table.removed, 'row')} whose file is gone, has changed or was not recorded")
    sys.stdout.flush()


def print_summary(rows: Rows, new: int, others: Sequence[str], seconds: float) -> None:
    """Print how many images each class has, and how long the last `new` rows took; `others` were passed over."""
    counts = Counter(row[1] for _, row in rows if row[1])
    print()
    if counts:
        print_table([("class", "images"), *((shorten(name, 30), f"{count:,}") for name, count in counts.most_common())])
        print()
    if problems := [f"{row[0]} {row[-1]}" for _, row in rows if not row[1]]:
        more = " ... (see the table)" if len(problems) > 1 else ""
        print(f"unreadable {plural(len(problems), 'image')}: {problems[0]}{more}")
    if others:
        print(f"skipped    {plural(len(others), 'other file')}: {list_endings(others)}")
    print(f"labelled   {plural(counts.total(), 'image')}")
    failed = sum(not row[1] for _, row in rows[len(rows) - new :])
    unreadable = f" ({failed:,} unreadable)" if failed else ""
    processes = f" with {WORLD_SIZE} processes" if WORLD_SIZE > 1 else ""
    print(f"new        {plural(new, 'image')}{unreadable} in {seconds:.1f} s, {new / seconds:,.0f} images/s{processes}")


def draw_sheet(rows: Rows, preprocess: Preprocess, path: Path) -> list[Path]:
    """Draw images from all over the table, by class, the most confident first. Return [path], or [] without any image.

    Out-of-distribution images have a red title.
    """
    cells = []
    labelled = [(image, row) for image, row in rows if row[1]]
    for image, (_, label, *probabilities, note) in labelled[:: -(-len(labelled) // MAX_SHEET_IMAGES) or 1]:
        pixels = read_image(image, preprocess.read)
        if not isinstance(pixels, UserError):  # the file may have been removed since
            confidence = max(map(float, probabilities))
            title = f"{label}{'' if note else f' {confidence:.0%}'}\n{safe_name(Path(image.name).name)}"
            cells.append((label, -confidence, title, bool(note), pixels))
    if not cells:
        return []
    *_, titles, is_ood, pixels = zip(*sorted(cells, key=lambda cell: cell[:3]), strict=True)
    with atomic_write(path) as file:
        plots.contact_sheet(torch.stack(pixels), titles, wrong=is_ood).savefig(file, format="png", dpi=150)
    return [path]


def copy_by_class(rows: Rows, folders: Mapping[str, str], target: Path) -> Path:
    """Copy each image to `target`/<folder of its class>/<its name>, or <its name>-2 and so on where that is taken.

    A copy that an earlier run has made is recognised by its content.
    """
    last = Counter()  # path -> number of its last copy, since even equal images get a copy each
    labelled = [(image, row[1]) for image, row in rows if row[1]]
    for image, label in tqdm(labelled, unit=" copies", leave=False, disable=None):
        try:
            source, times = image.source(), Path(image.file).stat()
            content = source if isinstance(source, bytes) else Path(source).read_bytes()
        except (UserError, OSError) as error:
            print(f"not copied {image.name} ({error})")
            continue
        wanted = target / folders[label] / safe_name(Path(image.name).name)
        same_path = str(wanted).casefold()  # A.jpg and a.jpg are one file on Windows and macOS
        for number in itertools.count(last[same_path] + 1):
            copy = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
            if not os.path.lexists(copy):
                with atomic_write(copy, fsync=False) as file:
                    file.write(content)
                os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
                break
            if copy.is_file() and copy.read_bytes() == content:
                break
        last[same_path] = number
    return target


def kaggle_ids(classes: Sequence[str], names: Iterable[str]) -> dict[int, str]:
    """Return id -> name of each image. Raises UserError where these cannot make a submission to "Dogs vs. Cats"."""
    if len(classes) != 2 or "dog" not in map(str.casefold, classes):
        raise UserError(f"--kaggle needs weights with two classes, one of them called dog, not {', '.join(classes)}.")
    ids: dict[int, str] = {}
    for name in names:
        numbers = re.findall("[0-9]+", Path(name).stem)
        if len(numbers) != 1:
            raise UserError(f"{name}: --kaggle needs file names with one number, such as 123.jpg.")
        if ids.setdefault(int(numbers[0]), name) != name:
            raise UserError(f"{name}: another image has the same number. Leave out --kaggle or one of the images.")
    return ids


def write_kaggle(rows: Rows, classes: Sequence[str], path: Path) -> Path:
    """Write `id,label` by id: the probability of dog, 0.5 where the image could not be read."""
    column = 2 + [name.casefold() for name in classes].index("dog")
    dog = {row[0]: float(row[column] or 0.5) for _, row in rows}
    with atomic_write(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("id,label\n")
        for number, name in sorted(kaggle_ids(classes, dog).items()):
            file.write(f"{number},{min(max(dog[name], 1 - MAX_PROBABILITY), MAX_PROBABILITY):.5g}\n")
    return path
