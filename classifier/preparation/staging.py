"""How a folder is filled as a whole or not at all.

Everything is written into a hidden folder inside the output. When complete, that folder is renamed to READY, in one
step; from there on its parts only move up. A run that was killed before the step has left nothing but the hidden
folder, which the next run removes; after the step, the next run completes the moves.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from classifier.cli import UserError

STAGING, READY, LOCK = ".preparing-", ".prepared", ".preparing.lock"
PATIENCE = 10  # seconds for processes of a killed run to end


@contextlib.contextmanager
def file_lock(output: Path) -> Iterator[None]:
    """Make the folder `output` where needed, and keep a second run out of it for the time being.

    The system drops the lock when its holder ends, however it ends.

    Raises:
        UserError: where another run is at work, or the folder cannot be made.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = (output / LOCK).open("a")
    except OSError as error:
        raise UserError(f"{output} cannot be written to ({error.strerror}): choose another --output") from None
    with file:
        try:
            _lock(file.fileno())
        except OSError:
            raise UserError(f"another prepare.py is at work in {output}: wait for it, or end it") from None
        try:
            yield
        finally:
            file.close()
            with contextlib.suppress(OSError):
                (output / LOCK).unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()  # only where nothing came of it


def recover(output: Path, names: Sequence[str]) -> bool:
    """Clear up after a run that was killed; whether it had got far enough to be completed."""
    for stale in output.glob(STAGING + "*"):
        _remove(stale)
    if complete := (output / READY).is_dir():
        publish(output, names)
    return complete


def _remove(folder: Path) -> None:
    """Delete a folder into which processes of a killed run may still be writing their last images."""
    deadline = time.monotonic() + PATIENCE
    while folder.exists() and time.monotonic() < deadline:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)
    if folder.exists():
        shutil.rmtree(folder)


@contextlib.contextmanager
def staged(output: Path, names: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Two hidden folders in `output`: (scratch, result). What is in `result` at the end moves to `output`.

    With any exception both vanish and `output` is as before.
    """
    staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=output))  # a new name, which no process left over knows
    try:
        scratch, result = staging / "scratch", staging / "result"
        scratch.mkdir()
        result.mkdir()
        yield scratch, result
        if hasattr(os, "sync"):
            os.sync()  # the images reach the disk before the name that says they are there
        result.rename(output / READY)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    publish(output, names)


def publish(output: Path, names: Sequence[str]) -> None:
    """Move the finished parts from READY to their places, in the order of `names`.

    Raises:
        UserError: where something of another origin stands in a place.
    """
    ready = output / READY
    for name in names:
        if not (ready / name).exists():
            continue
        if occupied(output, [name]):
            raise UserError(
                f"{output / name} has appeared in the meantime: move it away and run the same command again"
            )
        if (output / name).is_dir():
            (output / name).rmdir()  # empty; Windows renames onto no folder
        (ready / name).rename(output / name)
    ready.rmdir()


def occupied(output: Path, names: Sequence[str]) -> list[str]:
    """Those of `names` that are in `output` already; an empty folder does not count."""
    places = [(name, output / name) for name in names]
    return [name for name, at in places if (any(at.iterdir()) if at.is_dir() else os.path.lexists(at))]


def _lock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
