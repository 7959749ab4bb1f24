"""A large file from the web, continued where it broke off, and checked."""

import hashlib
import io
import os
from pathlib import Path

from tqdm import tqdm

from classifier.cli import UserError
from classifier.data.streams import Web

CHUNK = 1 << 20  # bytes


def fetch(url: str, target: Path, size: int, sha256: str) -> None:
    """Download `url` to `target`, by way of `<target>.part`, which a later call continues.

    Args:
        url: where the file is.
        target: where it goes; nothing is done where it already is, complete.
        size: its bytes.
        sha256: of its content, in hexadecimal.

    Raises:
        UserError: where it cannot be had, or is another file than expected.
    """
    if target.exists():
        _check(target, size, sha256)
        return
    part = target.with_name(target.name + ".part")
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    had = part.stat().st_size if part.exists() else 0
    if had < size:
        try:
            _append(url, part, had, size)
        except UserError as error:
            raise UserError(
                f"{error} The same command continues it (without {part.name} it begins anew); or get the file with a "
                "browser and give its path."
            ) from None
    _check(part, size, sha256)
    part.replace(target)


def _append(url: str, part: Path, had: int, size: int) -> None:
    """The bytes that `part` lacks."""
    with (
        io.BufferedReader(Web(url, size, had), CHUNK) as stream,
        part.open("ab") as file,
        tqdm(total=size, initial=had, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
    ):
        while chunk := stream.read1(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
            if file.tell() > size:
                raise UserError(f"{url} gives more than the expected {size:,} bytes: it is another file now.")
        file.flush()
        os.fsync(file.fileno())


def _check(file: Path, size: int, sha256: str) -> None:
    digest, found = hashlib.sha256(), file.stat().st_size
    if found == size:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
        if digest.hexdigest() == sha256:
            return
    what = (
        f"{found:,} bytes, expected {size:,}" if found != size else f"SHA-256 {digest.hexdigest()}, expected {sha256}"
    )
    raise UserError(f"{file} is not the published file ({what}): remove it and run the same command again")
