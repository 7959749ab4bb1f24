"""Find the images that a command line names (paths, patterns, zips, a list on standard input), and read them."""

# os.path keeps a name as it was given ("./a"), and takes any text for one.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH118, PTH207, PTH208

import codecs
import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from classifier import distributed
from classifier.cli import UserError
from classifier.data import archives
from classifier.data.images import is_image_path

STDIN = "-"

Content = TypeVar("Content")


class UnlabelledImage(NamedTuple):
    """One image to label; `file` is the image itself or, with a `member` number, the zip that holds it."""

    name: str  # as the person would write it: "photos/1.jpg", "holiday.zip/inner/1.jpg"
    file: str
    member: int | None = None

    def read(self) -> bytes:
        """Return the bytes of the file. Raises UserError or OSError."""
        return Path(self.file).read_bytes() if self.member is None else archives.read_member(self.file, self.member)


def key(name: str) -> str:
    """Return one spelling for `a` and `./a`; a/../b is not b where a is a link."""
    return name if ".." in name else os.path.normpath(name)


def find_images(paths: Sequence[str], exclude: frozenset[str] = frozenset()) -> tuple[dict[str, UnlabelledImage], int]:
    """Find the images that `paths` name, each once: in the order of `paths`, within a folder or zip by name.

    Args:
        paths: images (whatever they are called), folders, zips, patterns, or "-" for a list on standard input.
        exclude: real paths of files and folders to leave out: results of earlier runs.

    Returns:
        `key` of its name -> image, and the number of other files in the folders and zips.

    Raises:
        UserError: nothing matches one of `paths`, or it is a zip that cannot be used.
    """
    names = (
        name for path in paths for name in (read_paths(sys.stdin.buffer.read()) if path == STDIN else expand(path))
    )
    found = [image for name in names for image in _images_of(name, exclude)]
    images: dict[str, UnlabelledImage] = {}
    for image in filter(None, found):
        images.setdefault(key(image.name), image)
    return images, found.count(None)


def expand(path: str) -> list[str]:
    """Return the path, or what a pattern matches, sorted: on Windows the shell leaves patterns to the program."""
    if os.path.lexists(path):
        return [path]
    matches = sorted(glob.glob(path.replace("[", "[[]"), recursive=True)) if set(path) & set("*?") else []
    if not matches:
        raise UserError(f"{path} does not exist. Give images, folders, zips, patterns such as *.jpg, or - .")
    return matches


def read_paths(content: bytes) -> list[str]:
    """Return the paths in a list: one per line in UTF-8, or each ended by a null character (`find -print0`).

    UTF-16 with a byte order mark is read as well: PowerShell writes it with `>`.
    """
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    content = content.removeprefix(codecs.BOM_UTF8)
    names = content.split(b"\0") if b"\0" in content else (line.removesuffix(b"\r") for line in content.split(b"\n"))
    return [name.decode("utf-8", "surrogateescape") for name in names if name.strip()]


def _images_of(path: str, exclude: frozenset[str], above: tuple[str, ...] = ()) -> Iterator[UnlabelledImage | None]:
    """Yield the images of a file, folder or zip; None for each file that is passed over."""
    if os.path.isdir(path):
        real = os.path.realpath(path)
        if real in exclude or real in above:  # a link may lead back to where it is
            return
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            print(f"skipped    {path} ({error.strerror})")
            return
        for name in names:
            inner = os.path.join(path, name)
            if os.path.isdir(inner):
                if not name.startswith(".") and name != "__MACOSX":
                    yield from _images_of(inner, exclude, (*above, real))
            else:
                is_image = is_image_path((name,)) and os.path.join(real, name) not in exclude
                yield UnlabelledImage(inner, inner) if is_image else None
    elif os.path.abspath(path) in exclude:
        yield None
    elif path.lower().endswith(".zip") and os.path.isfile(path):
        yield from _images_in_zip(path)
    else:
        yield UnlabelledImage(path, path)


def _images_in_zip(path: str) -> Iterator[UnlabelledImage | None]:
    members = archives.members(path)
    images = sorted(member for member in members if is_image_path(member[0]))
    archives.check_images(path, images)
    if not images:
        inner = next((parts[-1] for parts, _ in members if parts[-1].lower().endswith(".zip")), "")
        message = "{file} holds no images, but {inner}: unpack it and give that" if inner else "{file} holds no images"
        raise UserError(message, file=path, inner=inner)
    yield from (UnlabelledImage("/".join((path, *parts)), path, number) for parts, number in images)
    yield from [None] * (len(members) - len(images))


def read_image(image: UnlabelledImage, read: Callable[[str | bytes], Content]) -> Content | UserError:
    """Return what `read` makes of the file's path or bytes, or the error that says why it cannot be read."""
    try:
        if image.member is not None:
            return read(image.read())
        if not os.path.isfile(image.file):  # a device or a pipe might never end
            return UserError("is not a file" if os.path.exists(image.file) else "does not exist")
        return read(image.file)
    except UserError as error:
        return error


def load_batches(
    images: Sequence[UnlabelledImage], read: Callable[[str | bytes], Content], batch_size: int, workers: int
) -> Iterator[list[tuple[UnlabelledImage, Content | UserError]]]:
    """Yield batches of (image, what `read_image` returns), read by threads while the caller works on the last batch.

    Of several processes each takes its batch of every WORLD_SIZE * batch_size images. All yield equally often; the
    last batches may be shorter or empty.
    """
    first, step = distributed.RANK * batch_size, distributed.WORLD_SIZE * batch_size
    with ThreadPoolExecutor(max(1, workers)) as pool:

        def submit(start: int) -> list[tuple[UnlabelledImage, Future]]:
            return [(image, pool.submit(read_image, image, read)) for image in images[start : start + batch_size]]

        try:
            following = submit(first)
            for start in range(0, len(images), step):
                batch, following = following, submit(start + step + first)
                yield [(image, future.result()) for image, future in batch]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
