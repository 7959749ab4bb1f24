"""Labelled images to batches on the device: opened in time, or kept ready in a cache or in the GPU's memory."""

import math
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from classifier import distributed
from classifier.data.cache import PATIENCE, Cache, open_cache
from classifier.data.image_folder import ImageFolder
from classifier.data.images import ImageError
from classifier.data.transforms import Preprocess

BLOCK = 4096  # places of an order that become Python's numbers at once


class ImageDataset(Dataset):
    """Images as (pixels (3, size, size) uint8, label); for one that cannot be opened, the error in their place."""

    def __init__(self, folder: ImageFolder, preprocess: Preprocess, threads: int = 1):
        self.folder, self.preprocess, self.threads = folder, preprocess, threads

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | ImageError:
        try:
            return open_one(self.folder.paths[index], self.preprocess), self.folder.labels[index]
        except ImageError as error:
            return error

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int] | ImageError]:
        """A batch at once, which is what a DataLoader asks for: with several threads side by side."""
        if self.threads < 2:
            return [self[index] for index in indices]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.__getitem__, indices))


class CachedImageDataset(ImageDataset):
    """The same images, opened once and kept in dataset/.cache; `places` are theirs in the cache."""

    def __init__(self, folder: ImageFolder, preprocess: Preprocess, cache: Cache, places: np.ndarray):
        super().__init__(folder, preprocess)
        self.cache, self.places, self.labels = cache, places, torch.from_numpy(folder.labels.array).long()

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.cache.read([int(self.places[index])])[0], self.folder.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor] | ImageError:
        try:
            return self.cache.read(self.places[indices].tolist()), self.labels[indices]
        except ImageError as error:  # not kept yet, or its bytes were damaged, and then the image as well
            return error


class GPUImageDataset(ImageDataset):
    """The same images, all of them in the device's memory."""

    def __init__(
        self, folder: ImageFolder, preprocess: Preprocess, cache: Cache, places: np.ndarray, device: torch.device
    ):
        super().__init__(folder, preprocess)
        shape = (len(places), 3, preprocess.size, preprocess.size)
        self.pixels = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
        for start in range(0, len(places), 256):
            part = cache.read(places[start : start + 256].tolist())
            self.pixels[start : start + len(part)] = part.to(device)
        self.labels = torch.from_numpy(folder.labels.array).long().to(device)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index].cpu(), self.folder.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        places = torch.tensor(indices, device=self.labels.device)
        return self.pixels[places], self.labels[places]


def open_one(path: str, preprocess: Preprocess) -> Tensor:
    """(3, size, size) uint8. Raises ImageError, which names the file and says what to do."""
    try:
        return preprocess.read(path)
    except ImageError as error:
        raise ImageError(
            f"{path} {error}. Take it out of the folder; python prepare.py FOLDER finds all such images at once."
        ) from None


def kept_ready(
    part: ImageFolder, whole: ImageFolder, preprocess: Preprocess, place: Path, device: torch.device, threads: int
) -> ImageDataset:
    """The images of `part` from the cache in `place`, on a GPU from its memory if they take less than a quarter.

    Without room for a cache, they are opened anew each time. What is not in it yet and would take long to open is
    opened when it is first asked for, unless it goes to a GPU's memory.

    Args:
        part: the images, a subset of `whole`.
        whole: all images that may ever be asked for from this cache; with digests.
        preprocess: of the pixels.
        place: usually dataset/.cache.
        device: where they will be needed.
        threads: how many images are opened side by side.

    Raises:
        ImageError: an image that cannot be opened.
    """
    places = part.paths.places_in(whole.paths)
    decode = partial(open_one, preprocess=preprocess)
    needed = 3 * len(part) * preprocess.size**2
    fits = device.type == "cuda" and 4 * needed < torch.cuda.mem_get_info(device)[0]
    patience = math.inf if fits else PATIENCE
    cache = open_cache(place, whole.paths, whole.digests, preprocess, decode, places, threads, patience)
    if cache is None:
        return ImageDataset(part, preprocess)
    if fits:
        return GPUImageDataset(part, preprocess, cache, places, device)
    return CachedImageDataset(part, preprocess, cache, places)


def pixels_of(images: ImageDataset, indices: list[int]) -> Tensor:
    """(n, 3, size, size) uint8 on the CPU. Raises ImageError."""
    return _checked(_collate(images.__getitems__(indices)))[0].cpu()


class Features(Dataset):
    """What a frozen network makes of images (N, C), with their labels (N,)."""

    def __init__(self, features: Tensor, labels: Tensor):
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        return self.features[indices], self.labels[indices]


class ResumableSampler(Sampler):
    """Every image once, in an order that only the seed and the epoch decide.

    `epoch` and `start` are set before each pass; with `start` the first images of the order are left out, as when an
    interrupted epoch goes on. With `chances`, one per image, as many are drawn by these, some of them repeatedly.

    Args:
        images: how many there are.
        seed: of the run.
        chances: of the images, (images,).
        batch_size: images of a step in all processes together. This process gets its part of each step, the processes
            together what one alone would get; an incomplete step at the end is left out.
    """

    def __init__(self, images: int, seed: int, chances: Tensor | None = None, batch_size: int = 1):
        self.images, self.seed, self.chances, self.epoch, self.start = images, seed, chances, 0, 0
        self.batch_size = batch_size
        if batch_size % distributed.WORLD_SIZE:
            raise ValueError(f"{distributed.WORLD_SIZE} processes cannot share steps of {batch_size} images evenly")

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        if self.chances is None:
            order = torch.randperm(self.images, generator=generator)
        else:
            order = torch.multinomial(self.chances, self.images, replacement=True, generator=generator)
        steps = order[self.start :][: self._steps() * self.batch_size]
        steps = steps.view(self._steps(), distributed.WORLD_SIZE, self._share())
        own = steps[:, distributed.RANK].flatten().int()  # all that is kept during the epoch, 4 bytes for each
        del order, steps
        for start in range(0, len(own), BLOCK):
            yield from own[start : start + BLOCK].tolist()

    def __len__(self) -> int:
        return self._steps() * self._share()

    def _steps(self) -> int:
        return (self.images - self.start) // self.batch_size

    def _share(self) -> int:
        return self.batch_size // distributed.WORLD_SIZE


def loader(
    images: ImageDataset | Features,
    batch_size: int,
    workers: int = 0,
    order: Sampler | Sequence[int] | None = None,
    drop_last: bool = False,
) -> DataLoader:
    """Batches, without `order` in the folder's order.

    Args:
        workers: processes that open images ahead of time. Images that are kept ready need none.
    """
    workers = workers if type(images) is ImageDataset else 0
    return DataLoader(
        images,
        batch_size,
        sampler=order,
        num_workers=workers,
        drop_last=drop_last,
        collate_fn=_collate,
        worker_init_fn=ignore_signals,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available() and not isinstance(images, GPUImageDataset),
    )


def _collate(items: list | tuple | ImageError) -> tuple[Tensor, Tensor] | ImageError:
    if not isinstance(items, list):
        return items  # a batch already, or what went wrong
    for item in items:
        if isinstance(item, ImageError):
            return item
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def _checked(batch: tuple[Tensor, Tensor] | ImageError) -> tuple[Tensor, Tensor]:
    if isinstance(batch, ImageError):
        # a new one: raising `batch` would tie a frame to itself, and so keep the workers alive after it
        raise ImageError(str(batch))
    return batch


def ignore_signals(worker: int) -> None:
    """For a DataLoader's processes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by this one
    if distributed.WORLD_SIZE > 1 and hasattr(os, "setpgrp"):
        os.setpgrp()  # torchrun ends whole groups of processes, and the last step still needs its images


def _next(coming: Iterator) -> tuple[Tensor, Tensor] | ImageError | None:
    try:
        return next(coming, None)
    except (ConnectionError, EOFError) as error:  # one that was killed while it sent a batch; else PyTorch names it
        raise RuntimeError(f"DataLoader worker ended while it sent a batch: {error}") from error


def on_device(batches: DataLoader, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels (N, 3, H, W) uint8, labels (N,)) on `device`, batch by batch, the next one fetched meanwhile.

    Raises:
        ImageError: an image that cannot be opened; the message names it.
    """
    coming = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(_next, coming)
        while (batch := ahead.result()) is not None:
            pixels, labels = _checked(batch)
            ahead = thread.submit(_next, coming)
            pinned = pixels.is_pinned()  # then the copy may take its time; elsewhere that is an error waiting to happen
            yield pixels.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)
