"""Images opened once and kept as bytes on the disk, so that no later epoch, and no later run, opens them again.

A cache belongs to one folder of images, prepared in one way. Beside `dataset/train` lie

    dataset/.cache/<name>.pixels    a slot of size * size * 3 bytes for each image
    dataset/.cache/<name>.index     for each slot, the digest of the image's file and a checksum of the slot

and <name> says the preprocessing. An image that changed has another digest, so it is opened again; bytes that do not
fit their checksum, as after a crash or a fault of the disk, are never used but replaced. `.cache` may be deleted.

What is missing is opened before the first batch, so that a broken image is found before the work. Where that would
take long, as with a million images, each is opened when it is first asked for instead, and kept then, as long as the
disk has room.

Slots are read, not mapped into memory: what the process holds does not grow with the number of images, and a file
that shrinks under a running process is noticed instead of ending it.
"""

import contextlib
import hashlib
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from classifier.data.columns import DIGEST, Digests
from classifier.data.transforms import Preprocess
from classifier.distributed import DISABLE_TQDM

VERSION = 1
RECORD = np.dtype([("digest", np.uint8, DIGEST), ("checksum", "<u4")])  # of a slot
AT_ONCE = 64_000_000  # bytes of images that are opened before they are written, of
MANY = 128  # images at most
PATIENCE = 30  # seconds that opening them may hold up a run, for training and for validation images each
RESERVE = 500_000_000  # bytes of the disk that a cache leaves free
# On Windows what lies before the first bytes that are written is filled up with zeros, which takes as long as writing.
SPARSE = os.name != "nt"
UNUSED = 14 * 24 * 3600  # seconds after which another cache in the folder is deleted


def open_cache(
    folder: Path,
    paths: Sequence[str],
    digests: Digests,
    preprocess: Preprocess,
    decode: Callable[[str], Tensor],
    needed: Sequence[int],
    threads: int,
    patience: float,
) -> "Cache | None":
    """The cache in `folder` of the images at `paths`; None, with a printed reason, where there is no room for it.

    Args:
        folder: usually dataset/.cache.
        paths: of the images.
        digests: of their files.
        preprocess: what `decode` prepares images with.
        decode: a path -> (3, size, size) uint8.
        needed: places in `paths` of the images that have to be there now.
        threads: images opened side by side.
        patience: seconds that opening them may take; of what would take longer, only a part is opened now.
    """
    version = f"{VERSION} {PIL.__version__} {preprocess.resize} {preprocess.interpolation}"
    name = f"{preprocess.size}-{hashlib.blake2b(version.encode(), digest_size=4).hexdigest()}"
    cache = None
    try:
        folder.mkdir(exist_ok=True)
        _remove_unused(folder, name)
        cache = Cache(folder / name, paths, digests, preprocess.size, decode, threads)
        missing = cache.missing(needed)
        size, free = len(missing) * cache.bytes, shutil.disk_usage(folder).free
        if len(missing) and free - size < RESERVE:
            raise OSError(0, f"it needs {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free, and some must stay so")
        if later := len(missing) - cache.fill(missing, patience):
            print(f"{later:,} images are opened when they are first needed, so the first epoch takes longer.")
    except OSError as error:
        if cache:
            cache.close()
        print(f"{folder} is not used ({error.strerror or error}): images are opened anew in every epoch, slower.")
        return None
    return cache


class Cache:
    """See the top of the file. `places` are positions in `paths`."""

    def __init__(
        self,
        place: Path,
        paths: Sequence[str],
        digests: Digests,
        size: int,
        decode: Callable[[str], Tensor],
        threads: int,
    ):
        self.paths, self.digests, self.size, self.decode = paths, digests, size, decode
        self.bytes = 3 * size**2  # of an image
        self.lock, self.pool, self.threads = threading.Lock(), ThreadPoolExecutor(max(1, threads)), threads
        self.folder, self.full = place.parent, False  # full: it takes no more images
        self.pixels, self.index = (_open(place.with_name(place.name + end)) for end in (".pixels", ".index"))
        content = self.index.read()
        records = np.frombuffer(content, RECORD, len(content) // RECORD.itemsize)
        written = np.flatnonzero(records["digest"].any(1))  # slots; a part of the file may be empty
        places = digests.find(Digests(records["digest"][written]))  # -1 of images that are gone
        slots = np.full(len(digests), -1, np.int32)
        slots[places[places >= 0]] = written[places >= 0]  # of the last copy of each image
        # the others get slots of images that are gone, then new ones; copies of an image share one. What others keep
        # meanwhile moves none of the rest, so all processes that ask for the same images choose alike
        last = digests.last_copies()
        chosen = np.flatnonzero((slots < 0) & (last == np.arange(len(last), dtype=np.int32)))
        self.kept = np.zeros(len(records) + len(chosen), bool)  # by slot, as are the checksums
        self.checksums = np.zeros(len(self.kept), np.uint32)
        self.kept[slots[slots >= 0]] = True
        self.checksums[: len(records)] = records["checksum"]
        slots[chosen] = np.flatnonzero(~self.kept)[: len(chosen)]
        self.slots = slots[last]  # by place

    def missing(self, places: Sequence[int]) -> np.ndarray:
        """Those of the places whose images are not kept yet, one of those that are copies of each other."""
        places = np.asarray(places)
        places = places[~self.kept[self.slots[places]]]
        return np.sort(places[np.unique(self.slots[places], return_index=True)[1]])

    def fill(self, places: np.ndarray, patience: float) -> int:
        """Open these images and keep them, with a progress bar where there is a terminal.

        Returns:
            How many: all, or only the first where it shows that all would take more than `patience` seconds.
        """
        bar = tqdm(total=len(places), desc="opening each image once", unit="img", leave=False, disable=DISABLE_TQDM)
        began, step = time.perf_counter(), max(1, self.threads, min(MANY, AT_ONCE // self.bytes))
        with bar:
            for start in range(0, len(places), step):
                if start and SPARSE and (time.perf_counter() - began) / start * len(places) > patience:
                    return start
                some = places[start : start + step].tolist()
                for place, pixels in zip(some, self._opened(some), strict=True):
                    self._keep(place, _rows(pixels))
                    bar.update()
        return len(places)

    def read(self, places: Sequence[int]) -> Tensor:
        """(n, 3, size, size) uint8, channels-last. Raises what `decode` raises, for what is missing or was damaged."""
        batch = np.empty((len(places), self.size, self.size, 3), np.uint8)
        missing = [i for i, place in enumerate(places) if not self._read(place, batch[i])]
        for i, pixels in zip(missing, self._opened([places[i] for i in missing]), strict=True):
            batch[i] = _rows(pixels)
            self._keep_if_possible(places[i], batch[i])
        return torch.from_numpy(batch).permute(0, 3, 1, 2)

    def _opened(self, places: Sequence[int]) -> Iterator[Tensor]:
        return self.pool.map(self.decode, [self.paths[place] for place in places])

    def _read(self, place: int, rows: np.ndarray) -> bool:
        """Whether the image was there, whole."""
        view, slot = memoryview(rows).cast("B"), int(self.slots[place])
        with self.lock, contextlib.suppress(OSError):  # a fault of the disk
            if not self.kept[slot]:  # unless another process has kept it meanwhile
                self.index.seek(slot * RECORD.itemsize)
                record = self.index.read(RECORD.itemsize)
                if record[:DIGEST] != self.digests[place]:
                    return False
                self.checksums[slot], self.kept[slot] = int.from_bytes(record[DIGEST:], "little"), True
            self.pixels.seek(slot * self.bytes)
            return self.pixels.readinto(view) == self.bytes and zlib.crc32(view) == self.checksums[slot]
        return False

    def _keep_if_possible(self, place: int, rows: np.ndarray) -> None:
        """What cannot be kept is opened again the next time; the first failure is told, and nothing tried after it."""
        if self.full:
            return
        try:
            self._keep(place, rows)
        except OSError as error:
            self.full = True
            print(
                f"\n{self.folder} takes no more images ({error.strerror or error}): those that are not in it are "
                "opened anew in every epoch, slower.",
                flush=True,
            )

    def _keep(self, place: int, rows: np.ndarray) -> None:
        view, slot = memoryview(rows).cast("B"), int(self.slots[place])
        checksum = zlib.crc32(view)
        with self.lock:
            self.pixels.seek(slot * self.bytes)
            _write(self.pixels, view)
            self.index.seek(slot * RECORD.itemsize)
            _write(self.index, self.digests[place] + checksum.to_bytes(4, "little"))
        self.checksums[slot], self.kept[slot] = checksum, True

    def close(self) -> None:
        """Close the files."""
        self.pool.shutdown()
        self.pixels.close()
        self.index.close()


def _rows(pixels: Tensor) -> np.ndarray:
    """(3, size, size) -> (size, size, 3)"""
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


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
