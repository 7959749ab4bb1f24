"""One place opens images: whatever the file, upright RGB or a clear error."""

import hashlib
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from classifier.data.formats import ImageError, list_endings
from classifier.data.images import load_image
from tests.conftest import run_code
from tests.image_corpus import corpus, upright_rgb
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


SIXTEEN_BITS = Image.fromarray(np.array([[0, 257, 32896, 65535]], dtype=np.uint16))
HALF_CLEAR = Image.fromarray(np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8))
RED, BLUE = (Image.new("RGB", (1, 1), colour) for colour in ("red", "blue"))
WHITE = (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "row"),
    [
        (encode(SIXTEEN_BITS, "PNG"), [(0, 0, 0), (1, 1, 1), (128, 128, 128), WHITE]),  # scaled, not clipped
        (encode(SIXTEEN_BITS, "TIFF"), [(0, 0, 0), (1, 1, 1), (128, 128, 128), WHITE]),
        (encode(HALF_CLEAR, "PNG"), [(10, 20, 30), WHITE]),  # transparency lies on white
        (encode(Image.new("LA", (1, 1), (0, 0)), "PNG"), [WHITE]),
        (encode(RED.quantize(1), "PNG", transparency=0), [WHITE]),
        (encode(RED, "GIF", save_all=True, append_images=[BLUE]), [(255, 0, 0)]),  # the first frame
        (encode(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), [(255, 0, 0)]),
        (encode(Image.new("1", (1, 1), 1), "PNG"), [WHITE]),
        (png(2, 16, 0, b"\0\x10\0\x80\x80", clear=b"\x10\0"), [WHITE, (128, 128, 128)]),
        (png(2, 16, 2, b"\0\1\1\2\2\3\3\4\4\5\5\6\6", clear=b"\1\1\2\2\3\3"), [WHITE, (4, 5, 6)]),
        (png(2, 4, 0, b"\0\x3a", clear=b"\0\3"), [WHITE, (170, 170, 170)]),
        (tiff({262: (3, [0])}, bytes([0, 1, 254, 255] * 3)), [WHITE, (254,) * 3, (1,) * 3, (0, 0, 0)]),
        (tiff({258: (3, [4])}, bytes([0x01, 0xEF] * 3)), [(0, 0, 0), (17,) * 3, (238,) * 3, WHITE]),
        (tiff({258: (3, [2])}, bytes([0b00011011] * 3)), [(0, 0, 0), (85,) * 3, (170,) * 3, WHITE]),
        (tiff({258: (3, [16] * 3), 262: (3, [2]), 277: (3, [3])}, bytes([9, 1, 9, 2, 9, 3] * 12)), [(1, 2, 3)] * 4),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(data, row):
    assert [tuple(pixel) for pixel in np.asarray(load_image(data))[0].tolist()] == row


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "damaged"),
        (encode(photograph(), "JPEG")[:-200], "is incomplete: the end of the image is missing"),
        (encode(photograph(), "JPEG", progressive=True)[:-50], "incomplete"),
        (encode(photograph(), "JPEG")[:-200] + b"\xff\xd9", "incomplete"),
        (encode(photograph(), "PNG")[:-60], "incomplete"),
        (b"\xff\x0a\xfa\x7f", "is of the kind JPEG XL, which is not supported"),
        (b"8BPS\0\1", "PSD"),
        (b"%PDF-1.7\n", "PDF"),
        (b"\n<!DOCTYPE html>\n<html>", "is of the kind HTML"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "MP4 or MOV"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1", "RAW"),
        (b"II*\0\x10\0\0\0CR\2\0", "RAW"),
        (tiff({254: (4, [1])}), "RAW"),  # NEF, ARW: a small preview comes first
        (tiff({50706: (1, [1, 4, 0, 0])}), "RAW"),  # DNG
        (b"P6 10000 5001 255\n", "10000 x 5001, more than 50 million"),
        (encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "floating-point"),
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
    # a quarter for 100: the shorter side has more than twice what is needed
    for side, size in ((0, (1600, 1200)), (100, (400, 300)), (200, (800, 600)), (400, (1600, 1200))):
        assert load_image(large, side).size == size
    small, exact = (np.asarray(load_image(large, side).resize((100, 75))).astype(int) for side in (75, 0))
    assert np.abs(small - exact).mean() < 1.5
    assert load_image(encode(photograph(800, 600), "PNG"), 10).size == (800, 600)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff({258: (3, [12])}, bytes(18)), "BitsPerSample 12"),
        (tiff({258: (3, [16] * 3), 262: (3, [2]), 277: (3, [3]), 284: (3, [2])}, bytes(72)), "PlanarConfiguration 2"),
        (tiff({258: (3, [16]), 262: (3, [0])}, bytes(24)), "PhotometricInterpretation 0"),
        (tiff({339: (3, [2])}), "SampleFormat 2"),
        (tiff({259: (3, [7])}), "Compression jpeg"),
        (tiff({278: (3, [1])}), "incomplete"),  # one strip of three
        (tiff({273: (4, [10_000])}), "incomplete"),  # behind the end of the file
        (tiff({279: (4, [10_000]), 259: (3, [5])}), "incomplete"),
        (png(4, 8, 0, b"\0abcd", height=2), "incomplete"),  # compressed data end after one row
        (png(4, 8, 0, b"\0MMMM", height=2), "incomplete"),
        (
            encode(photograph().quantize(8), "BMP").replace(
                struct.pack("<II", 0, 2400), struct.pack("<II", 1, 2400), 1
            ),
            "run-length",
        ),
    ],
)
def test_what_pillow_reads_wrongly_or_in_part_is_refused(data, reason):
    with pytest.raises(ImageError, match=reason):
        load_image(data)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}])
def test_a_jpeg_that_lacks_only_its_end_marker_has_every_pixel(options):
    data = encode(photograph(), "JPEG", **options)
    for whole in (data[:-2], data[:-1], data + b"trailer"):
        assert load_image(whole).tobytes() == load_image(data).tobytes()


def cmyk_profile() -> bytes:
    """A profile in which cyan alone makes it darker, and nothing makes colour."""

    def numbers(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    corners = b"".join(bytes([255 - cyan, 128, 128]) for cyan in (0, 255) for _ in range(8))  # in Lab
    matrix = numbers(1, 0, 0, 0, 1, 0, 0, 0, 1)
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + bytes(range(256)) * 4 + corners + bytes(range(256)) * 3
    header = b"\2\x40\0\0prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28) + numbers(0.9642, 1, 0.8249) + bytes(48)
    content = bytes(4) + header + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table
    return struct.pack(">I", len(content) + 4) + content


def test_cmyk_goes_through_its_profile_and_without_a_good_one_is_converted_plainly():
    for kind in ("TIFF", "JPEG"):
        half_cyan = encode(Image.new("CMYK", (8, 8), (128, 0, 255, 0)), kind, icc_profile=cmyk_profile())
        assert load_image(half_cyan).getpixel((0, 0)) == (118, 118, 118)  # L* 50
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()  # of other colours
    for profile in (b"damaged", srgb):
        assert load_image(encode(image, "TIFF", icc_profile=profile)).getpixel((0, 0)) == (255, 0, 0)


def test_files_are_named_by_their_endings():
    assert list_endings(["a.txt", "b/b.TXT", ".b.txt", "d"]) == "2 .txt, 1 hidden, 1 without ending"


# ---- the corpus


@pytest.fixture(scope="module")
def answers() -> list[dict[str, str]]:
    """What two processes answer, in which new memory has other contents."""
    code = "from tests.image_corpus import main; main()"
    done = [run_code(code, MALLOC_PERTURB_=value) for value in ("1", "170")]
    assert [(run.returncode, run.stderr) for run in done] == [(0, "")] * 2  # libtiff prints nothing either
    return [json.loads(run.stdout) for run in done]


def test_the_same_file_always_gets_the_same_answer(answers):
    first, second = answers
    assert [name for name in first if first[name] != second[name]] == []
    assert len(first) > 3000


def test_an_image_is_decoded_as_by_pillow_or_refused_in_one_true_sentence(answers):
    wrong = []
    whole_images = {name: content for name, content in corpus() if not {"cut", "flip", "refused"} & set(name.split())}
    expected = {name: hashlib.sha256(upright_rgb(content)).hexdigest() for name, content in whole_images.items()}
    of_parts = ("is incomplete: ", "is damaged or incomplete: ", "is a damaged TIFF", "is empty")
    for name, found in answers[0].items():
        whole, _, cut = name.partition(" cut ")
        if name.startswith("refused"):
            right = found.startswith((*of_parts, "is a TIFF of an unusual kind", "holds floating-point"))
        elif " flip " in name:
            right = True  # a digest or a sentence
        elif cut:
            right = found == answers[0][whole] or found.startswith(of_parts)
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
