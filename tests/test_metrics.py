"""Scores against cases computed by hand."""

import pytest
import torch

from classifier.evaluation import metrics

# labels 0 0 0 1 1 2, predictions 0 0 1 1 2 1: class 2 is never right
LOGITS = torch.eye(3)[[0, 0, 1, 1, 2, 1]] * 5
LABELS = torch.tensor([0, 0, 0, 1, 1, 2])


def test_confusion_matrix_has_labels_in_rows():
    assert metrics.confusion_matrix(LOGITS, LABELS).tolist() == [[2, 1, 0], [0, 1, 1], [0, 1, 0]]
    lonely = metrics.confusion_matrix(torch.tensor([[9.0, 0, 0, 0]]), torch.tensor([1]))  # classes without images stay
    assert lonely.shape == (4, 4) and lonely.sum() == 1 and lonely[1, 0] == 1


@pytest.mark.parametrize(
    ("matrix", "precision", "recall", "f1", "count"),
    [
        # scikit-learn's documentation of classification_report
        ([[1, 0, 0], [1, 0, 0], [0, 1, 2]], [1 / 2, 0, 1], [1, 0, 2 / 3], [2 / 3, 0, 4 / 5], [1, 1, 3]),
        # a share of nothing is unknown: classes 1 and 2 were never predicted, class 2 has no images
        ([[3, 0, 0], [2, 0, 0], [0, 0, 0]], [3 / 5, None, None], [1, 0, None], [3 / 4, 0, None], [3, 2, 0]),
    ],
)
def test_per_class_by_hand(matrix, precision, recall, f1, count):
    rows = metrics.per_class(matrix, ["a", "b", "c"])
    for key, wanted in (("precision", precision), ("recall", recall), ("f1", f1), ("count", count)):
        assert [row[key] for row in rows] == pytest.approx(wanted)


def test_the_lowest_recalls_and_the_most_frequent_confusions():
    matrix, names = [[8, 2, 0], [5, 5, 0], [0, 0, 0]], ["a", "b", "c"]
    rows = metrics.per_class(matrix, names)
    assert [row["class"] for row in metrics.lowest_recall(rows, 2)] == ["b", "a"]  # that of c is unknown
    assert metrics.lowest_recall(rows, 3) == rows
    assert metrics.confusions(matrix, names, 9) == [("b", "a", 5, 10), ("a", "b", 2, 10)]


def test_wilson_interval():
    # Newcombe, "Two-sided confidence intervals for the single proportion", 1998
    assert metrics.wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=6e-5)
    assert metrics.wilson_interval(0, 0) == (0, 1)


def test_calibration_error_by_hand():
    probabilities = torch.tensor([[0.8, 0.2]] * 10 + [[0.4, 0.6]] * 10)
    labels = torch.tensor([0] * 8 + [1] * 2 + [1] * 3 + [0] * 7)
    # ten images at 80%, eight right; ten at 60%, three right: half of them are off by 0.3
    assert metrics.calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.3, abs=1e-6)


def test_areas_under_curves_by_hand():
    logits = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 4.0]])
    found = metrics.score(logits, torch.tensor([0, 0, 1, 1]), ["a", "b"])["per_class"][1]
    assert found["auroc"] == pytest.approx(3 / 4)  # of four pairs of one of each class, three are in order
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    only_one = metrics.score(logits, torch.tensor([1, 1, 1, 1]), ["a", "b"])["per_class"]
    assert only_one[1]["auroc"] is None and only_one[0]["recall"] is None and only_one[0]["count"] == 0
