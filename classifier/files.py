"""One at a time: rows that several processes add to a table, and a place that only one run may write to."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from classifier.cli import UserError

PATIENCE = 10  # seconds to wait for another process, on Windows; elsewhere the system waits
BYTE = 1 << 30  # that is locked on Windows, which keeps readers out as well: nobody reads this one


@contextlib.contextmanager
def alone(file: BinaryIO) -> Iterator[None]:
    """Keep others out who also ask; the system drops the lock when its holder ends, however it ends."""
    if os.name != "nt":
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield  # closing the file drops the lock
        return

    import msvcrt

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            _lock_byte(file, msvcrt.LK_NBLCK)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    try:
        yield
    finally:
        _lock_byte(file, msvcrt.LK_UNLCK)


@contextlib.contextmanager
def file_lock(lock: Path, taken: str) -> Iterator[None]:
    """For the time being, be the only process that has this lock. Nobody waits.

    Args:
        lock: an empty file, made where needed and removed at the end. One that a killed process has left behind does no
            harm: the system drops a lock when its holder ends, however it ends.
        taken: what the error says where another process has it.

    Raises:
        UserError: another process has it, or the folder cannot be written to.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = _locked(lock)
    except OSError as error:
        raise UserError(
            f"{lock.parent} cannot be written to ({error.strerror or error}). Make it writable, or start elsewhere."
        ) from None
    if file is None:
        raise UserError(taken)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows removes no open file, others should while it is still locked
            lock.unlink()
        file.close()
        if os.name == "nt":
            with contextlib.suppress(OSError):
                lock.unlink()


def _locked(lock: Path) -> BinaryIO | None:
    """The file, opened and locked; None where another process has the lock."""
    while True:
        file = lock.open("ab")
        try:
            _lock_now(file)
        except OSError as error:
            if isinstance(error, (BlockingIOError, PermissionError)):
                file.close()
                return None
            return file  # a file system without locks, as some networks' are: nothing is known, so nothing is refused
        # its last holder may have removed it between opening and locking: then a third one makes, and locks, another
        with contextlib.suppress(OSError):
            if os.name == "nt" or os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                return file
        file.close()


def _lock_now(file: BinaryIO) -> None:
    """Raises BlockingIOError or PermissionError where another process has the lock."""
    if os.name == "nt":
        import msvcrt

        _lock_byte(file, msvcrt.LK_NBLCK)
    else:
        import fcntl

        # of the process alone: a lock by flock would outlive it in processes that open images, for some seconds
        fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_byte(file: BinaryIO, mode: int) -> None:
    import msvcrt

    file.seek(BYTE)
    msvcrt.locking(file.fileno(), mode, 1)
