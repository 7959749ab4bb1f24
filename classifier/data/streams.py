"""The bytes of a file, on a disk or behind http(s)://, from its beginning to its end or a clear error.

A connection that breaks is continued where it broke. So nothing is lost or read twice, and a file is never taken to end
where only the connection did.
"""

import http.client
import io
import re
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO

from classifier.cli import UserError

TRIES = 5  # connections in a row that give nothing new
PAUSE = 1.0  # seconds before a new connection, twice as long before each further one
TIMEOUT = 30  # seconds without an answer
BROKEN = (urllib.error.URLError, http.client.HTTPException, OSError)  # what a new connection may mend


def is_web(place: str) -> bool:
    """Whether this is a URL."""
    return re.match("https?://", place) is not None


def open_stream(place: str, size: int = 0) -> BinaryIO:
    """The file at a path or URL, to be read from its beginning to its end.

    Args:
        place: the path or URL.
        size: bytes that it has to have; 0: any number.

    Raises:
        UserError: not there, refused, of another size, or the server cannot be reached; while reading, too.
    """
    if is_web(place):
        return io.BufferedReader(Web(place, size), 1 << 18)
    try:
        file = Path(place).open("rb")  # noqa: SIM115
        found = file.seek(0, io.SEEK_END)
        file.seek(0)
    except OSError as error:
        raise UserError(f"{place} cannot be read: {error.strerror or error}.") from None
    if size and found != size:
        file.close()
        raise UserError(_other_size(place, found, size))
    return file


class Web(io.RawIOBase):
    """A file behind a URL, from byte `at` on. A broken connection is continued, TRIES times in a row in vain."""

    def __init__(self, url: str, size: int = 0, at: int = 0):
        self.url, self.size, self.at, self.tries = url, size, at, 0
        self.answer = self._connected()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:
        """Fill some of the buffer; 0 at the end of the file. Raises UserError."""
        while True:
            try:
                if self.answer is None:
                    self.answer = self._connected()
                count = self.answer.readinto(buffer)
                if count or self.at >= self.size:  # a server that does not tell the size is believed
                    self.at, self.tries = self.at + count, 0
                    return count
                problem = "the connection closed"
            except BROKEN as error:
                problem = _reason(error)
            self._again(problem)

    def close(self) -> None:
        """Close the connection."""
        if getattr(self, "answer", None):
            self.answer.close()
        super().close()

    def _connected(self) -> http.client.HTTPResponse:
        while True:
            try:
                return self._connect()
            except urllib.error.HTTPError as error:
                if error.code < 500 and error.code not in (408, 429):
                    raise UserError(f"{self.url} answers {error.code} {error.reason}.") from None
                self._again(f"{error.code} {error.reason}")
            except BROKEN as error:
                self._again(_reason(error))

    def _connect(self) -> http.client.HTTPResponse:
        """A connection that gives the bytes from `at` on."""
        asked = urllib.request.Request(self.url, headers={"Range": f"bytes={self.at}-"} if self.at else {})
        answer = urllib.request.urlopen(asked, timeout=TIMEOUT)
        part = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        length = answer.headers.get("Content-Length", "")
        found = int(part[2]) if part else int(length) if length.isdigit() else 0
        if self.size and found and found != self.size:
            answer.close()
            raise UserError(_other_size(self.url, found, self.size))
        self.size = self.size or found
        missed = self.at - (int(part[1]) if part else 0)  # a server that knows no ranges starts over
        if missed < 0:
            raise http.client.HTTPException(f"asked for byte {self.at}, was given {part[1]}")
        while missed:
            chunk = answer.read(min(missed, 1 << 20))
            if not chunk:
                raise http.client.HTTPException("the connection closed")
            missed -= len(chunk)
        return answer

    def _again(self, problem: str) -> None:
        """Wait before the next connection. Raises UserError where there were enough."""
        self.answer, self.tries = None, self.tries + 1
        if self.tries == TRIES:
            of = f" of {self.size:,}" if self.size else ""
            raise UserError(f"{self.url} broke off at {self.at:,}{of} bytes, {TRIES} times in a row ({problem}).")
        print(f"{self.url}: {problem}: trying again", file=sys.stderr, flush=True)
        time.sleep(PAUSE * 2 ** (self.tries - 1))


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error or type(error).__name__)


def _other_size(place: str, found: int, size: int) -> str:
    return f"{place} has {found:,} bytes, expected {size:,}: it is incomplete, or another file now. Get it again."
