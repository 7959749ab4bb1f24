"""Which differences are more than chance, how sure is sure, and what a network costs."""

import pytest
import torch
from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.evaluation import plots, score_plots
from classifier.evaluation.comparison import EvalResult, cost, disagreements, latency, mcnemar, rows, verdicts
from classifier.evaluation.metrics import calibration
from classifier.evaluation.scores import least_sure, most_wrong, score, suspects
from zoo import MODELS


def judged(name: str, right: list[int], count: int = 100) -> EvalResult:
    """A network of two classes that has the images of these numbers right, the others wrong."""
    labels = torch.arange(count) % 2
    answers = labels.clone()
    answers[[i for i in range(count) if i not in right]] ^= 1
    logits = torch.nn.functional.one_hot(answers, 2).float()
    report = score(logits, labels, ["cat", "dog"]) | {
        "parameters": 11e6, "multiply_adds": 2e9, "megabytes": 22.0, "milliseconds_per_picture": 4.0,
        "milliseconds_for_one": 9.0, "milliseconds_for_one_p95": 10.0,
    }  # fmt: skip
    return EvalResult(name, None, report, logits, labels)


def test_mcnemar_by_hand():
    first = torch.tensor([True] * 7 + [False] * 2 + [True] * 50)
    second = torch.tensor([False] * 7 + [True] * 2 + [True] * 50)
    # a coin thrown 9 times shows at most 2 heads, or at most 2 tails, in 2 * (1 + 9 + 36) of 512 cases
    assert mcnemar(first, second) == (7, 2, pytest.approx(2 * 46 / 512))
    assert mcnemar(second, first)[:2] == (2, 7)
    assert mcnemar(first, first) == (0, 0, 1.0)


def test_of_many_pairs_only_small_p_values_count():
    better, worse = judged("better", [*range(90)]), judged("worse", [*range(84)])  # 6 against 0: p = 0.03
    assert [entry["real"] for entry in verdicts([worse, better])] == [True]
    assert verdicts([worse, better])[0]["words"].startswith("better is better than worse: 6 against 0 of the 6")
    same = judged("same", [*range(84)])
    among = {(entry["first"], entry["second"]): entry for entry in verdicts([better, worse, same])}
    assert not any(entry["real"] for entry in among.values())  # 0.03 is below 0.05, but not below 0.05 / 3
    assert among["better", "worse"]["words"].endswith("p = 0.031, too large for one of 3 pairs")
    assert among["worse", "same"]["words"] == "worse and same are right and wrong on the same images"


def test_the_table_begins_with_the_best_and_names_the_worst_class():
    table = rows([judged("a", [*range(50)]), judged("b", [*range(0, 100, 2), *range(1, 60, 2)])])
    assert [row[0] for row in table] == ["network", "b", "a"]
    assert table[1][1:4] == ("80.00%", "71.12% to 86.66%", "dog 60.0%")
    assert len({len(row) for row in table}) == 1
    assert disagreements([judged("a", [0, 1]), judged("b", [1, 2])]) == [0, 2]


def test_calibration_by_hand():
    probabilities = torch.tensor([[0.8, 0.2]] * 10 + [[0.4, 0.6]] * 10)
    labels = torch.tensor([0] * 8 + [1] * 2 + [1] * 3 + [0] * 7)
    found = calibration(probabilities, labels, bins=10)
    # ten images at 80%, eight right; ten at 60%, three right: half of them are off by 0.3
    assert found.error == pytest.approx(0.5 * 0 + 0.5 * 0.3, abs=1e-6)
    assert found.count.sum() == 20 and found.count.max() == 10
    assert found.accuracy[found.count > 0].tolist() == pytest.approx([0.3, 0.8])
    assert found.accuracy[found.count == 0].isnan().all()


def test_images_worth_looking_at():
    probabilities = torch.tensor([[0.6, 0.4], [0.05, 0.95], [0.2, 0.8], [0.99, 0.01], [0.51, 0.49]])
    labels = torch.tensor([0, 0, 0, 0, 1])
    assert most_wrong(probabilities, labels) == [1, 2, 4]
    assert suspects(probabilities, labels) == [1]
    assert least_sure(probabilities) == [4, 0, 2, 1, 3]


def test_areas_under_curves_by_hand():
    logits = torch.tensor([[0.0, 1.0], [0.0, 3.0], [0.0, 2.0], [0.0, 4.0]])
    found = score(logits, torch.tensor([0, 0, 1, 1]), ["a", "b"])["per_class"][1]
    assert found["auroc"] == pytest.approx(3 / 4)  # of four pairs of one of each class, three are in order
    assert found["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert score(logits, torch.tensor([1, 1, 1, 1]), ["a", "b"])["per_class"][1]["auroc"] is None


def test_costs_are_the_networks(tmp_path):
    weights = MODELS["googlenet"](num_classes=1000).state_dict()
    found = cost(Checkpoint("googlenet", [str(i) for i in range(1000)], Preprocess(224), weights))
    assert found["parameters"] == 6_624_904  # without the auxiliary classifiers, which do not answer
    assert found["multiply_adds"] == pytest.approx(1.5e9, rel=0.01)
    assert found["megabytes"] is None
    times = latency(lambda pixels: pixels.sum(), torch.device("cpu"), 32)
    assert 0 < times["milliseconds_for_one"] <= times["milliseconds_for_one_p95"]


def test_figures_of_many_networks_and_classes(tmp_path):
    torch.manual_seed(0)
    labels = torch.arange(200) % 10
    probabilities = (torch.randn(200, 10) + 2 * torch.nn.functional.one_hot(labels, 10)).softmax(1)
    found = calibration(probabilities, labels)
    names = [f"网络{i}" for i in range(7)]
    reports = [{"accuracy": 0.9 + i / 100, "interval": [0.88, 0.99], "cost": 10.0**i} for i in range(7)]
    figures = {
        "calibration": score_plots.calibration(found, found, 1.3),
        "rankings": score_plots.rankings(probabilities, labels, [f"类别 {i}" for i in range(10)]),
        "cost": score_plots.accuracy_over_cost(names, reports, "cost", "milliseconds"),
        "rates": plots.learning_rates([1e-5, 1e-4, 1e-3], [0.7, 0.5, 2.0], 1e-4),
    }
    for name, figure in figures.items():
        figure.savefig(tmp_path / f"{name}.png")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.convert("L").getextrema()[0] < 60  # something is drawn
