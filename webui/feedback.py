"""Visitors' feedback on answers: a row of logs/feedback.csv each, and the image only where that is asked for."""

import csv
import hashlib
import io
import os
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from classifier.cli import UserError
from classifier.data.images import EXTENSIONS
from classifier.files import atomic_write, file_lock, lock_of, safe_name
from classifier.text import no_formula

COLUMNS = ("time", "weights", "answer", "confidence", "truth", "sha256")
NEITHER = "neither"


class Given(NamedTuple):
    """The answer that feedback is about. `answer` is a class or NEITHER."""

    image: Path
    classes: list[str]
    weights: str
    answer: str
    confidence: float


def record(logs: Path, given: Given, truth: str, keep_image: bool = False) -> None:
    """Append a row to logs/feedback.csv. The visitor's file name is not kept; the hash finds copies of the image.

    `truth` is what the visitor says it is, a class or NEITHER. With `keep_image`, a copy goes to
    logs/feedback/<truth>/<sha256>.<extension>. Raises UserError for an unknown class, or where the disk is full or the
    file is open elsewhere.
    """
    if not {truth, given.answer} <= {*given.classes, NEITHER}:
        raise UserError("The true class has to be one of the model's classes, or neither.")
    try:
        content = given.image.read_bytes()
    except OSError:
        raise UserError("The image is no longer on the server. Upload it again.") from None
    digest = hashlib.sha256(content).hexdigest()
    time = datetime.now().astimezone().isoformat(timespec="seconds")
    try:
        logs.mkdir(parents=True, exist_ok=True)
        _append(logs / "feedback.csv", (time, given.weights, given.answer, f"{given.confidence:.4f}", truth, digest))
        extension = given.image.suffix.lower()
        copy = logs / "feedback" / safe_name(truth) / f"{digest}{extension if extension in EXTENSIONS else ''}"
        if keep_image and not copy.exists():
            with atomic_write(copy) as file:
                file.write(content)
    except OSError as error:
        message = (
            "The feedback could not be saved ({reason}). Make room for {file}, or close programs that have it open."
        )
        raise UserError(message, reason=error.strerror or error, file=logs / "feedback.csv") from error


def _append(path: Path, row: tuple[str, ...]) -> None:
    busy = f"{path.name} is being written by another process. Try again."
    with file_lock(lock_of(path), busy), path.open("a+b", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        text = io.StringIO()
        csv.writer(text).writerows([list(map(no_formula, row))] if size else [COLUMNS, list(map(no_formula, row))])
        start = b"" if size else b"\xef\xbb\xbf"  # tells Excel that this is UTF-8
        if size:
            file.seek(size - 1)
            start = b"" if file.read(1) == b"\n" else b"\r\n"  # the last row was cut off, or is a person's
        file.write(start + text.getvalue().encode("utf-8", "replace"))
