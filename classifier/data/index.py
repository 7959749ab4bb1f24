"""What is in each file, without opening those that are as they were?

Beside `dataset/train` lies `dataset/.cache/train.files`: for each image its name, size, time of change, and a digest
of its content. As long as size and time are the same, so is the digest. The file may be deleted; one that is damaged,
or of another version, is not used but made anew. Folders that are quickly read have none.

Its bytes: MARK, a digest of all that follows, the numbers of files and of bytes of their names; then, one after the
other, where each name ends, sizes and times, digests, whether these are to be relied on, names.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from tqdm import tqdm

from classifier.data.ahead import place_of
from classifier.data.columns import DIGEST, Digests, Paths
from classifier.data.listing import Listing
from classifier.distributed import DISABLE_TQDM

__all__ = ["digests_of", "place_of"]
MARK = b"image digests 1".ljust(32)
FEW, SMALL = 1_000, 100_000_000  # files and bytes; what has less of both is read again each time
LATELY = 2_000_000_000  # nanoseconds in which a file may change twice and keep its time, on the coarsest file systems
AT_ONCE = 512  # files that a thread reads before it takes others


def digests_of(listing: Listing, rows: np.ndarray, place: Path, digest: Callable[[str], bytes]) -> Digests:
    """Of the files `rows` of a listing, (len(rows), 16); `digest` is asked for those that are new or have changed.

    Raises:
        What `digest` raises.
    """
    now = time.time_ns()
    known, digests, unchanged = _remembered(listing, place)
    unknown = rows[~known[rows]]
    chunks = [unknown[start : start + AT_ONCE] for start in range(0, len(unknown), AT_ONCE)]

    def read(chunk: np.ndarray) -> int:
        contents = b"".join(map(digest, listing.paths.take(chunk)))
        digests[chunk] = np.frombuffer(contents, np.uint8).reshape(-1, DIGEST)
        return len(chunk)

    bar = tqdm(total=len(unknown), desc="reading each image once", unit="img", leave=False, disable=DISABLE_TQDM)
    with bar, ThreadPoolExecutor() as pool:
        for count in pool.map(read, chunks):
            bar.update(count)
    if (len(unknown) or not unchanged) and (len(rows) >= FEW or listing.stamps[rows, 0].sum() >= SMALL):
        known[unknown] = True
        lasting = known & (listing.stamps[:, 1] < now - LATELY)
        with contextlib.suppress(OSError):  # no room, no permission: the next run reads them again
            _write(place, listing, digests, lasting)
    return Digests(digests if len(rows) == len(digests) else digests[rows])


def _remembered(listing: Listing, place: Path) -> tuple[np.ndarray, np.ndarray, bool]:
    """Of each listed file whether it is as it was, (N,), and its digest then, (N, 16); and whether all names are."""
    known, digests = np.zeros(len(listing.paths), bool), np.zeros((len(listing.paths), DIGEST), np.uint8)
    if not (old := _read(place)):
        return known, digests, False
    names, stamps, contents, lasting = old
    if names.text == listing.paths.text and np.array_equal(names.ends, listing.paths.ends):
        return (stamps == listing.stamps).all(1) & lasting, contents, True
    rows = _places(listing.paths, names)
    known = (stamps[rows] == listing.stamps).all(1) & lasting[rows] & (rows >= 0)
    digests[known] = contents[rows[known]]
    return known, digests, False


def _places(new: Paths, old: Paths) -> np.ndarray:
    """For each new name where it stands among the old ones, (len(new),); -1 where it does not."""
    own, others = (np.fromiter(map(hash, _names(paths)), np.int64, len(paths)) for paths in (new, old))
    order = others.argsort()
    rows = order[np.searchsorted(others[order], own).clip(max=len(old) - 1)]
    equal = (a == b for a, b in zip(_names(new), _names(old.take(rows)), strict=True))
    return np.where(np.fromiter(equal, bool, len(new)), rows, -1)


def _names(paths: Paths) -> Iterator[bytes]:
    """All of them, a few at a time in memory."""
    return chain.from_iterable(paths.names(slice(at, at + AT_ONCE)) for at in range(0, len(paths), AT_ONCE))


def _read(place: Path) -> tuple[Paths, np.ndarray, np.ndarray, np.ndarray] | None:
    """Names, stamps (N, 2), digests (N, 16), and which of these last, (N,); None where nothing of use is there."""
    try:
        with place.open("rb") as file:
            mark, check, sizes = file.read(len(MARK)), file.read(DIGEST), np.frombuffer(file.read(16).ljust(16), "<i8")
            files, length = sizes.tolist()
            expected = len(MARK) + DIGEST + 16 + files * (8 + 16 + DIGEST + 1) + length
            if mark != MARK or files < 1 or os.fstat(file.fileno()).st_size != expected:
                return None
            ends, stamps = np.empty(files, "<i8"), np.empty((files, 2), "<i8")
            digests, lasting = np.empty((files, DIGEST), "u1"), np.empty(files, bool)
            for part in (ends, stamps, digests, lasting):
                file.readinto(part)
            text = file.read()
    except OSError:
        return None
    if check != _check(sizes, ends, stamps, digests, lasting, text):
        return None
    return Paths("", text, ends), stamps, digests, lasting


def _write(place: Path, listing: Listing, digests: np.ndarray, lasting: np.ndarray) -> None:
    text, ends = listing.paths.text, listing.paths.ends
    parts = [part.astype("<i8", copy=False) for part in (np.array([len(ends), len(text)]), ends, listing.stamps)]
    body = [*parts, digests, lasting, text]
    place.parent.mkdir(exist_ok=True)
    beside = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:  # without fsync: what a power failure leaves of it does not fit its digest
            file.writelines([MARK, _check(*body), *body])
        beside.replace(place)
    finally:
        beside.unlink(missing_ok=True)


def _check(*parts: bytes | np.ndarray) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.digest()
