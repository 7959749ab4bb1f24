"""Decisions of people about doubtful labels: corrections.csv, which training and evaluation honour.

It lies beside train/, val/ and test/, one row for each decision:

    file        train/cat/12.jpg, relative to the folder that the table lies in
    digest      hash of the file's content when it was judged; the decision is about no other content
    label       the class according to the folder
    decision    keep, relabel, leave out; undone takes back the decision before
    class       the right one, if the decision is relabel
    time, who

Rows are only ever added, and the last one about a file and its content counts, so nobody's work is lost and everything
can be undone. A row that makes no sense, or was cut off by a power failure, is skipped and reported. Whatever a
spreadsheet program may have done to the file, it is read as far as possible.
"""

import csv
import errno
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
from classifier.text import plural

NAME = "corrections.csv"
PARTS = ("train", "val", "test")
KEEP, RELABEL, LEAVE_OUT, UNDONE = "keep", "relabel", "leave out", "undone"
COLUMNS = ("file", "digest", "label", "decision", "class", "time", "who")
REQUIRED_COLUMNS = {"file", "digest", "decision", "class", "time"}
BOM = b"\xef\xbb\xbf"  # without it Excel expects another encoding than UTF-8
NAMES = sys.getfilesystemencodeerrors()  # so that a file name that is not valid text comes back as it was
MAX_REMARKS_SHOWN = 3


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


Standing = dict[tuple[str, str], Correction]  # current decisions by (file, digest), in their order


def table_of(root: Path) -> Path:
    """Return the table of the folder of classes `root`: beside dataset/train, but inside photos."""
    return (root.parent if root.name in PARTS else root) / NAME


def name_in(table: Path, path: str) -> str:
    """Return an image's name in the table."""
    return Path(path).relative_to(table.parent).as_posix()


def digest(path: str) -> bytes:
    """Return a hash of the file's content, 16 bytes. Raises UserError if it cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def read(table: Path, classes: Sequence[str]) -> tuple[Standing, list[str]]:
    """Return the current decisions, without undone ones, and a remark on each row that makes no sense.

    Raises:
        UserError: the file is there and cannot be read.
    """
    try:
        return _parse(table.read_bytes(), classes)
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror or error}.") from error


def of_folder(root: Path, classes: Sequence[str], paths: Sequence[str]) -> tuple[dict[int, Correction], list[str]]:
    """Return the decisions about these images, by their index, and a remark on each row without effect.

    Args:
        root: the folder of classes that the images are in.
        classes: names that an image may have been given.
        paths: of the images; only those that have a row are read.

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


def summary(relabelled: int, left_out: int, remarks: Sequence[str]) -> str:
    """Return one line on what the table did to a folder; "" if it did nothing."""
    text = f"{NAME}: {relabelled:,} relabelled, {left_out:,} left out"
    if remarks:
        shown = "; ".join(remarks[:MAX_REMARKS_SHOWN]) + "; ..." * (len(remarks) > MAX_REMARKS_SHOWN)
        text += f", {plural(len(remarks), 'row')} without effect ({shown})"
    return text if relabelled or left_out or remarks else ""


def record(table: Path, new: Correction, classes: Sequence[str], replaces: int = 0) -> bool:
    """Append a row and return True; False if something else has been decided meanwhile.

    Other processes and threads are kept out between reading and writing. On return, the row is on the disk.

    Args:
        table: the file; it is made where it is missing.
        new: the decision; its time and line are filled in here.
        classes: as in `read`.
        replaces: the line of the current decision about this file and content; 0 if there is none.

    Raises:
        UserError: the file cannot be written to; then it is as before.
    """
    if len(new.file.splitlines()) != 1:
        raise UserError(f"{new.file!r} has a line break in its name, which no table can hold. Rename the file.")
    values = vars(new) | {"class": new.right, "time": datetime.now().astimezone().isoformat(timespec="seconds")}
    busy = f"{table} is being written by another process. Try again."
    try:
        with file_lock(lock_of(table), busy), table.open("a+b", buffering=0) as file:
            file.seek(0)
            content = file.read()
            standing = _parse(content, classes)[0].get((new.file, new.digest))
            if replaces != (standing.line if standing else 0):
                return False
            columns, delimiter = _columns(content)
            text = io.StringIO()
            rows = csv.DictWriter(text, columns, extrasaction="ignore", delimiter=delimiter)
            if not content:
                rows.writeheader()
            elif not content.endswith(b"\n"):
                text.write("\r\n")  # ends a row that was cut off
            rows.writerow(values)
            added = BOM * (not content) + text.getvalue().encode("utf-8", NAMES)
            try:
                if file.write(added) != len(added):
                    raise OSError(errno.ENOSPC, "the disk is full")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(len(content))
                raise
    except OSError as error:
        raise UserError(
            f"{table} cannot be written ({error.strerror or error}). Make room, or close programs that have it open."
        ) from error
    return True


def _parse(content: bytes, classes: Sequence[str]) -> tuple[Standing, list[str]]:
    columns, delimiter = _columns(content)
    standing: Standing = {}
    remarks = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig", NAMES).rstrip("\r")
            fields = next(csv.reader([text], delimiter=delimiter), [])
        except (UnicodeDecodeError, csv.Error):
            text, fields = "?", []
        if not text.strip(f"{delimiter} ") or (number == 1 and _lower(fields) == columns):
            continue
        row = dict.fromkeys(COLUMNS, "") | dict(zip(columns, fields, strict=False))
        decision, right = row["decision"].strip().lower(), row["class"]
        key = row["file"], row["digest"].strip().lower()
        if not (all(key) and decision and row["time"]):  # the time is last of what matters: the rest is complete
            remarks.append(f"line {number} is incomplete")
        elif decision not in (KEEP, RELABEL, LEAVE_OUT, UNDONE):
            remarks.append(f"line {number} has an unknown decision, {decision[:30]!r}")
        elif decision == RELABEL and right not in classes:
            remarks.append(f"line {number} has an unknown class, {right[:30]!r}")
        else:
            standing.pop(key, None)  # so that the latest comes last
            if decision != UNDONE:
                standing[key] = Correction(*key, row["label"], decision, right, row["who"], row["time"], number)
    return standing, remarks


def _columns(content: bytes) -> tuple[list[str], str]:
    """Return the columns and their delimiter; COLUMNS where the first line does not name them."""
    first = content.split(b"\n", 1)[0].decode("utf-8-sig", "replace").replace("\0", "").strip()
    delimiter = ";" if first.count(";") > first.count(",") else ","  # Excel's, where the comma is for decimals
    try:
        columns = _lower(next(csv.reader([first], delimiter=delimiter), []))
    except csv.Error:
        columns = []
    return (columns if set(columns) >= REQUIRED_COLUMNS else list(COLUMNS)), delimiter


def _lower(fields: Sequence[str]) -> list[str]:
    return [field.strip().lower() for field in fields]
