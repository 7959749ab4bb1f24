"""Files that several processes share: written whole or not at all, and locked against a second writer."""

import contextlib
import glob
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import filelock

from classifier.cli import UserError

LOCK_TIMEOUT_S = 15.0  # a killed run's data-loading workers hold its lock for some moments longer
REPLACE_TIMEOUT_S = 5.0  # on Windows a file cannot be replaced while a reader or a virus scanner has it open


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "wb", **options) -> Iterator[IO]:
    """Open a file for writing that takes the place of `path` when the block ends without an error.

    A reader sees the old file or the whole new one. What was written is on the disk (fsync) before it is renamed.

    Args:
        path: the file; its folder is made where it is missing.
        mode: "wb" or "w".
        options: for `open`, for instance encoding.

    Raises:
        OSError: the folder cannot be written to or the disk is full; the old file is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open(mode, **options) as file:
            yield file
            file.flush()
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


def lock_of(path: Path) -> Path:
    """The lock file of a table or another file that several processes write to, beside it."""
    return path.with_name(f".{path.name}.lock")


def remove_leftovers(path: Path) -> None:
    """Remove what `atomic_write` of this file has left behind in killed processes; nobody may be writing it now."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            leftover.unlink()


@contextlib.contextmanager
def file_lock(path: Path, message: str, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold a lock file for the block, so that only one process at a time is in it.

    Args:
        path: the lock file. One that a killed process has left behind does no harm: the system drops the lock.
        message: what the error says where another process holds it, and what to do.
        timeout: seconds to wait for it.

    Raises:
        UserError: another process holds it, or the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        lock.acquire(timeout=timeout)
    except filelock.Timeout:
        raise UserError(message) from None
    except NotImplementedError:  # a file system without locks, as some networks' are: then nothing is refused
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
