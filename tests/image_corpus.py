"""Images of every format and mode that Pillow writes and this project reads, turned in every way, and cut off.

python -m tests.image_corpus      what `load_image` answers for each, as JSON: a digest of the pixels, or a sentence
"""

import hashlib
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from classifier.data.images import ORIENTATION, ImageError, load_image
from tests.raw_images import encode

LONG = "FUZZ" in os.environ  # cuts of all turned images
FLIPS = int(os.environ.get("FUZZ", "5"))  # damaged copies of each
MODES = {
    "JPEG": ["L", "RGB", "CMYK"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "GIF": ["1", "L", "P"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "DIB": ["L", "RGB"],
    "WEBP": ["RGB", "RGBA"],
    "AVIF": ["RGB", "RGBA"],
    "HEIF": ["L", "RGB", "RGBA"],
    "PPM": ["1", "L", "RGB", "I;16"],
    "MPO": ["RGB"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"],
}
OPTIONS = {
    "JPEG": [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"restart_marker_blocks": 2}],
    "WEBP": [{}, {"lossless": True}],
    "AVIF": [{"speed": 10}],
    "GIF": [{}, {"interlace": 0}],
    "TIFF": [{"compression": one} for one in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")],
}
REFUSED = [("RGB", "jpeg"), ("YCbCr", "jpeg"), ("YCbCr", None), ("LAB", None), ("1", "group3"), ("1", "group4")]
REFUSED += [("RGB", "lzma"), ("RGB", "zstd"), ("F", None), ("I", None)]  # TIFF: mode and compression
TURNED = {"JPEG", "PNG", "WEBP", "AVIF", "TIFF", "HEIF"}  # that keep an orientation


def original() -> Image.Image:
    """Noise with colours and transparency, of an odd size."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 4), dtype=np.uint8)
    return Image.fromarray(noise).resize((53, 37), Image.Resampling.BICUBIC)


def in_mode(mode: str) -> Image.Image:
    image = original()
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.new("LAB", image.size, (100, 5, 5))
    return image.convert("L").convert(mode) if mode in ("I", "F") else image.convert(mode)


def upright_rgb(content: bytes) -> bytes:
    """The pixels as Pillow decodes them."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8)).convert("RGB").tobytes()
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB").tobytes()


def corpus() -> Iterator[tuple[str, bytes]]:
    """Yield (name, file); "<name> cut <n>" and "<name> flip <n>" are damaged copies of the file <name>."""
    for kind, modes in MODES.items():
        for mode, (number, options) in itertools.product(modes, enumerate(OPTIONS.get(kind, [{}]))):
            for orientation in range(1, 9) if kind in TURNED else (1,):
                exif = Image.Exif()
                exif[ORIENTATION] = orientation
                own = options | ({"exif": exif} if orientation > 1 else {})
                if mode == "P" and kind in ("PNG", "GIF"):
                    own["transparency"] = 3
                name, content = f"{kind} {mode} {number} turned {orientation}", encode(in_mode(mode), kind, **own)
                yield name, content
                if LONG or orientation in (1, 6):
                    yield from cuts(name, content)
                if orientation == 1:
                    yield from flips(name, content)
    for mode, compression in REFUSED:
        name, content = f"refused {mode} {compression}", encode(in_mode(mode), "TIFF", compression=compression)
        yield name, content
        yield from cuts(name, content)
        yield from flips(name, content)


def cuts(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    for left in {len(content) * tenth // 10 for tenth in range(10)} | {len(content) - few for few in (1, 2, 3, 10, 50)}:
        yield f"{name} cut {left}", content[:left]


def flips(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(len(content))
    for number in range(FLIPS):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 1 + number % 4):
            damaged[place] ^= 1 << rng.integers(8)
        yield f"{name} flip {number}", bytes(damaged)


def dirty_memory(seed: int) -> None:
    """Leave other values than zeros in what the next image may be decoded into."""
    blocks = [np.full(size, seed % 255 + 1, np.uint8) for size in (1000, 4000, 8000, 64_000, 1_000_000)]
    del blocks


def answer(content: bytes) -> str:
    """What `load_image` says."""
    try:
        return hashlib.sha256(load_image(content).tobytes()).hexdigest()
    except ImageError as error:
        return str(error)


def main() -> None:
    answers = {}
    for number, (name, content) in enumerate(corpus()):
        dirty_memory(number * int(os.environ.get("MALLOC_PERTURB_", "1")))
        answers[name] = answer(content)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
