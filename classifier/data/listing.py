"""Which files of a folder of classes claim to be images, how large are they, and when were they changed?

The rules and the order are those of torchvision's `ImageFolder`: classes are sorted folders, in each of them all
folders below it, sorted, and in each of those all files, sorted; links are followed. Hidden files and folders are left
out. It is a file of its own, and asks for each file once, because a million of them make everything else slow.
"""

import os
import pickle
import sys
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from classifier.data import ahead
from classifier.data.columns import BLOCK, Paths
from classifier.data.images import EXTENSIONS

ENDINGS = frozenset(map(os.fsencode, EXTENSIONS))
THREADS = 4


@dataclass(frozen=True)
class Listing:
    """The files below one folder."""

    paths: Paths
    counts: list[int]  # of files, for each class
    stamps: np.ndarray  # (N, 2) int64: bytes, and when it was changed, in nanoseconds; -1 where nobody can say


def class_names(root: Path) -> list[str]:
    """The sub-folders of `root`, sorted, without hidden ones (.ipynb_checkpoints); none where `root` does not exist."""
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def has_images(root: Path) -> bool:
    """Whether any class folder of `root` holds an image."""
    return any(True for name in class_names(root) for _ in _candidates(os.fsencode(root / name)))


def list_files(root: Path, classes: Sequence[str]) -> Listing:
    """All candidates in these folders of `root`, one class after the other."""
    prefix = os.path.join(root, "")  # noqa: PTH118 (with the separator at its end)
    # most of the time goes by in the system, which can do several at once; more threads would keep more memory
    parts = ahead.listed(root, classes) or _list_classes(prefix, classes, min(THREADS, os.cpu_count() or 1))
    texts, lengths, stamps = zip(*parts, strict=True) if parts else ((), (), ())
    ends = np.concatenate([np.empty(0, np.int64), *lengths]).cumsum()
    stamped = np.concatenate([np.empty((0, 2), np.int64), *stamps])
    return Listing(Paths(prefix, b"".join(texts), ends), [len(part) for part in lengths], stamped)


def _list_classes(prefix: str, classes: Sequence[str], threads: int) -> list[tuple[bytearray, np.ndarray, np.ndarray]]:
    """Of each class what `_list_class` gives."""
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(_list_class, [os.fsencode(prefix)] * len(classes), map(os.fsencode, classes)))


def _list_class(prefix: bytes, name: bytes) -> tuple[bytearray, np.ndarray, np.ndarray]:
    """Of one class the names, one after the other, their lengths (N,), and the stamps (N, 2)."""
    found: dict[bytes, tuple[list[bytes], array]] = {}  # by the folder that they lie in
    here = None
    for folder, entry in _candidates(prefix + name):
        if folder is not here:
            here, (names, stats) = folder, found.setdefault(folder, ([], array("q")))
        names.append(entry.name)
        try:
            stat = entry.stat()
            stats.extend((stat.st_size, stat.st_mtime_ns))
        except OSError:  # a link to nothing; reading it will say so
            stats.extend((-1, -1))
    text, lengths, stamps = bytearray(), [np.empty(0, np.int64)], [np.empty((0, 2), np.int64)]
    for folder in sorted(found):
        names, stats = found.pop(folder)
        inner = os.path.join(folder, b"")[len(prefix) :]  # noqa: PTH118
        column = np.array(names)
        order = column.argsort()
        stamps.append(np.frombuffer(stats, np.int64).reshape(-1, 2)[order])
        lengths.append(np.char.str_len(column)[order] + len(inner))
        for start in range(0, len(names), BLOCK):  # so that not all are there twice
            text += inner.join([b"", *column[order[start : start + BLOCK]].tolist()])
    return text, np.concatenate(lengths), np.concatenate(stamps)


def _candidates(top: bytes) -> Iterator[tuple[bytes, os.DirEntry]]:
    """(folder, file) for every file below `top` that claims to be an image, in the system's order."""
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            entries = os.scandir(folder)
        except OSError:  # a folder that may not be looked into is empty, as for ImageFolder
            continue
        with entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b"."):
                    continue
                if entry.is_dir():
                    if not _leads_back(entry, folder):
                        waiting.append(entry.path)
                elif name[name.rfind(b".") :].lower() in ENDINGS:
                    yield folder, entry


def _leads_back(entry: os.DirEntry, folder: bytes) -> bool:
    """Whether a folder is a link to one that it lies in; it would never end."""
    if not entry.is_symlink():
        return False
    here, there = (os.path.join(os.path.realpath(path), b"") for path in (folder, entry.path))  # noqa: PTH118
    return here.startswith(there)


if __name__ == "__main__":  # for ahead.py
    top = Path(sys.argv[1])
    names = class_names(top)
    parts = _list_classes(os.path.join(top, ""), names, threads=1)  # noqa: PTH118 (the others have PyTorch to import)
    pickle.dump((names, parts), sys.stdout.buffer)
