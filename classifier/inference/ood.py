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

import math

import torch
from torch import Tensor

from classifier.cli import UserError

KEPT = 0.95  # share of images of the classes that shall not be called unlike
ENOUGH = 19  # validation images; with fewer, no threshold keeps 95% of the images to come
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
    ood_stats = {}
    for i, values in enumerate(_earlier(training)):
        ood_stats |= {f"map{i}.{name}": value for name, value in _gaussian(values.double().cpu()).items()}
    parts = _parts(ood_stats, validation)
    ood_stats["mean"], ood_stats["std"] = parts.mean(0), parts.std(0).clamp_min(TINY)
    rank = math.ceil(KEPT * (count + 1))  # of (count + 1) images, the new one among them
    ood_stats["threshold"] = score(ood_stats, validation).sort().values[rank - 1].item()
    return ood_stats


def score(ood_stats: dict, features: list[Tensor]) -> Tensor:
    """(N,) float32 on the CPU, the larger the more unlike; above `ood_stats["threshold"]` the answer is neither.

    Args:
        ood_stats: from `fit`.
        features: of N images, from `inference.prepared_with_features`.

    Raises:
        UserError: `ood_stats` was fitted to another network.
    """
    widths = [values.shape[1] for values in _earlier(features)]
    fitted = [len(ood_stats[f"map{i}.mean"]) for i in range(_maps(ood_stats))]
    if widths != fitted:
        raise UserError(
            f"The weights' novelty was fitted to maps of {fitted} channels, but this network has {widths}: it belongs "
            "to another network. Train it again."
        )
    parts = (_parts(ood_stats, features) - ood_stats["mean"]) / ood_stats["std"]
    return parts[:, 0] + parts[:, 1:].mean(1)


def check(ood_stats: dict) -> None:
    """Raises ValueError for anything but an empty dictionary and what `fit` gives."""
    if not ood_stats:
        return
    maps = _maps(ood_stats)
    expected = {f"map{i}.{name}" for i in range(maps) for name in ("mean", "std", "inverse")}
    if not maps or set(ood_stats) != expected | {"mean", "std", "threshold"}:
        raise ValueError("novelty has not the entries it should have")
    shapes: dict[str, tuple[int, ...]] = {"mean": (1 + maps,), "std": (1 + maps,)}
    for i in range(maps):
        width = ood_stats[f"map{i}.mean"].numel() if isinstance(ood_stats[f"map{i}.mean"], Tensor) else 0
        shapes |= {f"map{i}.mean": (width,), f"map{i}.std": (width,), f"map{i}.inverse": (width, width)}
    for name, shape in shapes.items():
        value = ood_stats[name]
        if (
            not isinstance(value, Tensor)
            or value.dtype != torch.float32
            or tuple(value.shape) != shape
            or not any(shape)
        ):
            raise ValueError(f"{name} of novelty is no float32 tensor of shape {shape}")
        if not value.isfinite().all() or (name.endswith("std") and value.min() <= 0):
            raise ValueError(f"{name} of novelty has values that cannot be")
    if not isinstance(ood_stats["threshold"], float) or not math.isfinite(ood_stats["threshold"]):
        raise ValueError("threshold of novelty is no number")


def _earlier(features: list[Tensor]) -> list[Tensor]:
    maps = features[:-1]
    return maps[: max(1, len(maps) - LEFT_OUT)]


def _maps(ood_stats: dict) -> int:
    return sum(str(name).endswith(".inverse") for name in ood_stats)


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


def _parts(ood_stats: dict, features: list[Tensor]) -> Tensor:
    """(N, 1 + maps) float32 on the CPU: how short the last vector is, and how unusual each earlier map."""
    parts = [-features[-1].float().cpu().norm(dim=1)]
    for i, values in enumerate(_earlier(features)):
        x = (values.float().cpu() - ood_stats[f"map{i}.mean"]) / ood_stats[f"map{i}.std"]
        parts.append((x @ ood_stats[f"map{i}.inverse"] * x).sum(1).clamp_min(TINY).log())
    return torch.stack(parts, 1)
