"""Decode image files: upright RGB, or a clear error. Nothing else opens an image.

Training, evaluation, prediction and the web page all come through `load_image`, so the same file gives the same
pixels everywhere.
"""

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from classifier.data.decoders import decode, incomplete
from classifier.data.formats import ImageError, is_visible, unread

MAX_PIXELS = 50_000_000  # 150 MB as RGB; a phone's largest photograph has about this many

# Decoders that may run on a stranger's file, if this Pillow has them. It knows forty more, some of which start other
# programs (EPS).
Image.init()
pillow_heif.register_heif_opener(thumbnails=False)
FORMATS = ["JPEG", "PNG", "GIF", "BMP", "DIB", "WEBP", "AVIF", "HEIF", "TIFF", "PPM"]
FORMATS = [name for name in FORMATS if name in Image.OPEN]

ORIENTATION = 0x0112  # EXIF tag: how the camera was held
UPRIGHT = {  # value of the tag -> what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Images that are too large are refused below, by their header; Pillow's own warning would only add noise.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.TiffImagePlugin")  # remarks on damaged EXIF


def walk(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of its files) for `top`, which may be missing, and the visible folders below it.

    Links are followed, but not those to one of their parents. Raises OSError where a folder cannot be read.
    """

    def is_loop(link: Path) -> bool:
        return link.is_symlink() and link.resolve() in (parent.resolve() for parent in link.parents)

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, folders, files in os.walk(top, onerror=fail, followlinks=True):
        folders[:] = [name for name in folders if is_visible(name) and not is_loop(Path(folder, name))]
        yield folder, files


def load_image(source: str | os.PathLike | bytes, side: int = 0) -> Image.Image:
    """Decode an image in full.

    Args:
        source: a file's path, or the bytes of one.
        side: what is needed of the shorter side, in pixels. A JPEG at least four times as large is decoded at a half, a
            quarter or an eighth of its size, which is many times faster and leaves at least twice what is needed.
            0: all of it.

    Returns:
        An RGB image, 8 bits per channel: turned upright according to its EXIF, 16-bit grey scaled to 8 bits,
        transparency on white, the first frame of an animation.

    Raises:
        ImageError: for anything else, whatever the file contains.
    """
    try:
        stream = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        reason = getattr(error, "strerror", None) or error
        raise ImageError("cannot be read ({reason})", reason=str(reason)) from error
    with stream:
        try:
            with Image.open(stream, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    template = "is {width} x {height}, more than {limit} million pixels"
                    raise ImageError(template, width=width, height=height, limit=MAX_PIXELS // 10**6)
                decode(image, stream, side)
                return _rgb(_upright(image))
        except ImageError:
            raise
        except Image.UnidentifiedImageError:
            raise unread(stream) from None
        except Image.DecompressionBombError:
            raise ImageError("has more than {limit} million pixels", limit=MAX_PIXELS // 10**6) from None
        except Exception as error:  # of damaged files: OSError, SyntaxError, struct.error, IndexError, ...
            if "truncated" in str(error).lower():
                raise incomplete() from error
            raise ImageError("is damaged or incomplete: it cannot be decoded") from error


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF says nothing about the pixels
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16, I;16B, I: sixteen bits of grey, which convert() would clip to white
        grey = np.asarray(image).astype(np.int64)
        grey[grey == image.info.get("transparency")] = 65535  # a transparent value lies on white
        return Image.fromarray((grey // 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "CMYK" and (profile := image.info.get("icc_profile")):
        with contextlib.suppress(Exception):  # a damaged profile, or one of other colours
            profiles = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
            return ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
