"""What people have decided about doubtful labels: corrections.csv, which training and evaluation honour.

It lies beside train/ and test/, one row for each decision:

    file        train/cat/12.jpg, below the folder that the table lies in
    digest      of the file's content as it was judged; with another content there is no decision
    label       the class, as the folder says
    decision    keep, relabel, leave out; undone takes back what was decided before
    class       the right one, where the decision is relabel
    time, who

The table only grows, and the last row of a file and its content counts, so nobody's work is lost and everything can be
taken back. A row that makes no sense, or was cut off by a power failure, is passed over and told; so is anything that
an editor of tables may have done to the file, as far as it can still be read.
"""

import csv
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from classifier.cli import UserError
from classifier.files import file_lock, lock_of

NAME = "corrections.csv"
PARTS = ("train", "val", "test")
KEEP, RELABEL, LEAVE_OUT, UNDONE = "keep", "relabel", "leave out", "undone"
COLUMNS = ("file", "digest", "label", "decision", "class", "time", "who")
NEEDED = {"file", "digest", "decision", "class", "time"}
MARK = b"\xef\xbb\xbf"  # without it Excel expects another encoding than UTF-8
NAMES = sys.getfilesystemencodeerrors()  # so that a file name which is no text comes back as it was
NAMED = 3  # rows without effect in the remark, at most


@dataclass(frozen=True)
class Correction:
    """One decision; `right` is the column "class", `line` the row's line in the file, from 1 on."""

    file: str
    digest: str
    label: str
    decision: str
    right: str = ""
    who: str = ""
    time: str = ""
    line: int = 0


Standing = dict[tuple[str, str], Correction]  # (file, digest) -> what is decided, in the order of the decisions


def table_of(root: Path) -> Path:
    """The table that belongs to the folder of classes `root`: beside dataset/train, but in photos."""
    return (root.parent if root.name in PARTS else root) / NAME


def name_in(table: Path, path: str) -> str:
    """What an image is called in the table."""
    return Path(path).relative_to(table.parent).as_posix()


def read(table: Path, classes: Sequence[str]) -> tuple[Standing, list[str]]:
    """What stands, without what was taken back, and a remark on each row that makes no sense.

    Raises:
        UserError: the file is there and cannot be read.
    """
    try:
        content = table.read_bytes()
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror or error}.") from error
    return _standing(content, classes)


def of_folder(root: Path, classes: Sequence[str], paths: Sequence[str]) -> tuple[dict[int, Correction], list[str]]:
    """Return the decisions that apply to these images, by their index, and a remark on each row without effect.

    Args:
        root: the folder of classes that the images are in.
        classes: names that an image may have been given.
        paths: of the images.

    Raises:
        UserError: the table, or an image that it names, cannot be read.
    """
    table = table_of(root)
    standing, remarks = read(table, classes)
    by_file: dict[str, dict[str, Correction]] = {}
    for correction in standing.values():
        by_file.setdefault(correction.file, {})[correction.digest] = correction
    start = len(os.path.join(table.parent, ""))  # noqa: PTH118 (with the separator)
    names = (path[start:].replace(os.sep, "/") for path in paths)  # as in `name_in`, which is slower
    indices = {name: index for index, name in enumerate(names) if name in by_file}
    elsewhere = tuple(f"{part}/" for part in PARTS if part != root.name) if table.parent != root else ()
    decided = {}
    for file, by_digest in by_file.items():
        if file not in indices:
            if not file.startswith(elsewhere):  # reading the other part reports these
                remarks.append(f"{file} does not exist")
        elif correction := by_digest.get(digest(paths[indices[file]]).hex()):
            decided[indices[file]] = correction
        else:
            remarks.append(f"{file} has changed since")
    return decided, remarks


def digest(path: str) -> bytes:
    """Return a hash of the file's content, 16 bytes. Raises UserError if it cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def summary(relabelled: int, left_out: int, remarks: Sequence[str]) -> str:
    """One line on what the table did to a folder; nothing where it did nothing."""
    text = f"{NAME}: {relabelled:,} relabelled, {left_out:,} left out"
    if remarks:
        named = "; ".join(remarks[:NAMED]) + "; ..." * (len(remarks) > NAMED)
        text += f", {len(remarks):,} {'row' if len(remarks) == 1 else 'rows'} without effect ({named})"
    return text if relabelled or left_out or remarks else ""


def record(table: Path, new: Correction, classes: Sequence[str], replaces: int = 0) -> bool:
    """Add a row, unless something else has been decided meanwhile; whether it was added.

    Look and write are one step, with other processes and threads kept out. When this returns, the disk has the row.

    Args:
        new: the decision; the time and the line are filled in here.
        classes: as in `read`.
        replaces: line of the row that has to stand for this file and content; 0 where nothing must stand.

    Raises:
        UserError: the file cannot be written to; then it is as before.
    """
    if len(new.file.splitlines()) != 1:
        raise UserError(f"{new.file!r} has a line break in its name, which no table can hold. Rename the file.")
    values = vars(new) | {"class": new.right, "time": datetime.now().astimezone().isoformat(timespec="seconds")}
    try:
        with (
            file_lock(lock_of(table), f"{table} is being written by another process. Try again."),
            table.open("a+b", buffering=0) as file,
        ):
            file.seek(0)
            content = file.read()
            standing = _standing(content, classes)[0].get((new.file, new.digest))
            if replaces != (standing.line if standing else 0):
                return False
            heading, separator = _heading(content)
            text = io.StringIO()
            rows = csv.DictWriter(text, heading, extrasaction="ignore", delimiter=separator)
            if not content:
                rows.writeheader()
            elif not content.endswith(b"\n"):
                text.write("\r\n")  # ends a row that was cut off
            rows.writerow(values)
            added = MARK * (not content) + text.getvalue().encode("utf-8", NAMES)
            try:
                if file.write(added) != len(added):
                    raise OSError(0, "the disk is full")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(len(content))
                raise
    except OSError as error:
        raise UserError(
            f"{table} cannot be written ({error.strerror or error}). Make room, or close programs that have it open."
        ) from error
    return True


def _standing(content: bytes, classes: Sequence[str]) -> tuple[Standing, list[str]]:
    heading, separator = _heading(content)
    standing: Standing = {}
    remarks = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig", NAMES).rstrip("\r")
            fields = next(csv.reader([text], delimiter=separator), [])
        except (UnicodeDecodeError, csv.Error):
            text, fields = "?", []
        if not text.strip(f"{separator} ") or (number == 1 and _plain(fields) == heading):
            continue
        row = dict.fromkeys(COLUMNS, "") | dict(zip(heading, fields, strict=False))
        correction = Correction(
            file=row["file"],
            digest=row["digest"].strip().lower(),
            label=row["label"],
            decision=row["decision"].strip().lower(),
            right=row["class"],
            who=row["who"],
            time=row["time"],
            line=number,
        )
        if reason := _fault(correction, classes):
            remarks.append(f"line {number} {reason}")
            continue
        key = correction.file, correction.digest
        standing.pop(key, None)  # so that the latest comes last
        if correction.decision != UNDONE:
            standing[key] = correction
    return standing, remarks


def _fault(correction: Correction, classes: Sequence[str]) -> str:
    # the time comes after all that matters: where it has begun, the rest is whole
    if not (correction.file and correction.digest and correction.decision and correction.time):
        return "is not whole"
    if correction.decision not in (KEEP, RELABEL, LEAVE_OUT, UNDONE):
        return f"has an unknown decision, {correction.decision[:30]!r}"
    if correction.decision == RELABEL and correction.right not in classes:
        return f"has an unknown class, {correction.right[:30]!r}"
    return ""


def _heading(content: bytes) -> tuple[list[str], str]:
    """The columns and what separates them; the usual ones where the first line does not say."""
    first = content.split(b"\n", 1)[0].decode("utf-8-sig", "replace").replace("\0", "").strip()
    separator = ";" if first.count(";") > first.count(",") else ","  # Excel's, where the comma is for decimals
    try:
        heading = _plain(next(csv.reader([first], delimiter=separator), []))
    except csv.Error:
        heading = []
    return (heading if set(heading) >= NEEDED else list(COLUMNS)), separator


def _plain(fields: Sequence[str]) -> list[str]:
    return [field.strip().lower() for field in fields]
