"""Is an image unlike everything that a network learned from? Then neither class is the answer.

The score adds two numbers, each counted in standard deviations of what validation images have:

- how short the vector is that the last linear layer takes. Features that training made for the classes hardly answer
  to other things: Park et al., "Understanding the Feature Norm for Out-of-Distribution Detection", 2023.
- how unusual the means of the channels of the earlier maps are: the Mahalanobis distance of Lee et al., "A Simple
  Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018, its logarithm averaged
  over the maps, with one Gaussian for all classes. The last two sizes of maps are left out: they tell the classes
  apart and little else.

The covariances are shrunk as in Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance
matrices", 2004, so that a few images will do.

What it cannot do: much of what it notices is how an image was made. Blurred and very small images count as unlike,
whatever they show. benchmarks/novelty.md says how much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from classifier.cli import UserError
from classifier.data import loaders, shard_batches
from classifier.data.image_folder import ImageFolder
from classifier.data.shards import Shards
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference.optimize import with_features

if TYPE_CHECKING:
    from classifier.checkpoint import Checkpoint  # which imports this file, for `check`

KEPT = 0.95  # share of images of the classes that shall not be called unlike
ENOUGH = 19  # validation images; with fewer, no threshold keeps 95% of the images to come
IMAGES = 2000  # of training and of validation, at most
LEFT_OUT = 2  # sizes of maps at the end
TINY = 1e-6


def fit(training: list[Tensor], validation: list[Tensor]) -> dict:
    """What `score` needs, as tensors and plain values: at most 1.5 MB for any network in MODELS.

    Args:
        training: features as `inference.prepared_with_features` gives them, (N, C) each.
        validation: the same of images that the network has not learned from.

    Returns:
        An empty dictionary where there are fewer than 19 validation images, 2 training images, or where features
        are not finite.
    """
    count = len(validation[-1])
    if count < ENOUGH or len(training[-1]) < 2 or not all(x.isfinite().all() for x in [*training, *validation]):
        return {}
    novelty = {}
    for i, values in enumerate(_earlier(training)):
        novelty |= {f"map{i}.{name}": value for name, value in _gaussian(values.double().cpu()).items()}
    parts = _parts(novelty, validation)
    novelty["mean"], novelty["std"] = parts.mean(0), parts.std(0).clamp_min(TINY)
    rank = math.ceil(KEPT * (count + 1))  # of (count + 1) images, the new one among them
    novelty["threshold"] = score(novelty, validation).sort().values[rank - 1].item()
    return novelty


def score(novelty: dict, features: list[Tensor]) -> Tensor:
    """(N,) float32 on the CPU, the larger the more unlike; above `novelty["threshold"]` the answer is neither.

    Args:
        novelty: from `fit`.
        features: of N images, from `inference.prepared_with_features`.

    Raises:
        UserError: `novelty` was fitted to another network.
    """
    widths = [values.shape[1] for values in _earlier(features)]
    fitted = [len(novelty[f"map{i}.mean"]) for i in range(_maps(novelty))]
    if widths != fitted:
        raise UserError(
            f"The weights' novelty was fitted to maps of {fitted} channels, but this network has {widths}: it belongs "
            "to another network. Train it again."
        )
    parts = (_parts(novelty, features) - novelty["mean"]) / novelty["std"]
    return parts[:, 0] + parts[:, 1:].mean(1)


def check(novelty: dict) -> None:
    """Raises ValueError for anything but an empty dictionary and what `fit` gives."""
    if not novelty:
        return
    maps = _maps(novelty)
    expected = {f"map{i}.{name}" for i in range(maps) for name in ("mean", "std", "inverse")}
    if not maps or set(novelty) != expected | {"mean", "std", "threshold"}:
        raise ValueError("novelty has not the entries it should have")
    shapes: dict[str, tuple[int, ...]] = {"mean": (1 + maps,), "std": (1 + maps,)}
    for i in range(maps):
        width = novelty[f"map{i}.mean"].numel() if isinstance(novelty[f"map{i}.mean"], Tensor) else 0
        shapes |= {f"map{i}.mean": (width,), f"map{i}.std": (width,), f"map{i}.inverse": (width, width)}
    for name, shape in shapes.items():
        value = novelty[name]
        if (
            not isinstance(value, Tensor)
            or value.dtype != torch.float32
            or tuple(value.shape) != shape
            or not any(shape)
        ):
            raise ValueError(f"{name} of novelty is no float32 tensor of shape {shape}")
        if not value.isfinite().all() or (name.endswith("std") and value.min() <= 0):
            raise ValueError(f"{name} of novelty has values that cannot be")
    if not isinstance(novelty["threshold"], float) or not math.isfinite(novelty["threshold"]):
        raise ValueError("threshold of novelty is no number")


def fit_novelty(checkpoint: Checkpoint, compute: Compute, training: ImageFolder, validation: ImageFolder) -> dict:
    """`fit` for the weights of a checkpoint, on some images of each class. Raises ImageError.

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
    return fit(*(features_of(answer, part, checkpoint.preprocess)[1] for part in batches))


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
        return shard_batches.loader(shard_batches.Batches(part, preprocess, 64, limit=IMAGES, rank=0, count=1))
    return loaders.loader(loaders.ImageDataset(spread(part), preprocess, threads=2), 64)


def spread(folder: ImageFolder, images: int = IMAGES) -> ImageFolder:
    """At most so many images, or one of each class if that is more: the same number of each class, if there are."""
    share = max(1, images // len(folder.classes))
    members: list[list[int]] = [[] for _ in folder.classes]
    for i, label in enumerate(folder.labels):
        members[label].append(i)
    chosen = [own[i * len(own) // min(share, len(own))] for own in members for i in range(min(share, len(own)))]
    return replace(
        folder, paths=[folder.paths[i] for i in chosen], labels=[folder.labels[i] for i in chosen], digests=[]
    )


def _earlier(features: list[Tensor]) -> list[Tensor]:
    maps = features[:-1]
    return maps[: max(1, len(maps) - LEFT_OUT)]


def _maps(novelty: dict) -> int:
    return sum(str(name).endswith(".inverse") for name in novelty)


def _gaussian(x: Tensor) -> dict:
    """Mean and std of each column of x (N, C), and the inverse of the columns' shrunk correlation, (C, C)."""
    mean, std = x.mean(0), x.std(0)
    std = std.clamp_min(1e-3 * std.mean().item() + TINY)  # a channel that is always dark tells nothing
    x = (x - mean) / std
    covariance = x.T @ x / len(x)
    plain = covariance.diagonal().mean().clamp_min(TINY) * torch.eye(x.shape[1], dtype=x.dtype)
    error = (x.square().sum(1).square().mean() - covariance.square().sum()) / len(x)
    shrink = (error / (covariance - plain).square().sum().clamp_min(TINY)).clamp(0.01, 1)
    inverse = torch.linalg.inv(shrink * plain + (1 - shrink) * covariance)
    return {"mean": mean.float(), "std": std.float(), "inverse": inverse.float()}


def _parts(novelty: dict, features: list[Tensor]) -> Tensor:
    """(N, 1 + maps) float32 on the CPU: how short the last vector is, and how unusual each earlier map."""
    parts = [-features[-1].float().cpu().norm(dim=1)]
    for i, values in enumerate(_earlier(features)):
        x = (values.float().cpu() - novelty[f"map{i}.mean"]) / novelty[f"map{i}.std"]
        parts.append((x @ novelty[f"map{i}.inverse"] * x).sum(1).clamp_min(TINY).log())
    return torch.stack(parts, 1)
