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
from classifier.data.formats import ImageError
from classifier.data.images import load_image
from classifier.preparation.sources import SourceImage, read_bytes

MIN_IMAGES_PER_PROCESS = 200  # starting one takes as long as decoding these
MAX_PROCESSES = 16  # of about 100 MB each
# Mean second difference between neighbours, in grey levels. Photographs have at least 2.2, plain areas and even
# gradients under 1: the signs of their frequencies are noise, and all blank images would look the same.
MIN_DETAIL = 2.0
SIZE = 64


def examine_all(images: Sequence[SourceImage], scratch: Path) -> None:
    """Set `problem` of each image or, if it is good, `sha256` and `phash`, and write it to `copy`, in `scratch`.

    Raises UserError where a zip is damaged.
    """
    for number, image in enumerate(images):
        image.copy = scratch / str(number)
    processes = min(os.cpu_count() or 1, len(images) // MIN_IMAGES_PER_PROCESS, MAX_PROCESSES)
    answers = _in_processes(images, processes) if processes > 1 else map(_examine, images)
    bar = tqdm(answers, total=len(images), desc="checking", unit="image", disable=None)
    for image, answer in zip(images, bar, strict=True):
        image.problem, image.sha256, image.phash = answer


def phash(image: Image.Image) -> bytes | None:
    """Return the perceptual hash of an RGB image, 32 bytes; None where the image is too plain to have one.

    These are the signs of its 16 x 16 lowest frequencies (Zauner 2010, as in ImageHash).
    """
    grey = image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey).astype(np.int16)
    if np.hypot(np.diff(pixels, 2, axis=0).std(), np.diff(pixels, 2, axis=1).std()) < MIN_DETAIL:
        return None
    return np.packbits(imagehash.phash(grey, hash_size=16).hash).tobytes()


def _examine(image: SourceImage) -> tuple[str, str, bytes | None]:
    """Return (problem, SHA-256, perceptual hash) of an image, and copy it if it is good."""
    if image.problem:
        return image.problem, "", None
    try:
        content = read_bytes(image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about odd metadata: they name no file
            bits = phash(load_image(content))
    except ImageError as error:
        return str(error), "", None
    image.copy.write_bytes(content)
    return "", hashlib.sha256(content).hexdigest(), bits


def _in_processes(images: Sequence[SourceImage], processes: int) -> Iterator[tuple[str, str, bytes | None]]:
    """Map `_examine` over processes. Threads would wait for each other's Python: they take a third longer."""
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # processes inherit this while they start
        answers = pool.map(_examine, images, chunksize=32)
        signal.signal(signal.SIGINT, handler)
        yield from answers
    except BrokenProcessPool:
        raise UserError(
            "A process that decodes images was killed, most often for lack of memory. Close other programs and run "
            "the same command again; nothing was written."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the main process, and end with it even where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Windows this is not inherited
    main = multiprocessing.parent_process()
    threading.Thread(target=lambda: (main.join(), os._exit(1)), daemon=True).start()
