"""predictions.csv: rows that outlive the process, whose predictions they are, and of which state of each image."""

import csv
import hashlib
import io
import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.files import atomic_write
from classifier.prediction.sources import UnlabelledImage, find_again, key

# Excel recognises UTF-8 by the mark of "-sig"; file names that are not valid text come back unchanged
TEXT = {"encoding": "utf-8-sig", "errors": sys.getfilesystemencodeerrors()}
OR_ELSE = "Choose another --output, or start over with --restart."


class Table:
    """A CSV file with a row per image, and beside it a note, <name>.csv.json: weights, state of files.

    `rows` maps the `key` of a path to its row: path, class ("" where the image cannot be read), probabilities, note.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint):
        self.path, self.note_path = path, path.with_name(path.name + ".json")
        self.sheet, self.submission = path.with_suffix(".png"), path.with_suffix(".kaggle.csv")  # made of it
        self.columns = ["path", "class", *(f"P({name})" for name in checkpoint.classes), "note"]
        self.note = {"name": checkpoint.path.as_posix(), "weights": fingerprint(checkpoint), "files": {}}
        self.rows: dict[str, list[str]] = {}
        self.removed = 0  # rows whose file is gone, has changed or was not recorded
        self._rewrite = self._has_begun = False

    def resume(self, images: Mapping[str, UnlabelledImage], restart: bool) -> None:
        """Read the rows of an earlier run unless `restart`: all whose image, in `images` or not, is as it was then.

        Nothing is written yet. Raises UserError where a file is there that predict.py did not write, or where the rows
        are of other weights.
        """
        try:
            note = json.loads(self.note_path.read_text(encoding="utf-8"))
            name, weights, recorded = note["name"], note["weights"], dict(note.get("files", {}))
        except (OSError, ValueError, TypeError, KeyError):  # no note, or one of another program
            files = (self.path, self.sheet, self.submission, self.note_path)
            if other := next(filter(os.path.lexists, files), None):
                raise UserError(
                    f"{other} exists, and predict.py did not write it (there is no {self.note_path}). "
                    "Choose another --output, or move it away."
                ) from None
            restart = True
        content = b"" if restart or not self.path.exists() else self.path.read_bytes()
        end = content.rfind(b"\n") + 1
        while content.count(b'"', 0, end) % 2:  # a line break within a name
            end = content.rfind(b"\n", 0, end - 1) + 1
        if end:
            if weights != self.note["weights"]:
                raise UserError(
                    f"{self.path} holds predictions of {name} as it was then, not of {self.note['name']}. {OR_ELSE}"
                )
            rows = self._parse(content[:end])
            known = find_again(row[0] for name, row in rows.items() if name not in images) | dict(images)
            for name, row in rows.items():
                if name in known and recorded.get(name, "") == (stamp := known[name].stamp()):
                    self.rows[name], self.note["files"][name] = row, stamp
            self.removed = len(rows) - len(self.rows)
            self._rewrite = end < len(content) or self.removed > 0
        # before the images are read: one that changes meanwhile is labelled again the next time
        self.note["files"] |= {name: image.stamp() for name, image in images.items() if name not in self.rows}

    def _parse(self, content: bytes) -> dict[str, list[str]]:
        try:
            heading, *rows = csv.reader(io.StringIO(content.decode(**TEXT), newline=""))
            if heading != self.columns or any(len(row) != len(heading) for row in rows):
                raise ValueError
        except (csv.Error, ValueError):
            raise UserError(f"{self.path} has been changed since predict.py wrote it. {OR_ELSE}") from None
        return {key(row[0]): row for row in rows}

    def append(self, rows: Iterable[list[str]]) -> None:
        """Add rows; when this returns, they outlive the process. The first call removes what `resume` did not keep.

        Names that begin with = + - @ stay as they are, or other programs would not find the files.
        """
        if not self._has_begun:
            self._begin()
        heading = [] if self.rows else [self.columns]
        with self.path.open("a", newline="", **TEXT) as file:
            csv.writer(file).writerows([*heading, *rows])
        self.rows |= {key(row[0]): row for row in rows}

    def _begin(self) -> None:
        """Write the table before the note: what `resume` did not keep never stands beside a new note."""
        if not self.rows:
            self.path.unlink(missing_ok=True)
        elif self._rewrite:
            with atomic_write(self.path, "w", newline="", **TEXT) as file:
                csv.writer(file).writerows([self.columns, *self.rows.values()])
        with atomic_write(self.note_path, "w", encoding="utf-8") as file:
            json.dump(self.note, file)
        self._has_begun = True


def fingerprint(checkpoint: Checkpoint) -> str:
    """Return a hash of all that a prediction depends on; evaluate.py may add scores to the .pth meanwhile."""
    facts = (checkpoint.model, checkpoint.classes, checkpoint.preprocess, checkpoint.temperature, checkpoint.ood_stats)
    digest = hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace"))
    if checkpoint.session:
        digest.update(checkpoint.path.read_bytes())
    for values in checkpoint.state_dict.values():
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
