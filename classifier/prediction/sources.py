"""What a person names (images, folders, zips, patterns, a list on standard input) -> a stream of images to label.

The stream holds the names of one folder, or of one zip, at a time.
"""

# os.path takes any text for a name, where pathlib raises for some and rewrites others: "./a" is shown as it was given.
# ruff: noqa: PTH112, PTH113, PTH118, PTH119, PTH207, PTH208

import codecs
import functools
import glob
import io
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from classifier.cli import UserError
from classifier.data import archives
from classifier.data.images import is_image_path

STDIN = "-"
LONGEST = 1 << 16  # bytes of the first path in a list; more without an end are no list of paths


class UnlabelledImage(NamedTuple):
    """One image to label; `file` is the image itself or, with a `member` number, the zip that holds it."""

    name: str  # as the person would write it: "photos/1.jpg", "holiday.zip/inner/1.jpg"
    file: str
    member: int | None = None
    problem: str = ""  # why it cannot even be opened


@dataclass
class Unlabelled:
    """The images that `paths` name, in a fixed order: as named, and in a folder or zip by name.

    Iterating walks folders and reads standard input as it goes. What is named itself is given also where it is missing
    or no image; in folders and zips, files that are no images by their name are only counted, and hidden
    folders are passed over.
    """

    paths: Sequence[str]
    without: frozenset[str] = frozenset()  # real paths of files and folders that are left out: results of earlier runs
    others: int = 0  # files that are no images, so far

    def __iter__(self) -> Iterator[UnlabelledImage]:
        results = set(map(os.path.basename, self.without))
        for path in self.paths:
            for name in read_lines(sys.stdin.buffer) if path == STDIN else expand(path):
                if os.path.basename(name) in results and os.path.realpath(name) in self.without:  # of *.png
                    self.others += 1
                elif os.path.isdir(name):
                    yield from self._folder(name)
                elif is_zip(name) and os.path.isfile(name):
                    yield from self._zip(name)
                else:
                    yield UnlabelledImage(name, name)

    def _zip(self, path: str) -> Iterator[UnlabelledImage]:
        try:
            images, others = read_zip(path)
        except UserError as error:  # of a list on standard input; `check` has seen the others
            yield UnlabelledImage(path, path, problem=str(error))
            return
        self.others += others
        yield from (UnlabelledImage(f"{path}/{name}", path, member) for name, member in images.items())

    def _folder(self, folder: str, above: tuple[str, ...] = ()) -> Iterator[UnlabelledImage]:
        real = os.path.realpath(folder)
        if real in above or real in self.without:  # a link that leads back to where it is in
            return
        try:
            names = sorted(os.listdir(folder))
        except OSError as error:
            yield UnlabelledImage(folder, folder, problem=f"is a folder that cannot be read ({error.strerror})")
            return
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                if not name.startswith(".") and name != "__MACOSX":
                    yield from self._folder(path, (*above, real))
            elif is_image_path((name,)) and os.path.join(real, name) not in self.without:
                yield UnlabelledImage(path, path)
            else:
                self.others += 1


def check(paths: Sequence[str]) -> None:
    """Raise a UserError for what can be seen to be wrong before any work: missing, weights, a zip that is none."""
    for path in paths:
        if path == STDIN:
            continue
        if not os.path.lexists(path) and expand(path) == [path]:
            raise UserError(f"{path} does not exist. Give images, folders, zips, patterns such as *.jpg, or - .")
        if path.lower().endswith(".pth"):
            raise UserError(f"{path} holds weights, not an image: python predict.py IMAGES --weights {path}")
        if is_zip(path) and os.path.isfile(path) and not read_zip(path)[0]:
            inner = [parts[-1] for parts, _ in archives.members(path) if is_zip(parts[-1])]
            hint = f" There is {inner[0]} in it: unpack {path} and give that." if inner else ""
            raise UserError(f"{path} holds no images.{hint}")


def expand(path: str) -> list[str]:
    """The path itself or, where there is none but it has * or ?, all that match, sorted: Windows leaves that to us."""
    if os.path.lexists(path) or not set(path) & set("*?"):
        return [path]
    return sorted(glob.glob(path.replace("[", "[[]"), recursive=True)) or [path]


def read_lines(stream: io.BufferedReader) -> Iterator[str]:
    """The paths in a stream: one per line, UTF-8, or each ended by a null character, as `find -print0` writes.

    UTF-16 is read as well, all of it at once: a list that PowerShell has written with `>`.

    Raises:
        UserError: where no path ends.
    """
    first = stream.readline(LONGEST)
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        lines = (first + stream.read()).decode("utf-16", "replace").split("\n")
        names = (line.removesuffix("\r").encode() for line in lines)
    elif b"\0" in first + stream.peek():  # the first name may have several lines
        names = _null_ended(first, stream)
    elif len(first) == LONGEST and not first.endswith(b"\n"):
        raise UserError("standard input holds no list of paths: no line ends within 65,536 bytes.")
    else:
        first = first.removeprefix(b"\xef\xbb\xbf")  # a mark that Windows puts before text
        names = (line.removesuffix(b"\n").removesuffix(b"\r") for line in itertools.chain([first], stream))
    yield from (name.decode("utf-8", "surrogateescape") for name in names if name.strip())


def _null_ended(first: bytes, stream: io.BufferedReader) -> Iterator[bytes]:
    rest, more = b"", first
    while more:
        *names, rest = (rest + more).split(b"\0")
        yield from names
        more = stream.read1(LONGEST)
    yield rest


def is_zip(path: str) -> bool:
    """By its name."""
    return path.lower().endswith(".zip")


@functools.lru_cache(maxsize=2)
def read_zip(path: str) -> tuple[dict[str, int], int]:
    """(path inside the zip -> member number, for each image by its path; how many other files there are).

    Raises:
        UserError: for a zip that is damaged, encrypted or hostile.
    """
    members = archives.members(path)
    images = sorted(member for member in members if is_image_path(member[0]))
    archives.check_images(path, images)
    return {"/".join(parts): number for parts, number in images}, len(members) - len(images)


def key(name: str) -> int:
    """The same for `a` and `./a`. Of a million names two share their 64 bits in one of 37 million runs."""
    return hash(name if ".." in name else os.path.normpath(name))  # a/../b is not b where a is a link


def close_zips() -> None:
    """Forget all zips; Windows moves and deletes no open file."""
    read_zip.cache_clear()
    archives.open_zip.cache_clear()


def find(name: str) -> UnlabelledImage:
    """The image that the stream had under this name. Raises UserError where its zip is no longer readable."""
    for ending in re.finditer(r"\.zip(?=/)", name, re.IGNORECASE):
        path = name[: ending.end()]
        if os.path.isfile(path):
            return UnlabelledImage(name, path, read_zip(path)[0].get(name[ending.end() + 1 :]))
    return UnlabelledImage(name, name)
