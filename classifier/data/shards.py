"""WebDataset shards: which images they hold, and batches of these images for training and evaluation.

    dataset/train/00000.tar ...         key.jpg, key.cls (the number of the class), key.jpg, ...
    dataset/train/shards.json           the classes; for each shard its size in bytes and its images per class

prepare.py --shards writes both. From shards.json a run knows what it needs before its first step. The webdataset
library splits the shards among processes and workers, shuffles their images and makes epochs equally long.
"""

import contextlib
import hashlib
import http.client
import io
import itertools
import json
import posixpath
import random
import shutil
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from classifier.cli import UserError, plural
from classifier.data import loaders
from classifier.data.formats import EXTENSIONS, ImageError
from classifier.data.transforms import Preprocess
from classifier.distributed import RANK, WORLD_SIZE

INDEX, URL = "shards.json", ("http://", "https://")
SHUFFLE_IMAGES = 1000  # encoded images in the shuffle buffer of each worker
RETRY_PAUSES_S = (0, 1, 5)  # before each attempt to read from a URL
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
        return self.root.rpartition("/")[0] or str(Path(self.root).resolve().parent)

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
        UserError: the index or a shard is missing, damaged or of another size.
    """
    from webdataset.shardlists import expand_urls

    spec = spec.rstrip("/") if spec.startswith(URL) else Path(spec).as_posix()
    root, pattern = posixpath.split(spec) if spec.endswith(".tar") else (spec, "")
    root = f"{root}/train" if Path(root, "train", INDEX).is_file() else root or "."
    try:
        with _open(f"{root}/{INDEX}") as stream:
            index = json.load(stream)
        classes, shards = index["classes"], {one["name"]: Shard(**one) for one in index["shards"]}
    except (ValueError, TypeError, KeyError):
        raise UserError(f"{root}/{INDEX} is damaged. Get it again.") from None
    try:
        images = ShardedImages(root, classes, [shards[name] for name in (expand_urls(pattern) if pattern else shards)])
    except (ValueError, KeyError):
        found = f"{len(shards)} shards, {min(shards)} to {max(shards)}"
        raise UserError(f"{root}/{INDEX} has {found}, not all of {pattern}. Example: {{00000..00127}}.tar.") from None
    for shard in () if root.startswith(URL) else images.shards:  # from a server each is read when it is needed
        _open(f"{root}/{shard.name}", shard.bytes).close()
    return images


def train_and_val(spec: str, share: float, fold: int = 1) -> tuple[ShardedImages, ShardedImages]:
    """Read the shards that `--data` means, split into (training, validation) by whole shards.

    In the order of the hashes of their contents, fold k takes the k-th share for validation. prepare.py keeps
    look-alikes in one shard.

    Raises:
        UserError: as `read`; there are too few shards, or a class would have no training images.
    """
    images = read(spec)
    order = sorted(images.shards, key=lambda shard: shard.fingerprint)
    begin = round((fold - 1) * share * len(order))
    chosen = order[begin : max(begin + 1, round(fold * share * len(order)))]
    training = replace(images, shards=[shard for shard in images.shards if shard not in chosen])
    if not chosen or not all(training.counts().values()):
        raise UserError(
            f"{images.root}: {plural(len(order), 'shard is', 'shards are')} too few to validate with {share:.0%} of "
            "them (--val) and train on images of every class with the others. Name more shards, or write smaller ones "
            "with prepare.py --shard-size."
        )
    return training, replace(images, shards=chosen)


def write_index(folder: Path, classes: Sequence[str], shards: Sequence[Shard]) -> None:
    """Write shards.json into a folder of shards."""
    index = {"classes": list(classes), "shards": [asdict(shard) for shard in shards]}
    (folder / INDEX).write_text(json.dumps(index, ensure_ascii=False), encoding="utf-8")


# ---- batches


def train_loader(
    images: ShardedImages, preprocess: Preprocess, batch_size: int, batches: int, seed: int, workers: int = 0
) -> DataLoader:
    """Return shuffled batches for this process, equally many in every process.

    Shards go whole to processes and workers, which therefore get different numbers of images: a worker with too few
    begins again, one with too many leaves some out. With more processes than shards, each process reads all shards and
    takes every WORLD_SIZE-th image. Seed, epoch and the numbers of processes and workers decide on the order.

    Args:
        batch_size: images in a batch of this process.
        batches: batches of this process in an epoch.
        workers: processes that decode; fewer where there are too few shards.
    """
    step = 1 if len(images.shards) >= WORLD_SIZE else WORLD_SIZE
    parts = [(shard, range(start, len(shard), step)) for shard in images.shards for start in range(step)]
    workers = min(workers, batches, len(parts) // WORLD_SIZE)
    per_worker = [len(range(worker, batches, workers or 1)) * batch_size for worker in range(workers or 1)]
    return loaders.loader(_ShardDataset(images, preprocess, parts, per_worker, seed), batch_size, workers)


def val_loader(
    images: ShardedImages, preprocess: Preprocess, batch_size: int, workers: int = 0, rank=RANK, world_size=WORLD_SIZE
) -> DataLoader:
    """Return batches of every `world_size`-th image: each image comes once, in one process.

    Every process reads all shards, but decodes only its own images; see `distributed.gather_strided`.
    """
    parts, before = [], 0  # images in earlier shards
    for shard in images.shards:
        parts.append((shard, range((rank - before) % world_size, len(shard), world_size)))
        before += len(shard)
    return loaders.loader(_ShardDataset(images, preprocess, parts), batch_size, min(workers, len(parts)))


@dataclass
class _ShardDataset(IterableDataset):
    """The images of one pass, shared out among the workers."""

    images: ShardedImages
    preprocess: Preprocess
    parts: list[tuple[Shard, range]]  # with the indices of the images in the shard that are used
    per_worker: list[int] | None = None  # images of each worker in an epoch of training; None: each image once
    seed: int = 0
    epoch: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.int64).share_memory_())  # workers live on

    def __iter__(self) -> Iterator[tuple[Tensor, int] | ImageError]:
        import webdataset as wds

        worker = info.id if (info := get_worker_info()) else 0
        split_by_node = wds.split_by_node if self.per_worker else None
        samples = wds.DataPipeline(self.order, split_by_node, wds.split_by_worker, self._samples)
        if self.per_worker:
            rng = random.Random(f"{self.seed} {self.epoch.item()} {RANK} {worker}")
            samples = samples.compose(wds.shuffle(SHUFFLE_IMAGES, rng=rng)).with_epoch(self.per_worker[worker])
        try:
            yield from map(self._decode, samples)
        except UserError as error:  # an exception would come out of a worker with its traceback as text
            yield ImageError(str(error))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass."""
        self.epoch[0] = epoch

    def order(self) -> list[tuple[Shard, range]]:
        """List the parts of all processes in the order of this pass."""
        parts = list(self.parts)
        if self.per_worker:
            random.Random(f"{self.seed} {self.epoch.item()}").shuffle(parts)
        return parts

    def remark(self) -> str:
        """Say how many images an epoch of training omits and repeats; "" where it is none."""
        parts, omitted, repeated = self.order(), 0, 0
        for rank, (worker, count) in itertools.product(range(WORLD_SIZE), enumerate(self.per_worker)):
            own = sum(len(used) for _, used in parts[rank::WORLD_SIZE][worker :: len(self.per_worker)])
            omitted, repeated = omitted + max(0, own - count), repeated + max(0, count - own)
        shown = f"of {len(self.images):,} images an epoch omits about {omitted:,}, others each time"
        return f"From shards: {shown}, and repeats about {repeated:,}." if omitted or repeated else ""

    def _samples(self, parts: Iterable[tuple[Shard, range]]) -> Iterator[dict]:
        """Yield the samples of some parts as webdataset makes them. Raises UserError for a damaged shard."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        for shard, used in parts:
            url, count = f"{self.images.root}/{shard.name}", 0
            damage = tarfile.TarError, EOFError, OSError, ValueError
            with _open(url, shard.bytes) as stream, contextlib.suppress(*damage):
                for count, sample in enumerate(group_by_keys(tar_file_expander([{"url": url, "stream": stream}])), 1):
                    if count - 1 in used:
                        yield sample
            if count != len(shard):  # a damaged tar may also end early without an error
                raise UserError(f"{url} is damaged, or {INDEX} belongs to other shards. Get both again.")

    def _decode(self, sample: dict) -> tuple[Tensor, int]:
        """Decode an image to (3, size, size) uint8 and its label. Raises ImageError, which names shard and key."""
        where, classes = f"{sample['__url__']}, key {sample['__key__']}", len(self.images.classes)
        try:
            label = range(classes)[int(sample["cls"])]
            (encoded,) = (content for ending, content in sample.items() if f".{ending}" in EXTENSIONS)
            return self.preprocess.read(encoded), label
        except (ValueError, KeyError, IndexError):
            raise ImageError(f"{where}: expected one image, and in .cls a number below {classes}.") from None
        except ImageError as error:
            raise ImageError(f"{where} {error}. prepare.py --shards leaves such images out.") from None


def _open(place: str, size: int = 0) -> BinaryIO:
    """Open a file; one at a URL is copied first, so that a connection that breaks is noticed and made again.

    Raises:
        UserError: the file cannot be read, or has another size than `size` bytes (0: any).
    """
    is_url = place.startswith(URL)
    for pause_s in RETRY_PAUSES_S if is_url else (0,):
        time.sleep(pause_s)
        try:
            file = tempfile.TemporaryFile() if is_url else Path(place).open("rb")  # noqa: SIM115
            if is_url:
                with urllib.request.urlopen(place, timeout=TIMEOUT_S) as answer:
                    shutil.copyfileobj(answer, file)
            found = file.seek(0, io.SEEK_END)
            file.seek(0)
            if size in (0, found):
                return file
            problem = f"it has {found:,} bytes, expected {size:,}"
        except (OSError, http.client.HTTPException) as error:
            problem = getattr(error, "strerror", None) or str(error).strip("<>")
    raise UserError(f"{place} cannot be read ({problem}). Get it again; python prepare.py SOURCE --shards writes it.")
