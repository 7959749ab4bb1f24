"""Read lists of images: text or CSV files whose lines name a file and its class."""

import codecs
import csv
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from classifier.cli import UserError
from classifier.data import archives
from classifier.data.formats import has_image_extension
from classifier.data.images import walk

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
FOLDERS = {"folder", "folder_name", "directory", "dir", "subfolder", "文件夹"}  # columns that begin a path
CLASSES = {"label", "labels", "class", "class_name", "category", "target", "breed", "species", "标签", "类别"}
SAMPLE = 100  # lines that show which columns hold the paths
Find = Callable[[str], list[Path]]  # the files that a path in the list may mean


def read_list(path: Path, columns: str = "") -> list[tuple[str, str, list[Path]]]:
    """Return (path, class, files with that path) of each line but heading, empty lines and `#` comments.

    Args:
        path: the list. A tab, comma, semicolon or white space separates its columns. Paths are relative to its folder;
            where none of them exists, files in all folders below are searched for, by name with or without ending.
        columns: "PATH,CLASS", names or numbers of columns; PATH may be "folder/file". "": found by what is in them.

    Raises:
        UserError: none of the files exists, a line has no class, or it is unclear which columns these are.
    """
    raw = path.read_bytes()
    encoding = "utf-16" if raw.startswith(UTF_16) else archives.encoding_of(raw)
    lines = [line.strip("\r ") for line in raw.decode(encoding, "replace").removeprefix("\ufeff").split("\n")]
    lines = [line for line in lines if line.strip() and not line.startswith("#")] or ["nothing"]
    expected = "Expected lines like 'images/1.jpg cat', with a path from the folder of the list, then a class"
    tables = [[_cells(line, separator) for line in lines] for separator in ("\t", ",", ";", None)]
    choices = [(rows, *which) for rows in tables for which in _columns(rows[0], columns)]
    for make in (_as_given, _anywhere_below):
        find = make(path.resolve().parent)
        hits = [len({*filter(find, (_path(r, at) for r in t[:: len(t) // SAMPLE + 1]))}) for t, at, _ in choices]
        if any(hits):
            break
    else:
        widest = max((rows[0] for rows in tables), key=len)
        expected = f"Its columns: {', '.join(widest)}" if columns else f"{expected}, or --columns PATH,CLASS"
        problem = "none of its files exists" if choices else f"no such columns: {columns}"
        raise UserError(f"{path}: {problem} (found '{lines[0][:80]}'). {expected}.")
    rows, at, label = choices[hits.index(max(hits))]  # ids are many, numbers of classes are few
    paths = {
        at[-1] for (table, at, _), count in zip(choices, hits, strict=True) if table is rows and count == max(hits)
    }
    if len(rows[0]) > len(at) and (label is None or len(paths) > 1):
        names = ", ".join(rows[0])
        raise UserError(f"{path}: which columns hold path and class is unclear. Say --columns PATH,CLASS of {names}.")

    below = {(column, cell) for row in rows[1:] for column, cell in enumerate(row)}
    first = _path(rows[0], at)
    if not find(first) and not has_image_extension(first) and below.isdisjoint(enumerate(rows[0])):
        rows = rows[1:]  # a heading: it names no image, and nothing in it comes again
    for row in rows:
        if label is None or len(row) <= max(*at, label) or not row[label] or not _path(row, at):
            raise UserError(f"{path}: found '{' '.join(row)[:80]}'. {expected}.")
    return [(name := _path(row, at), row[label], find(name)) for row in rows]


def _cells(line: str, separator: str | None) -> list[str]:
    """Split a line; at white space only once, since paths may hold spaces."""
    read = csv.reader([line], delimiter=separator, skipinitialspace=True) if separator else [line.rsplit(None, 1)]
    try:
        return [cell.strip() for cell in next(iter(read))]
    except csv.Error:  # a carriage return inside the line, or 131,072 characters without a separator
        return [line]


def _columns(heading: Sequence[str], wanted: str) -> Iterator[tuple[tuple[int, ...], int | None]]:
    """Yield what may be the columns (whose cells make the path, of the class or None where that is unclear)."""
    names = [name.casefold() for name in heading]
    if wanted:
        numbers = {str(number): number - 1 for number in range(1, len(names) + 1)}
        numbers |= {name: column for column, name in enumerate(names)}
        paths, _, label = (part.strip() for part in wanted.casefold().rpartition(","))
        at = [numbers.get(name) for name in [*([paths] if paths in numbers else paths.split("/")), label]]
        if None not in at:
            yield tuple(at[:-1]), at[-1]
        return
    folders = [column for column, name in enumerate(names) if name in FOLDERS]
    every = range(len(names))
    for at in dict.fromkeys([(*folders, i) for i in every if i not in folders] + [(i,) for i in every]):
        rest = [column for column in every if column not in at]
        named = rest if len(rest) == 1 else [column for column in rest if names[column] in CLASSES]
        yield at, named[0] if len(named) == 1 else None


def _path(row: Sequence[str], at: Sequence[int]) -> str:
    return "/".join(row[column] for column in at if column < len(row)).replace("\\", "/")


def _as_given(folder: Path) -> Find:
    return lambda name: [folder / name] if os.path.isfile(folder / name) else []  # noqa: PTH113 (also of long names)


def _anywhere_below(folder: Path) -> Find:
    files = defaultdict(list)
    for here, names in walk(folder):
        for name in names:
            files[name].append(Path(here, name))
            if has_image_extension(name):
                files[Path(name).stem].append(Path(here, name))

    def find(name: str) -> list[Path]:
        *folders, last = PurePosixPath(name).parts or ("",)
        return [file for file in files.get(last, ()) if list(file.parts[-1 - len(folders) : -1]) == folders]

    return find
