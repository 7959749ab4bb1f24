"""What is fitted to a trained network on validation images: the temperature and the OOD statistics."""

import itertools
import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.checkpoint import Checkpoint
from classifier.data import loaders
from classifier.data.image_folder import ImageFolder
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference import ood
from classifier.inference.predictor import Features, with_features

MAX_OOD_IMAGES = 2000  # of training and of validation
BATCH_SIZE = 64


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
    """Return the OOD statistics of a network, from at most 2,000 of the images that it has learned from, and of others.

    Another device or format gives nearly the same. Raises ImageError for an image that cannot be read.
    """
    network = checkpoint.network()
    if not hasattr(network, "forward_features"):  # a network of the user's own
        return {}
    forward = with_features(network, compute)
    batches = (loaders.on_device(_some(part, checkpoint.preprocess), compute.device) for part in (training, validation))
    return ood.fit(*(infer_features(forward, part, checkpoint.preprocess)[1] for part in batches))


def infer_features(
    forward: Callable[[Tensor], tuple[Tensor, Features, Tensor]],
    batches: Iterable[tuple[Tensor, Tensor]],
    preprocess: Preprocess,
) -> tuple[Tensor, Features]:
    """Return logits and features of all images, on the CPU; `forward` is from `with_features`."""
    outputs = (forward(preprocess.normalize(images))[:2] for images, _ in batches)
    logits, features = zip(*((logits.detach(), features) for logits, features in outputs), strict=True)
    return torch.cat(logits).cpu(), [torch.cat(values).cpu() for values in zip(*features, strict=True)]


def _some(part: ImageFolder, preprocess: Preprocess) -> Iterable[tuple[Tensor, Tensor]]:
    if not isinstance(part, ImageFolder):  # but ShardedImages, which are shuffled
        from classifier.data import shards  # not at the top: rarely needed

        batches = shards.val_loader(part, preprocess, BATCH_SIZE, rank=0, world_size=1)
        return itertools.islice(batches, MAX_OOD_IMAGES // BATCH_SIZE)
    return loaders.loader(loaders.ImageDataset(balanced_subset(part), preprocess, threads=2), BATCH_SIZE)


def balanced_subset(folder: ImageFolder, images: int = MAX_OOD_IMAGES) -> ImageFolder:
    """Return at most so many images, equally many of each class where it has them, but at least one of each class."""
    members: list[list[int]] = [[] for _ in folder.classes]
    for i, label in enumerate(folder.labels):
        members[label].append(i)
    share = max(1, images // len(members))
    chosen = [own[i * len(own) // min(share, len(own))] for own in members for i in range(min(share, len(own)))]
    return folder.subset(chosen)
