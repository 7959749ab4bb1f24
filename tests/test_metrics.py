"""Scores against cases computed by hand, which differences are significant, and what a network costs."""

import pytest
import torch

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.evaluation import metrics
from classifier.evaluation.comparison import verdicts
from classifier.evaluation.report import EvalResult
from evaluate import costs


@pytest.mark.parametrize(
    ("matrix", "precision", "recall", "f1", "lowest"),
    [
        # scikit-learn's documentation of classification_report
        ([[1, 0, 0], [1, 0, 0], [0, 1, 2]], [1 / 2, 0, 1], [1, 0, 2 / 3], [2 / 3, 0, 4 / 5], "bc"),
        # a share of nothing is unknown: classes 1 and 2 were never predicted, class 2 has no images
        ([[3, 0, 0], [2, 0, 0], [0, 0, 0]], [3 / 5, None, None], [1, 0, None], [3 / 4, 0, None], "ba"),
    ],
)
def test_per_class_by_hand(matrix, precision, recall, f1, lowest):
    rows = metrics.per_class(matrix, ["a", "b", "c"])
    for key, wanted in (("precision", precision), ("recall", recall), ("f1", f1), ("count", list(map(sum, matrix)))):
        assert [row[key] for row in rows] == pytest.approx(wanted)
    assert "".join(row["class"] for row in metrics.lowest_recall(rows, 2)) == lowest
    assert metrics.lowest_recall(rows, 3) == rows and metrics.confusions(matrix, "abc", 1)[0][:2] == ("b", "a")


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


def result(name: str, right: int) -> EvalResult:
    """A network of two classes that classifies the first `right` of 100 images correctly."""
    labels = torch.arange(100) % 2
    logits = torch.nn.functional.one_hot(labels ^ (torch.arange(100) >= right).long(), 2).float()
    return EvalResult(name, {}, [], logits, labels)


def test_of_many_pairs_only_small_p_values_count():
    better, worse, same = result("better", 90), result("worse", 84), result("same", 84)
    (verdict,) = verdicts([worse, better])
    assert verdict["p"] == pytest.approx(2 / 2**6)  # a coin thrown six times shows one side only
    assert verdict["real"] and "better is better than worse: 6 images correct only by better," in verdict["words"]
    among = {(entry["first"], entry["second"]): entry for entry in verdicts([better, worse, same])}
    assert not any(entry["real"] for entry in among.values())  # 0.03 is below 0.05, but not below 0.05 / 3
    assert among["better", "worse"]["words"].endswith("p = 0.031, too large for one of 3 pairs")
    assert among["worse", "same"]["words"] == "worse and same are correct on exactly the same images"
    best = result("best", 100)  # 16 against 0 twice, and 10 against 0: all below 0.05 / 6
    real = {(entry["first"], entry["second"]) for entry in verdicts([best, better, worse, same]) if entry["real"]}
    assert real == {("best", "better"), ("best", "worse"), ("best", "same")}


def test_costs():
    checkpoint = Checkpoint("googlenet", [str(i) for i in range(1000)], Preprocess(224), {})
    found = costs(checkpoint, torch.sum, torch.device("cpu"))
    assert found["parameters"] == 6_624_904  # without the auxiliary classifiers, which do not predict
    assert found["multiply_adds"] == pytest.approx(1.5e9, rel=0.01)
    assert 0 < found["milliseconds_for_one"] <= found["milliseconds_for_one_p95"]
