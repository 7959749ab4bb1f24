"""Download a large file, continue where it broke off, and check it."""

import hashlib
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

from classifier.cli import UserError

CHUNK_BYTES = 1 << 20
RETRY_PAUSES_S = (1, 2, 4, 8)  # before each further connection that brings nothing new
TIMEOUT_S = 30  # without an answer


def fetch(url: str, target: Path, size: int, sha256: str) -> None:
    """Download a file of `size` bytes to `target`, by way of `<target>.part`, which a later call continues.

    Raises:
        UserError: the server does not give the file, or gives another one, or `target` is another one already.
    """
    part = target if target.exists() else target.with_name(target.name + ".part")
    pauses = list(RETRY_PAUSES_S)
    while (found := _size(part)) < size and part != target:
        problem = "the connection closed"
        try:
            _append(url, part, found, size)
        except urllib.error.HTTPError as error:
            problem = f"HTTP {error.code} {error.reason}"
            if error.code < 500 and error.code not in (408, 429):
                pauses = []
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            problem = getattr(error, "reason", "") or error
        if _size(part) > found:
            pauses = list(RETRY_PAUSES_S)
        elif pauses:
            time.sleep(pauses.pop(0))
        else:
            raise UserError(
                f"The download of {url} stopped at {_size(part):,} of {size:,} bytes ({problem}). The same command "
                "continues it; or get the file with a browser and give its path."
            )
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while found == size and (chunk := file.read(CHUNK_BYTES)):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        what = f"SHA-256 {digest.hexdigest()}, expected {sha256}" if found == size else f"{found:,} bytes, not {size:,}"
        raise UserError(f"{part} is not the published file ({what}). Remove it and run the same command again.")
    part.replace(target)


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _append(url: str, part: Path, found: int, size: int) -> None:
    """Append what one connection gives to the `found` bytes in `part`; begin again where the server knows no ranges.

    Raises:
        UserError: the file of the server has another size.
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes={found}-"} if found else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        start, total = 0, answer.headers.get("Content-Length") or size
        if matched := re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", "")):
            start, total = int(matched[1]), matched[2]
        if int(total) != size:
            raise UserError(f"{url} has {int(total):,} bytes, expected {size:,}: it is another file now.")
        if start not in (0, found):
            raise http.client.HTTPException(f"it answers from byte {start:,} and not from {found:,}")
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(total=size, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while file.tell() < size and (chunk := answer.read1(CHUNK_BYTES)):
                file.write(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
