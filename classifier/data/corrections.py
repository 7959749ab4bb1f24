"""Decisions of people about doubtful labels: corrections.csv, which training and evaluation follow.

It lies beside train/, val/ and test/, one row for each decision:

    file        train/cat/12.jpg, relative to the folder that the table lies in
    digest      hash of the file's content when it was judged; the decision is about no other content
    label       the class according to the folder
    decision    keep, relabel, leave out; undone takes back the decision before
    class       the right one, if the decision is relabel
    time, who

Rows are only ever added, and the last one about a file and its content counts, so nobody's work is lost and everything
can be undone. A row that makes no sense is skipped and reported. The table may have been saved by Excel.
"""

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from classifier.cli import UserError
from classifier.files import atomic_write, file_lock

NAME = "corrections.csv"
PARTS = ("train", "val", "test")
KEEP, RELABEL, LEAVE_OUT, UNDONE = "keep", "relabel", "leave out", "undone"
COLUMNS = ("file", "digest", "label", "decision", "class", "time", "who")
NAMES = "surrogateescape"  # so that a file name that is not valid text comes back as it was


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


def digest(path: str) -> bytes:
    """Return a hash of the file's content, 16 bytes. Raises UserError if it cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def read(table: Path, classes: Sequence[str]) -> tuple[Standing, list[str]]:
    """Return the current decisions, without undone ones, and a remark on each row that makes no sense.

    Raises UserError where the file is there and cannot be read, or holds something else.
    """
    standing: Standing = {}
    remarks = []
    for line, row in _open(table)[2]:
        key, decision, right = (row["file"], row["digest"]), row["decision"], row["class"]
        known = right in classes if decision == RELABEL else decision in (KEEP, LEAVE_OUT, UNDONE)
        if known and all(key) and row["time"]:
            standing.pop(key, None)  # so that the latest comes last
            if decision != UNDONE:
                who = row.get("who", "")
                standing[key] = Correction(*key, row["label"], decision, right, who, row["time"], line)
        elif any(row.values()):
            remarks.append(f"line {line} is incomplete or names no known decision or class")
    return standing, remarks


def of_folder(root: Path, classes: Sequence[str], paths: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """Return the class decided for images among `paths` below `root`, None to leave it out, and remarks on other rows.

    Only images that have a row are read. Raises UserError where the table, or such an image, cannot be read.
    """
    table = table_of(root)
    standing, remarks = read(table, classes)
    existing, decided = set(paths), {}
    for file in dict.fromkeys(file for file, _ in standing):
        path = str(table.parent / file)
        if path not in existing:
            if file.split("/")[0] not in {*PARTS} - {root.name}:  # reading the other part reports these
                remarks.append(f"{file} does not exist")
        elif (correction := standing.get((file, digest(path).hex()))) is None:
            remarks.append(f"{file} has changed since")
        elif correction.decision != KEEP:
            decided[path] = correction.right or None
    return decided, remarks


def record(table: Path, new: Correction, classes: Sequence[str], replaces: int = 0) -> bool:
    """Append a row and return True; False if something else has been decided meanwhile.

    Other processes and threads are kept out between reading and writing. On return, the row is on the disk. Raises
    UserError where the file, which is as before then, cannot be read or written.

    Args:
        table: the file; it is made where it is missing.
        new: the decision; its time and line are filled in here.
        classes: as in `read`.
        replaces: the line of the current decision about this file and content; 0 if there is none.
    """
    with file_lock(table, f"{table} is being written by another process. Try again."):
        standing = read(table, classes)[0].get((new.file, new.digest))
        if replaces != (standing.line if standing else 0):
            return False
        text, reader, _ = _open(table)
        row = io.StringIO()
        values = vars(new) | {"class": new.right, "time": datetime.now().astimezone().isoformat(timespec="seconds")}
        csv.DictWriter(row, reader.fieldnames, extrasaction="ignore", dialect=reader.reader.dialect).writerow(values)
        try:
            with atomic_write(table) as file:  # Excel needs the sig
                file.write(f"{text.rstrip()}\r\n{row.getvalue()}".encode("utf-8-sig", NAMES))
        except OSError as error:
            advice = "Make room, or close programs that have it open."
            raise UserError(f"{table} cannot be written ({error.strerror or error}). {advice}") from error
    return True


def _open(table: Path) -> tuple[str, csv.DictReader, list[tuple[int, dict]]]:
    """Return the content, its reader, which knows columns and delimiter, and the rows with their line numbers."""
    try:
        text = table.read_bytes().decode("utf-8-sig", NAMES) if table.exists() else ""
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror or error}.") from error
    text = text or ",".join(COLUMNS)
    delimiter = ";" if ";" in text.partition("\n")[0] else ","  # where the comma is for decimals, Excel's
    rows = io.StringIO(text.replace("\0", "\ufffd"), newline="")  # Python 3.10 reads no row with a null character
    reader = csv.DictReader(rows, restval="", delimiter=delimiter, strict=True)
    try:
        if not {*(reader.fieldnames or ())} >= {*COLUMNS[:-1]}:
            raise csv.Error(f"it begins with {text[:80]!r}")
        return text, reader, [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        expected = f"Expected {','.join(COLUMNS)} and rows of these"
        raise UserError(f"{table}, line {reader.reader.line_num}: {error}. {expected}; correct the file.") from error
