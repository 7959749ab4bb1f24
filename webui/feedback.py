"""What visitors say of answers: a row of logs/feedback.csv each, and the image only where that is asked for."""

import csv
import hashlib
import io
import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from classifier.data.images import EXTENSIONS
from classifier.files import atomic_write, file_lock, lock_of, safe_name
from classifier.text import no_formula

COLUMNS = ("time", "weights", "answer", "confidence", "truth", "sha256")
RIGHT, NEITHER = "right", "neither"


def note(
    logs: Path,
    image: Path,
    classes: Sequence[str],
    weights: str,
    answer: str,
    confidence: float,
    truth: str,
    keep_image: bool = False,
) -> str:
    """Add a row to logs/feedback.csv. What the visitor's file is called is not kept; the hash finds its copies.

    Args:
        logs: the folder.
        image: the file, as it was uploaded.
        classes: of the weights.
        weights: their name.
        answer: what they said, one of the classes or "neither".
        confidence: how sure they were of it, 0..1.
        truth: what the visitor says, one of the classes or "neither"; "right", if no class is called so, stands for
            `answer`.
        keep_image: also keep a copy, in logs/feedback/<truth>/<sha256>.<ending>.

    Returns:
        Nothing, or a sentence on why this could not be kept.
    """
    if truth == RIGHT and RIGHT not in classes:
        truth = answer
    if truth not in (*classes, NEITHER) or answer not in (*classes, NEITHER):
        return "The true class has to be one of those that the weights know, or neither."
    try:
        content = image.read_bytes()
    except OSError:
        return "The image is not here any more. Give it to the page again."
    digest = hashlib.sha256(content).hexdigest()
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        logs.mkdir(parents=True, exist_ok=True)
        _append(logs / "feedback.csv", (time, weights, answer, f"{confidence:.4f}", truth, digest))
        if keep_image:
            _keep(content, logs / "feedback" / safe_name(truth) / f"{digest}{_ending(image)}")
    except OSError as error:
        return (
            f"The feedback could not be kept ({error.strerror or error}). It goes to feedback.csv in {logs.name}: make "
            "room there, and close programs that have that file open."
        )
    return ""


def _append(path: Path, row: Sequence[str]) -> None:
    with (
        file_lock(lock_of(path), f"{path} is being written by another process. Try again."),
        path.open("a+b", buffering=0) as file,
    ):
        end = file.seek(0, os.SEEK_END)
        rows = [list(map(no_formula, row))] if end else [COLUMNS, list(map(no_formula, row))]
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        start = b"" if end else b"\xef\xbb\xbf"  # tells Excel that this is UTF-8
        if end:
            file.seek(end - 1)
            start = b"" if file.read(1) == b"\n" else b"\r\n"  # the last row was cut off, or is a person's
        file.write(start + text.getvalue().encode("utf-8", "replace"))


def _ending(image: Path) -> str:
    ending = image.suffix.lower()
    return ending if ending in EXTENSIONS else ""


def _keep(content: bytes, path: Path) -> None:
    """Write a file, whole or not at all; one that is there already is the same."""
    if path.exists():
        return
    with atomic_write(path) as file:
        file.write(content)
