"""One place opens images: whatever the file, upright RGB or a clear error."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from classifier.data.images import FORMATS, ORIENTATION, UPRIGHT, ImageError, has_image_extension, load_image
from tests.conftest import run_code


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photograph(width: int = 60, height: int = 40) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 4], axis=2).astype(np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP", "AVIF", "TIFF", "PPM", "GIF"])
def test_opens_the_usual_formats(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    image = load_image(encode(photograph(), kind, **options))
    assert (image.mode, image.size) == ("RGB", (60, 40))
    assert np.abs(np.asarray(image).astype(int) - np.asarray(photograph())).mean() < 12  # JPEG and GIF lose a little


def test_every_format_opens_in_a_fresh_process(tmp_path):  # Pillow loads its decoders one after the other
    kinds = [kind for kind in FORMATS if kind != "DIB"]
    for kind in kinds:
        (tmp_path / kind).write_bytes(encode(photograph(), kind))
        code = "import sys; from classifier.data.images import load_image; print(load_image(sys.argv[1]).size)"
        done = run_code(code, tmp_path / kind)
        assert (kind, done.stdout, done.stderr) == (kind, "(60, 40)\n", "")


def test_bytes_and_path_give_the_same_pixels(tmp_path):
    path = tmp_path / "猫 1.jpg"
    path.write_bytes(encode(photograph(), "JPEG"))
    assert load_image(path).tobytes() == load_image(path.read_bytes()).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_the_image_upright(orientation):
    upright = photograph()
    back = {3: 3, 6: 8, 8: 6}.get(orientation, orientation)  # what undoes the turn
    stored = upright.transpose(UPRIGHT[back]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    assert load_image(encode(stored, "PNG", exif=exif)).tobytes() == upright.tobytes()


def test_damaged_exif_is_no_reason_to_refuse():
    data = encode(photograph(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert load_image(data).size == (60, 40)


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        image = load_image(encode(Image.fromarray(grey), kind))
        assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_transparency_lies_on_white():
    image = Image.new("RGBA", (2, 1), (10, 20, 30, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    assert np.asarray(load_image(encode(image, "PNG"))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert load_image(encode(grey, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([200, 0, 0])
    assert load_image(encode(palette, "PNG", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


def test_cmyk_and_grey_become_rgb():
    assert load_image(encode(Image.new("CMYK", (2, 2), (0, 255, 255, 0)), "TIFF")).getpixel((0, 0)) == (255, 0, 0)
    assert load_image(encode(Image.new("1", (2, 2), 1), "PNG")).getpixel((0, 0)) == (255, 255, 255)


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that claim to be an image of that size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"no image at all", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (encode(photograph(), "JPEG")[:-200], "damaged"),
        (encode(photograph(), "PNG")[:-60], "damaged"),
        (png_of_size(10_000, 5_001), "10000 x 5001, more than 50 million"),
        (png_of_size(30_000, 30_000), "more than 50 million"),
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


def test_candidates_by_name():
    assert all(map(has_image_extension, ["a.jpg", "B.JPEG", "猫.webp", "dir/c.Tiff"]))
    assert not any(map(has_image_extension, ["._a.jpg", "Thumbs.db", "a.txt", "jpg", ".jpg"]))


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size_when_little_is_needed():
    large = encode(photograph().resize((1600, 1200), Image.Resampling.BICUBIC), "JPEG", quality=95)
    whole = load_image(large)
    assert whole.size == (1600, 1200)
    assert load_image(large, 100).size == (400, 300)  # a quarter: the shorter side has more than twice what is needed
    assert load_image(large, 200).size == (800, 600)
    assert load_image(large, 400).size == whole.size
    small, exact = (np.asarray(image.resize((100, 75))).astype(int) for image in (load_image(large, 75), whole))
    assert np.abs(small - exact).mean() < 1.5
    png = encode(photograph().resize((800, 600)), "PNG")
    assert load_image(png, 10).size == (800, 600)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    stream = io.BytesIO()
    photograph().resize((1600, 1200)).save(stream, "JPEG", exif=turned)
    assert load_image(stream.getvalue(), 100).size == (300, 400)
