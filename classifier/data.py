"""Folders to datasets to batches on the device.

    dataset/train/<class>/*        dataset/test/<class>/*

torchvision's `ImageFolder` is the index: folder names, sorted, are the classes.
"""

import csv
import hashlib
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.datasets import ImageFolder

from classifier.cache import Cache, open_cache
from classifier.cli import UserError
from classifier.pictures import PictureError, is_candidate
from classifier.preprocess import Preprocess


@dataclass(frozen=True)
class Folder:
    """The labelled pictures of one folder, in a fixed order."""

    root: Path
    classes: list[str]
    paths: list[str]
    labels: list[int]
    digests: list[bytes] = field(default_factory=list)  # of the files' contents, from `with_digests`

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Pictures per class."""
        counts = Counter(self.labels)
        return {name: counts[label] for label, name in enumerate(self.classes)}

    def subset(self, indices: Sequence[int]) -> "Folder":
        """The pictures at these places, with all classes."""
        columns = {name: getattr(self, name) for name in ("paths", "labels", "digests")}
        return replace(self, **{name: [column[i] for i in indices] for name, column in columns.items()})

    def fingerprint(self) -> str:
        """Equal for the same contents in the same classes, wherever they lie and whatever they are called."""
        members = sorted(zip(self.labels, self.digests, strict=True))
        return hashlib.blake2b(repr((self.classes, members)).encode(), digest_size=16).hexdigest()


def class_names(root: Path) -> list[str]:
    """The sub-folders of `root`, sorted, without hidden ones (.ipynb_checkpoints); none where `root` does not exist."""
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class _Index(ImageFolder):
    """`ImageFolder` without hidden folders."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        names = class_names(Path(directory))
        return names, {name: label for label, name in enumerate(names)}


def has_pictures(root: Path) -> bool:
    """Whether any class folder of `root` holds a picture."""
    return any(_is_picture(root, path) for name in class_names(root) for path in (root / name).rglob("*"))


def _is_picture(root: Path, path: str | Path) -> bool:
    return is_candidate(path) and not any(part.startswith(".") for part in Path(path).relative_to(root).parts)


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
    index = _Index(str(root), is_valid_file=lambda path: _is_picture(root, path), allow_empty=True)
    folder = Folder(root, index.classes, [path for path, _ in index.samples], index.targets)
    for name in folder.classes:
        if name.encode("utf-8", "ignore").decode() != name:  # bytes of another system's encoding
            raise UserError(f"{root} has a class whose name is no text, {name!r}. Rename that folder.")
    empty = [name for name, count in folder.counts().items() if not count]
    if empty:
        raise UserError(f"{root} has classes without pictures: {', '.join(empty)}. Add pictures or remove the folder.")
    if len(folder.classes) < 2:
        raise UserError(
            f"{root} has one class only ({folder.classes[0]}); there is nothing to tell apart. Add a second folder."
        )
    return folder


def with_digests(folder: Folder) -> Folder:
    """The folder with a digest of each file. Raises UserError for a file that cannot be read."""
    with ThreadPoolExecutor() as pool:
        return replace(folder, digests=list(pool.map(_digest, folder.paths)))


def split_validation(folder: Folder, share: float) -> tuple[Folder, Folder]:
    """(training, validation) pictures of a folder with digests: of each class the same share, and at least one.

    What a file contains decides, not its name or place, so the same pictures are set aside in every run and on every
    machine. Copies of a picture in its class stay together; so do those that look the same, where prepare.py has
    listed them in duplicates.csv beside `folder.root`.

    Raises:
        UserError: a class with too few different pictures.
    """
    keys = _smallest_of_group(folder)
    training: list[int] = []
    validation: list[int] = []
    for label, name in enumerate(folder.classes):
        members = sorted((keys[i], i) for i, other in enumerate(folder.labels) if other == label)
        wanted = max(1, round(share * len(members)))
        last = members[wanted - 1][0]  # whatever has the same key as the last one set aside goes with it
        aside = [i for key, i in members if key <= last]
        if len(aside) == len(members):
            raise UserError(
                f"{folder.root / name} has {len(members)} pictures, too few different ones to train with some and set "
                f"{share:.0%} aside for validation. Add pictures."
            )
        validation += aside
        training += [i for key, i in members if key > last]
    return folder.subset(sorted(training)), folder.subset(sorted(validation))


def _smallest_of_group(folder: Folder) -> list[bytes]:
    """For each picture the smallest digest among those that look like it; its own where nothing does."""
    report = folder.root.parent / "duplicates.csv"
    if not report.is_file():
        return folder.digests
    with report.open(encoding="utf-8-sig", newline="") as file:
        groups = {str(Path(row["file"])): row["group"] for row in csv.DictReader(file) if row.get("file")}
    group = [groups.get(str(Path(path).relative_to(folder.root.parent))) for path in folder.paths]
    smallest: dict[str, bytes] = {}
    for number, digest in zip(group, folder.digests, strict=True):
        if number is not None:
            smallest[number] = min(digest, smallest.get(number, digest))
    return [smallest.get(number, digest) for number, digest in zip(group, folder.digests, strict=True)]


def _digest(path: str) -> bytes:
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


class Pictures(Dataset):
    """Pictures as (pixels (3, size, size) uint8, label); for one that cannot be opened, the error in their place."""

    def __init__(self, folder: Folder, preprocess: Preprocess, threads: int = 1):
        self.folder, self.preprocess, self.threads = folder, preprocess, threads

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | PictureError:
        try:
            return open_one(self.folder.paths[index], self.preprocess), self.folder.labels[index]
        except PictureError as error:
            return error

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int] | PictureError]:
        """A batch at once, which is what a DataLoader asks for: with several threads side by side."""
        if self.threads < 2:
            return [self[index] for index in indices]
        with ThreadPoolExecutor(self.threads) as pool:
            return list(pool.map(self.__getitem__, indices))


class CachedPictures(Pictures):
    """The same pictures, opened once and kept in dataset/.cache; `places` are theirs in the cache."""

    def __init__(self, folder: Folder, preprocess: Preprocess, cache: Cache, places: list[int]):
        super().__init__(folder, preprocess)
        self.cache, self.places, self.labels = cache, places, torch.tensor(folder.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.cache.read([self.places[index]])[0], self.folder.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor] | PictureError:
        try:
            return self.cache.read([self.places[index] for index in indices]), self.labels[indices]
        except PictureError as error:  # its bytes were damaged, and then the picture as well
            return error


class ResidentPictures(Pictures):
    """The same pictures, all of them in the device's memory."""

    def __init__(self, folder: Folder, preprocess: Preprocess, cache: Cache, places: list[int], device: torch.device):
        super().__init__(folder, preprocess)
        shape = (len(places), 3, preprocess.size, preprocess.size)
        self.pixels = torch.empty(shape, dtype=torch.uint8, device=device, memory_format=torch.channels_last)
        for start in range(0, len(places), 256):
            part = cache.read(places[start : start + 256])
            self.pixels[start : start + len(part)] = part.to(device)
        self.labels = torch.tensor(folder.labels, device=device)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index].cpu(), self.folder.labels[index]

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        places = torch.tensor(indices, device=self.labels.device)
        return self.pixels[places], self.labels[places]


def open_one(path: str, preprocess: Preprocess) -> Tensor:
    """(3, size, size) uint8. Raises PictureError, which names the file and says what to do."""
    try:
        return preprocess.read(path)
    except PictureError as error:
        raise PictureError(
            f"{path} {error}. Take it out of the folder; python prepare.py FOLDER finds all such pictures at once."
        ) from None


def kept_ready(
    part: Folder, whole: Folder, preprocess: Preprocess, place: Path, device: torch.device, threads: int
) -> Pictures:
    """The pictures of `part` from the cache in `place`, on a GPU from its memory if they take less than a quarter.

    Without room for a cache, they are opened anew each time.

    Args:
        part: the pictures; with digests.
        whole: all pictures that may ever be asked for from this cache; with digests.
        preprocess: of the pixels.
        place: usually dataset/.cache.
        device: where they will be needed.
        threads: how many pictures are opened side by side.

    Raises:
        PictureError: a picture that cannot be opened.
    """
    at = {digest: index for index, digest in enumerate(whole.digests)}
    places = [at[digest] for digest in part.digests]
    decode = partial(open_one, preprocess=preprocess)
    cache = open_cache(place, whole.paths, whole.digests, preprocess, decode, places, threads)
    if cache is None:
        return Pictures(part, preprocess)
    if device.type == "cuda" and 4 * len(part) * cache.bytes < torch.cuda.mem_get_info(device)[0]:
        return ResidentPictures(part, preprocess, cache, places, device)
    return CachedPictures(part, preprocess, cache, places)


def pixels_of(pictures: Pictures, indices: list[int]) -> Tensor:
    """(n, 3, size, size) uint8 on the CPU. Raises PictureError."""
    return _checked(_collate(pictures.__getitems__(indices)))[0].cpu()


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
    pictures: Pictures, batch_size: int, workers: int = 0, order: Sampler | None = None, drop_last: bool = False
) -> DataLoader:
    """Batches, without `order` in the folder's order.

    Args:
        workers: processes that open pictures ahead of time. Pictures that are kept ready need none.
    """
    workers = workers if type(pictures) is Pictures else 0
    return DataLoader(
        pictures,
        batch_size,
        sampler=order,
        num_workers=workers,
        drop_last=drop_last,
        collate_fn=_collate,
        worker_init_fn=_ignore_signals,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available() and not isinstance(pictures, ResidentPictures),
    )


def _collate(items: list | tuple | PictureError) -> tuple[Tensor, Tensor] | PictureError:
    if not isinstance(items, list):
        return items  # a batch already, or what went wrong
    for item in items:
        if isinstance(item, PictureError):
            return item
    pixels, labels = zip(*items, strict=True)
    return torch.stack(pixels), torch.tensor(labels)


def _checked(batch: tuple[Tensor, Tensor] | PictureError) -> tuple[Tensor, Tensor]:
    if isinstance(batch, PictureError):
        # a new one: raising `batch` would tie a frame to itself, and so keep the workers alive after it
        raise PictureError(str(batch))
    return batch


def _ignore_signals(worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # by this one


def on_device(batches: DataLoader, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels (N, 3, H, W) uint8, labels (N,)) on `device`, batch by batch, the next one fetched meanwhile.

    Raises:
        PictureError: a picture that cannot be opened; the message names it.
    """
    coming = iter(batches)
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, coming, None)
        while (batch := ahead.result()) is not None:
            pixels, labels = _checked(batch)
            ahead = thread.submit(next, coming, None)
            pinned = pixels.is_pinned()  # then the copy may take its time; elsewhere that is an error waiting to happen
            yield pixels.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned)
