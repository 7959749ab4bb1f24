"""Shards to batches: which process opens which images, in which order, and how an epoch goes on in its middle.

An epoch puts the shards into an order of its own. The images, shard after shard, are then shared out evenly: a
stretch for each process, and of that a stretch for each of its workers. So every image comes once, whatever the
number of shards, and every process makes the same number of steps; a shard at the end of a stretch is read twice, by
two workers, which decode no image twice. A worker mixes its images in a buffer that holds them as files.

webdataset's own splitting gives whole shards to processes and workers. Uneven ones then make uneven numbers of steps,
and no epoch in which every image comes once; and where a run stopped it leaves to us.

Nothing is kept from one epoch to the next: all pixels would be several times as large as the shards, which are there
because the images are too many for a disk.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from classifier import distributed
from classifier.cli import UserError
from classifier.data import loaders
from classifier.data.images import ImageError
from classifier.data.shard_samples import opened, pieces, samples_of
from classifier.data.shards import Shards
from classifier.data.transforms import Preprocess

if TYPE_CHECKING:
    from classifier.training.config import Settings  # which imports this file, by way of the .pth

BUFFER = 1000  # images that a worker mixes


class Batches(IterableDataset):
    """(pixels (n, 3, size, size) uint8, labels (n,)) of this process's share; or, in their place, what went wrong.

    Args:
        part: the shards.
        preprocess: of the pixels.
        batch_size: images in a batch of this process.
        seed: decides the order, with the epoch; None: the shards' own order, as for validation.
        step: images of a step, in all processes together. An epoch makes whole steps, and leaves out fewer than
            `step` images, others each time. 0: all images, the last batch as small as need be. Each process's
            share is then as large as `distributed.own` would make it, so that `distributed.interleaved` gives the
            answers to all images, each once.
        limit: end after so many images; 0: never.
        rank, count: which process this is, of how many.

    `epoch` and `start` are set before each pass; with `start` so many images of all processes together, a whole
    number of steps, are left out, as when an interrupted epoch goes on. What is left out is read but not decoded, since
    it has a part in the mixing.

    The order depends on seed, epoch, and the numbers of processes and workers (0 is as 1); with several workers, on the
    batch size, too. With others, an interrupted epoch goes on in another order, in which some images come twice and
    some do not; the epoch after it has every image once again.
    """

    def __init__(
        self,
        part: Shards,
        preprocess: Preprocess,
        batch_size: int,
        seed: int | None = None,
        step: int = 0,
        limit: int = 0,
        rank: int = distributed.RANK,
        count: int = distributed.WORLD_SIZE,
    ):
        self.part, self.preprocess, self.batch_size, self.seed = part, preprocess, batch_size, seed
        self.step, self.rank, self.count = step, rank, count
        self.images = min(limit or len(part), len(part))
        self.at = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, start: workers live on between epochs

    @property
    def epoch(self) -> int:
        """The epoch that the next pass is of."""
        return int(self.at[0])

    @epoch.setter
    def epoch(self, value: int) -> None:
        self.at[0] = value

    @property
    def start(self) -> int:
        """Images of the epoch, in all processes together, that the next pass leaves out."""
        return int(self.at[1])

    @start.setter
    def start(self, value: int) -> None:
        self.at[1] = value

    def share(self) -> range:
        """The places of this process's images in the epoch's order."""
        if self.step:
            own = self.images // self.step * self.step // self.count
            return range(self.rank * own, (self.rank + 1) * own)
        sizes = [len(range(rank, self.images, self.count)) for rank in range(self.count)]
        begin = sum(sizes[: self.rank])
        return range(begin, begin + sizes[self.rank])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor] | ImageError]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        done = self.start // self.count // self.batch_size  # batches
        stream = (done + worker) % workers  # the DataLoader asks the first worker first, whichever batch is next
        share = self.share()
        sizes = [len(share[at : at + self.batch_size]) for at in range(0, len(share), self.batch_size)]
        begin = share.start + sum(sum(sizes[other::workers]) for other in range(stream))
        own = sizes[stream::workers]
        try:
            samples = self._samples(begin, begin + sum(own), stream)
            for number, size in zip(range(stream, len(sizes), workers), own, strict=True):
                batch = [next(samples) for _ in range(size)]
                if number >= done:
                    yield self._opened(batch)
        except UserError as error:  # as a value: an exception would come out of a worker with its traceback as text
            yield ImageError(str(error))

    def _samples(self, begin: int, end: int, stream: int) -> Iterator[dict]:
        shards = list(self.part.shards)
        name = f"{self.seed} {self.epoch}"
        if self.seed is not None:
            random.Random(name).shuffle(shards)
        samples = samples_of(pieces(shards, begin, end), self.part.place)
        if self.seed is None:
            return samples
        from webdataset import shuffle

        return shuffle(BUFFER, rng=random.Random(f"{name} {self.rank} {stream}"))(samples)

    def _opened(self, batch: Iterable[dict]) -> tuple[Tensor, Tensor]:
        pixels, labels = zip(*map(partial(opened, part=self.part, preprocess=self.preprocess), batch), strict=True)
        return torch.stack(pixels), torch.tensor(labels)


def for_run(
    training: Shards,
    validation: Shards,
    seen: Preprocess,
    preprocess: Preprocess,
    settings: Settings,
    shown: int,
) -> tuple[Batches, dict[str, DataLoader], Tensor]:
    """What train.py takes its images from.

    Args:
        training: what it learns from.
        validation: what was set aside.
        seen: prepares training images.
        preprocess: prepares whole images.
        settings: of the run.
        shown: validation images that TensorBoard shows.

    Returns:
        (what has `epoch` and `start`, {"train": batches, "val": batches}, pixels of the first validation images of
        this process, at most `shown`). A training batch is what goes through the network at once.

    Raises:
        UserError: settings that streams cannot fulfil, or an image or shard that cannot be opened.
    """
    size = settings.batch_size
    order = Batches(training, seen, size // distributed.WORLD_SIZE // settings.accumulate, settings.seed, step=size)
    aside = Batches(validation, preprocess, size)
    batches = {"train": loader(order, settings.workers), "val": loader(aside, settings.workers)}
    return order, batches, first_pixels(aside, shown)


def loader(batches: Batches, workers: int = 0) -> DataLoader:
    """The batches, opened by `workers` processes ahead of time; `data.on_device` takes them."""
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=loaders.ignore_signals,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def first_pixels(batches: Batches, count: int) -> Tensor:
    """(count, 3, size, size) uint8: what the first pass begins with, or all of the first batch if that is fewer.

    Raises:
        ImageError: an image or shard that cannot be opened.
    """
    (first,) = loaders.on_device(_first(batches), torch.device("cpu"))
    return first[0][:count]


def _as_it_is(batch: tuple[Tensor, Tensor] | ImageError) -> tuple[Tensor, Tensor] | ImageError:
    return batch


def _first(batches: Batches) -> Iterator[tuple[Tensor, Tensor] | ImageError]:
    for batch in batches:
        yield batch
        return
