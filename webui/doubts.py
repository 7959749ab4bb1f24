"""Which labels does evaluate.py doubt, which of them are still to be decided, and what does a decision do?

The list is suspects.csv in the newest report of the weights; decisions go to corrections.csv.
"""

import csv
import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageOps

from classifier.cli import UserError
from classifier.data import corrections, image_folder
from classifier.data.corrections import KEEP, LEAVE_OUT, RELABEL, UNDONE, Correction
from classifier.data.images import load_image
from webui.html import data_uri, jpeg
from webui.words import Speaker

SIDE = 800  # pixels of the longer side as it is shown, at most
SMALL = 400  # and at least
KEYS = "123456789"
Look = Callable[[str], tuple[dict[str, float], bytes | None]]


@dataclass(frozen=True)
class Doubt:
    """A row of the list: the image, its name in corrections.csv, its class by its folder, the network's answer."""

    path: str
    file: str
    label: str
    answer: str
    sure: float


@dataclass(frozen=True)
class DoubtfulImage:
    """The image to decide about, ready to be shown; `digest` is of the file as it is shown."""

    doubt: Doubt
    digest: str
    image: str  # a data URI, like overlay
    overlay: str
    answer: str
    sure: float
    choices: list[tuple[str, str]]  # other classes, with the key for each or ""


@dataclass(frozen=True)
class View:
    """What the tab shows. `gone` images of the list are there no more, or cannot be opened."""

    weights: Path
    listed: bool = False  # whether there is a list
    total: int = 0
    done: int = 0
    gone: int = 0
    image: DoubtfulImage | None = None  # to decide about
    last: Correction | None = None  # what Undo takes back


@dataclass
class Review:
    """The newest list of one .pth, read anew each time, so that it may grow or be decided elsewhere meanwhile.

    Args:
        weights: the .pth.
        look: path of an image -> (probability of each class, heat map as a PNG of the image's proportions or None).
        logs: the folder that evaluate.py reports to.
    """

    weights: Path
    look: Look
    logs: Path = Path("logs")

    def view(self, last: tuple[str, str] = ("", ""), first: str = "") -> View:
        """What is to be shown now.

        Args:
            last: (file, digest) of what has just been decided here; otherwise the latest of the list is taken.
            first: the file to begin with, where it is still to be decided.
        """
        state = _read(self.weights, self.logs)
        if state is None:
            return View(self.weights)
        decided = {file for file, _ in state.standing}
        left = [
            doubt
            for doubt in state.doubts.values()
            if doubt.file not in decided or (doubt.file, _digest_of(doubt.path)) not in state.standing
        ]
        done, gone, image = len(state.doubts) - len(left), state.gone, None
        for doubt in sorted(left, key=lambda doubt: doubt.file != first):
            try:
                image = _ready(doubt, state.classes, self.look)
                break
            except UserError:  # damaged since, or gone in this moment
                gone += 1
        listed = [correction for correction in state.standing.values() if correction.file in state.doubts]
        latest = state.standing.get(last) or (listed[-1] if listed else None)
        return View(self.weights, True, len(state.doubts) + state.gone - gone, done, gone, image, latest)

    def act(self, asked: dict, say: Speaker, who: str = "") -> tuple[View, str]:
        """Do what a button says, for the image that it was shown with, and only if nobody has done so meanwhile.

        Args:
            asked: action (keep, relabel, leave out, undo), file, digest; choice: the class; line: what Undo takes back.
            say: puts it into words.
            who: the reviewer's name, if known.

        Returns:
            What is to be shown now, and what there is to tell.
        """
        action, file, digest, choice, line = (
            str(asked.get(key, "")) for key in ("action", "file", "digest", "choice", "line")
        )
        state = _read(self.weights, self.logs)
        doubt = state.doubts.get(file) if state else None
        if doubt is None:
            return self.view(), say("{file} is not on the list any more.", file=file)
        undo = action == "undo" and line.isdecimal() and int(line) > 0
        known = action in (KEEP, LEAVE_OUT) or (action == RELABEL and choice in state.classes)
        if not (undo or known):
            return self.view(), ""
        right = choice if action == RELABEL else ""
        new = Correction(file, digest, doubt.label, UNDONE if undo else action, right, who)
        try:
            if not undo and corrections.digest(doubt.path).hex() != digest:
                told = say("{file} has changed since it was shown. Nothing was recorded: look again.", file=file)
                return self.view(first=file), told
            recorded = corrections.record(state.table, new, state.classes, int(line) if undo else 0)
        except UserError as error:
            return self.view(first=file), say("Nothing was recorded: {reason}", reason=say.reason(error))
        if not recorded:
            told = say("{file} has been decided elsewhere meanwhile. Nothing was changed.", file=file)
            return self.view(), told
        return (self.view(first=file) if undo else self.view(last=(file, digest))), ""


@dataclass(frozen=True)
class _State:
    doubts: dict[str, Doubt]  # by file, the largest doubt first
    gone: int
    classes: list[str]
    table: Path
    standing: corrections.Standing


def newest_lists(weights: Path, logs: Path) -> list[tuple[Path, Path]]:
    """The newest suspects.csv of these weights about each part of the images (test, val), and the folder of those."""
    found: dict[str, tuple[Path, Path]] = {}
    for path in sorted(logs.glob("evaluate/*/[!.]*/suspects.csv"), key=lambda path: path.parent.name, reverse=True):
        try:
            report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
            if Path(report["weights"]).resolve() == weights.resolve():
                found.setdefault(report.get("part", "test"), (path, Path(report["folder"])))
        except (OSError, ValueError, KeyError, TypeError):  # not of evaluate.py
            continue
    return list(found.values())


def read_list(path: Path, root: Path) -> list[Doubt]:
    """The rows of a suspects.csv about the images below `root`, the largest doubt first; none if it is unreadable."""
    table, doubts = corrections.table_of(root), []
    try:
        with path.open(encoding="utf-8-sig", errors=corrections.NAMES, newline="") as file:
            for row in csv.DictReader(file):
                name = row["path"]
                label = Path(name).relative_to(root).parts[0]
                doubts.append(Doubt(name, corrections.name_in(table, name), label, row["answer"], float(row["sure"])))
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error):
        return []
    return sorted(doubts, key=lambda doubt: -doubt.sure)


def _read(weights: Path, logs: Path) -> _State | None:
    found = newest_lists(weights, logs)
    if not found:
        return None
    root = found[0][1]
    table, classes = corrections.table_of(root), image_folder.class_names(root)
    lists = [one for one in found if corrections.table_of(one[1]) == table]  # those of the newest list's table
    doubts = [doubt for path, other in lists for doubt in read_list(path, other)]
    listed = {doubt.file: doubt for doubt in sorted(doubts, key=lambda doubt: -doubt.sure)}
    here = {file: doubt for file, doubt in listed.items() if _is_there(doubt, classes)}
    return _State(here, len(listed) - len(here), classes, table, corrections.read(table, classes)[0])


def _is_there(doubt: Doubt, classes: Sequence[str]) -> bool:
    is_text = doubt.file.encode("utf-8", "ignore").decode() == doubt.file  # or no browser could name it
    return is_text and doubt.label in classes and Path(doubt.path).is_file()


def _ready(doubt: Doubt, classes: Sequence[str], look: Look) -> DoubtfulImage:
    """Raises UserError where the image cannot be opened."""
    digest = corrections.digest(doubt.path).hex()
    image = load_image(doubt.path, SIDE // 2)  # leaves at least SIDE of the shorter side, if there are as many
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE))
    elif max(image.size) < SMALL:
        image = ImageOps.contain(image, (SMALL, SMALL))
    probabilities, overlay, answer, sure = {}, None, doubt.answer, doubt.sure
    try:
        probabilities, overlay = look(doubt.path)
        answer = max(probabilities, key=probabilities.get)
        sure = probabilities[answer]
    except UserError:  # the weights are gone: the list has their answer
        pass
    others = [name for name in classes if name != doubt.label]
    keys = dict(zip(classes, KEYS, strict=False))  # the same key for a class all the time
    if len(classes) > len(KEYS):  # or for the most probable ones
        others.sort(key=lambda name: -probabilities.get(name, 0))
        keys = dict(zip(others, KEYS, strict=False))
    choices = [(name, keys.get(name, "")) for name in others]
    return DoubtfulImage(doubt, digest, jpeg(image), data_uri(overlay, "png") if overlay else "", answer, sure, choices)


def _digest_of(path: str) -> str:
    try:
        state = Path(path).stat()
        return _digest(path, state.st_mtime_ns, state.st_size)
    except (OSError, UserError):
        return ""


@functools.lru_cache(4096)
def _digest(path: str, time: int, size: int) -> str:
    return corrections.digest(path).hex()
