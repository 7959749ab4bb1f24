"""Which differences are significant, how they are written, and what a network costs."""

import pytest
import torch

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.evaluation.comparison import verdicts
from classifier.evaluation.metrics import score
from classifier.evaluation.report import EvalResult, print_scores
from evaluate import costs
from zoo import MODELS


def result(name: str, right: int) -> EvalResult:
    """A network of two classes that classifies the first `right` of 100 images correctly."""
    labels = torch.arange(100) % 2
    logits = torch.nn.functional.one_hot(labels ^ (torch.arange(100) >= right).long(), 2).float()
    return EvalResult(name, {}, [], logits, labels)


def test_of_many_pairs_only_small_p_values_count():
    better, worse, same = result("better", 90), result("worse", 84), result("same", 84)
    (verdict,) = verdicts([worse, better])
    assert verdict["real"] and (verdict["only_first_right"], verdict["only_second_right"]) == (0, 6)
    assert verdict["p"] == pytest.approx(2 / 2**6)  # a coin thrown six times shows one side only
    assert verdict["words"] == (
        "better is better than worse: 6 images correct only by better, 0 only by worse, p = 0.031"
    )
    among = {(entry["first"], entry["second"]): entry for entry in verdicts([better, worse, same])}
    assert not any(entry["real"] for entry in among.values())  # 0.03 is below 0.05, but not below 0.05 / 3
    assert among["better", "worse"]["words"].endswith("p = 0.031, too large for one of 3 pairs")
    assert among["worse", "same"]["words"] == "worse and same are correct on exactly the same images"
    best = result("best", 100)  # 16 against 0 twice, and 10 against 0: all below 0.05 / 6
    real = {(entry["first"], entry["second"]) for entry in verdicts([best, better, worse, same]) if entry["real"]}
    assert real == {("best", "better"), ("best", "worse"), ("best", "same")}


def test_costs():
    weights = MODELS["googlenet"](num_classes=1000).state_dict()
    checkpoint = Checkpoint("googlenet", [str(i) for i in range(1000)], Preprocess(224), weights)
    found = costs(checkpoint, torch.sum, torch.device("cpu"))
    assert found["parameters"] == 6_624_904  # without the auxiliary classifiers, which do not predict
    assert found["multiply_adds"] == pytest.approx(1.5e9, rel=0.01)
    assert 0 < found["milliseconds_for_one"] <= found["milliseconds_for_one_p95"]


def test_of_120_classes_the_lowest_are_printed(capsys):
    logits = torch.eye(120).repeat(2, 1) * 5
    logits[[7, 33]] = logits[[33, 7]]  # each predicted once as the other
    report = score(logits, torch.arange(120).repeat(2), [f"class {i}" for i in range(120)])
    times = {"milliseconds_per_picture": 1.0, "milliseconds_for_one": 1.0}
    print_scores(report | times | {"remarks": [], "neither": None})
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if "of 120 with the lowest recall" in line)
    assert [line[:8] for line in lines[start + 2 : start + 4]] == ["class 7 ", "class 33"] and len(lines) < 40
    assert "class 7 predicted as class 33: 1" in lines
