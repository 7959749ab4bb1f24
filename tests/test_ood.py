"""Images unlike the training images are noticed, for any network, and damaged statistics are refused."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.data.image_folder import read_folder
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference import ood
from classifier.inference.calibration import balanced_subset, fit_ood
from classifier.inference.cam import cam_predictor
from classifier.inference.predictor import build_predictor, optimize_for_inference, with_features
from tests.conftest import make_images
from tests.test_zoo import filled
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.channels_last)
WIDTHS = (4, 6, 8, 10, 12)  # of five maps, of which three count, and of the last vector


def clusters(count: int, seed: int, shift: float = 0.0, length: float = 5.0) -> list[Tensor]:
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


def with_stats(stats: dict) -> Checkpoint:
    return Checkpoint("resnet18", ["a", "b"], Preprocess(), {}, ood_stats=stats, path="file.pth")


# ------------------------------------------------------------------------------------------------------- the score


@pytest.mark.parametrize("other", [{"shift": 3.0}, {"length": 3.0}, {"shift": 1.5, "length": 4.0}])
def test_what_lies_elsewhere_scores_higher(other):
    stats = fitted()
    known, unlike = ood.score(stats, clusters(500, 2)), ood.score(stats, clusters(500, 3, **other))
    assert (unlike > stats["threshold"]).float().mean() > 0.95
    assert unlike.median() > known.max()


def test_the_threshold_keeps_95_percent_of_future_images():
    shares = []
    for seed in range(0, 40, 2):
        stats = ood.fit(clusters(300, seed), clusters(200, 1000 + seed))
        shares.append((ood.score(stats, clusters(500, 2000 + seed)) <= stats["threshold"]).float().mean().item())
    assert 0.94 < sum(shares) / len(shares) < 0.97


def test_too_few_images_give_no_threshold_and_19_the_largest_score():
    assert ood.fit(clusters(300, 0), clusters(18, 1)) == {} == ood.fit(clusters(1, 0), clusters(19, 1))
    few = clusters(19, 1)
    stats = ood.fit(clusters(4, 0), few)  # with fewer images than channels
    ood.check(with_stats(stats))
    assert ood.score(stats, few).max().item() == stats["threshold"]


def test_features_that_never_change_and_those_that_are_not_finite():
    same = [torch.ones_like(values) for values in clusters(30, 0)]
    stats = ood.fit(same, same)
    ood.check(with_stats(stats))
    assert ood.score(stats, same).isfinite().all()
    broken = clusters(30, 0)
    broken[0][3, 1] = torch.nan
    assert ood.fit(broken, clusters(30, 1)) == {} == ood.fit(clusters(30, 1), broken)


# -------------------------------------------------------------------------------------------------------- features


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg11_bn", "googlenet", "densenet121", "alexnet"])
def test_any_network(name):
    torch.manual_seed(0)
    network, x = built(name), torch.randn(24, 3, 64, 64)
    logits, features, _ = with_features(network, CPU)(x)
    torch.testing.assert_close(logits, optimize_for_inference(network, CPU)(x))
    assert {(len(values), values.dtype) for values in features} == {(24, torch.float32)} and len(features) >= 4
    if name.startswith("resnet"):
        with torch.inference_mode():
            means = network.forward_features(x).mean((2, 3))
        for values in features[-2:]:
            torch.testing.assert_close(values, means, rtol=1e-3, atol=1e-4 * means.max().item())
    stats = ood.fit(features, features)
    ood.check(with_stats(stats))
    file = io.BytesIO()
    torch.save(stats, file)
    assert file.tell() < 2 << 20
    score = ood.score(stats, features)
    assert score.isfinite().all() and (score <= stats["threshold"]).sum() >= 23


# ---------------------------------------------------------------------------------- from images to predictions


@pytest.mark.parametrize("count", [30, 2])  # images of each class; two are too few
def test_from_images_through_the_pth_to_predictions(tmp_path, count):
    torch.manual_seed(0)
    weights = Checkpoint("resnet18", ["across", "down"], Preprocess(32), MODELS["resnet18"](num_classes=2).state_dict())
    training, validation = (
        read_folder(make_images(tmp_path / part, {"across": count, "down": count}, seed=seed))
        for seed, part in enumerate(("train", "val"))
    )
    weights.ood_stats = fit_ood(weights, CPU, training, validation)
    checkpoints.save(weights, tmp_path / "weights.pth")
    loaded = checkpoints.load(tmp_path / "weights.pth")
    assert loaded.ood_stats.get("threshold") == weights.ood_stats.get("threshold")
    known = torch.stack([loaded.preprocess.read(path) for path in validation.paths])
    blank = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    found, of_blank = build_predictor(loaded, CPU)(known), build_predictor(loaded, CPU)(blank)
    if count == 2:
        assert loaded.ood_stats == {} and not found.is_ood.any() and not of_blank.is_ood.any()
        return
    assert found.is_ood.tolist() == (found.ood_score > loaded.ood_stats["threshold"]).tolist()
    assert found.is_ood.sum() <= 0.05 * len(known) and of_blank.is_ood.all()
    without = build_predictor(replace(loaded, ood_stats={}), CPU)(known)
    torch.testing.assert_close(without.logits, found.logits)
    assert not without.is_ood.any() and without.ood_score.isnan().all()


def test_training_images_are_spread_over_the_classes(tmp_path):
    folder = read_folder(make_images(tmp_path, {"a": 50, "b": 5, "c": 20}, size=8))
    chosen = balanced_subset(folder, 30)
    assert chosen.counts() == {"a": 10, "b": 5, "c": 10}
    assert chosen.paths[:3] == [folder.paths[i] for i in (0, 5, 10)] and len(set(chosen.paths)) == 25
    assert balanced_subset(folder, 2).counts() == {"a": 1, "b": 1, "c": 1}


# ---------------------------------------------------------------------------------------------- damaged statistics


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "high"}, {"threshold": float("nan")}, {"std": torch.zeros(4)}, {"mean": torch.zeros(3)},
        {"map0.mean": torch.full((4,), torch.inf)}, {"map1.std": torch.zeros(6)}, {"map0.inverse": torch.eye(5)},
        {"map0.inverse": torch.eye(4).double()}, {"map2.mean": [0.0] * 7}, {"map0.mean": None},
        {"map9.inverse": torch.eye(2)}, {7: 1, "mean": "x"}, "threshold", "mean", "map0.std", "map2.inverse",
    ],
    ids=str,
)  # fmt: skip
def test_damaged_statistics_are_refused(change):
    stats = copy.copy(fitted())
    if isinstance(change, str):
        del stats[change]
    else:
        stats |= change
    for build in (build_predictor, cam_predictor):
        with pytest.raises(CheckpointError, match=r"file\.pth .*novelty"):
            build(with_stats(stats), CPU)


def test_statistics_of_another_network_are_refused():
    _, features, _ = with_features(built("resnet18"), CPU)(torch.randn(20, 3, 32, 32))
    with pytest.raises(UserError, match="another network"):
        ood.score(fitted(), features)
