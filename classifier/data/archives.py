"""Read zips that may be damaged or hostile. Nothing is ever unpacked by a member's own path."""

import contextlib
import functools
import re
import shutil
import stat
import threading
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from classifier.cli import UserError
from classifier.text import shorten

MAX_BYTES = 200_000_000  # of one image; the largest that opens (50 million pixels) has 150 MB uncompressed
COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
DAMAGES = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError)
MAX_REASON = 200  # columns: zipfile quotes the bytes that it found
READING = threading.Lock()  # zipfile promises nothing about threads that read members of one archive


@functools.lru_cache(maxsize=2)
def open_zip(path: Path) -> zipfile.ZipFile:
    """The zip, opened once in each process; `open_zip.cache_clear()` closes.

    Raises:
        UserError: where it is no zip or has lost its end.
    """
    try:
        return zipfile.ZipFile(path)
    except DAMAGES as error:
        raise UserError(
            "{file} is damaged or incomplete ({reason}): get the file again", file=path, reason=error
        ) from None


def members(path: Path) -> list[tuple[tuple[str, ...], int]]:
    """The files in a zip as (parts of the path, member number).

    Raises:
        UserError: where any member points outside the zip, even one that nobody would unpack.
    """
    infos = open_zip(path).infolist()
    found = []
    for number, (info, name) in enumerate(zip(infos, _decoded(infos), strict=True)):
        parts = name.replace("\\", "/").split("/")
        if ".." in parts or (len(parts) > 1 and not parts[0]) or re.match("[A-Za-z]:", name) or "\0" in name:
            message = (
                "{file} holds {member!r}, which points outside the zip: nothing was unpacked. Do not trust this file"
            )
            raise UserError(message, file=path, member=name)
        if stat.S_ISLNK(info.external_attr >> 16):
            message = (
                "{file} holds {member!r}, a link to another file: nothing was unpacked. Unpack it yourself if you "
                "trust it, and give the folder"
            )
            raise UserError(message, file=path, member=name)
        if parts[-1]:
            found.append((tuple(part for part in parts if part not in ("", ".")), number))
    return found


def _decoded(infos: Iterable[zipfile.ZipInfo]) -> list[str]:
    """The members' names. Without the UTF-8 flag they are in whatever the maker's system used: UTF-8, GBK or DOS.

    One choice for the whole zip. `orig_filename`, since on Windows `filename` has "/" for every backslash, and some GBK
    characters end in that byte.
    """
    names = [(info.orig_filename, bool(info.flag_bits & 0x800)) for info in infos]
    encoding = encoding_of(b"/".join(name.encode("cp437") for name, is_utf8 in names if not is_utf8))
    return [name if is_utf8 else name.encode("cp437").decode(encoding) for name, is_utf8 in names]


def encoding_of(raw: bytes) -> str:
    """Guess the encoding of file names or text: "utf-8", "gb18030" (Chinese Windows), or "cp437" (DOS).

    The more text at once, the surer: a short GBK name can be valid UTF-8, hundreds cannot. The commonest case is
    recognised: 猫 in GBK reads è as UTF-8, so letters of two bytes that always stand alone are taken for Chinese.
    """
    for encoding in ("utf-8", "gb18030", "cp437"):
        try:
            text = raw.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    words = re.findall(r"[A-Za-z]*[^\x00-\x7f]+[A-Za-z]*", text)
    if encoding == "utf-8" and words and all(len(word) == 1 and word < "\u0800" for word in words):
        with contextlib.suppress(UnicodeDecodeError):
            raw.decode("gb2312")
            return "gb18030"
    return encoding


def check_images(path: Path, images: Iterable[tuple[tuple[str, ...], int]]) -> None:
    """Raise a UserError where an image is encrypted, packed in an unknown way, or would unpack to an absurd size."""
    infos = open_zip(path).infolist()
    for parts, number in images:
        info, name = infos[number], "/".join(parts)
        if info.flag_bits & 1:
            message = "{file} is protected by a password ({member!r}): unpack it yourself and give the folder"
            raise UserError(message, file=path, member=name)
        if info.file_size > MAX_BYTES:
            message = (
                "{file} holds {member!r}, which would unpack to {size:,.0f} MB; no image has more than {limit} MB: "
                "nothing was unpacked. Do not trust this file"
            )
            raise UserError(message, file=path, member=name, size=info.file_size / 1e6, limit=MAX_BYTES // 10**6)
        if info.compress_type not in COMPRESSIONS:
            message = (
                "{file}: {member!r} is packed by method {method}, which Python does not know: unpack it with another "
                "program and give the folder"
            )
            raise UserError(message, file=path, member=name, method=info.compress_type)


def read_member(path: Path, number: int) -> bytes:
    """One member's bytes, never more than it declares, and with the declared check sum.

    Raises:
        UserError: where the zip is damaged there, so that nothing else in it can be trusted either.
    """
    archive = open_zip(path)
    info = archive.infolist()[number]
    try:
        with READING:
            return archive.read(info)
    except DAMAGES as error:
        message = "{file} is damaged at {member!r} ({reason}): get the file again"
        raise UserError(message, file=path, member=info.filename, reason=shorten(str(error), MAX_REASON)) from None


def copy_member(path: Path, number: int, target: Path) -> None:
    """Unpack one large member to `target`.

    Raises:
        UserError: as `read_member`, and where the zip is protected by a password.
    """
    archive = open_zip(path)
    info = archive.infolist()[number]
    if info.flag_bits & 1:
        raise UserError("{file} is protected by a password: unpack it yourself and give what was in it", file=path)
    with target.open("wb") as file:
        try:
            with archive.open(info) as packed:
                shutil.copyfileobj(packed, file, 1 << 20)
        except DAMAGES as error:
            message = "{file} is damaged at {member!r} ({reason}): get the file again"
            raise UserError(message, file=path, member=info.filename, reason=shorten(str(error), MAX_REASON)) from None
