"""The table of answers: what an interrupted run has left of it, and how rows are added that outlive the process."""

import contextlib
import csv
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError

NAMES = sys.getfilesystemencodeerrors()  # so that a file name which is no text comes back from the CSV as it was
TEXT = {"encoding": "utf-8-sig", "errors": NAMES, "newline": ""}  # without the mark of -sig Excel expects other text
OR_ELSE = "Choose another --output, or begin this one anew with --restart."


class Table:
    """A CSV file with a row for each image, and beside it a note, <name>.csv.json, of whose answers these are.

    `with table:` closes the file at the end. Nothing is written before the first `append`.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint):
        self.path = path
        self.note_path = path.with_name(path.name + ".json")
        self.columns = ["path", "class", *(f"P({name})" for name in checkpoint.classes), "note"]
        weights = {"name": checkpoint.path.as_posix(), "weights": fingerprint(checkpoint)}
        self.note = weights | {"columns": self.columns, "format": ""}
        self.file = None
        self.kept = False  # whether rows of an earlier run stay

    def resume(self, others: Sequence[Path], restart: bool) -> str:
        """Look for an earlier run, whose rows then stay; a last row that is not whole is cut off.

        Args:
            others: files that will be made of the table.
            restart: begin anew all the same.

        Returns:
            The number format that the earlier run computed in, "" to begin anew.

        Raises:
            UserError: a file is there that is not of predict.py, or the rows are of other weights.
        """
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            name, weights, columns, number_format = (note[key] for key in self.note)
        except (OSError, ValueError, TypeError, KeyError):  # none, or not ours
            for file in (self.path, *others, self.note_path):
                if os.path.lexists(file):
                    raise UserError(
                        f"{file} exists, and nothing says that predict.py made it (no {self.note_path}). "
                        "Choose another --output, or move it away."
                    ) from None
            return ""
        if restart or not self.path.exists():
            return ""
        if (weights, columns) != (self.note["weights"], self.columns):
            raise UserError(
                f"{self.path} holds answers of other weights than {self.note['name']}: of {name} as it was then. "
                f"{OR_ELSE}"
            )
        with writing(self.path), self.path.open("r+b") as file:
            end = at = quotes = 0
            for line in file:
                at += len(line)
                quotes += line.count(b'"')
                if line.endswith(b"\r\n") and quotes % 2 == 0:  # not a line break inside of a name
                    end = at
            file.truncate(end)
        self.kept = end > 0
        return number_format if self.kept else ""

    def rows(self) -> Iterator[list[str]]:
        """All rows that are written, without the heading. Raises UserError: another program has changed them."""
        if not (self.kept or self.file):
            return
        with self.path.open(**TEXT) as file:
            try:
                for number, row in enumerate(csv.reader(file)):
                    if len(row) != len(self.columns) or (number == 0 and row != self.columns):
                        raise ValueError
                    if number:
                        yield row
            except (csv.Error, ValueError):
                raise UserError(f"{self.path} has been changed since predict.py wrote it. {OR_ELSE}") from None

    def append(self, rows: Iterable[Sequence[str]]) -> None:
        """Add rows; when this returns, the system has them, and they outlive the process.

        Names that begin with = + - @ stay as they are, or other programs would not find the files.
        """
        with writing(self.path):
            heading = []
            if not self.file:
                if not self.kept:
                    self.path.unlink(missing_ok=True)  # before the note: old rows never stand beside a new one
                    with whole(self.note_path) as temporary:
                        temporary.write_text(json.dumps(self.note, indent=2) + "\n", encoding="utf-8")
                    heading = [self.columns]
                self.file = self.path.open("a", **TEXT)
            csv.writer(self.file).writerows([*heading, *rows])
            self.file.flush()

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, *_) -> None:
        if self.file:
            with contextlib.suppress(OSError):  # of a full disk `append` has told
                self.file.close()


def fingerprint(checkpoint: Checkpoint) -> str:
    """Of all that an answer depends on; evaluate.py may note a score in the .pth meanwhile."""
    facts = (checkpoint.model, checkpoint.classes, checkpoint.preprocess, checkpoint.temperature, checkpoint.ood_stats)
    digest = hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace"))
    for values in checkpoint.state_dict.values():
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file that is written into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}). Make room, close programs that have it open, or "
            "choose another place. Answers that are written already stay; the same command goes on there."
        ) from error


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` at the end, so that there never is half of it. Folders are made."""
    temporary = path.with_name(f".{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
