"""Visitors' feedback on answers: a row of logs/feedback.csv each, and the image only where that is asked for."""

import csv
import hashlib
from datetime import datetime
from pathlib import Path

from classifier.cli import UserError
from classifier.data.images import EXTENSIONS
from classifier.files import atomic_write, file_lock, lock_of, safe_name
from classifier.text import no_formula

COLUMNS = ("time", "weights", "answer", "confidence", "truth", "sha256")
NEITHER = "neither"  # as an answer or as the truth; otherwise a class


def record(
    logs: Path, image: Path, weights: str, answer: str, confidence: float, truth: str, keep_image: bool = False
) -> None:
    """Append a row to logs/feedback.csv. The visitor's file name is not kept; the hash finds copies of the image.

    With `keep_image`, a copy goes to logs/feedback/<truth>/<sha256>.<extension>. Raises UserError where the disk is
    full, or the file is open elsewhere.
    """
    path = logs / "feedback.csv"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        content = image.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        busy = f"{path.name} is being written by another process. Try again."
        with file_lock(lock_of(path), busy), path.open("a", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            if not file.tell():
                file.write("\ufeff")  # tells Excel that this is UTF-8
                rows.writerow(COLUMNS)
            rows.writerow(map(no_formula, (now, weights, answer, f"{confidence:.4f}", truth, digest)))
        if keep_image:
            extension = image.suffix.lower() if image.suffix.lower() in EXTENSIONS else ""
            with atomic_write(logs / "feedback" / safe_name(truth) / f"{digest}{extension}") as file:
                file.write(content)
    except OSError as error:
        message = (
            "The feedback could not be saved ({reason}). Make room for {file}, or close programs that have it open."
        )
        raise UserError(message, reason=error.strerror or error, file=path) from error
