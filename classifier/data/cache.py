"""Decoded images in one array file for each way of preparing them, so that later epochs and runs decode nothing.

    DATA/.cache/<name>.pixels    (rows, size, size, 3) uint8; <name> tells the preprocessing and the decoders
    DATA/.cache/<name>.rows      (rows, 2) uint64: hashes of the image's relative path, and of its size and mtime

New rows are appended by ordinary writes. The second file marks them as finished: it is replaced only when they are on
the disk, and what a killed process has appended is overwritten. The array is mapped into memory, read-only; rows that
a truncated file lacks are appended again. `.cache` may be deleted.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import PIL
from PIL import features
from tqdm import tqdm

from classifier.cli import UserError
from classifier.data.formats import ImageError
from classifier.data.image_folder import ImageFolder, stat_or_none
from classifier.data.transforms import Preprocess
from classifier.distributed import DISABLE_TQDM, LOCAL_RANK
from classifier.files import atomic_write, file_lock

VERSION = 3
DECODERS = ("jpg", "libjpeg_turbo", "zlib", "webp", "avif", "libtiff")
FREE_MB = 500  # that a cache leaves on the disk
LOCK_TIMEOUT_S = 2 * 3600  # another run may be filling it
SUFFIXES = (".pixels", ".rows", ".index", ".files")  # the last two of earlier versions
MAX_UNUSED_S = 14 * 24 * 3600  # after which another cache in the folder is deleted

Decode = Callable[[Sequence[int]], Iterable[np.ndarray]]  # indices -> their pixels, in batches (n, size, size, 3) uint8


def image_keys(folder: ImageFolder) -> np.ndarray:
    """Return (N, 2) uint64 that identify the images: hashes of the relative path, and of size and time of change."""

    def number(*values: object) -> int:
        content = repr(values).encode("utf-8", "surrogateescape")
        return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")

    stats = ((stat.st_size, stat.st_mtime_ns) if (stat := stat_or_none(path)) else () for path in folder.paths)
    names = (number(folder.root.name, name) for name in folder.relative_paths())
    return np.array([(name, number(*stat)) for name, stat in zip(names, stats, strict=True)], "<u8").reshape(-1, 2)


def open_cache(
    folder: Path, keys: np.ndarray, preprocess: Preprocess, decode: Decode
) -> tuple[np.memmap, np.ndarray] | None:
    """Map the cache into memory; the first process of a host appends the images that it lacks.

    Args:
        folder: usually DATA/.cache.
        keys: of the images, (N, 2), from `image_keys`.
        preprocess: how `decode` prepares images.
        decode: opens images. Raises ImageError.

    Returns:
        (pixels (rows, size, size, 3) uint8, read-only, and the row of each image (N,)); None, with a printed reason,
        where there is no room for it or it cannot be written.
    """
    cache = _Cache(folder, preprocess)
    try:
        folder.mkdir(exist_ok=True)
        cache.remove_unused()
        rows = cache.find(keys)
        if (rows < 0).any() and not LOCAL_RANK:
            taken = f"{cache.pixels} is being written by another process."
            try:
                with file_lock(cache.pixels, taken, timeout=0):
                    pass
            except UserError as error:
                print(error, "Waiting for it.", flush=True)
            with file_lock(cache.pixels, taken, LOCK_TIMEOUT_S):
                cache.fill(keys, decode)
            rows = cache.find(keys)
        if (rows < 0).any():
            return None
        shape = (len(cache.known()), preprocess.size, preprocess.size, 3)
        return np.memmap(cache.pixels, np.uint8, "r", shape=shape), rows
    except ImageError:
        raise
    except (OSError, UserError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"{folder} is not used ({reason}): images are opened again in every epoch, which is slower.")
        return None


class _Cache:
    """The two files of one way of preparing images."""

    def __init__(self, folder: Path, preprocess: Preprocess):
        versions = [PIL.__version__, *(features.version(name) for name in DECODERS)]
        bars = [preprocess.bar_color] if preprocess.resize == "pad" else []
        text = repr((VERSION, versions, preprocess.resize, preprocess.interpolation, *bars))
        name = f"{preprocess.size}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"
        self.pixels, self.marker = folder / f"{name}.pixels", folder / f"{name}.rows"
        self.row_bytes = 3 * preprocess.size**2

    def known(self) -> np.ndarray:
        """Return the keys of the finished rows, (rows, 2); not of rows that a truncated file lacks."""
        try:
            content, size = self.marker.read_bytes(), self.pixels.stat().st_size
        except FileNotFoundError:
            return np.empty((0, 2), "<u8")
        count = min(len(content) // 16, size // self.row_bytes)
        return np.frombuffer(content, "<u8", 2 * count).reshape(-1, 2)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the row of each image, (N,) int64; -1 where there is none."""
        rows = {key.tobytes(): row for row, key in enumerate(self.known())}
        return np.array([rows.get(key.tobytes(), -1) for key in keys], np.int64)

    def fill(self, keys: np.ndarray, decode: Decode) -> None:
        """Append the images that are missing. Raises OSError, ImageError."""
        if np.isin(self.known()[:, 0], keys[:, 0]).sum() > len(keys):  # of these very images: most are outdated
            self.pixels.unlink()  # a new file, as another process may have mapped this one
        known, missing = self.known(), np.flatnonzero(self.find(keys) < 0)
        needed, free = len(missing) * self.row_bytes / 1e6, shutil.disk_usage(self.pixels.parent).free / 1e6
        if free - needed < FREE_MB:
            raise OSError(f"it needs {needed:,.0f} MB more, {free:,.0f} MB are free, and {FREE_MB} MB stay so")
        self.mark(known)  # nothing that is not there: rows appended below must not be taken for others
        written = 0
        with (
            self.pixels.open("ab", buffering=0) as file,
            tqdm(total=len(missing), desc="decoding", unit="img", leave=False, disable=DISABLE_TQDM) as bar,
        ):
            file.truncate(len(known) * self.row_bytes)
            try:
                for batch in decode(missing.tolist()):
                    if file.write(np.ascontiguousarray(batch)) != batch.nbytes:
                        raise OSError("the disk is full")
                    written += len(batch)
                    bar.update(len(batch))
            except OSError:
                written = 0  # give back the room
                raise
            finally:
                file.truncate((len(known) + written) * self.row_bytes)
                os.fsync(file.fileno())
                self.mark(np.concatenate([known, keys[missing[:written]]]))

    def mark(self, keys: np.ndarray) -> None:
        """Say which rows are finished."""
        with atomic_write(self.marker) as file:
            file.write(keys.tobytes())

    def remove_unused(self) -> None:
        """Mark this cache as used now, and delete those that no run has used for long."""
        for file in self.pixels.parent.iterdir():
            with contextlib.suppress(OSError):
                if file.stem == self.pixels.stem:
                    os.utime(file)
                elif file.suffix in SUFFIXES and time.time() - file.stat().st_mtime > MAX_UNUSED_S:
                    file.unlink()
