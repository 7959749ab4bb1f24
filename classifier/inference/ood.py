"""Out-of-distribution score: is an image unlike everything that the network learned from? Then no class is the answer.

The score adds two numbers, each in standard deviations over validation images:

- how short the input of the last linear layer is. Features that training made for the classes hardly respond to other
  things: Park et al., "Understanding the Feature Norm for Out-of-Distribution Detection", 2023.
- how unusual the channel means of the earlier feature maps are: the Mahalanobis distance of Lee et al., "A Simple
  Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", 2018, its logarithm averaged
  over the maps, with one Gaussian for all classes. The last two sizes of maps are left out: they tell the classes
  apart and little else.

Its limit: much of what it notices is how an image was made. Blurred and very small images count as unlike, whatever
they show. benchmarks/novelty.md has the numbers.
"""

import math

import torch
from torch import Tensor

from classifier.checkpoint import Checkpoint, CheckpointError

KNOWN_SHARE = 0.95  # of the images of the classes; the others are wrongly called unlike
MIN_VALIDATION_IMAGES = 19  # with fewer, no threshold keeps 95% of future images
SIZES_LEFT_OUT = 2  # of feature maps, at the end
MIN_SHRINKAGE = 0.01
EPSILON = 1e-6


def fit(training: list[Tensor], validation: list[Tensor]) -> dict:
    """Return the statistics that `score` needs, as tensors and plain values: at most 1.5 MB for any network in MODELS.

    They are empty for fewer than 19 validation images, 2 training images, or features that are not finite.

    Args:
        training: features from `predictor.with_features`, (N, C) each.
        validation: features of images that the network has not learned from.
    """
    count = len(validation[-1])
    finite = all(values.isfinite().all() for values in [*training, *validation])
    if count < MIN_VALIDATION_IMAGES or len(training[-1]) < 2 or not finite:
        return {}
    stats = {}
    for i, values in enumerate(training[: max(1, len(training) - 1 - SIZES_LEFT_OUT)]):
        stats |= {f"map{i}.{name}": value for name, value in _gaussian(values.double().cpu()).items()}
    parts = _parts(stats, validation)
    stats["mean"], stats["std"] = parts.mean(0), parts.std(0).clamp_min(EPSILON)
    rank = math.ceil(KNOWN_SHARE * (count + 1))  # of (count + 1) images, the new one among them
    stats["threshold"] = score(stats, validation).sort().values[rank - 1].item()
    return stats


def score(ood_stats: dict, features: list[Tensor]) -> Tensor:
    """Return (N,) float32 on the CPU, the larger the more unlike; above `ood_stats["threshold"]` no class fits.

    `ood_stats` are from `fit`, features of N images from `predictor.with_features`.
    """
    parts = (_parts(ood_stats, features) - ood_stats["mean"]) / ood_stats["std"]
    return parts[:, 0] + parts[:, 1:].mean(1)


def check(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for OOD statistics that are not empty and cannot score an image."""
    stats = checkpoint.ood_stats
    try:
        features = [torch.zeros(1, len(value)) for name, value in stats.items() if name.endswith(".mean")]
        features.append(torch.zeros(1, 1))
        valid = not stats or math.isfinite(score(stats, features).item() + stats["threshold"])
    except Exception:  # whatever may be in the file
        valid = False
    if not valid:
        message = "{file} is not a complete .pth of train.py ({reason}). Train it again."
        raise CheckpointError(message, file=checkpoint.path, reason="novelty has values that it cannot have")


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


def _parts(ood_stats: dict, features: list[Tensor]) -> Tensor:
    """Return (N, 1 + maps) float32 on the CPU: how short the last vector is, and how unusual each earlier map."""
    parts = [-features[-1].float().cpu().norm(dim=1)]
    maps = sum(name.endswith(".inverse") for name in ood_stats)
    for i, values in enumerate(features[:maps]):
        x = (values.float().cpu() - ood_stats[f"map{i}.mean"]) / ood_stats[f"map{i}.std"]
        parts.append((x @ ood_stats[f"map{i}.inverse"] * x).sum(1).clamp_min(EPSILON).log())
    return torch.stack(parts, 1)
