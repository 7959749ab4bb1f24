"""What a run learns from, in folders or in shards: read, split, and in batches."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from classifier import distributed
from classifier.data import image_folder, loaders, shards
from classifier.data.image_folder import ImageFolder
from classifier.data.shards import ShardedImages
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.training import checks, pretrained
from classifier.training.config import Settings

SHOWN = 24  # validation images in TensorBoard


@dataclass
class TrainingSet:
    """Labelled images, and those of them that are set aside to choose the best epoch with.

    Attributes:
        root: the folder or URL that holds train/.
        kind: what the images are called.
        training: what is learned from.
        validation: what is set aside.
    """

    root: str
    kind: str
    training: ImageFolder | ShardedImages
    validation: ImageFolder | ShardedImages


@dataclass
class Batches:
    """This process's share of each step, and of the validation images.

    Attributes:
        order: has `epoch` and `start`, to be set before each pass through `train`.
        train: batches of what goes through the network at once.
        val: batches of whole images.
        shown: places of some validation images among those of this process.
        pixels: these, (n, 3, size, size) uint8.
        ready: the images of both, where they can be asked for in any order; in a stream they cannot.
    """

    order: loaders.ResumableSampler | shards.ShardLoader
    train: DataLoader
    val: DataLoader
    shown: list[int]
    pixels: Tensor
    ready: tuple[loaders.ImageDataset, loaders.ImageDataset] | None = None


def read(settings: Settings) -> TrainingSet:
    """The images that --data names, split. Raises UserError."""
    if shards.is_shards(settings.data):
        images = shards.read(settings.data)
        root, kind = images.parent, "images"
        training, validation = shards.split_validation(images, settings.val, settings.fold)
    else:
        place, kind = checks.find_images(settings.data)
        training, validation = image_folder.train_and_val(place, settings.val, settings.fold)
        root = place.as_posix()
    checks.check_images(Path(root), training, validation, settings)
    return TrainingSet(root, kind, training, validation)


def batches(
    found: TrainingSet, seen: Preprocess, preprocess: Preprocess, settings: Settings, device: torch.device
) -> Batches:
    """The images in batches.

    Args:
        found: from `read`.
        seen: prepares training images.
        preprocess: prepares whole images.
        settings: of the run.
        device: where they are needed.

    Raises:
        ImageError: an image that cannot be opened.
        UserError: settings that shards cannot fulfil.
    """
    size = settings.batch_size
    if isinstance(found.training, ShardedImages):
        micro_batch = size // distributed.WORLD_SIZE // settings.accumulate
        micro_batches = len(found.training) // size * settings.accumulate
        train = shards.train_loader(found.training, seen, micro_batch, micro_batches, settings.seed, settings.workers)
        val = shards.val_loader(found.validation, preprocess, size, settings.workers)
        pixels = next(iter(shards.val_loader(found.validation, preprocess, SHOWN)))[0]
        return Batches(train.dataset, train, val, list(range(len(pixels))), pixels)
    share = distributed.shard(range(len(found.validation)))
    ready = tuple(
        loaders.cached_dataset(part, prepare, Path(found.root, ".cache"), device, settings.workers)
        if settings.cache
        else loaders.ImageDataset(part, prepare)
        for part, prepare in ((found.training, seen), (found.validation, preprocess))
    )
    order = loaders.ResumableSampler(len(found.training), settings.seed, size)
    at_once = size // distributed.WORLD_SIZE // settings.accumulate
    train = loaders.loader(ready[0], at_once, settings.workers, order, drop_last=True)
    val = loaders.loader(ready[1], size, settings.workers, share)
    shown = torch.linspace(0, len(share) - 1, min(SHOWN, len(share))).long().tolist()
    return Batches(order, train, val, shown, loaders.images_of(ready[1], [share[i] for i in shown]), ready)


def features(given: Batches, network: nn.Module, preprocess: Preprocess, compute: Compute, workers: int) -> Batches:
    """What a frozen network makes of the images, in their place; it is always the same.

    Of the training images, any of which may be this process's in a later epoch, each process takes its share.
    """
    images, val = given.ready
    share = distributed.shard(range(len(images)))
    seen = pretrained.features(network, images, preprocess, compute, workers, share)
    seen = loaders.Features(*(distributed.gather_strided(part, len(images)) for part in (seen.features, seen.labels)))
    train = loaders.loader(seen, given.train.batch_size, order=given.order, drop_last=True)
    share = distributed.shard(range(len(val)))
    seen = pretrained.features(network, val, preprocess, compute, workers, share)
    return replace(given, train=train, val=loaders.loader(seen, given.val.batch_size))
