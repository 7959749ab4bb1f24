"""What is fitted once the weights are trained, on validation images: the temperature and the OOD statistics."""

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from classifier.checkpoint import Checkpoint
from classifier.data import loaders, shard_batches
from classifier.data.image_folder import ImageFolder
from classifier.data.shards import Shards
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference import ood
from classifier.inference.predictor import with_features

IMAGES_FOR_OOD = 2000  # of training and of validation, at most


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the divisor of the logits, in 0.05..20, with the smallest cross-entropy, which has one minimum.

    Guo et al., "On Calibration of Modern Neural Networks", 2017.

    Args:
        logits: (N, classes) of images that the network did not learn from.
        labels: (N,).
    """
    from scipy.optimize import minimize_scalar  # not at the top: takes longer to import than the page has to start

    logits = logits.double()
    found = minimize_scalar(
        lambda log: F.cross_entropy(logits / math.exp(log), labels).item(), bounds=(math.log(0.05), math.log(20))
    )
    return math.exp(found.x)


def fit_ood(checkpoint: Checkpoint, compute: Compute, training: ImageFolder, validation: ImageFolder) -> dict:
    """`ood.fit` for the weights of a checkpoint, on some images of each class. Raises ImageError.

    Args:
        checkpoint: the weights and the preprocessing for whole images.
        compute: where, and in which format; answers in another one differ little.
        training: what the network has learned from.
        validation: what was set aside.
    """
    network = checkpoint.network()
    if not hasattr(network, "forward_features"):  # one of somebody's own, which does not offer what is needed
        return {}
    answer = with_features(network, compute)
    seen = checkpoint.preprocess
    batches = (loaders.on_device(some(part, seen), compute.device) for part in (training, validation))
    return ood.fit(*(features_of(answer, part, checkpoint.preprocess)[1] for part in batches))


def features_of(
    answer: Callable[[Tensor], tuple[Tensor, list[Tensor]]],
    batches: Iterable[tuple[Tensor, Tensor]],
    preprocess: Preprocess,
) -> tuple[Tensor, list[Tensor]]:
    """Logits and features of all images, on the CPU; `answer` is from `inference.prepared_with_features`."""
    logits, features = zip(*(answer(preprocess.normalize(pixels)) for pixels, _ in batches), strict=True)
    return torch.cat(logits).cpu(), [torch.cat(values).cpu() for values in zip(*features, strict=True)]


def some(part: ImageFolder | Shards, preprocess: Preprocess) -> DataLoader:
    """Batches of some images of each class; of shards, whose order is drawn by lot, of the first ones."""
    if isinstance(part, Shards):
        return shard_batches.loader(shard_batches.Batches(part, preprocess, 64, limit=IMAGES_FOR_OOD, rank=0, count=1))
    return loaders.loader(loaders.ImageDataset(spread(part), preprocess, threads=2), 64)


def spread(folder: ImageFolder, images: int = IMAGES_FOR_OOD) -> ImageFolder:
    """At most so many images, or one of each class if that is more: the same number of each class, if there are."""
    share = max(1, images // len(folder.classes))
    members: list[list[int]] = [[] for _ in folder.classes]
    for i, label in enumerate(folder.labels):
        members[label].append(i)
    chosen = [own[i * len(own) // min(share, len(own))] for own in members for i in range(min(share, len(own)))]
    return folder.subset(chosen)
