"""Read lists of images: text or CSV files whose lines name a file and its class, and perhaps its part of a split."""

import codecs
import contextlib
import csv
import functools
import io
import itertools
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from classifier.cli import UserError
from classifier.data import archives
from classifier.data.formats import has_image_extension
from classifier.data.images import walk
from classifier.preparation.layout import part_names

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# names of columns, in small letters, with a space for "_"
FOLDERS = {"folder", "folder name", "directory", "dir", "subfolder", "文件夹"}  # begin a path
CLASSES = {"label", "labels", "class", "class name", "category", "target", "breed", "species", "标签", "类别"}
SPLITS = {"split", "set", "subset", "data set", "dataset", "partition", "part", "数据集"}
SAMPLE = 100  # lines that show which columns hold the paths
Find = Callable[[str], list[Path]]  # the files that a path in the list may mean


def read_list(path: Path, columns: str = "") -> tuple[list[tuple[str, str, str | None, list[Path]]], str]:
    """Return (path, class, part or None, files with that path) of each line, and the column that says the parts, or "".

    Left out are the heading, empty lines and `#` comments, unless their `#` begins the path of a file. A part is
    "train", "val" or "test".

    Args:
        path: the list. A tab, comma, semicolon or white space separates its columns. Paths are relative to its folder;
            where none of them exists, files in all folders below are searched for, by name with or without ending;
            in outputs of prepare.py only where there are none elsewhere.
        columns: "PATH,CLASS", names or numbers of columns; PATH may be "folder/file". "": found by what is in them.

    Raises:
        UserError: none of the files exists, a line has no class, or it is unclear which columns these are.
    """
    raw = path.read_bytes()
    encoding = "utf-16" if raw.startswith(UTF_16) else archives.encoding_of(raw, "cp1252")
    rows, comments = _read_rows(raw.decode(encoding, "replace").removeprefix("\ufeff"))
    shown = rows or [row for row in comments if len(row) > 1] or [["nothing"]]
    expected = "Expected lines like 'images/1.jpg cat', with a path from the folder of the list, then a class"
    heading, (split, parts) = shown[0], _split_column(shown)
    choices = list(_columns(heading, columns, split))
    for make in (_as_given, _anywhere_below, functools.partial(_anywhere_below, in_outputs=True)):
        find = make(path.resolve().parent)
        sample = shown[:: len(shown) // SAMPLE + 1]
        hits = [len({*filter(find, (_path(row, at) for row in sample))}) for at, _ in choices]
        if any(hits):
            break
    else:
        expected = f"Its columns: {', '.join(heading)}" if columns else f"{expected}, or --columns PATH,CLASS"
        problem = "none of its files exists" if choices else f"no such columns: {columns}"
        raise UserError(f"{path}: {problem} (found '{' '.join(heading)[:80]}'). {expected}.")
    at, label = choices[hits.index(max(hits))]  # ids are many, numbers of classes are few
    paths = {choice[-1] for (choice, _), count in zip(choices, hits, strict=True) if count == max(hits)}
    if len(heading) > len(at) and (label is None or len(paths) > 1):
        names = ", ".join(heading)
        raise UserError(f"{path}: which columns hold path and class is unclear. Say --columns PATH,CLASS of {names}.")

    below = {(column, cell) for row in shown[1:] for column, cell in enumerate(row)}
    names_image = find(_path(heading, at)) or has_image_extension(_path(heading, at))
    if split is not None or not (names_image or below.intersection(enumerate(heading))):  # or something comes again
        rows = rows[1:]
    rows += [row for row in comments if 0 in at and find(_path(row, at))]
    for row in rows:
        if label is None or len(row) <= max(*at, label) or not row[label] or not _path(row, at):
            raise UserError(f"{path}: found '{' '.join(row)[:80]}'. {expected}.")
    split = None if split in (*at, label) else split
    listed = []
    for row in rows:
        name, has_part = _path(row, at), split is not None and split < len(row)
        listed.append((name, row[label], parts.get(row[split]) if has_part else None, find(name)))
    return listed, "" if split is None else heading[split]


def _read_rows(text: str) -> tuple[list[list[str]], list[list[str]]]:
    """Return the cells of all lines that are not empty, and of those that begin with "#", which may be comments.

    A line goes on after a line break between quotes, unless there are quotes in the text that do not fit together.
    """
    for separator in (*"\t;,", None):
        lines = text.split("\n")
        if separator:
            with contextlib.suppress(csv.Error):
                reader = csv.reader(io.StringIO(text), delimiter=separator, strict=True, skipinitialspace=True)
                ends = [0, *(reader.line_num for _ in reader)]
                lines = ["\n".join(lines[begin:end]) for begin, end in itertools.pairwise(ends)]
        lines = [line.strip("\r ") for line in lines if line.strip()]
        comments = [line for line in lines if line.startswith("#")]
        others = [line for line in lines if not line.startswith("#")]
        if separator is None or sum(separator in line for line in others or lines) > len(others or lines) / 2:
            break
    return [_cells(line, separator) for line in others], [_cells(line, separator) for line in comments]


def _cells(line: str, separator: str | None) -> list[str]:
    """Split a line; at white space only once, since paths may hold spaces."""
    read = csv.reader([line], delimiter=separator, skipinitialspace=True) if separator else [line.rsplit(None, 1)]
    try:
        return [cell.strip() for cell in next(iter(read))]
    except csv.Error:  # a carriage return inside the line, or 131,072 characters without a separator
        return [line]


def _columns(heading: Sequence[str], wanted: str, split: int | None) -> Iterator[tuple[tuple[int, ...], int | None]]:
    """Yield what may be the columns (whose cells make the path, of the class or None where that is unclear)."""
    names = [_plain(name) for name in heading]
    if wanted:
        numbers = {str(number): number - 1 for number in range(1, len(names) + 1)}
        numbers |= {name: column for column, name in enumerate(names)}
        path, _, label = wanted.rpartition(",")
        at = [numbers.get(_plain(part)) for part in [*([path] if _plain(path) in numbers else path.split("/")), label]]
        if None not in at:
            yield tuple(at[:-1]), at[-1]
        return
    every = [column for column in range(len(names)) if column != split]
    folders = [column for column in every if names[column] in FOLDERS]
    for at in dict.fromkeys([(*folders, i) for i in every if i not in folders] + [(i,) for i in every]):
        rest = [column for column in every if column not in at]
        named = rest if len(rest) == 1 else [column for column in rest if names[column] in CLASSES]
        yield at, named[0] if len(named) == 1 else None


def _plain(name: str) -> str:
    return name.strip().casefold().replace("_", " ")


def _split_column(rows: Sequence[Sequence[str]]) -> tuple[int | None, dict[str, str]]:
    """Return the column that says the part, and {its text: "train", "val" or "test"}; or None and {}."""
    for column, name in enumerate(rows[0]):
        if _plain(name) in SPLITS:
            parts = part_names({row[column] for row in rows[1:] if column < len(row)})
            parts = {cell: part for cell, part in parts.items() if part != "unlabelled"}
            if {"train"} < {*parts.values()}:
                return column, parts
    return None, {}


def _path(row: Sequence[str], at: Sequence[int]) -> str:
    return "/".join(row[column] for column in at if column < len(row)).replace("\\", "/")


def _as_given(folder: Path) -> Find:
    return lambda name: [folder / name] if os.path.isfile(folder / name) else []  # noqa: PTH113 (also of long names)


def _anywhere_below(folder: Path, in_outputs: bool = False) -> Find:
    files, outputs = defaultdict(list), set()
    for here, names in walk(folder):
        is_output = Path(here) != folder and ("prepared.json" in names or Path(here).parent in outputs)
        if is_output and not in_outputs:
            outputs.add(Path(here))
            continue
        for name in names:
            files[name].append(Path(here, name))
            if has_image_extension(name):
                files[Path(name).stem].append(Path(here, name))

    def find(name: str) -> list[Path]:
        *folders, last = PurePosixPath(name).parts or ("",)
        return [file for file in files.get(last, ()) if list(file.parts[-1 - len(folders) : -1]) == folders]

    return find
