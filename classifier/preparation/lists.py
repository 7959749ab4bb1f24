"""A text list of images: `path class` on each line, as many tools write it."""

import codecs
import csv
from pathlib import Path

from classifier.cli import UserError
from classifier.data.archives import encoding_of
from classifier.data.images import has_image_extension
from classifier.preparation.labels import plain


def read_list(path: Path) -> list[tuple[str, str, Path]]:
    """The lines as (path as written, class, file), without heading, empty lines and `#` comments.

    Tab, comma or white space stands between the two, and the paths may hold the other separators. Paths are meant from
    the folder of the list, with `/` or Windows' backslashes.

    Raises:
        UserError: where a line has no class, or no line an image.
    """
    lines = [line.strip() for line in _text(path).split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    readings = [[split(line) for line in lines] for split in (_by_tab, _by_comma, _by_space)]
    rows = max(readings, key=lambda rows: sum(bool(label) and has_image_extension(name) for name, label in rows))
    if rows and not has_image_extension(rows[0][0]):
        rows, lines = rows[1:], lines[1:]  # a heading
    for (name, label), line in zip(rows, lines, strict=True):
        if not name or not label:
            raise UserError(f"{path}: expected lines like 'images/1.jpg cat' (path, then class), found '{line[:80]}'")
    if not rows:
        raise UserError(f"{path}: expected lines like 'images/1.jpg cat' (path, then class), found none")
    return [(name, plain(label), path.resolve().parent / name) for name, label in rows]


def _text(path: Path) -> str:
    raw = path.read_bytes()
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # "Unicode" in older Windows' Notepad
        return raw.decode("utf-16", "replace")
    if raw.startswith(codecs.BOM_UTF8):
        return raw.decode("utf-8-sig", "replace")
    return raw.decode(encoding_of(raw))


def _by_tab(line: str) -> tuple[str, str]:
    name, _, label = line.rpartition("\t")
    return _slashes(name), label


def _by_comma(line: str) -> tuple[str, str]:
    try:
        *name, label = next(csv.reader([line]))
    except csv.Error:
        return "", ""
    return _slashes(",".join(name)), label


def _by_space(line: str) -> tuple[str, str]:
    name, *label = line.rsplit(None, 1)
    return _slashes(name), "".join(label)


def _slashes(name: str) -> str:
    return name.strip().replace("\\", "/")
