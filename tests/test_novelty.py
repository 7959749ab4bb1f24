"""Images unlike the training images are told, for any network, and damaged facts about it are refused."""

import copy
import io
import threading
from pathlib import Path

import pytest
import torch

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference import calibration, ood
from classifier.inference.predictor import build_predictor, optimize_for_inference, with_features
from tests.conftest import make_images
from tests.test_zoo import filled
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.channels_last, "", "")
WIDTHS = (4, 6, 8, 10, 12)  # of five maps, of which three count, and of the last vector


def clusters(count: int, seed: int, shift: float = 0.0, length: float = 5.0) -> list[torch.Tensor]:
    """Features of `count` images of two classes; `shift` moves the maps, `length` is that of the last vector."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(count, width, generator=generator) + shift for width in WIDTHS[:-1]]
    last = torch.randn(count, WIDTHS[-1], generator=generator).abs() * 0.1
    last[torch.arange(count), torch.arange(count) % 2] += length
    return [*maps, torch.rand(count, 3, generator=generator), last]


def built(name: str, classes: int = 2) -> torch.nn.Module:
    with torch.device("meta"):
        network = MODELS[name](num_classes=classes)
    return filled(network).eval()


def fitted() -> dict:
    return ood.fit(clusters(300, 0), clusters(200, 1))


@pytest.mark.parametrize("other", [{"shift": 3.0}, {"length": 3.0}, {"shift": 1.5, "length": 4.0}])
def test_what_lies_elsewhere_scores_higher(other):
    facts = fitted()
    known, unlike = ood.score(facts, clusters(500, 2)), ood.score(facts, clusters(500, 3, **other))
    assert (unlike > facts["threshold"]).float().mean() > 0.95
    assert unlike.median() > known.max()


def test_the_threshold_keeps_95_percent_of_images_to_come():
    shares = []
    for seed in range(0, 40, 2):
        facts = ood.fit(clusters(300, seed), clusters(200, 1000 + seed))
        shares.append((ood.score(facts, clusters(500, 2000 + seed)) <= facts["threshold"]).float().mean().item())
    assert 0.94 < sum(shares) / len(shares) < 0.97


def test_too_few_images_give_no_threshold_and_19_the_largest_score():
    assert ood.fit(clusters(300, 0), clusters(18, 1)) == {}
    assert ood.fit(clusters(1, 0), clusters(19, 1)) == {}
    few = clusters(19, 1)
    facts = ood.fit(clusters(4, 0), few)  # with fewer images than channels
    ood.check(facts)
    assert ood.score(facts, few).max().item() == facts["threshold"]


def test_features_that_never_change_and_those_that_are_no_numbers():
    same = [torch.ones_like(values) for values in clusters(30, 0)]
    facts = ood.fit(same, same)
    ood.check(facts)
    assert ood.score(facts, same).isfinite().all()
    broken = clusters(30, 0)
    broken[0][3, 1] = torch.nan
    assert ood.fit(broken, clusters(30, 1)) == {} == ood.fit(clusters(30, 1), broken)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11", "vgg11_bn", "googlenet", "densenet121", "alexnet"])
def test_any_network(name):
    torch.manual_seed(0)
    network, x = built(name), torch.randn(24, 3, 64, 64)
    answer = with_features(network, CPU)
    logits, features = answer(x)
    torch.testing.assert_close(logits, optimize_for_inference(network, CPU)(x))
    sides = [len(values) for values in features]
    assert set(sides) == {24} and len(features) >= 4 and {values.dtype for values in features} == {torch.float32}
    if name.startswith("resnet"):  # what is noted is what it should be
        with torch.inference_mode():
            last_map = network.forward_features(x)
        means = last_map.mean((2, 3))
        for values in features[-2:]:
            torch.testing.assert_close(values, means, rtol=1e-3, atol=1e-4 * means.max().item())
    facts = ood.fit(features, features)
    ood.check(facts)
    file = io.BytesIO()
    torch.save(facts, file)
    assert file.tell() < 2 << 20
    score = ood.score(facts, features)
    assert score.isfinite().all() and (score <= facts["threshold"]).sum() >= 23


def test_a_thousand_classes_take_no_more_room():
    facts = [ood.fit(*[with_features(built("resnet18", n), CPU)(torch.randn(20, 3, 32, 32))[1]] * 2)
             for n in (2, 1000)]  # fmt: skip
    assert [v.shape for k, v in facts[0].items() if k != "threshold"] == [
        v.shape for k, v in facts[1].items() if k != "threshold"
    ]


def test_several_threads_ask_at_once():
    answer = with_features(built("resnet18"), CPU)
    images = [torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(i)) for i in range(8)]
    expected = [answer(x)[1] for x in images]
    found: dict[int, list[torch.Tensor]] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: answer(images[i])[1]})) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, features in enumerate(expected):
        for a, b in zip(features, found[i], strict=True):
            torch.testing.assert_close(a, b)


def saved(root: Path, counts: int, **facts) -> tuple[Checkpoint, image_folder.ImageFolder, image_folder.ImageFolder]:
    torch.manual_seed(0)
    network = MODELS["resnet18"](num_classes=2)
    weights = Checkpoint("resnet18", ["across", "down"], Preprocess(32), network.state_dict(), **facts)
    parts = [
        image_folder.read_folder(make_images(root / part, {"across": counts, "down": counts}, seed=seed))
        for seed, part in enumerate(("train", "val"))
    ]
    return weights, *parts


def test_from_images_through_the_pth_to_answers(tmp_path):
    weights, training, validation = saved(tmp_path, 30)
    weights.ood_stats = calibration.fit_ood(weights, CPU, training, validation)
    checkpoints.save(weights, tmp_path / "weights.pth")
    loaded = checkpoints.load(tmp_path / "weights.pth")
    ood.check(loaded.ood_stats)
    assert loaded.ood_stats["threshold"] == weights.ood_stats["threshold"]
    known = torch.stack([loaded.preprocess.read(path) for path in validation.paths])
    answers = build_predictor(loaded, CPU)(known)
    assert answers.is_ood.tolist() == (answers.ood_score > loaded.ood_stats["threshold"]).tolist()
    assert answers.is_ood.sum() <= 0.05 * len(known)
    assert build_predictor(loaded, CPU)(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)).is_ood.all()
    plain = copy.copy(loaded)
    plain.ood_stats = {}
    without = build_predictor(plain, CPU)(known)
    torch.testing.assert_close(without.logits, answers.logits)
    assert not without.is_ood.any() and without.ood_score.isnan().all()


def test_two_images_per_class(tmp_path):
    weights, training, validation = saved(tmp_path, 2)
    weights.ood_stats = calibration.fit_ood(weights, CPU, training, validation)
    assert weights.ood_stats == {}
    assert not build_predictor(weights, CPU)(torch.zeros(3, 3, 32, 32, dtype=torch.uint8)).is_ood.any()


def test_training_images_are_spread_over_the_classes():
    labels = [0] * 50 + [1] * 5 + [2] * 20
    folder = image_folder.ImageFolder(Path(), ["a", "b", "c"], [str(i) for i in range(75)], labels)
    chosen = ood.spread(folder, 30)
    assert chosen.counts() == {"a": 10, "b": 5, "c": 10}
    assert chosen.paths[:3] == ["0", "5", "10"] and len(set(chosen.paths)) == 25
    assert ood.spread(folder, 2).counts() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "high"}, {"threshold": float("nan")}, {"threshold": torch.tensor(1.0)}, {"std": torch.zeros(4)},
        {"mean": torch.zeros(3)}, {"map0.mean": torch.full((4,), torch.inf)}, {"map1.std": -torch.ones(6)},
        {"map0.inverse": torch.eye(5)}, {"map0.inverse": torch.eye(4).double()}, {"map2.mean": [0.0] * 8},
        {"map0.mean": None}, {"more": 1}, {7: 1}, {"map9.inverse": torch.eye(2)},
    ],
)  # fmt: skip
def test_damaged_facts_are_refused(change):
    facts = fitted()
    ood.check(facts)
    ood.check({})
    with pytest.raises(ValueError, match="novelty"):
        ood.check(facts | change)


@pytest.mark.parametrize("name", ["threshold", "mean", "map0.std", "map2.inverse"])
def test_missing_facts_are_refused(name):
    facts = fitted()
    del facts[name]
    with pytest.raises(ValueError, match="novelty"):
        ood.check(facts)


def test_facts_of_another_network_are_refused():
    _, features = with_features(built("resnet18"), CPU)(torch.randn(20, 3, 32, 32))
    with pytest.raises(UserError, match="another network"):
        ood.score(fitted(), features)
