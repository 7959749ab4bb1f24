"""Tell what a file is, by the ending of its name or by its first bytes.

A known ending decides, so that no file of a large folder is opened for it; the content decides where the ending is
missing or unknown, and says what a file is that cannot be read.
"""

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import BinaryIO

from PIL import TiffImagePlugin

from classifier.cli import UserError

READ = ".jpg .jpeg .jpe .jfif .mpo .png .gif .bmp .dib .webp .avif .tif .tiff .ppm .pgm .pbm .pnm .heic .heif .hif"
# Never looked into. Other endings and none may be those of images: photo, photo.1, photo.jpg_large
NOT_READ = """
    .txt .csv .tsv .json .jsonl .xml .xmp .aae .yaml .yml .toml .ini .cfg .md .rst .log .py .pyc .ipynb .sh .bat .js
    .css .html .htm .svg .pdf .doc .docx .xls .xlsx .ppt .pptx .zip .tar .gz .bz2 .xz .7z .rar .db .sqlite .lock .exe
    .dll .so .npy .npz .mat .pkl .h5 .hdf5 .parquet .tfrecord .tfrecords .pth .pt .ckpt .onnx .safetensors .mp3 .wav
    .mp4 .mov .avi .mkv .webm .m4v .psd .jxl .cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .eps .ai .part .tmp
"""
EXTENSIONS = set(READ.split())
KNOWN_EXTENSIONS = EXTENSIONS | set(NOT_READ.split())
SYSTEM_FOLDERS = {"@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}

HEAD_BYTES = 1024
TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BEGINNINGS = {  # of files that are read -> the usual ending
    b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF87a": ".gif", b"GIF89a": ".gif",
    **dict.fromkeys(TIFF_HEADS, ".tif"), **{b"P%d%c" % (i, space): ".ppm" for i in range(1, 7) for space in b" \t\r\n"},
}  # fmt: skip
BRANDS = {  # of ISO media files, at byte 8 -> the ending
    b"avif": ".avif", b"avis": ".avif",
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), ".heic"),
}  # fmt: skip
UNREAD = {  # beginnings of files that are not read -> their name
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "PSD", b"%PDF": "PDF", b"%!PS": "PostScript", b"FUJIFILMCCD-RAW": "RAW", b"IIRO": "RAW", b"IIRS": "RAW",
    b"MMOR": "RAW", b"IIU\0": "RAW", b"FOVb": "RAW", b"\0MRM": "RAW", b"\x1aE\xdf\xa3": "MKV",
}  # fmt: skip
CFA, LINEAR_RAW = 32803, 34892  # colours of a sensor, before they are pixels


class ImageError(UserError):
    """Not an image, a damaged one, or one that is too large. `load_image` says why, not which file."""


def has_image_extension(name: str | os.PathLike) -> bool:
    """Whether a file's name is that of an image; `._cat.jpg` (macOS' resource forks) is not."""
    name = os.path.basename(name)  # noqa: PTH119 (called for each of very many files)
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS  # noqa: PTH122


def may_be_image(name: str) -> bool:
    """Whether only the content can tell: the name is not hidden, and its ending is unknown or missing."""
    return not name.startswith(".") and ending(name) not in KNOWN_EXTENSIONS


def is_image(path: str | os.PathLike) -> bool:
    """Whether a file is an image, by the ending of its name or, where that says nothing, by its first bytes."""
    return has_image_extension(path) or (may_be_image(os.path.basename(path)) and bool(image_extension(_head(path))))  # noqa: PTH119


def is_visible(folder: str) -> bool:
    """Whether a folder's name is neither hidden nor one of those that systems put beside images."""
    return not folder.startswith(".") and folder not in SYSTEM_FOLDERS


def ending(name: str) -> str:
    """Return the ending of a file's name in small letters, with its dot, or ""."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122


def list_endings(names: Iterable[str]) -> str:
    """Return which files these are: "2 .txt, 1 .xmp, 1 hidden, 1 without ending"."""

    def kind(name: str) -> str:
        *folders, last = name.replace("\\", "/").split("/")
        return "hidden" if last.startswith(".") or SYSTEM_FOLDERS & {*folders} else ending(last) or "without ending"

    counts = Counter(map(kind, names)).most_common()
    return ", ".join(f"{count:,} {what}" for what, count in counts[:5]) + ", ..." * (len(counts) > 5)


def image_extension(head: bytes) -> str:
    """Return the usual ending of an image that begins like this, or "" where it is none that is read."""
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return ".webp"
    if head[:2] == b"BM" and head[15:18] == bytes(3) and head[14:15] in b"\x0c\x28\x34\x38\x40\x6c\x7c":
        return ".bmp"
    return next((found for beginning, found in BEGINNINGS.items() if head.startswith(beginning)), "")


def is_raw(tags: Mapping[int, object]) -> bool:
    """Whether a TIFF's tags are those of a camera's raw file, whose first image is a small preview."""
    return 50706 in tags or bool(tags.get(254, 0) & 1) or tags.get(262) in (CFA, LINEAR_RAW)


def unsupported(kind: str) -> ImageError:
    """Return the error for a file of a kind that is not read, such as "RAW"."""
    return ImageError("is of the kind {kind}, which is not supported: save it as JPEG or PNG", kind=kind)


def unread(stream: BinaryIO) -> ImageError:
    """Return the error for a file that no decoder takes: it says what the file is instead."""
    stream.seek(0)
    head = stream.read(HEAD_BYTES)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return ImageError("is empty (0 bytes)")
    if kind := _unread_kind(head, text, stream):
        return unsupported(kind)
    if head.startswith(TIFF_HEADS):
        return ImageError("is a damaged TIFF, or one of an unusual kind: save it as PNG or JPEG")
    if image_extension(head):
        return ImageError("is damaged or incomplete: it cannot be decoded")
    return ImageError("is not an image that can be read (JPEG, PNG, GIF, BMP, WebP, AVIF, HEIC, TIFF or PPM)")


def _unread_kind(head: bytes, text: bytes, stream: BinaryIO) -> str:
    if head.startswith(TIFF_HEADS):
        with contextlib.suppress(Exception):  # of damaged files
            tags = TiffImagePlugin.ImageFileDirectory_v2(head[: 16 if b"+" in head[:4] else 8])
            stream.seek(tags.next)
            tags.load(stream)
            return "RAW" if head[8:10] == b"CR" or is_raw(tags) else ""
        return ""
    if head[4:8] in (b"ftyp", b"moov", b"mdat") and not image_extension(head):
        return "RAW" if head[8:12] == b"crx " else "MP4 or MOV"
    if text.startswith(b"<"):
        return "SVG" if b"<svg" in text else "HTML" if b"<html" in text else ""
    return next((name for beginning, name in UNREAD.items() if head.startswith(beginning)), "")


def _head(path: str | os.PathLike) -> bytes:
    with contextlib.suppress(OSError, ValueError):
        if os.path.isfile(path):  # noqa: PTH113 (a pipe might never end)
            with open(path, "rb") as file:  # noqa: PTH123
                return file.read(HEAD_BYTES)
    return b""
