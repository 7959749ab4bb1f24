"""Find the images that a command line names (paths, patterns, zips, a list on standard input), and read them."""

# os.path keeps a name as it was given ("./a"), and takes any text for one.
# ruff: noqa: PTH110, PTH112, PTH113, PTH116, PTH118, PTH207

import codecs
import contextlib
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from classifier import distributed
from classifier.cli import UserError
from classifier.data import archives, formats

STDIN = "-"

Content = TypeVar("Content")


class UnlabelledImage(NamedTuple):
    """One image to label; `file` is the image itself or, with a `member` number, the zip that holds it."""

    name: str  # as the person would write it: "photos/1.jpg", "holiday.zip/inner/1.jpg"
    file: str
    member: int | None = None

    def source(self) -> str | bytes:
        """Return the path of the file, or the bytes of a zip's member. Raises UserError."""
        if self.member is not None:
            return archives.read_member(self.file, self.member)
        if not os.path.isfile(self.file):  # a device or a pipe might never end
            raise UserError("is not a file" if os.path.exists(self.file) else "does not exist")
        return self.file

    def stamp(self) -> list[int] | None:
        """Return what changes when the image does: size and time of change (or check sum); None where it is gone."""
        if self.member is not None:
            info = archives.open_zip(self.file).infolist()[self.member]
            return [info.file_size, info.CRC]
        with contextlib.suppress(OSError):
            status = os.stat(self.file)
            return [status.st_size, status.st_mtime_ns]
        return None


def key(name: str) -> str:
    """Return one spelling for `a` and `./a`; a/../b is not b where a is a link."""
    return str(Path(name))


def find_images(
    paths: Sequence[str], exclude: frozenset[str] = frozenset()
) -> tuple[dict[str, UnlabelledImage], list[str]]:
    """Return `key` of its name -> image for all that `paths` name, in their order, and the names of the other files.

    `exclude` has the real paths of files and folders to leave out: results of earlier runs. Raises UserError where
    nothing matches one of `paths`, or where a zip cannot be used.
    """
    found: list[UnlabelledImage | str] = []  # text: the name of another file
    for path in paths:
        for name in read_paths(sys.stdin.buffer.read()) if path == STDIN else expand(path):
            if os.path.isdir(name):
                found += _in_folder(name, exclude)
            elif name.lower().endswith(".zip") and os.path.isfile(name):
                found += _in_zip(name)
            else:
                found.append(name if os.path.realpath(name) in exclude else UnlabelledImage(name, name))
    images: dict[str, UnlabelledImage] = {}
    others = []
    for item in found:
        if isinstance(item, str):
            others.append(item)
        else:
            images.setdefault(key(item.name), item)
    return images, others


def find_again(names: Iterable[str]) -> dict[str, UnlabelledImage]:
    """Return `key` of its name -> image for those of `names` that exist, as files or in a zip that can be read."""
    names = list(names)
    parents = {str(parent) for name in names for parent in Path(name).parents if parent.suffix.lower() == ".zip"}
    found = {key(name): UnlabelledImage(name, name) for name in names if os.path.lexists(name)}
    for path in filter(os.path.isfile, parents):
        with contextlib.suppress(UserError):
            found |= find_images([path])[0]
    return found


def expand(path: str) -> list[str]:
    """Return the path, or what a pattern matches, sorted: on Windows the shell leaves patterns to the program."""
    if os.path.lexists(path):
        return [path]
    matches = sorted(glob.glob(path.replace("[", "[[]"), recursive=True)) if set(path) & set("*?") else []
    if not matches:
        raise UserError(f"{path} does not exist. Name images, folders, zips, patterns such as *.jpg, or - for a list.")
    return matches


def read_paths(content: bytes) -> list[str]:
    """Return the paths in a list: one per line in UTF-8, or each ended by a null character (`find -print0`).

    UTF-16 with a byte order mark is read as well: PowerShell writes it with `>`.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode("utf-16", "replace")
    else:
        text = content.decode("utf-8-sig", "surrogateescape")
    names = text.split("\0") if "\0" in text else (line.removesuffix("\r") for line in text.split("\n"))
    return [name for name in names if name.strip()]


def _in_folder(folder: str, exclude: frozenset[str]) -> Iterator[UnlabelledImage | str]:
    """Yield a folder's images by name, then its subfolders'; links are followed, but no folder is read twice."""
    seen = set(exclude)
    for parent, folders, files in os.walk(folder, onerror=print, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:  # a link may lead back to where it is
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(filter(formats.is_visible, folders))
        sheets = {name.removesuffix(".csv.json") + ".png" for name in files if name.endswith(".csv.json")}
        for name in sorted(files):
            path = os.path.join(parent, name)
            is_used = name not in sheets and formats.is_image(path) and os.path.join(real, name) not in exclude
            yield UnlabelledImage(path, path) if is_used else path


def _in_zip(path: str) -> Iterator[UnlabelledImage | str]:
    members = sorted(archives.members(path))
    if not any(is_image for *_, is_image in members):
        raise UserError("{file} holds no images; a zip inside it has to be unpacked first", file=path)
    for parts, number, is_image in members:
        name = "/".join((path, *parts))
        yield UnlabelledImage(name, path, number) if is_image else name


def read_image(image: UnlabelledImage, read: Callable[[str | bytes], Content]) -> Content | UserError:
    """Return what `read` makes of the file's path or bytes, or the error that says why it cannot be read."""
    try:
        return read(image.source())
    except UserError as error:
        return error


def load_batches(
    images: Sequence[UnlabelledImage], read: Callable[[str | bytes], Content], batch_size: int, workers: int
) -> Iterator[list[tuple[UnlabelledImage, Content | UserError]]]:
    """Yield batches of (image, what `read_image` returns), read by threads while the caller works on the last batch.

    Of several processes each takes its batch in turn. All yield equally often; last batches may be shorter or empty.
    """
    first, step = distributed.RANK * batch_size, distributed.WORLD_SIZE * batch_size
    batches = (images[start + first : start + first + batch_size] for start in range(0, len(images), step))
    with ThreadPoolExecutor(max(1, workers)) as pool:
        reading = ((batch, pool.map(lambda image: read_image(image, read), batch)) for batch in batches)
        following = next(reading, None)
        while following:
            (batch, contents), following = following, next(reading, None)
            yield list(zip(batch, contents, strict=True))
