"""Visitors' feedback on answers: a row of logs/feedback.csv each. Answer and truth are a class, or "neither"."""

import csv
import hashlib
from datetime import datetime
from pathlib import Path

from classifier.cli import UserError, no_formula
from classifier.files import file_lock

COLUMNS = ("time", "weights", "answer", "confidence", "truth", "sha256")


def record(logs: Path, image: Path, weights: str, answer: str, confidence: float, truth: str) -> None:
    """Append a row to logs/feedback.csv. Neither the image nor its name is kept; the hash finds copies of the image.

    Raises UserError where the file cannot be written.
    """
    path = logs / "feedback.csv"
    try:
        digest = hashlib.sha256(image.read_bytes()).hexdigest()
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        busy = f"{path.name} is being written by another process. Try again."
        with file_lock(path, busy), path.open("a", encoding="utf-8-sig", newline="") as file:
            rows = csv.writer(file)
            if not file.tell():
                rows.writerow(COLUMNS)
            rows.writerow(map(no_formula, (now, weights, answer, f"{confidence:.4f}", truth, digest)))
    except OSError as error:
        message = "The feedback could not be saved ({reason}). Make room, or close programs that have {file} open."
        raise UserError(message, reason=error.strerror or error, file=path) from error
