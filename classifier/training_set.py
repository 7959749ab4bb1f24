"""What a run learns from, in folders or in shards: read, split, and in batches."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from classifier import checks, data, distributed, finetune, folders, shard_batches, shards
from classifier.device import Compute
from classifier.folders import Folder
from classifier.preprocess import Preprocess
from classifier.settings import Settings
from classifier.shards import Shards

SHOWN = 24  # validation pictures in TensorBoard


@dataclass
class TrainingSet:
    """Labelled pictures, and those of them that are set aside to choose the best epoch with.

    Attributes:
        root: the folder or URL that holds train/.
        kind: what the pictures are called.
        pictures: all of them.
        training: what is learned from.
        validation: what is set aside.
    """

    root: str
    kind: str
    pictures: Folder | Shards
    training: Folder | Shards
    validation: Folder | Shards


@dataclass
class Batches:
    """This process's share of each step, and of the validation pictures.

    Attributes:
        order: has `epoch` and `start`, to be set before each pass through `train`.
        train: batches of what goes through the network at once.
        val: batches of whole pictures.
        shown: places of some validation pictures among those of this process.
        pixels: these, (n, 3, size, size) uint8.
        ready: the pictures of both, where they can be asked for in any order; in a stream they cannot.
    """

    order: data.EpochOrder | shard_batches.Batches
    train: DataLoader
    val: DataLoader
    shown: list[int]
    pixels: Tensor
    ready: tuple[data.Pictures, data.Pictures] | None = None


def read(settings: Settings) -> TrainingSet:
    """The pictures that --data names, split. Raises UserError."""
    if shards.are_meant(settings.data):
        pictures = shards.read(settings.data)
        root, kind, split = pictures.above(), "pictures", shards.split_validation
    else:
        place, kind = checks.find_pictures(settings.data)
        pictures = folders.with_digests(folders.read_folder(place / "train"))
        root, split = place.as_posix(), folders.split_validation
    training, validation = split(pictures, settings.val, settings.fold)
    checks.check_pictures(Path(root), training, validation, settings)
    return TrainingSet(root, kind, pictures, training, validation)


def batches(
    found: TrainingSet, seen: Preprocess, preprocess: Preprocess, settings: Settings, device: torch.device
) -> Batches:
    """The pictures in batches.

    Args:
        found: from `read`.
        seen: prepares training pictures.
        preprocess: prepares whole pictures.
        settings: of the run.
        device: where they are needed.

    Raises:
        PictureError: a picture that cannot be opened.
        UserError: settings that shards cannot fulfil.
    """
    size = settings.batch_size
    if isinstance(found.pictures, Shards):
        order, loaders, pixels = shard_batches.for_run(
            found.training, found.validation, seen, preprocess, settings, SHOWN
        )
        return Batches(order, loaders["train"], loaders["val"], list(range(len(pixels))), pixels)
    share = found.validation.subset(distributed.own(range(len(found.validation))))
    ready = tuple(
        data.kept_ready(part, found.pictures, prepare, Path(found.root, ".cache"), device, settings.workers)
        if settings.cache
        else data.Pictures(part, prepare)
        for part, prepare in ((found.training, seen), (share, preprocess))
    )
    scarcity = folders.scarcity(found.training)  # (classes,)
    chances = scarcity[found.training.labels.array] if settings.balance == "sampling" else None
    order = data.EpochOrder(len(found.training), settings.seed, chances, size)
    at_once = size // distributed.COUNT // settings.accumulate
    train = data.loader(ready[0], at_once, settings.workers, order, drop_last=True)
    val = data.loader(ready[1], size, settings.workers)
    shown = torch.linspace(0, len(share) - 1, min(SHOWN, len(share))).long().tolist()
    return Batches(order, train, val, shown, data.pixels_of(ready[1], shown), ready)


def features(given: Batches, network: nn.Module, preprocess: Preprocess, compute: Compute, workers: int) -> Batches:
    """What a frozen network makes of the pictures, in their place; it is always the same.

    Of the training pictures, any of which may be this process's in a later epoch, each process takes its share.
    """
    pictures, val = given.ready
    share = distributed.own(range(len(pictures)))
    seen = finetune.features(network, pictures, preprocess, compute, workers, share)
    seen = data.Features(*(distributed.interleaved(part, len(pictures)) for part in (seen.features, seen.labels)))
    train = data.loader(seen, given.train.batch_size, order=given.order, drop_last=True)
    seen = finetune.features(network, val, preprocess, compute, workers)
    return replace(given, train=train, val=data.loader(seen, given.val.batch_size))
