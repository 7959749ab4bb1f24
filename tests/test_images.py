"""One place opens images: whatever the file, upright RGB or a clear error."""

import hashlib
import io
import itertools
import json
import os
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from classifier.data.images import ORIENTATION, ImageError, load_image
from tests.conftest import run_code
from tests.raw_images import encode

CASES = Path(__file__).resolve().parents[2] / "shared/cases/images"


def photograph(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[:40, :60]
    image = Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 4], axis=2).astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def tiff(tags: dict[int, tuple[int, list[int]]], pixels: bytes = bytes(12)) -> bytes:
    """A TIFF of 4 x 3 grey pixels in one strip, but for these tags: number -> (type, values)."""
    entries = {256: (3, [4]), 257: (3, [3]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 273: (4, [8]), 277: (3, [1])}
    entries |= {278: (3, [3]), 279: (4, [len(pixels)])} | tags
    start = 8 + len(pixels) + len(pixels) % 2
    directory, extra = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
        if len(packed) > 4:
            at = start + 2 + 12 * len(entries) + 4 + len(extra)
            extra += packed
            packed = struct.pack("<I", at)
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    return struct.pack("<4sI", b"II*\0", start) + pixels.ljust(start - 8, b"\0") + directory + bytes(4) + extra


def png(width: int, bits: int, colours: int, rows: bytes, clear: bytes = b"", height: int = 1) -> bytes:
    """A PNG with a transparent value and these uncompressed rows, each after its filter's byte."""
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", clear), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
        if data or name != b"tRNS"
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


RED, BLUE = (Image.new("RGB", (1, 1), colour) for colour in ("red", "blue"))
WHITE = (255, 255, 255)
RED_INK = Image.new("CMYK", (1, 1), (0, 255, 255, 0))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("data", "row"),
    [
        (encode(RED, "GIF", save_all=True, append_images=[BLUE]), [(255, 0, 0)]),  # the first frame
        (encode(RED_INK, "TIFF", icc_profile=b"damaged"), [(255, 0, 0)]),
        (encode(RED_INK, "TIFF", icc_profile=SRGB), [(255, 0, 0)]),  # a profile of other colours
        (png(2, 16, 0, b"\0\x10\0\x80\x80", clear=b"\x10\0"), [WHITE, (128, 128, 128)]),
        (png(2, 16, 2, b"\0\1\1\2\2\3\3\4\4\5\5\6\6", clear=b"\1\1\2\2\3\3"), [WHITE, (4, 5, 6)]),
        (png(2, 4, 0, b"\0\x3a", clear=b"\0\3"), [WHITE, (170, 170, 170)]),
        (tiff({262: (3, [0])}, bytes([0, 1, 254, 255] * 3)), [WHITE, (254,) * 3, (1,) * 3, (0, 0, 0)]),
        (tiff({258: (3, [4])}, bytes([0x01, 0xEF] * 3)), [(0, 0, 0), (17,) * 3, (238,) * 3, WHITE]),
        (tiff({258: (3, [2])}, bytes([0b00011011] * 3)), [(0, 0, 0), (85,) * 3, (170,) * 3, WHITE]),
        (tiff({258: (3, [16] * 3), 262: (3, [2]), 277: (3, [3])}, bytes([9, 1, 9, 2, 9, 3] * 12)), [(1, 2, 3)] * 4),
    ],
)
def test_odd_kinds_of_pixels_become_rgb(data, row):
    """The usual kinds are in the corpus."""
    assert [tuple(pixel) for pixel in np.asarray(load_image(data))[0].tolist()] == row


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "damaged"),
        (encode(photograph(), "JPEG")[:-200], "is incomplete: the end of the image is missing"),
        (encode(photograph(), "JPEG")[:-200] + b"\xff\xd9", "incomplete"),
        (b"\xff\x0a\xfa\x7f", "is of the kind JPEG XL, which is not supported"),
        (b"\n<!DOCTYPE html>\n<html>", "is of the kind HTML"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "MP4 or MOV"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "RAW"),
        (b"II*\0\x10\0\0\0CR\2\0", "RAW"),
        (tiff({254: (4, [1])}), "RAW"),  # NEF, ARW: a small preview comes first
        (tiff({50706: (1, [1, 4, 0, 0])}), "RAW"),  # DNG
        (b"P6 10000 5001 255\n", "10000 x 5001, more than 50 million"),
        # what Pillow reads wrongly or in part
        (tiff({258: (3, [12])}, bytes(18)), "BitsPerSample 12"),
        (tiff({258: (3, [16] * 3), 262: (3, [2]), 277: (3, [3]), 284: (3, [2])}, bytes(72)), "PlanarConfiguration 2"),
        (tiff({258: (3, [16]), 262: (3, [0])}, bytes(24)), "PhotometricInterpretation 0"),
        (tiff({339: (3, [2])}), "SampleFormat 2"),
        (tiff({278: (3, [1])}), "incomplete"),  # one strip of three
        (tiff({273: (4, [10_000])}), "incomplete"),  # behind the end of the file
        (tiff({279: (4, [10_000]), 259: (3, [5])}), "incomplete"),
        (png(4, 8, 0, b"\0abcd", height=2), "incomplete"),  # compressed data end after one row
        (png(4, 8, 0, b"\0MMMM", height=2), "incomplete"),
        (b"BM" + bytes(8) + struct.pack("<7I", 54, 40, 4, 1, 1 + (8 << 16), 1, 0) + bytes(16), "run-length"),
    ],
)
def test_refuses_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        load_image(data)


def test_the_name_of_a_file_does_not_matter_and_a_missing_one_and_a_folder_are_named(tmp_path):
    (tmp_path / "猫 1").write_bytes(encode(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"))  # damaged
    assert load_image(tmp_path / "猫 1").size == (60, 40)
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(ImageError, match="cannot be read"):
            load_image(path)


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_when_little_is_needed():
    large = encode(photograph(1600, 1200), "JPEG", quality=95)
    for side, size in ((0, (1600, 1200)), (100, (400, 300)), (200, (800, 600)), (400, (1600, 1200))):
        assert load_image(large, side).size == size
    small, exact = (np.asarray(load_image(large, side).resize((100, 75))).astype(int) for side in (75, 0))
    assert np.abs(small - exact).mean() < 1.5
    assert load_image(encode(photograph(800, 600), "PNG"), 10).size == (800, 600)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_that_lacks_only_its_end_marker_has_every_pixel(options):
    data = encode(photograph(), "JPEG", **options)
    for whole in (data[:-2], data[:-1], data + b"trailer"):
        assert load_image(whole).tobytes() == load_image(data).tobytes()


# ---- a corpus: every format and mode that Pillow writes and this project reads, turned in every way, and cut off

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


def whole_images(kinds: Iterable[str] = MODES) -> Iterator[tuple[str, bytes]]:
    """Yield (name, file)."""
    for kind in kinds:
        for mode, (number, options) in itertools.product(MODES[kind], enumerate(OPTIONS.get(kind, [{}]))):
            for orientation in range(1, 9) if kind in TURNED else (1,):
                exif = Image.Exif()
                exif[ORIENTATION] = orientation
                own = options | ({"exif": exif} if orientation > 1 else {})
                if mode == "P" and kind in ("PNG", "GIF"):
                    own["transparency"] = 3
                yield f"{kind} {mode} {number} turned {orientation}", encode(in_mode(mode), kind, **own)


def corpus() -> Iterator[tuple[str, bytes]]:
    """Yield (name, file); "<name> cut <n>" and "<name> flip <n>" are damaged copies of the file <name>."""
    refused = ((f"refused {mode} {one}", encode(in_mode(mode), "TIFF", compression=one)) for mode, one in REFUSED)
    for name, content in itertools.chain(whole_images(), refused):
        yield name, content
        if name.startswith("refused") or name.endswith(("turned 1", "turned 6")):
            yield from damaged(name, content)


def damaged(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    for left in {len(content) * tenth // 10 for tenth in range(10)} | {len(content) - few for few in (1, 2, 3, 10, 50)}:
        yield f"{name} cut {left}", content[:left]
    rng = np.random.default_rng(len(content))
    for number in range(5):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 1 + number % 4):
            damaged[place] ^= 1 << rng.integers(8)
        yield f"{name} flip {number}", bytes(damaged)


def dirty_memory(seed: int) -> None:
    """Leave other values than zeros in what the next image may be decoded into."""
    blocks = [np.full(size, seed % 255 + 1, np.uint8) for size in (1000, 4000, 8000, 64_000, 1_000_000)]
    del blocks


def main() -> None:
    """Print what `load_image` answers for each file of the corpus, as JSON: a digest of the pixels, or a sentence."""
    answers = {}
    for number, (name, content) in enumerate(corpus()):
        dirty_memory(number * int(os.environ["MALLOC_PERTURB_"]))
        try:
            answers[name] = hashlib.sha256(load_image(content).tobytes()).hexdigest()
        except ImageError as error:
            answers[name] = str(error)
    json.dump(answers, sys.stdout)


def test_an_image_is_always_decoded_as_by_pillow_or_refused_in_one_true_sentence():
    """In two processes, in which new memory has other contents."""
    code = "from tests.test_images import main; main()"
    done = [run_code(code, MALLOC_PERTURB_=value) for value in ("1", "170")]
    assert [(run.returncode, run.stderr) for run in done] == [(0, "")] * 2  # libtiff prints nothing either
    answers, others = (json.loads(run.stdout) for run in done)
    assert [name for name in answers if answers[name] != others[name]] == [] and len(answers) > 3000
    wrong = []
    expected = {name: hashlib.sha256(upright_rgb(content)).hexdigest() for name, content in whole_images()}
    of_parts = ("is incomplete: ", "is damaged or incomplete: ", "is a damaged TIFF", "is empty")
    for name, found in answers.items():
        whole, _, cut = name.partition(" cut ")
        if name.startswith("refused"):
            right = found.startswith((*of_parts, "is a TIFF of an unusual kind", "holds floating-point"))
        elif " flip " in name:
            right = True  # a digest or a sentence
        elif cut:
            right = found == answers[whole] or found.startswith(of_parts)
        else:
            right = found == expected[name]
        if not right:
            wrong.append((name, found))
    assert wrong == []


@pytest.mark.skipif(not CASES.is_dir(), reason="the cases of other projects are not here")
def test_cases_of_other_projects():
    refused = {"m5-f0d7bcb90496c323c880a9773dfe93ff.tif": "unusual kind", "trunc50.jpg": "is incomplete"}
    for path in sorted(path for path in CASES.rglob("*") if path.is_file()):
        if path.name in refused:
            with pytest.raises(ImageError, match=refused[path.name]):
                load_image(path)
        else:
            image = load_image(path)
            if path.name not in ("trunc2.jpg", "i_trns.png"):  # which Pillow does not read, or reads wrongly
                assert image.tobytes() == upright_rgb(path.read_bytes()), path
