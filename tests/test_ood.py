"""Images unlike the training images are noticed, for any network, and damaged statistics are refused."""

import io

import pytest
import torch
from torch import Tensor

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.data.image_folder import read_folder
from classifier.data.transforms import Preprocess
from classifier.inference.calibration import balanced_subset, blur, fit_ood, fit_ood_stats
from classifier.inference.cam import cam_predictor
from classifier.inference.predictor import build_predictor, check_ood_stats, ood_score, with_features
from tests.conftest import make_images
from tests.test_predictor import CPU, built, close
from zoo import MODELS

WIDTHS = (4, 6, 8, 10, 12)  # of five maps, of which three count, and of the last vector


def clusters(count: int, seed: int, shift: float = 0.0, length: float = 5.0) -> list[Tensor]:
    """Features of `count` images of two classes; `shift` moves the maps, `length` is that of the last vector."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(count, width, generator=generator) + shift for width in WIDTHS[:-1]]
    last = torch.randn(count, WIDTHS[-1], generator=generator).abs() * 0.1
    last[torch.arange(count), torch.arange(count) % 2] += length
    return [*maps, torch.rand(count, 3, generator=generator), last]


def fitted() -> dict:
    return fit_ood_stats(clusters(300, 0), clusters(200, 1))


def with_stats(stats: dict) -> Checkpoint:
    return Checkpoint("resnet18", ["a", "b"], Preprocess(), {}, ood_stats=stats, path="file.pth")


@pytest.mark.parametrize("other", [{"shift": 3.0}, {"length": 3.0}, {"shift": 1.5, "length": 4.0}])
def test_what_lies_elsewhere_scores_higher(other):
    stats = fitted()
    known, unlike = ood_score(stats, clusters(500, 2)), ood_score(stats, clusters(500, 3, **other))
    assert (unlike > stats["threshold"]).float().mean() > 0.95
    assert unlike.median() > known.max()


def test_the_threshold_keeps_96_percent_of_future_images():
    shares = []
    for seed in range(0, 40, 2):
        stats = fit_ood_stats(clusters(300, seed), clusters(200, 1000 + seed))
        shares.append((ood_score(stats, clusters(500, 2000 + seed)) <= stats["threshold"]).float().mean().item())
    assert 0.95 < sum(shares) / len(shares) < 0.975


def test_without_enough_finite_features_there_is_no_threshold_and_with_24_images_it_is_the_largest_score():
    assert fit_ood_stats(clusters(300, 0), clusters(23, 1)) == {} == fit_ood_stats(clusters(1, 0), clusters(24, 1))
    broken = clusters(30, 0)
    broken[0][3, 1] = torch.nan
    assert fit_ood_stats(broken, clusters(30, 1)) == {} == fit_ood_stats(clusters(30, 1), broken)
    few = clusters(24, 1)
    stats = fit_ood_stats(clusters(4, 0), few)  # with fewer images than channels
    check_ood_stats(with_stats(stats))
    assert ood_score(stats, few).max().item() == stats["threshold"]
    same = [torch.ones_like(values) for values in few]  # features that never change
    stats = fit_ood_stats(same, same)
    check_ood_stats(with_stats(stats))
    assert ood_score(stats, same).isfinite().all()


@pytest.mark.parametrize("name", ["resnet50", "vgg11_bn", "googlenet", "densenet121", "alexnet", "efficientnet_lite0"])
def test_any_network(name):
    network, x = built(name), torch.randn(24, 3, 64, 64)
    _, features, _ = with_features(network, CPU)(x)  # test_cam.py compares the logits
    assert {(len(values), values.dtype) for values in features} == {(24, torch.float32)} and len(features) >= 4
    if name.startswith("resnet"):
        with torch.inference_mode():
            expected = network.forward_features(x).mean((2, 3))
        for values in features[-2:]:
            close(values, expected)
    stats = fit_ood_stats(features, features)
    check_ood_stats(with_stats(stats))
    file = io.BytesIO()
    torch.save(stats, file)
    assert file.tell() < 2 << 20
    score = ood_score(stats, features)
    assert score.isfinite().all() and (score <= stats["threshold"]).sum() >= 23


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
    assert found.is_ood.sum() <= 0.05 * len(known) and of_blank.is_ood.all()


def test_training_images_are_spread_over_the_classes(tmp_path):
    folder = read_folder(make_images(tmp_path, {"a": 50, "b": 5, "c": 20}, size=8))
    chosen = balanced_subset(folder, 30)
    assert chosen.counts() == {"a": 10, "b": 5, "c": 10}
    assert chosen.paths[:3] == [folder.paths[i] for i in (0, 5, 10)] and len(set(chosen.paths)) == 25
    assert balanced_subset(folder, 2).counts() == {"a": 1, "b": 1, "c": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"threshold": "high"}, {"threshold": float("nan")}, {"std": torch.zeros(4)}, {"map0.inverse": torch.eye(5)},
        {"map0.mean": None}, {7: 1}, "threshold", "map0.std",
    ],
    ids=str,
)  # fmt: skip
def test_damaged_statistics_are_refused(change):
    stats = fitted() | (change if isinstance(change, dict) else {})
    stats.pop(str(change), None)
    for build in (build_predictor, cam_predictor):
        with pytest.raises(CheckpointError, match=r"file\.pth .*novelty"):
            build(with_stats(stats), CPU)


def test_where_blurred_images_have_longer_vectors_length_counts_for_nothing():
    """As in networks that know ImageNet; else a blurred image of the classes passes, and any other as well."""
    longer, shorter = clusters(9, 4, length=8.0), clusters(9, 4, length=3.0)
    by_length, without = (fit_ood_stats(clusters(300, 0), clusters(200, 1), part) for part in (shorter, longer))
    assert by_length["std"][0].isfinite() and without["std"][0] == torch.inf
    check_ood_stats(with_stats(without))
    far, long = clusters(100, 3, shift=3.0, length=9.0), clusters(100, 2, length=9.0)
    assert (ood_score(without, far) > without["threshold"]).all()
    torch.testing.assert_close(ood_score(without, long), ood_score(without, clusters(100, 2, length=1.0)))
    assert (ood_score(by_length, long) < ood_score(by_length, clusters(100, 2, length=1.0))).all()


def test_blurred_images_that_were_fitted_are_less_unusual():
    blurred = clusters(200, 5, shift=3.0)
    known, others = clusters(300, 0), clusters(200, 1)
    plain, taught = fit_ood_stats(known, others), fit_ood_stats(known, others, [values[:20] for values in blurred])
    before, after = (ood_score(stats, blurred).mean() for stats in (plain, taught))
    assert 0 < after < 0.7 * before


def test_blur_keeps_shape_and_brightness_and_takes_detail():
    images = torch.randint(0, 256, (5, 3, 40, 40), dtype=torch.uint8)
    found = blur(images)
    assert found.shape == images.shape and found.dtype == torch.uint8
    torch.testing.assert_close(found.float().mean((1, 2, 3)), images.float().mean((1, 2, 3)), rtol=0.05, atol=0)
    details = found.float().std((1, 2, 3))
    assert (details.diff() > 0).all() and details[0] < 0.3 * images[0].float().std()
