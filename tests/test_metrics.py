"""Scores against cases computed by hand, and that every image is seen once."""

import math

import pytest
import torch

from classifier.data.transforms import Preprocess
from classifier.evaluation import metrics

# truth 0 0 0 1 1 2, prediction 0 0 1 1 2 1: class 2 is never right
LOGITS = torch.eye(3)[[0, 0, 1, 1, 2, 1]] * 5
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


def test_confusion_matrix_has_truth_in_rows():
    assert metrics.confusion_matrix(LOGITS, LABELS).tolist() == [[2, 1, 0], [0, 1, 1], [0, 1, 0]]


def test_confusion_matrix_keeps_classes_without_images():
    matrix = metrics.confusion_matrix(torch.tensor([[9.0, 0, 0, 0]]), torch.tensor([1]))
    assert matrix.shape == (4, 4) and matrix.sum() == 1 and matrix[1, 0] == 1


def test_accuracy_and_loss():
    assert metrics.accuracy(LOGITS, LABELS) == pytest.approx(3 / 6)
    right, wrong = -math.log(math.e**5 / (math.e**5 + 2)), -math.log(1 / (math.e**5 + 2))
    assert metrics.loss(LOGITS, LABELS) == pytest.approx((3 * right + 3 * wrong) / 6, rel=1e-5)


def test_per_class_by_hand():
    scores = metrics.per_class(metrics.confusion_matrix(LOGITS, LABELS))
    assert scores.precision.tolist() == pytest.approx([2 / 2, 1 / 3, 0])
    assert scores.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert scores.f1.tolist() == pytest.approx([2 * 2 / 5, 2 * 1 / 5, 0])
    assert scores.count.tolist() == [3, 2, 1]


def test_per_class_of_a_published_example():
    # scikit-learn's documentation of classification_report: y_true [0 1 2 2 2], y_pred [0 0 2 2 1]
    scores = metrics.per_class(metrics.confusion_matrix(torch.eye(3)[[0, 0, 2, 2, 1]], torch.tensor([0, 1, 2, 2, 2])))
    assert [round(value, 2) for value in scores.precision.tolist()] == [0.50, 0.00, 1.00]
    assert [round(value, 2) for value in scores.recall.tolist()] == [1.00, 0.00, 0.67]
    assert [round(value, 2) for value in scores.f1.tolist()] == [0.67, 0.00, 0.80]
    assert scores.count.tolist() == [1, 1, 3]


def test_a_share_of_nothing_is_unknown():
    scores = metrics.per_class(torch.tensor([[3, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert scores.precision[0] == 0.6 and scores.precision[1:].isnan().all()  # 1 and 2 were never predicted
    assert scores.recall.tolist()[:2] == [1, 0] and scores.recall[2].isnan()  # 2 has no images
    assert scores.f1[1] == 0 and scores.f1[2].isnan()


@pytest.mark.parametrize(
    ("correct", "total", "interval"),
    [
        (0, 10, (0, 3.8416 / 13.8416)),  # z^2 / (n + z^2)
        (10, 10, (10 / 13.8416, 1)),
        (81, 263, (0.2553, 0.3662)),  # Newcombe, "Two-sided confidence intervals for the single proportion", 1998
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (0, 0, (0, 1)),
    ],
)
def test_wilson_interval(correct, total, interval):
    assert metrics.wilson_interval(correct, total) == pytest.approx(interval, abs=6e-5)


def test_wilson_interval_refuses_nonsense():
    with pytest.raises(ValueError, match="11 correct of 10"):
        metrics.wilson_interval(11, 10)


def batches(count, size):
    """Image i is of brightness i, its label i."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    for start in range(0, count, size):
        yield pixels[start : start + size], torch.arange(count)[start : start + size]


@pytest.mark.parametrize("size", [1, 4, 7, 10, 64])
def test_infer_counts_every_image_once(size):
    plain = Preprocess(mean=(0, 0, 0), std=(1 / 255,) * 3)
    logits, labels = metrics.infer(lambda x: x[:, :2, 0, 0], batches(10, size), plain)
    assert labels.tolist() == list(range(10))
    assert logits.shape == (10, 2) and logits.dtype == torch.float32
    assert torch.allclose(logits[:, 0], torch.arange(10.0))
