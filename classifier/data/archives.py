"""Read zips that may be damaged or hostile. Nothing is ever unpacked by a member's own path."""

import contextlib
import functools
import re
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from classifier.cli import UserError, shorten
from classifier.data import formats

MAX_BYTES = 200_000_000  # of one image; the largest that opens (50 million pixels) has 150 MB uncompressed
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
# bytes of two letters in cp1252 or cp850 inside a word, such as öß; few common characters in GBK have two such
INSIDE_A_WORD = re.compile(rb"[A-Za-z](?:[\xc0-\xff]{2}|[\x80-\xa0][\x80-\xff])(?=[A-Za-z])")
MAX_REASON = 200  # columns: zipfile quotes the bytes that it found
READING = threading.Lock()  # zipfile promises nothing about threads that read members of one archive


@functools.lru_cache(maxsize=2)
def open_zip(path: Path) -> zipfile.ZipFile:
    """Return the zip, opened once in each process; `open_zip.cache_clear()` closes it. Raises UserError."""
    try:
        return zipfile.ZipFile(path)
    except DAMAGES as error:
        message = "{file} is damaged or incomplete ({reason}): get the file again"
        raise UserError(message, file=path, reason=error) from None


def members(path: Path) -> list[tuple[tuple[str, ...], int, bool]]:
    """Return the files in a zip as (parts of the path, member number, whether it is an image to use).

    Raises:
        UserError: any member points outside the zip, even one that nobody would unpack; or an image is encrypted,
            packed in an unknown way, or would unpack to an absurd size.
    """
    found = []
    infos = open_zip(path).infolist()
    for number, (info, name) in enumerate(zip(infos, _names(infos), strict=True)):
        parts = name.replace("\\", "/").split("/")
        inside = tuple(part for part in parts if part not in ("", "."))
        is_file = parts[-1] not in ("", ".")
        is_visible = is_file and all(map(formats.is_visible, inside))
        is_image = is_visible and formats.has_image_extension(inside[-1])
        message = None
        if ".." in parts or (len(parts) > 1 and not parts[0]) or re.match("[A-Za-z]:", name) or "\0" in name:
            message = "{file} holds {member!r}, which points outside the zip. Do not trust this file"
        elif stat.S_ISLNK(info.external_attr >> 16):
            message = "{file} holds {member!r}, a link to another file. If you trust it, unpack it and give the folder"
        elif is_image and info.flag_bits & 1:
            message = "{file} is protected by a password ({member!r}): unpack it yourself and give the folder"
        elif is_image and info.file_size > MAX_BYTES:
            message = "{file} holds {member!r}, which would unpack to {size:,.0f} MB. Do not trust this file"
        elif is_image and info.compress_type not in COMPRESSIONS:
            message = "{file}: {member!r} is packed by the unknown method {method}: unpack it and give the folder"
        if message:
            size, method = info.file_size / 1e6, info.compress_type
            raise UserError(message, file=path, member=name, size=size, method=method)
        usable = info.file_size <= MAX_BYTES and not info.flag_bits & 1
        if usable and is_visible and formats.may_be_image(inside[-1]):
            with contextlib.suppress(UserError), open_member(path, number) as file:
                is_image = bool(formats.image_extension(file.read(formats.HEAD_BYTES)))
        if is_file:
            found.append((inside, number, is_image))
    return found


def _names(infos: list[zipfile.ZipInfo]) -> list[str]:
    """Return the members' names. Those without the UTF-8 flag are in the encoding of the maker's system.

    `orig_filename`, since on Windows `filename` has "/" for every backslash, and some GBK characters end in that byte.
    """
    names = [(info.orig_filename, bool(info.flag_bits & 0x800)) for info in infos]
    raw = b"/".join(name.encode("cp437") for name, is_utf8 in names if not is_utf8)
    encoding = encoding_of(raw, "cp850")
    return [name if is_utf8 else name.encode("cp437").decode(encoding) for name, is_utf8 in names]


def encoding_of(raw: bytes, otherwise: str) -> str:
    """Guess the encoding of file names or text: "utf-8", "gb2312" or "gb18030" (Chinese Windows), or `otherwise`.

    A short GBK name can be valid UTF-8, hundreds cannot. The commonest case is recognised: 猫, 狮 and 鹿 in GBK read è,
    ʨ and ¹ as UTF-8, so such letters that always stand alone are taken for Chinese. What is not UTF-8 is Western, and
    in the encoding `otherwise`, where most of its runs of bytes beyond ASCII are of an odd length, as no pairs of bytes
    can be, or two letters inside a word (Größe).
    """
    text = raw.decode("utf-8", "replace")
    words = re.findall(r"[A-Za-z] [^\x00-\x7f]+ [A-Za-z]|[A-Za-z']?[^\x00-\x7f]+[A-Za-z]?", text)
    alone = any(re.fullmatch("[¹¿À-\u036f\u0460-\u07ff]", word) for word in words)
    alone = alone and all(len(word) == 1 and word < "\u0800" for word in words)
    runs = re.findall(rb"[\x80-\xff]+", raw)
    western = sum(len(run) % 2 for run in runs) + len(INSIDE_A_WORD.findall(raw))
    for encoding in ("gb2312",) * alone + ("utf-8",) + ("gb18030",) * (2 * western <= len(runs)):
        with contextlib.suppress(UnicodeDecodeError):
            raw.decode(encoding)
            return encoding
    return otherwise


@contextlib.contextmanager
def open_member(path: Path, number: int) -> Iterator[IO[bytes]]:
    """Open one member; it gives no more bytes than it declares, and with the declared check sum.

    Raises:
        UserError: the zip is damaged there, so that nothing else in it can be trusted either.
    """
    archive = open_zip(path)
    info = archive.infolist()[number]
    try:
        with READING, archive.open(info) as file:
            yield file
    except DAMAGES as error:
        message = "{file} is damaged at {member!r} ({reason}): get the file again"
        raise UserError(message, file=path, member=info.filename, reason=shorten(str(error), MAX_REASON)) from None


def read_member(path: Path, number: int) -> bytes:
    """Return one member's bytes. Raises UserError as `open_member`."""
    with open_member(path, number) as file:
        return file.read()
