"""Labelled images to batches on the device: decoded by worker processes, or from the cache or the GPU's memory."""

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from classifier import distributed
from classifier.cli import UserError
from classifier.data.cache import image_keys, open_cache
from classifier.data.formats import ImageError
from classifier.data.image_folder import ImageFolder
from classifier.data.transforms import Preprocess

CACHE_BATCH_BYTES = 16_000_000  # of images that a worker decodes before they are written to the cache


class ImageDataset(Dataset):
    """Images as (pixels (3, size, size) uint8, label); in place of one that cannot be opened, the ImageError.

    Without worker processes, `threads` images of a batch are decoded side by side.
    """

    def __init__(self, folder: ImageFolder, preprocess: Preprocess, threads: int = 1):
        self.folder, self.preprocess, self.threads = folder, preprocess, threads

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | ImageError:
        path, label = self.folder.samples[index]
        try:
            return self.preprocess.read(path), label
        except ImageError as error:
            return ImageError(
                "{path} {reason}. Take it out of the folder; python prepare.py FOLDER finds all such images at once.",
                path=path,
                reason=str(error),
            )

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int] | ImageError]:
        """Return the items of a batch, which a DataLoader asks for at once."""
        if self.threads < 2:
            return [self[index] for index in indices]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.__getitem__, indices))


class CachedImageDataset(ImageDataset):
    """The same images from the cache: `pixels` (rows, size, size, 3) uint8, and the row of each image."""

    def __init__(self, folder: ImageFolder, preprocess: Preprocess, pixels: np.memmap, rows: np.ndarray):
        super().__init__(folder, preprocess)
        self.pixels, self.rows, self.labels = pixels, rows, torch.tensor(folder.labels)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        if self.pixels.base.size() < self.pixels.nbytes:  # touching what a mapped file lacks would be a bus error
            raise UserError(f"{self.pixels.filename} was cut short while in use; what it lacks is decoded again.")
        pixels = np.asarray(self.pixels[self.rows[indices]])
        return torch.from_numpy(pixels).permute(0, 3, 1, 2), self.labels[indices]  # channels-last in memory


class GPUImageDataset(ImageDataset):
    """The same images, all of them in the device's memory."""

    def __init__(self, cached: CachedImageDataset, device: torch.device):
        super().__init__(cached.folder, cached.preprocess)
        shape = (len(cached), 3, cached.preprocess.size, cached.preprocess.size)
        self.pixels = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
        for part in torch.arange(len(cached)).split(256):
            self.pixels[part] = cached.__getitems__(part.tolist())[0].to(device)
        self.labels = cached.labels.to(device)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        at = torch.tensor(indices, device=self.labels.device)
        return self.pixels[at], self.labels[at]


def cached_dataset(
    folder: ImageFolder, preprocess: Preprocess, cache_folder: Path, device: torch.device, workers: int
) -> ImageDataset:
    """Return the images from the cache, or on a GPU from its memory where they take less than a quarter of it.

    Every process has to call it, with the same images: the first one of each host fills the cache while the others
    wait, with `workers` processes that decode. Where there is no room for a cache, the images are opened again in each
    epoch. `cache_folder` is usually DATA/.cache. Raises ImageError, which names an image that cannot be opened.
    """
    images = ImageDataset(folder, preprocess)
    bytes_per_image = 3 * preprocess.size**2

    def decode(indices: Sequence[int]) -> Iterator[np.ndarray]:
        for batch in loader(images, max(1, CACHE_BATCH_BYTES // bytes_per_image), workers, indices):
            yield checked(batch)[0].permute(0, 2, 3, 1).numpy()

    with distributed.local_main_process_first():
        cache = open_cache(cache_folder, image_keys(folder), preprocess, decode)
    if cache is None:
        return images
    cached = CachedImageDataset(folder, preprocess, *cache)
    if device.type == "cuda" and 4 * bytes_per_image * len(folder) < torch.cuda.mem_get_info(device)[0]:
        return GPUImageDataset(cached, device)
    return cached


def images_of(dataset: ImageDataset, indices: Sequence[int]) -> Tensor:
    """Return the pixels of some images, (n, 3, size, size) uint8 on the CPU. Raises ImageError."""
    return checked(collate(dataset.__getitems__(list(indices))))[0].cpu()


def even_part(total: int, parts: int, index: int) -> range:
    """Return the part number `index` of range(total) divided into parts whose sizes differ by one at most."""
    return range(index * total // parts, (index + 1) * total // parts)


@dataclass(eq=False)
class ResumableSampler(Sampler):
    """This process's micro-batches of an epoch, lists of indices, in an order that only seed and epoch decide.

    Every image comes once: an epoch is divided into steps, and a step into the micro-batches of all processes, as
    evenly as possible. So in a step the processes together get what one alone would.
    """

    images: int
    seed: int
    steps: int = 1  # of an epoch
    accumulate: int = 1  # micro-batches of a step in each process
    rank: int = distributed.RANK
    world_size: int = distributed.WORLD_SIZE
    epoch: int = 0  # to be set before each pass
    start: int = 0  # steps at its beginning that are left out, to resume it

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.images, generator=generator).tolist()
        for step in range(self.start, self.steps):
            batch = even_part(self.images, self.steps, step)
            for micro_step in range(self.accumulate):
                index = self.rank * self.accumulate + micro_step
                part = even_part(len(batch), self.world_size * self.accumulate, index)
                yield [order[batch[i]] for i in part]

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulate


def loader(
    images: ImageDataset,
    batch_size: int = 1,
    workers: int = 0,
    order: Sequence[int] | None = None,
    batches: Sampler | None = None,
) -> DataLoader:
    """Return batches of this size, in the order of these indices if given, or the batches that a sampler makes.

    `workers` decode what is not cached.
    """
    workers = 0 if isinstance(images, CachedImageDataset | GPUImageDataset) else workers
    return DataLoader(
        images,
        batch_size,
        sampler=order,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=ignore_signals,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available() and not isinstance(images, GPUImageDataset),
    )


def collate(items: list | tuple) -> tuple[Tensor, Tensor] | ImageError:
    """Return (pixels (N, 3, H, W), labels (N,)) of the items, or the first ImageError among them."""
    if isinstance(items, tuple):  # a batch already
        return items
    if errors := [item for item in items if isinstance(item, ImageError)]:
        return errors[0]
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def checked(batch: tuple[Tensor, Tensor] | ImageError) -> tuple[Tensor, Tensor]:
    """Return the batch. Raises ImageError if it is one."""
    if isinstance(batch, ImageError):
        # a new one: raising `batch` would tie a frame to itself, and so keep the workers alive after it
        raise ImageError(batch.message, **batch.values)
    return batch


def ignore_signals(worker: int) -> None:
    """Prepare a worker process of a DataLoader."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by this one
    if distributed.WORLD_SIZE > 1 and hasattr(os, "setpgrp"):
        os.setpgrp()  # torchrun ends whole groups of processes, and the last step still needs its images


def on_device(batches: DataLoader, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (pixels (N, 3, H, W) uint8, labels (N,)) on `device`, fetching the next batch ahead. Raises ImageError."""
    iterator = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        upcoming = thread.submit(next, iterator, None)
        try:
            while (batch := upcoming.result()) is not None:
                pixels, labels = checked(batch)
                upcoming = thread.submit(next, iterator, None)
                pinned = pixels.is_pinned()  # only from pinned memory may a copy be asynchronous
                yield pixels.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)
        except (ConnectionError, EOFError) as error:  # killed while it sent a batch; at other times PyTorch says so
            raise RuntimeError(f"DataLoader worker ended while it sent a batch: {error}") from error
