"""One writer at a time: for tables that several processes add rows to."""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import BinaryIO

PATIENCE = 10  # seconds to wait for another process, on Windows; elsewhere the system waits


@contextlib.contextmanager
def alone(file: BinaryIO) -> Iterator[None]:
    """Keep others out who also ask; the system drops the lock when its holder ends, however it ends."""
    if os.name != "nt":
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield  # closing the file drops the lock
        return

    import msvcrt

    def lock(mode: int) -> None:
        file.seek(1 << 30)  # a byte that nobody reads: Windows keeps readers out as well
        msvcrt.locking(file.fileno(), mode, 1)

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            lock(msvcrt.LK_NBLCK)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    try:
        yield
    finally:
        lock(msvcrt.LK_UNLCK)
