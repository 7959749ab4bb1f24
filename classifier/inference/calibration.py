"""What is fitted to a trained network on validation images: the temperature and the OOD statistics.

The out-of-distribution score tells whether an image is unlike everything that the network learned from, so that no
class is the answer. It adds two numbers, each in standard deviations over validation images:

- how short the input of the last linear layer is. Features that training made for the classes hardly respond to other
  things: Park et al., "Understanding the Feature Norm for Out-of-Distribution Detection", 2023. Where it is longer for
  blurred images, as in networks that know ImageNet, it says nothing and counts for nothing.
- how unusual the channel means of the earlier feature maps are: the Mahalanobis distance of Lee et al., "A Simple
  Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018, its logarithm averaged
  over the maps, with one Gaussian for all classes. The last sizes of maps are left out: they tell the classes apart
  and little else.

Much of what such statistics notice is how an image was made, so a few of the training images are blurred: blur alone is
then less unusual. benchmarks/novelty.md has the numbers.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.checkpoint import Checkpoint
from classifier.data import loaders
from classifier.data.image_folder import ImageFolder
from classifier.data.transforms import Preprocess, resize_batch
from classifier.device import Compute
from classifier.inference.predictor import EPSILON, Features, ood_parts, ood_score, with_features

MAX_OOD_IMAGES = 2000  # of training and of validation
KNOWN_SHARE = 0.96  # of the images of the classes; the others are wrongly called unlike
MIN_VALIDATION_IMAGES = 24  # with fewer, no threshold keeps so many of future images
LEAST_SHARE = 0.1  # of the side, to which images are shrunk that stand for blurred ones
MIN_SHRINKAGE = 0.01
BATCH_SIZE = 64


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the divisor of the logits, in 0.05..20, with the smallest cross-entropy, which has one minimum.

    Guo et al., "On Calibration of Modern Neural Networks", 2017. Some images are too few to be certain, even if all of
    them are right, so as in Platt, 1999, a label's probability is not 1 but (N + 1) / (N + classes).

    Args:
        logits: (N, classes) of images that the network did not learn from.
        labels: (N,).
    """
    from scipy.optimize import minimize_scalar  # not at the top: takes longer to import than the page has to start

    logits, (count, classes) = logits.double(), logits.shape
    smoothing = classes / (count + classes)

    def loss(log: float) -> float:
        return F.cross_entropy(logits / math.exp(log), labels, label_smoothing=smoothing).item()

    found = minimize_scalar(loss, bounds=(math.log(0.05), math.log(20)))
    return math.exp(found.x)


def fit_ood(checkpoint: Checkpoint, compute: Compute, training: ImageFolder, validation: ImageFolder) -> dict:
    """Return the OOD statistics of a network, from at most 2,000 of the images that it has learned from, and of others.

    Another device or format gives nearly the same. Raises ImageError for an image that cannot be read.
    """
    network = checkpoint.network()
    if not hasattr(network, "forward_features"):  # a network of the user's own
        return {}
    forward, preprocess, first = with_features(network, compute), checkpoint.preprocess, []

    def batches(part: ImageFolder) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in loaders.on_device(_some(part, preprocess), compute.device):
            first.extend(images[:1] if part is training else ())
            yield images, labels

    known, others = (infer_features(forward, batches(part), preprocess)[1] for part in (training, validation))
    blurred = infer_features(forward, [(blur(torch.stack(first)), None)], preprocess)[1]
    return fit_ood_stats(known, others, blurred)


def blur(images: Tensor) -> Tensor:
    """Shrink images (N, 3, S, S) to shares of the side from LEAST_SHARE to nearly 1, and enlarge them again."""
    side, shares = images.shape[-1], LEAST_SHARE ** torch.linspace(1, 0, len(images) + 1)[:-1]
    small = (resize_batch(image[None], math.ceil(share * side)) for image, share in zip(images, shares, strict=True))
    return torch.cat([resize_batch(image, side) for image in small])


def fit_ood_stats(training: list[Tensor], validation: list[Tensor], blurred: list[Tensor] | None = None) -> dict:
    """Return what `predictor.ood_score` needs: tensors and plain values, a few MB at most for any network in MODELS.

    They are empty for fewer than 24 validation images, 2 training images, or features that are not finite.

    Args:
        training: features from `predictor.with_features`, (N, C) each.
        validation: features of images that the network has not learned from.
        blurred: features of a few training images that were blurred.
    """
    blurred = blurred or [values[:0] for values in training]
    count = len(validation[-1])
    finite = all(values.isfinite().all() for values in [*training, *validation])
    if count < MIN_VALIDATION_IMAGES or len(training[-1]) < 2 or not finite:
        return {}
    tells_by_length = not blurred[-1].norm(dim=1).mean() > training[-1].norm(dim=1).mean()
    stats, left_out = {}, 2 if tells_by_length else 1
    for i in range(max(1, len(training) - 1 - left_out)):
        values = torch.cat([training[i], blurred[i]]).double().cpu()
        stats |= {f"map{i}.{name}": value for name, value in _gaussian(values).items()}
    parts = ood_parts(stats, validation)
    stats["mean"], stats["std"] = parts.mean(0), parts.std(0).clamp_min(EPSILON)
    if not tells_by_length:
        stats["std"][0] = math.inf  # so that the length counts for nothing
    rank = math.ceil(KNOWN_SHARE * (count + 1))  # of (count + 1) images, the new one among them
    stats["threshold"] = ood_score(stats, validation).sort().values[rank - 1].item()
    return stats


def _gaussian(x: Tensor) -> dict:
    """Return mean and std of each column of x (N, C), and the inverse of the columns' shrunk correlation, (C, C)."""
    from sklearn.covariance import ledoit_wolf_shrinkage  # not at the top: takes a second to import

    mean, std = x.mean(0), x.std(0)
    std = std.clamp_min(1e-3 * std.mean().item() + EPSILON)  # for channels that are always zero
    x = (x - mean) / std
    covariance = x.T @ x / len(x)
    shrinkage = max(ledoit_wolf_shrinkage(x.numpy(), assume_centered=True), MIN_SHRINKAGE)
    diagonal = covariance.diagonal().mean().clamp_min(EPSILON) * torch.eye(x.shape[1], dtype=x.dtype)
    inverse = torch.linalg.inv(shrinkage * diagonal + (1 - shrinkage) * covariance)
    return {"mean": mean.float(), "std": std.float(), "inverse": inverse.float()}


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
