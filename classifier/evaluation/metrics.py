"""Run a network over images once; every score is then a pure function of its logits and the labels.

scikit-learn and SciPy are imported where they are used: training and the web page start without them.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from classifier.data.transforms import Preprocess

BINS = 15  # of equal width, over confidences from 0 to 1


def infer(
    predict: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], preprocess: Preprocess | None
) -> tuple[Tensor, Tensor]:
    """Return logits (N, classes) float32 and labels (N,) of at least one batch, on the CPU, in the order they came.

    `preprocess` normalizes pixels (n, 3, H, W) uint8; it is None where the batches hold features, which need none.
    """
    logits, labels = [], []
    for pixels, target in batches:
        logits.append(predict(preprocess.normalize(pixels) if preprocess else pixels).cpu())
        labels.append(target.cpu())
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest logit is the label's."""
    return (logits.argmax(1) == labels).sum().item() / len(labels)


def loss(logits: Tensor, labels: Tensor) -> float:
    """Return the mean cross-entropy in nats, without label smoothing."""
    return F.cross_entropy(logits, labels).item()


def best_epoch(history: list[dict]) -> dict:
    """Return the epoch with the highest validation accuracy; of equal ones that with the smallest validation loss."""
    return max(history, key=lambda entry: (entry["val"]["accuracy"], -entry["val"]["loss"]))


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the softmax (N, classes) in float64: in float32 the highest are exactly 1, their order lost."""
    return (logits.double() / temperature).softmax(1)


def calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Return the expected calibration error (Naeini et al., 2015; Guo et al., 2017), in 0..1.

    It is the mean over images of |accuracy - mean confidence| of their bin, of BINS by confidence. Takes probabilities
    (N, classes) and labels (N,).
    """
    confidence, predicted = probabilities.double().max(1)
    index = (confidence * BINS).long().clamp(max=BINS - 1)
    gaps = torch.bincount(index, (predicted == labels).double() - confidence)
    return gaps.abs().sum().item() / len(labels)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Return the 95% interval, (low, high) in 0..1, of an accuracy measured as `correct` of `total` images.

    Wilson, 1927. Unlike p +- 1.96 sqrt(p (1 - p) / n) it does not shrink to a point at 0% or 100%.
    """
    from scipy.stats import binomtest

    return tuple(map(float, binomtest(correct, total).proportion_ci(method="wilson"))) if total else (0.0, 1.0)


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (classes, classes) int64: images with the row's label that were predicted as the column's class."""
    from sklearn.metrics import confusion_matrix

    return torch.from_numpy(confusion_matrix(labels, logits.argmax(1), labels=range(logits.shape[1])))


def per_class(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict]:
    """Return class, precision, recall, F1 (in 0..1; None for a share of nothing) and images of each class.

    Takes the confusion matrix, rows being labels. F1 = 2 TP / (2 TP + FP + FN), the harmonic mean of the other two.
    """
    rows = []
    for i, (name, predicted) in enumerate(zip(classes, map(sum, zip(*matrix, strict=True)), strict=True)):
        correct, count = matrix[i][i], sum(matrix[i])
        shares = {"precision": (correct, predicted), "recall": (correct, count), "f1": (2 * correct, predicted + count)}
        shares = {key: part / whole if whole else None for key, (part, whole) in shares.items()}
        rows.append({"class": name, **shares, "count": count})
    return rows


def lowest_recall(rows: Sequence[dict], most: int) -> Sequence[dict]:
    """Return the rows of `per_class`; of more than `most`, those with the lowest recall."""
    if len(rows) <= most:
        return rows
    return sorted(rows, key=lambda row: 2 if row["recall"] is None else row["recall"])[:most]


def confusions(matrix: Sequence[Sequence[int]], classes: Sequence[str], most: int) -> list[tuple[str, str, int, int]]:
    """Return the most frequent confusions: (label, prediction, images, of so many with this label)."""
    errors = torch.tensor(matrix).fill_diagonal_(0)
    cells = sorted(errors.nonzero().tolist(), key=lambda cell: -errors[tuple(cell)])[:most]
    return [(classes[i], classes[j], matrix[i][j], sum(matrix[i])) for i, j in cells]


def score(logits: Tensor, labels: Tensor, classes: Sequence[str], temperature: float = 1.0) -> dict:
    """Return all scores as plain values, ready for JSON; a share of nothing is None.

    Takes logits (N, classes) and labels (N,); the temperature divides the logits before the softmax.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    matrix = confusion_matrix(logits, labels).tolist()
    correct, count = (logits.argmax(1) == labels).sum().item(), len(labels)
    calibrated = probabilities(logits, temperature)
    rows = per_class(matrix, classes)
    for i, row in enumerate(rows):
        both = 0 < row["count"] < count  # images of this class and of others
        areas = {"auroc": roc_auc_score, "average_precision": average_precision_score}
        row |= {key: float(area(labels == i, calibrated[:, i])) if both else None for key, area in areas.items()}
    return {
        "accuracy": correct / count,
        "interval": list(wilson_interval(correct, count)),  # 95%
        "loss": loss(logits / temperature, labels),
        "count": count,
        "classes": list(classes),
        "per_class": rows,
        "confusion_matrix": matrix,  # rows: labels, columns: predictions
        "temperature": temperature,
        "calibration_error": calibration_error(calibrated, labels),
        "calibration_error_without_temperature": calibration_error(probabilities(logits), labels),
    }
