"""What logits and labels say of a network: scores as plain values, and the images worth looking at."""

import math
from collections.abc import Sequence

from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from classifier.evaluation import metrics

SURE = 0.9  # a wrong answer at least this sure is a reason to look at the label


def score(logits: Tensor, labels: Tensor, classes: Sequence[str], temperature: float = 1.0) -> dict:
    """All scores as plain values, ready for JSON; a share of nothing is None.

    Args:
        logits: (N, classes).
        labels: (N,).
        classes: names, in the order of the logits.
        temperature: what the network's probabilities are computed with.
    """
    matrix = metrics.confusion_matrix(logits, labels)
    right, count = int(matrix.trace()), len(labels)
    sure = probabilities(logits, temperature)
    rows = []
    for number, name in enumerate(classes):
        values = {key: _known(column[number].item()) for key, column in metrics.per_class(matrix)._asdict().items()}
        rows.append({"class": name} | values | _ranking(sure[:, number], labels == number))
    return {
        "accuracy": right / count,
        "interval": list(metrics.wilson_interval(right, count)),  # 95%
        "loss": metrics.loss(logits / temperature, labels),
        "count": count,
        "classes": list(classes),
        "per_class": rows,
        "confusion_matrix": matrix.tolist(),  # rows truth, columns prediction
        "temperature": temperature,
        "calibration_error": metrics.calibration(sure, labels).error,
        "calibration_error_without_temperature": metrics.calibration(probabilities(logits), labels).error,
    }


def probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(N, classes) float64: in float32 all the surest answers would be exactly 1, and their order lost."""
    return (logits.double() / temperature).softmax(1)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _ranking(scores: Tensor, positive: Tensor) -> dict[str, float | None]:
    """Areas under the ROC and precision-recall curves of one class against the rest."""
    if positive.all() or not positive.any():
        return {"auroc": None, "average_precision": None}
    truth, values = positive.numpy(), scores.numpy()
    return {
        "auroc": float(roc_auc_score(truth, values)),
        "average_precision": float(average_precision_score(truth, values)),
    }


def most_wrong(probabilities: Tensor, labels: Tensor) -> list[int]:
    """Places of the wrong answers, the surest first."""
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero().flatten()
    return wrong[confidence[wrong].argsort(descending=True, stable=True)].tolist()


def least_sure(probabilities: Tensor) -> list[int]:
    """Places of all images, those with the smallest lead of the first class over the second first."""
    first, second = probabilities.topk(2, dim=1).values.unbind(1)
    return (first - second).argsort(stable=True).tolist()


def suspects(probabilities: Tensor, labels: Tensor) -> list[int]:
    """Places of images whose label is doubtful: the network is at least SURE of another one, the surest first."""
    confidence = probabilities.max(1).values
    return [place for place in most_wrong(probabilities, labels) if confidence[place] >= SURE]
