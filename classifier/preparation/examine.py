"""Decode every image of a source in full, once, in parallel: is it good, what are its hashes?

`Image.verify()` would be quicker, but accepts a JPEG that stops half-way; only decoding notices it.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from classifier.cli import UserError
from classifier.data.images import ImageError, load_image
from classifier.preparation.sources import SourceImage, read_bytes

MIN_IMAGES_PER_PROCESS = 50  # starting a process takes as long as decoding these
MAX_PROCESSES = 61  # Windows waits for no more
# Mean second difference between neighbours, in grey levels. Photographs have at least 2.2, plain areas and even
# gradients under 1: the signs of their frequencies are noise, and all blank images would look the same.
MIN_DETAIL = 2.0
SIZE = 64


def examine_all(images: Sequence[SourceImage], scratch: Path) -> None:
    """Set `problem` of each image or, if it is good, `sha256`, `phash` and `copy` (in the folder `scratch`)."""
    jobs = [(image, scratch / str(number)) for number, image in enumerate(images)]
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(available, len(jobs) // MIN_IMAGES_PER_PROCESS, MAX_PROCESSES)
    answers = _in_processes(jobs, processes) if processes > 1 else map(_examine, jobs)
    bar = tqdm(answers, total=len(jobs), desc="checking", unit="image", disable=None)
    for (image, copy), (image.problem, image.sha256, image.phash) in zip(jobs, bar, strict=True):
        image.copy = None if image.problem else copy


def phash(image: Image.Image) -> bytes | None:
    """Return the perceptual hash of an RGB image, 32 bytes; None where the image is too plain to have one.

    These are the signs of its 16 x 16 lowest frequencies (Zauner 2010, as in ImageHash).
    """
    grey = image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey).astype(np.int16)
    if np.hypot(np.diff(pixels, 2, axis=0).std(), np.diff(pixels, 2, axis=1).std()) < MIN_DETAIL:
        return None
    return np.packbits(imagehash.phash(grey, hash_size=16).hash).tobytes()


def _examine(job: tuple[SourceImage, Path]) -> tuple[str, str, bytes | None]:
    """Return (problem, SHA-256, perceptual hash) of an image; if it is good, write its bytes to the given path."""
    image, copy = job
    try:
        content = read_bytes(image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about odd metadata: they name no file
            bits = phash(load_image(content))
    except ImageError as error:
        return str(error), "", None
    copy.write_bytes(content)
    return "", hashlib.sha256(content).hexdigest(), bits


def _in_processes(jobs: Sequence[tuple[SourceImage, Path]], processes: int) -> Iterator[tuple[str, str, bytes | None]]:
    """Map `_examine` over processes that are spawned on every system, as Windows and macOS do anyway."""
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_end_with_parent)
    try:
        # Ctrl-C is for this process to handle; the others inherit that they ignore it
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        results = pool.map(_examine, jobs, chunksize=32)
        signal.signal(signal.SIGINT, handler)
        yield from results
    except BrokenProcessPool:
        raise UserError(
            "A process that decodes images was killed, most often for lack of memory. Close other programs and run "
            "the same command again; nothing was written."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
