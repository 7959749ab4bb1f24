"""Run a network over images once; everything else is a pure function of its logits and the labels."""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.data.transforms import Preprocess


def infer(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], preprocess: Preprocess | None
) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) float32 and labels (N,) of all images, on the CPU, in the order they came.

    Args:
        predict: from `inference.prepared`.
        batches: (pixels (n, 3, H, W) uint8, labels (n,)), for instance from `data.on_device`; at least one.
        preprocess: normalises the pixels; None where the batches hold features, which need none.
    """
    logits, labels = [], []
    for pixels, target in batches:
        logits.append(predict(preprocess.normalize(pixels) if preprocess else pixels).cpu())
        labels.append(target.cpu())
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is the label's."""
    return (logits.argmax(1) == labels).sum().item() / len(labels)


def best_epoch(history: list[dict]) -> dict:
    """The epoch with the highest validation accuracy, among equals that with the smallest validation loss."""
    return max(history, key=lambda entry: (entry["val"]["accuracy"], -entry["val"]["loss"]))


def loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, without label smoothing."""
    return F.cross_entropy(logits, labels).item()


class Calibration(NamedTuple):
    """Images sorted into bins by how sure the network is of its answer."""

    confidence: Tensor  # (bins,) mean of each bin, NaN where it is empty
    accuracy: Tensor  # (bins,) share of right answers
    count: Tensor  # (bins,) images
    error: float  # the expected calibration error: |accuracy - confidence|, averaged over images


def calibration(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """Does "90% sure" mean right nine times out of ten? (Naeini et al., 2015; Guo et al., 2017)

    Args:
        probabilities: (N, classes).
        labels: (N,).
        bins: of equal width, over 0..1.
    """
    confidence, predicted = probabilities.double().max(1)
    place = (confidence * bins).long().clamp(max=bins - 1)
    count = torch.bincount(place, minlength=bins)
    sure = torch.bincount(place, confidence, minlength=bins)
    right = torch.bincount(place, (predicted == labels).double(), minlength=bins)
    return Calibration(sure / count, right / count, count, ((sure - right).abs().sum() / len(labels)).item())


def wilson_interval(correct: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Where the true accuracy plausibly lies when `correct` of `total` images were right: (low, high) in 0..1.

    The score interval of Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927. Unlike
    the textbook's p +- z sqrt(p (1 - p) / n) it does not shrink to a point at 0% or 100%, and it is good for small n.

    Args:
        correct, total: counts of images; of none nothing is known, (0, 1).
        z: standard deviations of the normal distribution; 1.96 makes a 95% interval.
    """
    if not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total}")
    if not total:
        return 0.0, 1.0
    share, shrink = correct / total, 1 + z**2 / total
    middle = (share + z**2 / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """(classes, classes) int64: how many images of the row's class were taken for the column's class."""
    classes = logits.shape[1]
    return torch.bincount(labels * classes + logits.argmax(1), minlength=classes**2).view(classes, classes)


class PerClass(NamedTuple):
    """One value per class, each (classes,)."""

    precision: Tensor  # of the images taken for this class, the share that is of it
    recall: Tensor  # of the images of this class, the share taken for it
    f1: Tensor  # their harmonic mean, 2 TP / (2 TP + FP + FN)
    count: Tensor  # images of this class, int64


def per_class(matrix: Tensor) -> PerClass:
    """Precision, recall and F1 (float64, in 0..1) and the count of each class, from a confusion matrix.

    A share of nothing is unknown, so NaN and not 0: the precision of a class that was never predicted, the recall of
    one without images, the F1 of one that is both. A class with images that was never predicted has F1 = 0.
    """
    right, predicted, count = matrix.diagonal().double(), matrix.sum(0), matrix.sum(1)
    return PerClass(right / predicted, right / count, 2 * right / (predicted + count), count)
