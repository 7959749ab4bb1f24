"""Files that several processes share, written whole or not at all and locked against a second writer; safe names."""

import contextlib
import glob
import os
import re
import threading
import time
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import filelock

from classifier.cli import UserError

LOCK_TIMEOUT_S = 15.0  # a killed run's data-loading workers hold its lock for some moments longer
FORBIDDEN = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f]')  # in file names on Windows
DEVICES = re.compile(r"(CON|PRN|AUX|NUL|(COM|LPT)[0-9¹²³])\s*(\.|$)", re.IGNORECASE)
MAX_NAME_BYTES = 200  # of the 255 that Linux allows
REPLACE_TIMEOUT_S = 5.0  # on Windows a file cannot be replaced while a reader or a virus scanner has it open


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb", fsync: bool = True, **options) -> Iterator[IO]:
    """Open a file for writing that replaces `path` when the block ends without an error.

    A reader sees the old file or the whole new one, which is on the disk before it is renamed. After an error, such as
    an OSError where the disk is full, the old one is still there.

    Args:
        path: the file; its folder is made where it is missing.
        mode: "wb" or "w".
        fsync: False where the file can be made again: fast for thousands of files, but a power cut may empty them.
        options: for `open`, for instance encoding.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open(mode, **options) as file:
            yield file
            file.flush()
            if fsync:
                os.fsync(file.fileno())
        deadline = time.monotonic() + REPLACE_TIMEOUT_S
        while True:
            try:
                temporary.replace(path)
                break
            except PermissionError:
                if os.name != "nt" or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(path: Path) -> None:
    """Remove what `atomic_write` of this file has left behind in killed processes; none may be writing it now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


@contextlib.contextmanager
def file_lock(path: Path, message: str, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the lock `.<name>.lock` beside `path` for the block, so that only one process at a time writes there.

    The lock's file may stay behind: the system releases the lock of a killed process. Raises UserError with `message`
    where another process holds it for `timeout` seconds, or where the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path.with_name(f".{path.name}.lock"))
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        raise UserError(message) from None
    except NotImplementedError:  # a file system without locks, as some network file systems are
        yield
        return
    except OSError as error:
        raise UserError(
            f"{path.parent} cannot be written to ({error.strerror or error}). Make it writable, or start elsewhere."
        ) from None
    try:
        yield
    finally:
        lock.release()


def safe_name(name: str) -> str:
    """Return the closest file name that every system allows: never empty, hidden, or a path."""
    name = unicodedata.normalize("NFC", name).encode("utf-8", "replace").decode("utf-8")
    name = FORBIDDEN.sub("_", name).strip().rstrip(". ")
    if len(name.encode()) > MAX_NAME_BYTES:
        stem, dot, ending = name.rpartition(".") if "." in name[-10:] else (name, "", "")
        name = stem.encode()[: MAX_NAME_BYTES - 20].decode("utf-8", "ignore") + dot + ending
    return "_" + name if not name or name.startswith(".") or DEVICES.match(name) else name


def class_folders(classes: Iterable[str]) -> dict[str, str]:
    """Return the folder name of each class. Raises UserError where two would be one on Windows and macOS."""
    owners: dict[str, str] = {}
    for name in sorted(classes):
        other = owners.setdefault(safe_name(name).casefold(), name)
        if other != name:
            raise UserError(
                f"classes '{other}' and '{name}' would share the folder '{safe_name(name)}' on Windows and macOS: "
                "rename one of them in the source"
            )
    return {name: safe_name(name) for name in owners.values()}
