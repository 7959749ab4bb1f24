"""Shards to labelled images: webdataset takes the tars apart, and what is in them is held against the index."""

import tarfile
from collections.abc import Callable, Iterable, Iterator

from torch import Tensor

from classifier.cli import UserError
from classifier.data.images import EXTENSIONS, ImageError
from classifier.data.shards import Shard, Shards
from classifier.data.streams import open_stream
from classifier.data.transforms import Preprocess

Piece = tuple[Shard, int, int]  # of a shard the images from one number on, to another


def pieces(shards: Iterable[Shard], begin: int, end: int) -> list[Piece]:
    """The parts of the shards that hold the images `begin` to `end`, counted through all of them."""
    found, at = [], 0
    for shard in shards:
        low, high = max(begin - at, 0), min(end - at, len(shard))
        if low < high:
            found.append((shard, low, high))
        at += len(shard)
    return found


def samples_of(parts: Iterable[Piece], place: Callable[[Shard], str]) -> Iterator[dict]:
    """The images as webdataset gives them: `__key__`, `__url__`, and the bytes of each file by its ending.

    Args:
        parts: which ones, in this order.
        place: of a shard, its path or URL.

    Raises:
        UserError: a shard that cannot be read, is no tar, is damaged, or holds fewer or more images than it should.
    """
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for shard, low, high in parts:
        url, count = place(shard), 0
        with open_stream(url, shard.bytes) as stream:
            try:
                for sample in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
                    if low <= count < high:
                        yield sample
                    count += 1
                    if high <= count and high < len(shard):
                        break
            except (UserError, tarfile.TarError, EOFError, OSError, ValueError) as error:
                reason = str(error.args[0] if error.args else error).partition(" @ ")[0]  # webdataset adds the stream
                if isinstance(error, UserError):  # of the stream
                    raise UserError(reason) from None
                raise UserError(f"{url} is damaged ({reason}). Get it again.") from None
        if count != (high if high < len(shard) else len(shard)):
            raise UserError(
                f"{url} holds {count:,} images or more, but shards.json says {len(shard):,}: it is damaged, or of "
                "another set. Get both again."
            )


def opened(sample: dict, part: Shards, preprocess: Preprocess) -> tuple[Tensor, int]:
    """An image's pixels (3, size, size) uint8 and its label. Raises ImageError, which names shard and key."""
    where = f"{sample['__url__']}, key {sample['__key__']}"
    images = [content for ending, content in sample.items() if f".{ending}" in EXTENSIONS]
    label = sample.get("cls", b"").strip()
    if len(images) != 1 or not label.isdigit() or len(label) > 9 or int(label) >= len(part.classes):
        raise ImageError(
            f"{where}: expected one image and in .cls a number below {len(part.classes)}, found "
            f"{', '.join(sorted(ending for ending in sample if not ending.startswith('__')))}"
            f"{f' with {label[:20]!r}' if label else ''}. Write the shards anew with prepare.py --shards."
        )
    try:
        return preprocess.read(images[0]), int(label)
    except ImageError as error:
        raise ImageError(f"{where} {error}. prepare.py --shards leaves such images out.") from None
