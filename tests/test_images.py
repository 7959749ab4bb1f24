"""One place opens images: whatever the file, upright RGB or a clear error."""

import numpy as np
import pytest
from PIL import Image

from classifier.data.images import ORIENTATION, UPRIGHT, ImageError, load_image
from tests.conftest import run_code
from tests.raw_images import encode


def photograph(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[:40, :60]
    image = Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 4], axis=2).astype(np.uint8))
    return image.resize((width, height), Image.Resampling.BICUBIC)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "AVIF", "TIFF", "PPM", "GIF"])
def test_opens_the_usual_formats(kind, tmp_path):
    path = tmp_path / "猫 1"
    path.write_bytes(encode(photograph(), kind, **{"lossless": True} if kind == "WEBP" else {}))
    image = load_image(path)
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(photograph())).mean() < 12  # JPEG and GIF lose a little
    assert load_image(path.read_bytes()).tobytes() == image.tobytes()
    code = "import sys; from classifier.data.images import load_image; print(load_image(sys.argv[1]).size)"
    done = run_code(code, path)  # a process of its own, as Pillow loads its decoders one after the other
    assert (done.stdout, done.stderr) == ("(60, 40)\n", "")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_the_image_upright(orientation):
    upright = photograph()
    back = {3: 3, 6: 8, 8: 6}.get(orientation, orientation)  # what undoes the turn
    stored = upright.transpose(UPRIGHT[back]) if orientation > 1 else upright
    assert load_image(encode(stored, "PNG", exif=turned(orientation))).tobytes() == upright.tobytes()


def test_damaged_exif_is_no_reason_to_refuse():
    data = encode(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert load_image(data).size == (60, 40)


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
    ],
)
def test_every_kind_of_pixel_becomes_rgb(data, row):
    assert [tuple(pixel) for pixel in np.asarray(load_image(data))[0].tolist()] == row


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (encode(photograph(), "JPEG")[:-200], "damaged"),
        (encode(photograph(), "PNG")[:-60], "damaged"),
        (b"P6 10000 5001 255\n", "10000 x 5001, more than 50 million"),
        (b"P6 30000 30000 255\n", "more than 50 million"),
        (encode(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "floating-point"),
    ],
    ids=["empty", "text", "postscript", "heic", "cut jpeg", "cut png", "large", "bomb", "float"],
)
def test_refuses_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        load_image(data)


def test_missing_file_and_folder_are_named(tmp_path):
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
    assert load_image(encode(photograph(1600, 1200), "JPEG", exif=turned(6)), 100).size == (300, 400)
