"""Have Pillow decode an image to its last pixel, or refuse it.

Some decoders return what they have where data are missing, as grey, zeros or memory that was never written, and some
layouts they read wrongly. So such files are recognised before they are decoded, or by what was decoded.
"""

import contextlib
import ctypes
import io
import itertools
import os
import threading
from pathlib import Path
from typing import BinaryIO, NoReturn

import PIL
from PIL import BmpImagePlugin, Image, PngImagePlugin, TiffImagePlugin, TiffTags

from classifier.data.formats import ImageError, is_raw, unsupported

END = b"\xff\xd9"  # of a JPEG
SCAN = b"\xff\xda"  # begins each of its scans
SOME_BITS = b"\xff\0" * 8  # 64 ones: the decoder looks ahead, but never so far
FILLINGS = (b"", b"\x55" * 64, b"\x99" * 64, SOME_BITS * 8)  # in place of missing data, each has other pixels
FILL = (77, 178, 77, 178)  # what is rarely the colour of a corner

COMPRESSION = 259
TIFF_LAYOUTS = {
    # tag -> the values that are read
    258: {1, 2, 4, 8, 16},  # bits
    339: {1},  # of unsigned integers
    262: {0, 1, 2, 3, 5},  # white is zero, black is zero, RGB, palette, CMYK
    COMPRESSION: {1, 5, 8, 32773, 32946},  # none, LZW, deflate, PackBits: the others do not notice missing data
    266: {1},  # order of bits
}


def decode(image: Image.Image, stream: BinaryIO, side: int) -> None:
    """Load an image that Pillow has opened from `stream`; `side` as in `load_image`.

    Raises ImageError where it is incomplete or of a layout that is not read; other exceptions where it is damaged.
    """
    if image.mode == "F":
        raise ImageError("holds floating-point grey values, which have no agreed white: save it with 8 or 16 bits")
    if image.format == "JPEG":
        _decode_jpeg(image, stream, side)
    elif isinstance(image, PngImagePlugin.PngImageFile):
        _decode_png(image, stream)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
        LIBTIFF.failed = False
        image.load()
        if LIBTIFF.failed:
            raise OSError("libtiff has reported an error, which Pillow has not")
    else:
        if isinstance(image, BmpImagePlugin.BmpImageFile) and image.info.get("compression") in (1, 2):
            raise ImageError("is a BMP with run-length compression, which is not supported: save it as PNG or JPEG")
        image.load()


def incomplete() -> ImageError:
    """Return the error for an image of which a part is missing."""
    return ImageError("is incomplete: the end of the image is missing")


# ---- JPEG


class _WithoutEnd:
    """A JPEG, read in pieces as Pillow does it, with some bits in place of its end marker."""

    def __init__(self, stream: BinaryIO, size: int):
        self.stream, self.left, self.seek, self.bits = stream, size, stream.seek, SOME_BITS

    def read(self, count: int) -> bytes:
        data = self.stream.read(min(count, self.left))
        self.left -= len(data)
        if not self.left:
            data, self.bits = data + self.bits, b""
        return data


def _decode_jpeg(image: Image.Image, stream: BinaryIO, side: int) -> None:
    """libjpeg fills missing data with grey. It suspends, which Pillow notices, where there is no end marker either."""
    near = max(0, stream.tell() - 20)  # Pillow has read as far as the first scan
    stream.seek(near)
    start = near + stream.read(20).rfind(SCAN) + len(SCAN)  # of its header
    stream.seek(start + 2)
    in_one_scan = stream.read(1)[0] == image.layers and not image.info.get("progressive")
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 2))
    ends, content = stream.read() == END, b""
    if not ends:
        stream.seek(0)
        content = stream.read()
    has_end = ends or END in content[start:]
    if in_one_scan and (ends or not has_end):
        image.fp = _WithoutEnd(stream, size - 2 * ends)
    elif not has_end:
        image.fp = io.BytesIO(content + END)
    if side:
        image.draft(None, (2 * side, 2 * side))
    image.load()
    if not has_end and not (_has_all_scans(content[start:], image.layers) and _is_determined(content)):
        raise incomplete()


def _has_all_scans(content: bytes, layers: int) -> bool:
    """Whether the scans, from the header of the first, hold every coefficient of every channel to its last bit."""
    found = set()
    for header in content.split(SCAN):
        channels = header[3 : 3 + 2 * header[2] : 2]
        first, last, precision = header[3 + 2 * header[2] :][:3]
        if precision & 15 == 0:
            found |= {(channel, coefficient) for channel in channels for coefficient in range(first, last + 1)}
    return len(found) == 64 * layers


def _is_determined(content: bytes) -> bool:
    """Whether a JPEG without its end marker has the same pixels whatever follows."""
    content = content.rstrip(b"\xff")  # the first half of a marker
    images = (Image.open(io.BytesIO(content + filling + END), formats=["JPEG"]) for filling in FILLINGS)
    return len({image.tobytes() for image in images}) == 1


# ---- PNG


def _decode_png(image: Image.Image, stream: BinaryIO) -> None:
    """The rows that the compressed data lack stay as they were before: they are given a colour first."""
    rawmode, transparency = image.tile[0].args, image.info.get("transparency")
    if isinstance(transparency, int) and rawmode in ("L;2", "L;4"):  # Pillow scales the pixels only
        transparency *= {"L;2": 85, "L;4": 17}[rawmode]
    elif isinstance(transparency, tuple) and rawmode == "RGB;16B":
        transparency = tuple(value >> 8 for value in transparency)
    bands = len(image.getbands())
    blank = Image.new(image.mode, image.size, FILL[:bands] if bands > 1 else FILL[0])
    unwritten, (width, height) = blank.getpixel((0, 0)), image.size
    image.im = blank.im
    image.load()
    if transparency is not None:
        image.info["transparency"] = transparency
    corner = itertools.product({width - 1, max(0, width - 2)}, {height - 1, max(0, height - 2)})  # interlaced or not
    if unwritten in map(image.getpixel, corner):
        stream.seek(0)
        if Image.open(stream, formats=["PNG"]).tobytes() != image.tobytes():  # this one began with zeros
            raise incomplete()


# ---- TIFF


LIBTIFF = threading.local()  # .failed: whether it has reported an error in this thread


@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
def _note_error(*_: object) -> None:
    LIBTIFF.failed = True


def _watch_libtiff() -> None:
    """Have errors noted that libtiff would print without a file's name. Finds only the libtiff of Pillow's wheels."""
    package = Path(PIL.__file__).parent
    for path in [*package.parent.glob("pillow.libs/libtiff*"), *package.glob(".dylibs/libtiff*")]:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(str(path)).TIFFSetErrorHandler(_note_error)


_watch_libtiff()


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Raise ImageError unless the layout is a plain one, and there are as many strips or tiles as the size asks for."""
    tags = image.tag_v2
    if is_raw(tags):
        raise unsupported("RAW")
    for tag, supported in TIFF_LAYOUTS.items():
        values = tags.get(tag, 1)
        if unusual := set(values if isinstance(values, tuple) else (values,)) - supported:
            _refuse_layout(tag, image.info["compression"] if tag == COMPRESSION else unusual.pop())
    if tags.get(277, 1) > 1 and tags.get(284, 1) != 1:
        _refuse_layout(284, tags[284])  # a plane for each colour
    if tags.get(262) == 0 and 16 in tags.get(258, ()):
        _refuse_layout(262, 0)  # Pillow does not invert these

    width, height = tags[256], tags[257]
    if 324 in tags:
        columns, rows, offsets = tags[322], tags[323], tags[324]  # of tiles
    else:
        columns, rows, offsets = width, min(tags.get(278, height), height), tags[273]  # of strips
    if len(offsets) != -(-width // columns) * -(-height // rows):
        raise incomplete()


def _refuse_layout(tag: int, value: object) -> NoReturn:
    name = TiffTags.lookup(tag).name
    raise ImageError("is a TIFF of an unusual kind ({name} {value}): save it as PNG or JPEG", name=name, value=value)
