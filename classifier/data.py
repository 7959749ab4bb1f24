"""Folders to datasets to batches on the device.

    dataset/train/<class>/*        dataset/test/<class>/*

torchvision's `ImageFolder` is the index: folder names, sorted, are the classes.
"""

import hashlib
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder

from classifier.cli import UserError
from classifier.pictures import PictureError, is_candidate, open_picture
from classifier.preprocess import Preprocess


@dataclass(frozen=True)
class Folder:
    """The labelled pictures of one folder, in a fixed order."""

    root: Path
    classes: list[str]
    paths: list[str]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Pictures per class."""
        counts = Counter(self.labels)
        return {name: counts[label] for label, name in enumerate(self.classes)}

    def subset(self, indices: Sequence[int]) -> "Folder":
        """The pictures at these places, with all classes."""
        return replace(self, paths=[self.paths[i] for i in indices], labels=[self.labels[i] for i in indices])


def class_names(root: Path) -> list[str]:
    """The sub-folders of `root`, sorted; hidden ones (.ipynb_checkpoints) are no classes."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class _Index(ImageFolder):
    """`ImageFolder` without hidden folders."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        names = class_names(Path(directory))
        return names, {name: label for label, name in enumerate(names)}


def has_pictures(root: Path) -> bool:
    """Whether any sub-folder of `root` holds a picture."""
    return root.is_dir() and any(map(is_candidate, root.glob("*/**/*")))


def read_folder(root: Path) -> Folder:
    """Index `root/<class>/*`.

    Raises:
        UserError: no such folder, no pictures in it, one class only, or a class without pictures.
    """
    expected = f"{root}/<class>/<pictures>; python prepare.py FILE_OR_FOLDER makes that of what you have."
    if not root.is_dir():
        raise UserError(f"{root} does not exist. Expected {expected}")
    if not has_pictures(root):
        raise UserError(f"{root} holds no pictures. Expected {expected}")
    index = _Index(str(root), is_valid_file=is_candidate, allow_empty=True)
    folder = Folder(root, index.classes, [path for path, _ in index.samples], index.targets)
    empty = [name for name, count in folder.counts().items() if not count]
    if empty:
        raise UserError(f"{root} has classes without pictures: {', '.join(empty)}. Add pictures or remove the folder.")
    if len(folder.classes) < 2:
        raise UserError(
            f"{root} has one class only ({folder.classes[0]}); there is nothing to tell apart. Add a second folder."
        )
    return folder


def split_validation(folder: Folder, share: float) -> tuple[Folder, Folder]:
    """(training, validation) pictures: from each class the same share, and at least one, is set aside.

    What a file contains decides, not its name or place, so the same pictures are set aside in every run and on every
    machine, and copies of a picture stay together.

    Raises:
        UserError: a class with a single picture, or nothing left to train with.
    """
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(_digest, folder.paths))
    training: list[int] = []
    validation: list[int] = []
    for label, name in enumerate(folder.classes):
        members = sorted((digests[i], i) for i, other in enumerate(folder.labels) if other == label)
        wanted = max(1, round(share * len(members)))
        last = members[wanted - 1][0]  # whatever has the same content as the last one set aside goes with it
        aside = [i for digest, i in members if digest <= last]
        if len(aside) == len(members):
            raise UserError(
                f"{folder.root / name} has {len(members)} pictures, too few to train with some and set "
                f"{share:.0%} aside for validation. Add pictures."
            )
        validation += aside
        training += [i for digest, i in members if digest > last]
    return folder.subset(sorted(training)), folder.subset(sorted(validation))


def _digest(path: str) -> bytes:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


class Pictures(Dataset):
    """Pictures as (pixels (3, size, size) uint8, label); for one that cannot be opened, the error in their place."""

    def __init__(self, folder: Folder, preprocess: Preprocess):
        self.folder, self.preprocess = folder, preprocess

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | PictureError:
        path = self.folder.paths[index]
        try:
            return self.preprocess.pixels(open_picture(path)), self.folder.labels[index]
        except PictureError as error:
            return PictureError(
                f"{path} {error}. Take it out of the folder; python prepare.py FOLDER finds all such pictures at once."
            )


class EpochOrder(Sampler):
    """Every picture once, in an order that only the seed and the epoch decide.

    `epoch` and `start` are set before each pass; with `start` the first pictures of the order are left out, as when an
    interrupted epoch goes on.
    """

    def __init__(self, pictures: int, seed: int):
        self.pictures, self.seed, self.epoch, self.start = pictures, seed, 0, 0

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.pictures, generator=generator).tolist()[self.start :]

    def __len__(self) -> int:
        return self.pictures - self.start


def loader(
    pictures: Pictures, batch_size: int, workers: int, order: Sampler | None = None, drop_last: bool = False
) -> DataLoader:
    """Batches on the CPU, prepared by `workers` processes ahead of time; without `order` in the folder's order."""
    return DataLoader(
        pictures,
        batch_size,
        sampler=order,
        num_workers=workers,
        drop_last=drop_last,
        collate_fn=_collate,
        worker_init_fn=_ignore_signals,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def _collate(items: list) -> tuple[Tensor, Tensor] | PictureError:
    for item in items:
        if isinstance(item, PictureError):
            return item
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def _ignore_signals(worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # are for the main process, which ends its workers itself
        signal.signal(number, signal.SIG_IGN)


def on_device(batches: DataLoader, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels (N, 3, H, W) uint8, labels (N,)) on `device`, batch by batch.

    Raises:
        PictureError: a picture that cannot be opened; the message names it.
    """
    for batch in batches:
        if isinstance(batch, PictureError):
            raise batch
        pixels, labels = batch
        yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
