"""What is made of the table of answers: a summary, a contact sheet, copies by class, and Kaggle's file.

`given` are rows of the table: path, class ("" where the image cannot be read), probabilities, note.
"""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from classifier import distributed
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.evaluation import plots
from classifier.files import safe_name
from classifier.prediction import loader
from classifier.prediction.sources import find
from classifier.prediction.table import whole
from classifier.text import print_table, shorten

SHEET = 64  # images on the contact sheet, at most
NAMED = 5  # unreadable images in the summary, at most
MANY = 12  # classes in the summary, at most
SURE = 0.995  # Kaggle's log loss punishes a sure mistake without limit: no probability is above it, or below 1 - it


def print_summary(given: Iterable[list[str]], new: int, others: int, seconds: float) -> None:
    """How many of each class, and what could not be read. Raises UserError where there is no image at all."""
    counts, problems = Counter(), []
    for name, label, *_, note in given:
        counts[label] += 1
        if not label and len(problems) < NAMED:
            problems.append(f"{name} {note}")
    if not counts:
        skipped = f": {others:,} other files were passed over" if others else ""
        raise UserError(f"There is no image to label{skipped}. Name images or folders.")
    answered, unreadable = counts.total(), counts.pop("", 0)
    if counts:
        print()
        print_table([("class", "images"), *((shorten(name, 30), f"{n:,}") for name, n in counts.most_common(MANY))])
    if len(counts) > MANY:
        print(f"... and {len(counts) - MANY} more classes")
    print()
    if unreadable:
        more = [f"... and {unreadable - NAMED:,} more; see the notes in the table"] if unreadable > NAMED else []
        print(f"unreadable {unreadable:,}: " + "\n           ".join(problems + more))
    if others:
        print(f"skipped    {others:,} other files")
    speed = "all were answered before"
    if new:
        speed = f"{new:,} new in {seconds:.1f} s, {new / seconds:,.0f} images/s"
        speed += f" of all {distributed.WORLD_SIZE} processes together" * (distributed.WORLD_SIZE > 1)
    print(f"answered   {answered:,}, {speed}")


def draw_sheet(given: Iterable[list[str]], preprocess: Preprocess, path: Path) -> bool:
    """Some images from all over the table, by class, the surest first, what is of no class in red.

    Returns whether there was any.
    """
    picked, step = [], 1
    for number, row in enumerate(row for row in given if row[1]):
        if number % step == 0:
            picked.append(row)
        if len(picked) > SHEET:
            picked, step = picked[::2], 2 * step
    cells = []
    small = -(-preprocess.size // 256)
    for name, label, *probabilities, note in picked:
        pixels = loader.read(find(name), preprocess.read)
        if not isinstance(pixels, str):  # the file may have gone since
            surest = max(map(float, probabilities))
            title = f"{label}{'' if note else f' {surest:.0%}'}\n{safe_name(Path(name).name)}"
            cells.append((label, -surest, title, bool(note), pixels[:, ::small, ::small]))
    if not cells:
        return False
    *_, titles, none, pixels = zip(*sorted(cells, key=lambda cell: cell[:3]), strict=True)
    figure = plots.contact_sheet(torch.stack(pixels), titles, wrong=none)
    with whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    return True


def copy_by_class(given: Iterable[list[str]], folders: dict[str, str], target: Path) -> None:
    """Copy each image to `target`/<folder of its class>/<its name>, or <its name>-2 and so on where that is taken.

    What an earlier run has copied is known by its content and stays.
    """
    last = Counter()  # number of the last copy of a name, also so that a thousand equal names are not tried in turn
    for name, label, *_ in tqdm((row for row in given if row[1]), unit=" copies", leave=False, disable=None):
        try:
            image = find(name)
            content = loader.contents(image)
            times = Path(image.file).stat()
        except (UserError, OSError) as error:
            print(f"not copied {name} ({error})")
            continue
        wanted = target / folders[label] / safe_name(Path(name).name)
        key = str(wanted).casefold()  # Windows and macOS take A.jpg and a.jpg for one
        for number in itertools.count(last[key] + 1):
            copy = wanted if number == 1 else wanted.with_stem(f"{wanted.stem}-{number}")
            if not os.path.lexists(copy):
                with whole(copy) as temporary:
                    temporary.write_bytes(content)
                    os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))
                break
            if copy.is_file() and copy.stat().st_size == len(content) and copy.read_bytes() == content:
                break
        last[key] = number


def dog(classes: Sequence[str]) -> int:
    """Which of the two classes is the dog. Raises UserError."""
    names = [name.casefold() for name in classes]
    if len(names) != 2 or "dog" not in names:
        raise UserError(
            f"--kaggle needs weights with two classes, one of them called dog; these know {len(names)}: "
            f"{', '.join(classes[:MANY])}. Leave --kaggle out, or choose other --weights."
        )
    return names.index("dog")


def kaggle_id(name: str, others: set[int]) -> int:
    """The number that a file's name holds, which joins those of `others`. Raises UserError."""
    number = re.fullmatch("[^0-9]*([0-9]{1,18})[^0-9]*", Path(name).stem)
    if not number:
        raise UserError(f"{name}: --kaggle needs file names with one number, such as 123.jpg. Leave --kaggle out.")
    if int(number[1]) in others:
        raise UserError(f"{name}: another image has its number, too. Leave --kaggle out, or that image.")
    others.add(int(number[1]))
    return int(number[1])


def write_kaggle(given: Iterable[list[str]], classes: Sequence[str], path: Path) -> None:
    """`id,label` by id: the probability of dog, 0.5 where the image could not be read. Raises UserError."""
    place, answers, numbers = 2 + dog(classes), {}, set()
    for row in given:
        answers[kaggle_id(row[0], numbers)] = min(max(float(row[place] or 0.5), 1 - SURE), SURE)
    lines = [f"{number},{probability:.5g}\n" for number, probability in sorted(answers.items())]
    with whole(path) as temporary:
        temporary.write_text("id,label\n" + "".join(lines), encoding="utf-8", newline="\n")
