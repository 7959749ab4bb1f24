"""Download a large file, continue where it broke off, and check it."""

import hashlib
import http.client
import time
import urllib.request
from pathlib import Path

from tqdm import tqdm

from classifier.cli import UserError

CHUNK_BYTES = 1 << 20
RETRY_PAUSES_S = (1, 2, 4)  # after attempts that bring nothing new
TIMEOUT_S = 30  # without an answer


def fetch(url: str, target: Path, size: int, sha256: str) -> None:
    """Download a file of `size` bytes to `target`, by way of `<target>.part`, which a later call continues.

    Raises:
        UserError: the server does not give the file, or gives another one, or `target` is another one already.
    """
    part = target if target.exists() else target.with_name(target.name + ".part")
    failures = 0
    while (found := part.stat().st_size if part.exists() else 0) < size and part != target:
        problem = "the connection closed"
        try:
            _append(url, part, found, size)
        except (OSError, http.client.HTTPException) as error:
            problem = str(error)
        if part.exists() and part.stat().st_size > found:
            failures = 0
        elif failures < len(RETRY_PAUSES_S):
            time.sleep(RETRY_PAUSES_S[failures])
            failures += 1
        else:
            raise UserError(
                f"The download of {url} stopped at {found:,} of {size:,} bytes ({problem}). The same command "
                "continues it; or get the file with a browser and give its path."
            )
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != sha256:
        raise UserError(f"{part} is not the published file (SHA-256 {digest.hexdigest()}). Remove it and try again.")
    part.replace(target)


def _append(url: str, part: Path, found: int, size: int) -> None:
    """Append what one connection gives to the `found` bytes in `part`; start over if the server does not know ranges.

    Raises:
        UserError: the file of the server has another size.
    """
    request = urllib.request.Request(url, headers={"Range": f"bytes={found}-"} if found else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        start = found if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        total = start + int(answer.headers.get("Content-Length", size - start))
        if total != size:
            raise UserError(f"{url} has {total:,} bytes, expected {size:,}: it is another file now.")
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(total=size, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while chunk := answer.read1(CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
