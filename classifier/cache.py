"""Pictures opened once and kept as bytes on the disk, so that no later epoch, and no later run, opens them again.

A cache belongs to one folder of pictures, prepared in one way. Beside `dataset/train` lie

    dataset/.cache/<name>.pixels    a slot of size * size * 3 bytes for each picture
    dataset/.cache/<name>.index     for each slot, the digest of the picture's file and a checksum of the slot

and <name> says the preprocessing. A picture that changed has another digest, so it is opened again; bytes that do not
fit their checksum, as after a crash or a fault of the disk, are never used but replaced. `.cache` may be deleted.

Slots are read, not mapped into memory: what the process holds does not grow with the number of pictures, and a file
that shrinks under a running process is noticed instead of ending it.
"""

import contextlib
import hashlib
import itertools
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from classifier.preprocess import Preprocess

VERSION = 1
KEY, RECORD = 16, 20  # bytes of a digest; of digest and checksum
AT_ONCE = 64_000_000  # bytes of pictures that are opened before they are written
RESERVE = 500_000_000  # bytes of the disk that a cache leaves free
UNUSED = 14 * 24 * 3600  # seconds after which another cache in the folder is deleted


def open_cache(
    folder: Path,
    paths: Sequence[str],
    digests: Sequence[bytes],
    preprocess: Preprocess,
    decode: Callable[[str], Tensor],
    needed: Sequence[int],
    threads: int,
) -> "Cache | None":
    """The cache in `folder` of the pictures at `paths`; None, with a printed reason, where there is no room for it.

    Args:
        folder: usually dataset/.cache.
        paths: of the pictures.
        digests: of their files, KEY bytes each.
        preprocess: what `decode` prepares pictures with.
        decode: a path -> (3, size, size) uint8.
        needed: places in `paths` of the pictures that have to be there now.
        threads: pictures opened side by side.
    """
    version = f"{VERSION} {PIL.__version__} {preprocess.resize} {preprocess.interpolation}"
    name = f"{preprocess.size}-{hashlib.blake2b(version.encode(), digest_size=4).hexdigest()}"
    cache = None
    try:
        folder.mkdir(exist_ok=True)
        _remove_unused(folder, name)
        cache = Cache(folder / name, paths, digests, preprocess.size, decode)
        missing = cache.missing(needed)
        size, free = len(missing) * cache.bytes, shutil.disk_usage(folder).free
        if missing and free - size < RESERVE:
            raise OSError(0, f"it needs {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free, and some must stay so")
        cache.fill(missing, threads)
    except OSError as error:
        if cache:
            cache.close()
        print(f"{folder} is not used ({error.strerror or error}): pictures are opened anew in every epoch, slower.")
        return None
    return cache


class Cache:
    """See the top of the file. `places` are positions in `paths`."""

    def __init__(
        self,
        place: Path,
        paths: Sequence[str],
        digests: Sequence[bytes],
        size: int,
        decode: Callable[[str], Tensor],
    ):
        self.paths, self.size, self.decode = paths, size, decode
        self.bytes = 3 * size**2  # of a picture
        self.lock = threading.Lock()
        self.pixels, self.index = (_open(place.with_name(place.name + end)) for end in (".pixels", ".index"))
        records = self.index.read()
        slots = {records[at : at + KEY]: at // RECORD for at in range(0, len(records) - RECORD + 1, RECORD)}
        kept = {slots[digest] for digest in digests if digest in slots}
        # the others get slots of pictures that are gone, then new ones; two runs that begin together choose alike
        fresh = (slot for slot in itertools.count() if slot not in kept)
        self.slots, self.records = [], []  # of each place; no checksum yet where the picture is not kept
        for digest in digests:
            slot = slots.get(digest)
            self.records.append(digest if slot is None else records[slot * RECORD : (slot + 1) * RECORD])
            self.slots.append(next(fresh) if slot is None else slot)

    def missing(self, places: Sequence[int]) -> list[int]:
        """Those of the places whose pictures are not kept yet."""
        return [place for place in places if len(self.records[place]) < RECORD]

    def fill(self, places: Sequence[int], threads: int) -> None:
        """Open these pictures and keep them, with a progress bar where there is a terminal."""
        bar = tqdm(total=len(places), desc="opening each picture once", unit="img", leave=False, disable=None)
        with ThreadPoolExecutor(max(1, threads)) as pool, bar:
            step = max(threads, AT_ONCE // self.bytes)
            for start in range(0, len(places), step):
                some = places[start : start + step]
                opened = pool.map(self.decode, [self.paths[place] for place in some])
                for place, pixels in zip(some, opened, strict=True):
                    self._keep(place, _rows(pixels))
                    bar.update()

    def read(self, places: Sequence[int]) -> Tensor:
        """(n, 3, size, size) uint8, channels-last. Raises what `decode` raises, for bytes that were damaged."""
        batch = np.empty((len(places), self.size, self.size, 3), np.uint8)
        for rows, place in zip(batch, places, strict=True):
            view = memoryview(rows).cast("B")
            with self.lock:
                self.pixels.seek(self.slots[place] * self.bytes)
                try:
                    count = self.pixels.readinto(view)
                except OSError:  # a fault of the disk
                    count = 0
            if count != self.bytes or _checksum(view) != self.records[place][KEY:]:
                rows[:] = _rows(self.decode(self.paths[place]))
                with contextlib.suppress(OSError):  # it will be opened again the next time
                    self._keep(place, rows)
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def _keep(self, place: int, rows: np.ndarray) -> None:
        view = memoryview(rows).cast("B")
        record = self.records[place][:KEY] + _checksum(view)
        with self.lock:
            self.pixels.seek(self.slots[place] * self.bytes)
            _write(self.pixels, view)
            self.index.seek(self.slots[place] * RECORD)
            _write(self.index, record)
        self.records[place] = record

    def close(self) -> None:
        """Close the files."""
        self.pixels.close()
        self.index.close()


def _rows(pixels: Tensor) -> np.ndarray:
    """(3, size, size) -> (size, size, 3)"""
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def _checksum(view: memoryview) -> bytes:
    return zlib.crc32(view).to_bytes(4, "little")


def _open(path: Path) -> BinaryIO:
    """For reading and writing, made where it is missing, without a buffer."""
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b", buffering=0)


def _write(file: BinaryIO, content: bytes | memoryview) -> None:
    if file.write(content) != len(content):  # a disk takes what still fits and only then says that it is full
        raise OSError(0, "the disk is full")


def _remove_unused(folder: Path, name: str) -> None:
    """Delete caches of another preprocessing that no run has asked for in a long time."""
    for file in (file for end in ("pixels", "index") for file in folder.glob(f"*-*.{end}")):
        with contextlib.suppress(OSError):
            if file.stem == name:
                os.utime(file)
            elif time.time() - file.stat().st_mtime > UNUSED:
                file.unlink()
