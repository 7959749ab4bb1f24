"""Images to label, opened side by side while the network answers others; each stays with its name."""

# os.path takes any text for a name, where pathlib raises for some.
# ruff: noqa: PTH110, PTH113

import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from classifier import distributed
from classifier.cli import UserError
from classifier.data import archives
from classifier.prediction.sources import UnlabelledImage

Opened = TypeVar("Opened")
ONE_AT_A_TIME = threading.Lock()  # zipfile says nothing about threads that open members of one archive


def contents(image: UnlabelledImage) -> bytes:
    """The bytes of the file. Raises UserError or OSError."""
    if image.member is None:
        return Path(image.name).read_bytes()
    with ONE_AT_A_TIME:
        return archives.read_member(image.file, image.member)


def read(image: UnlabelledImage, open_one: Callable[[str | bytes], Opened]) -> Opened | str:
    """What `open_one` makes of the file's path or of its bytes, or why it cannot be read."""
    try:
        if image.problem:
            return image.problem
        if image.member is not None:
            return open_one(contents(image))
        if os.path.isfile(image.name):  # a device or a pipe might never end
            return open_one(image.name)
        return "is not a file" if os.path.exists(image.name) else "does not exist"
    except UserError as error:
        return str(error)


def batches(
    images: Iterable[UnlabelledImage], open_one: Callable[[str | bytes], Opened], size: int, threads: int
) -> Iterator[list[tuple[UnlabelledImage, Opened | str]]]:
    """`size` images at a time, each with what `read` gives, in their order; the next ones are opened meanwhile.

    Of several processes the first one's images are dealt out: the batches are those of one process, one for each in
    turn. All take the same number of turns; in the last one some may get fewer images, or none.
    """
    images = iter(images)
    begin, turn = distributed.RANK * size, distributed.WORLD_SIZE * size
    with ThreadPoolExecutor(max(1, threads)) as pool:

        def begun() -> list | None:
            dealt = distributed.run_on_main_and_broadcast(lambda: list(itertools.islice(images, turn)))
            own = dealt[begin : begin + size]
            return [(one, pool.submit(read, one, open_one)) for one in own] if dealt else None

        try:
            ahead = begun()
            while ahead is not None:
                batch, ahead = ahead, begun()
                yield [(image, opened.result()) for image, opened in batch]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
