"""A large file from the web, continued where it broke off, and checked."""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from classifier.cli import UserError

CHUNK = 1 << 20  # bytes
TRIES = 4  # in a row without a single new byte
TIMEOUT = 30  # seconds without an answer


def fetch(url: str, target: Path, size: int, sha256: str, pause: float = 1.0) -> None:
    """Download `url` to `target`, by way of `<target>.part`, which a later call continues.

    Args:
        url: where the file is.
        target: where it goes; nothing is done where it already is, complete.
        size: its bytes.
        sha256: of its content, in hexadecimal.
        pause: seconds before the first new attempt, twice as long before each further one.

    Raises:
        UserError: where it cannot be had, or is another file than expected.
    """
    if target.exists():
        _check(target, size, sha256)
        return
    part = target.with_name(target.name + ".part")
    if part.exists() and part.stat().st_size > size:
        part.unlink()
    tries = 0
    with tqdm(total=size, unit="B", unit_scale=True, desc=target.name, disable=None) as bar:
        while (had := part.stat().st_size if part.exists() else 0) < size:
            bar.n = had
            problem = _continue(url, part, had, size, bar)
            tries = 0 if part.exists() and part.stat().st_size > had else tries + 1
            if problem and tries == TRIES:
                raise UserError(
                    f"the download of {url} broke off at {had:,} of {size:,} bytes ({problem}): "
                    "the same command continues it; or get the file with a browser and give its path"
                )
            if problem:
                tqdm.write(f"{problem}: trying again")
                time.sleep(pause * 2**tries)
    _check(part, size, sha256)
    part.replace(target)


def _continue(url: str, part: Path, had: int, size: int, bar: tqdm) -> str:
    """Append what one connection gives; what went wrong, or ""."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={had}-"} if had else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            continued = answer.status == 206
            announced = _announced(answer, had if continued else 0)
            if announced not in (None, size):
                raise UserError(f"{url} has {announced:,} bytes, expected {size:,}: it is another file now")
            if not continued:
                bar.n = 0  # this server always starts over
            with part.open("ab" if continued else "wb") as file:
                while chunk := answer.read(CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
                    if file.tell() > size:
                        raise UserError(f"{url} gives more than the expected {size:,} bytes: it is another file now")
                file.flush()
                os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing from there on: what we have is of another file
            part.unlink(missing_ok=True)
        elif error.code < 500:
            raise UserError(f"{url} answers {error.code} {error.reason}: look for the file with a browser") from None
        return f"{error.code} {error.reason}"
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        return str(getattr(error, "reason", "") or error or type(error).__name__)
    return "" if part.stat().st_size >= size else "the connection closed"


def _announced(answer: http.client.HTTPResponse, had: int) -> int | None:
    """The whole file's bytes as the server tells them, or None."""
    if match := re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", "")):
        if int(match[1]) != had:
            raise http.client.HTTPException(f"asked for byte {had}, was given {match[1]}")
        return int(match[2])
    length = answer.headers.get("Content-Length", "")
    return had + int(length) if length.isdigit() else None


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
