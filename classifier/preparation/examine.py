"""Decode every image of a source in full, once, in parallel: is it good, what are its hashes?

`Image.verify()` would be quicker, but accepts a JPEG that stops half-way; only decoding notices it.
"""

import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from classifier.data.formats import ImageError
from classifier.data.images import load_image
from classifier.preparation.sources import SourceImage, read_bytes

MAX_THREADS = 8  # Pillow decodes without the GIL; more would only wait for it in what is left
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
    with ThreadPoolExecutor(min(os.cpu_count() or 1, MAX_THREADS)) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata: they name no file
        try:
            for _ in tqdm(pool.map(_examine, images), total=len(images), desc="checking", unit="image", disable=None):
                pass
        finally:
            pool.shutdown(cancel_futures=True)


def phash(image: Image.Image) -> bytes | None:
    """Return the perceptual hash of an RGB image, 32 bytes; None where the image is too plain to have one.

    These are the signs of its 16 x 16 lowest frequencies (Zauner 2010, as in ImageHash).
    """
    grey = image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    pixels = np.asarray(grey).astype(np.int16)
    if np.hypot(np.diff(pixels, 2, axis=0).std(), np.diff(pixels, 2, axis=1).std()) < MIN_DETAIL:
        return None
    return np.packbits(imagehash.phash(grey, hash_size=16).hash).tobytes()


def _examine(image: SourceImage) -> None:
    if image.problem:
        return
    try:
        content = read_bytes(image)
        image.phash = phash(load_image(content))
    except ImageError as error:
        image.problem = str(error)
    else:
        image.sha256 = hashlib.sha256(content).hexdigest()
        image.copy.write_bytes(content)
