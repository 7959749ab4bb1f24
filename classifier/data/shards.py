"""WebDataset shards: which images they hold, and batches of these images for training and evaluation.

    dataset/train/00000.tar ...         key.jpg, key.cls (the number of the class), key.jpg, ...
    dataset/train/shards.json           the classes; for each shard its size in bytes and its images per class

prepare.py --shards writes both. From shards.json a run knows what it needs before its first step. The webdataset
library splits the shards among processes and workers, shuffles their images and makes epochs equally long.
"""

import hashlib
import http.client
import io
import itertools
import json
import random
import re
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from classifier.cli import UserError
from classifier.data import loaders
from classifier.data.images import EXTENSIONS, ImageError
from classifier.data.transforms import Preprocess
from classifier.distributed import RANK, WORLD_SIZE
from classifier.text import plural

INDEX, VERSION, URL = "shards.json", 1, ("http://", "https://")
SHUFFLE_IMAGES = 1000  # encoded images in the shuffle buffer of each worker
RETRY_PAUSES_S = (1, 5, 20)  # before each further attempt to read from a URL
TIMEOUT_S = 30  # without an answer from a server


@dataclass(frozen=True)
class Shard:
    """One tar: its name, its size in bytes, its images per class, and a hash of its contents."""

    name: str
    bytes: int
    counts: list[int]
    fingerprint: str

    def __len__(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class ShardedImages:
    """Labelled images in shards; what `image_folder.ImageFolder` is for images in folders."""

    root: str  # the folder or URL that holds the shards
    classes: list[str]
    shards: list[Shard] = field(repr=False)
    corrected: str = ""  # corrections.csv is about image files, of which shards have none

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @property
    def parent(self) -> str:
        """The folder or URL above `root`, where test/ is."""
        return self.root.rpartition("/")[0] if "/" in self.root else str(Path(self.root).resolve().parent)

    def counts(self) -> dict[str, int]:
        """Images per class."""
        return {name: sum(shard.counts[label] for shard in self.shards) for label, name in enumerate(self.classes)}

    def fingerprint(self) -> str:
        """Equal for shards with the same contents, whatever their place and names."""
        members = sorted(shard.fingerprint for shard in self.shards)
        return hashlib.blake2b(repr((self.classes, members)).encode(), digest_size=16).hexdigest()


# ---- which images


def read(spec: str) -> ShardedImages:
    """Read the index of the shards that `--data` means; on a disk, check that they are there.

    `spec` is "dataset/train/{00000..00127}.tar", the same after http(s)://, or the folder or URL that holds shards.json
    and all of its shards; for a folder also the one above it, dataset.

    Raises:
        UserError: the index or a shard is missing, damaged or of another size, or a class has no images.
    """
    root, names = (spec if spec.startswith(URL) else Path(spec).as_posix()).rstrip("/"), ""
    if root.endswith(".tar"):
        root, _, names = root.rpartition("/")
    elif (Path(root) / "train" / INDEX).is_file():
        root = f"{root}/train"
    images = _read_index(root or ".")
    if names:
        images = replace(images, shards=_named(images, names))
    if empty := [name for name, count in images.counts().items() if not count]:
        raise UserError(f"The shards of {spec} hold no images of {', '.join(empty)}. Name more shards.")
    for shard in () if root.startswith(URL) else images.shards:  # from a server each is read when it is needed
        _open(f"{images.root}/{shard.name}", shard.bytes).close()
    return images


def train_and_val(spec: str, share: float, fold: int = 1) -> tuple[ShardedImages, ShardedImages]:
    """Read the shards that `--data` means, split into (training, validation). Raises UserError."""
    return split_validation(read(spec), share, fold)


def split_validation(images: ShardedImages, share: float, fold: int = 1) -> tuple[ShardedImages, ShardedImages]:
    """Split into (training, validation) by whole shards, in the order of the hashes of their contents.

    Fold k takes the k-th share for validation. prepare.py keeps look-alikes in one shard.

    Raises:
        UserError: there are too few shards, or a class would have no training images.
    """
    order = sorted(images.shards, key=lambda shard: shard.fingerprint)
    begin = round((fold - 1) * share * len(order))
    chosen = order[begin : max(begin + 1, round(fold * share * len(order)))]
    training = replace(images, shards=[shard for shard in images.shards if shard not in chosen])
    if not chosen or not all(training.counts().values()):
        raise UserError(
            f"{images.root}: {plural(len(order), 'shard is', 'shards are')} too few to validate with {share:.0%} of "
            "them (--val) and train on images of every class with the others: whole shards go to either. Name more "
            "shards, or write smaller ones with prepare.py --shard-size."
        )
    return training, replace(images, shards=chosen)


def write_index(folder: Path, classes: Sequence[str], shards: Sequence[Shard]) -> None:
    """Write shards.json into a folder of shards, a line for each."""
    rows = ",\n".join(json.dumps(asdict(shard)) for shard in shards)
    names = json.dumps(list(classes), ensure_ascii=False)
    text = f'{{"version": {VERSION}, "classes": {names}, "shards": [\n{rows}\n]}}\n'
    (folder / INDEX).write_text(text, encoding="utf-8")


def _read_index(root: str) -> ShardedImages:
    place, advice = f"{root}/{INDEX}", f"python prepare.py SOURCE --shards writes shards, and {INDEX} beside them."
    try:
        with _open(place) as stream:
            index = json.loads(stream.read())
        images = ShardedImages(root, list(index["classes"]), [Shard(**one) for one in index["shards"]])
        fits = index["version"] == VERSION and images.shards and len(set(images.classes)) == len(images.classes) > 1
        for shard in images.shards:
            fits &= len(shard.counts) == len(images.classes) and min(shard.bytes, *shard.counts) >= 0
            fits &= re.fullmatch(r"\w[\w.-]*\.tar", shard.name) is not None  # never in another folder
    except UserError as error:
        raise UserError(f"{error}\nExpected a folder of shards with {INDEX}; {advice}") from None
    except (ValueError, RecursionError, TypeError, KeyError):
        fits = False
    if not fits:
        raise UserError(f"{place} is damaged, or no index of shards of version {VERSION}. Get it again; {advice}")
    return images


def _named(images: ShardedImages, names: str) -> list[Shard]:
    """Return the shards of the index that "{00000..00127}.tar" means."""
    from braceexpand import UnbalancedBracesError, braceexpand  # comes with webdataset

    known = {shard.name: shard for shard in images.shards}
    try:
        return [known[name] for name in dict.fromkeys(braceexpand(names, escape=False))]
    except UnbalancedBracesError as error:
        raise UserError(f"--data {names}: {error}. Expected, for instance, {{00000..00127}}.tar.") from None
    except KeyError as name:
        raise UserError(
            f"{images.root}/{INDEX} lists no {name.args[0]}, but {len(known)} shards, {min(known)} to {max(known)}. "
            "Name some of these, or give the folder for all of them."
        ) from None


# ---- batches


def train_loader(
    images: ShardedImages, preprocess: Preprocess, batch_size: int, batches: int, seed: int, workers: int = 0
) -> "ShardLoader":
    """Return shuffled batches for this process, equally many in every process.

    Shards go whole to processes and workers, which therefore get different numbers of images: a worker with too few
    begins again, one with too many leaves some out. Seed, epoch and the numbers of processes and workers decide on the
    order.

    Args:
        batch_size: images in a batch of this process.
        batches: batches of this process in an epoch.
    """
    return ShardLoader(_Batches(images, preprocess, batch_size, max(1, workers), batches=batches, seed=seed), workers)


def val_loader(
    images: ShardedImages, preprocess: Preprocess, batch_size: int, workers: int = 0, rank=RANK, world_size=WORLD_SIZE
) -> "ShardLoader":
    """Return batches of every `world_size`-th image: each image comes once, in one process.

    Every process reads all shards, but decodes only its own images; see `distributed.gather_strided`.
    """
    return ShardLoader(_Batches(images, preprocess, batch_size, max(1, workers), rank, world_size), workers)


class ShardLoader(DataLoader):
    """Batches of (images (n, 3, size, size) uint8, labels (n,) int64), from `train_loader` or `val_loader`.

    In place of a batch that cannot be read comes an ImageError, which `loaders.checked` and `loaders.on_device` raise.
    """

    def __init__(self, batches: "_Batches", workers: int):
        options = {"worker_init_fn": loaders.ignore_signals, "pin_memory": torch.cuda.is_available()}
        super().__init__(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0, **options)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.dataset.epoch[0] = epoch

    def remark(self) -> str:
        """Say how many images an epoch of training omits and repeats; "" where it is none."""
        omitted, repeated = self.dataset.omitted_and_repeated()
        shown = f"of {len(self.dataset.images):,} images an epoch omits about {omitted:,}, others each time"
        return f"From shards: {shown}, and repeats about {repeated:,}." if omitted or repeated else ""


@dataclass
class _Batches(IterableDataset):
    """The batches of one pass, shared out among the workers."""

    images: ShardedImages
    preprocess: Preprocess
    batch_size: int
    workers: int
    rank: int = 0  # of all images only those at rank, rank + world_size, ... are decoded
    world_size: int = 1
    batches: int | None = None  # of an epoch of training; None: each image once
    seed: int = 0
    epoch: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64).share_memory_())  # workers live on

    def __len__(self) -> int:
        own = len(range(self.rank, len(self.images), self.world_size))
        return -(-own // self.batch_size) if self.batches is None else self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor] | ImageError]:
        import webdataset as wds

        worker = info.id if (info := get_worker_info()) else 0
        samples = wds.DataPipeline(self.units)
        if self.batches is not None:
            shuffle = wds.shuffle(SHUFFLE_IMAGES, rng=random.Random(f"{self.seed} {self.epoch.item()} {RANK} {worker}"))
            count = len(range(worker, self.batches, self.workers)) * self.batch_size
            samples = samples.compose(wds.split_by_node, wds.split_by_worker, _samples, shuffle).with_epoch(count)
            samples = iter(samples) if count else iter(())
        else:
            samples = iter(samples.compose(wds.split_by_worker, _samples))
        try:
            while batch := list(itertools.islice(samples, self.batch_size)):
                decoded, labels = zip(*map(self._decode, batch), strict=True)
                yield torch.stack(decoded), torch.tensor(labels)
        except UserError as error:  # an exception would come out of a worker with its traceback as text
            yield ImageError(str(error))

    def units(self) -> list[tuple[str, Shard, int, range]]:
        """List what processes and workers take in turn: shards, or parts of shards where these are too few.

        As (path or URL, shard, index of its first image among all images, indices of the images in this part).
        """
        firsts = itertools.accumulate(map(len, self.images.shards), initial=0)
        shards = list(zip(self.images.shards, firsts, strict=False))
        if self.batches is not None:
            random.Random(f"{self.seed} {self.epoch.item()}").shuffle(shards)
        parts = -(-self.workers * (1 if self.batches is None else WORLD_SIZE) // len(shards))
        units = []
        for part, (shard, first) in itertools.product(range(parts), shards):
            start = first + (self.rank + part * self.world_size - first) % (parts * self.world_size)
            indices = range(start, first + len(shard), parts * self.world_size)
            units.append((f"{self.images.root}/{shard.name}", shard, first, indices))
        return units

    def omitted_and_repeated(self) -> tuple[int, int]:
        """Count the images that an epoch of training omits and repeats, in all processes."""
        units, repeated = self.units(), 0
        for rank, worker in itertools.product(range(WORLD_SIZE), range(self.workers)):
            own = sum(len(indices) for *_, indices in units[rank::WORLD_SIZE][worker :: self.workers])
            repeated += max(0, len(range(worker, self.batches, self.workers)) * self.batch_size - own)
        return len(self.images) - self.batches * self.batch_size * WORLD_SIZE + repeated, repeated

    def _decode(self, sample: dict) -> tuple[Tensor, int]:
        """Decode an image to (3, size, size) uint8 and its label. Raises ImageError, which names shard and key."""
        where, classes = f"{sample['__url__']}, key {sample['__key__']}", len(self.images.classes)
        encoded = [content for ending, content in sample.items() if f".{ending}" in EXTENSIONS]
        label = sample.get("cls", b"").strip()
        if len(encoded) != 1 or not label.isdigit() or len(label) > 9 or int(label) >= classes:
            found = {ending: "..." if ending != "cls" else label[:20] for ending in sample if ending[:2] != "__"}
            raise ImageError(f"{where}: expected one image, and in .cls a number below {classes}; found {found}.")
        try:
            return self.preprocess.read(encoded[0]), int(label)
        except ImageError as error:
            raise ImageError(f"{where} {error}. prepare.py --shards leaves such images out.") from None


def _samples(units: Iterable[tuple[str, Shard, int, range]]) -> Iterator[dict]:
    """Yield the samples of `_Batches.units` as webdataset makes them. Raises UserError for an unreadable shard."""
    from webdataset.tariterators import group_by_keys, tar_file_expander

    for url, shard, first, indices in units:
        index = first
        with _open(url, shard.bytes) as stream:
            try:
                for sample in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
                    if index in indices:
                        yield sample
                    index += 1
            except (tarfile.TarError, EOFError, OSError, ValueError) as error:
                reason = str(error.args[0] if error.args else error).partition(" @ ")[0]  # webdataset adds the stream
                raise UserError(f"{url} is damaged ({reason}). Get it again.") from None
        if index - first != len(shard):
            found = f"{url} holds {index - first:,} images, but {INDEX} says {len(shard):,}"
            raise UserError(f"{found}: one of them is damaged, or they do not belong together. Get both again.")


def _open(place: str, size: int = 0) -> BinaryIO:
    """Open a file; one at a URL is copied first, so that a connection that breaks is noticed and made again.

    Raises:
        UserError: the file cannot be read, or has another size than `size` bytes (0: any).
    """
    for pause in (*RETRY_PAUSES_S, 0) if place.startswith(URL) else (0,):
        try:
            if place.startswith(URL):
                with urllib.request.urlopen(place, timeout=TIMEOUT_S) as answer:
                    file = tempfile.TemporaryFile()  # noqa: SIM115
                    shutil.copyfileobj(answer, file)
            else:
                file = Path(place).open("rb")  # noqa: SIM115
            found = file.seek(0, io.SEEK_END)
            file.seek(0)
            if size in (0, found):
                return file
            file.close()
            problem = f"it has {found:,} bytes, expected {size:,}"
        except (OSError, http.client.HTTPException) as error:
            problem = getattr(error, "strerror", None) or str(error).strip("<>")
            if isinstance(error, urllib.error.HTTPError) and error.code < 500 and error.code not in (408, 429):
                break
        time.sleep(pause)
    raise UserError(f"{place} cannot be read ({problem}). Get it again.")
