"""A network that answers: as it does without optimization, where the evidence lies, and which images are unlike all."""

import copy
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.data.image_folder import read_folder
from classifier.data.transforms import RESIZES, Preprocess
from classifier.device import Compute
from classifier.inference import predictor
from classifier.inference.calibration import fit_ood, fit_ood_stats
from classifier.inference.cam import MAX_CLASSES, OVERLAY_SIDE, cam_predictor, overlay
from classifier.inference.predictor import build_predictor, fold_batch_norm, ood_score, optimize_for_inference
from tests.conftest import make_images
from tests.test_zoo import filled
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.channels_last)


def built(name: str, classes: int = 3) -> nn.Module:
    """A network as after training."""
    with torch.device("meta"):
        network = MODELS[name](num_classes=classes)
    return filled(network).eval()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_no_batch_norm_is_left_and_the_logits_are_the_same(name):
    network, x = built(name), torch.randn(2, 3, 64, 64)
    folded = fold_batch_norm(copy.deepcopy(network))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        for found in (folded, optimize_for_inference(network, CPU)):
            close(found(x), network(x))


class Odd(nn.Module):
    """Uses a convolution twice, or cannot be traced."""

    def __init__(self, depends: bool):
        super().__init__()
        self.conv, self.bn, self.depends = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), depends

    def forward(self, x):
        if self.depends:
            return self.bn(self.conv(x)) if x.sum() > 0 else x
        return self.bn(y := self.conv(x)) + y


@pytest.mark.parametrize("depends", [False, True])
def test_what_cannot_be_folded_stays_as_it_is(depends):
    network, x = filled(Odd(depends)).eval(), torch.ones(1, 3, 4, 4)
    assert torch.equal(fold_batch_norm(copy.deepcopy(network))(x), network(x))
    close(optimize_for_inference(network, CPU)(x), network(x).detach())


def test_bfloat16_comes_near_and_answers_in_float32():
    network, x = built("resnet18").train(), torch.randn(4, 3, 64, 64)
    exact, fast = (
        optimize_for_inference(network, replace(CPU, dtype=dtype))(x) for dtype in (torch.float32, torch.bfloat16)
    )
    assert fast.dtype == torch.float32
    assert (fast - exact).abs().max() < 0.05 * exact.abs().max()
    assert (fast != fast.bfloat16().float()).any()  # the last layer has not been rounded to 8 bits
    assert network.training  # and the network itself is as it was
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}


PREPROCESS = Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # for which grey is no colour


class Colors(nn.Module):
    """Tells red, green and blue images apart: how much of each there is in places of 8 x 8 pixels."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward_features(self, x):
        return F.avg_pool2d((x - x.mean(1, keepdim=True)).relu(), 8)  # (N, 3, h, w)

    def forward_head(self, features):
        return self.head(features.mean((2, 3)))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


def drawn(values, preprocess=PREPROCESS, size=(300, 200)) -> np.ndarray:
    """(H, W, 4): the overlay as a browser shows it."""
    content = overlay(values, preprocess, size)
    assert len(content) < 8 << 10
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_the_evidence_lies_where_the_color_is(monkeypatch, resize, size):
    monkeypatch.setitem(MODELS, "colors", Colors)
    weights = {"head.weight": 100 * torch.eye(3), "head.bias": torch.zeros(3)}
    checkpoint = Checkpoint("colors", ["red", "green", "blue"], replace(PREPROCESS, resize=resize), weights)
    predict = cam_predictor(checkpoint, CPU)
    left, top, right, bottom = (round(side) for side in checkpoint.preprocess.box(*size))
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])  # without bars
    near = max(size) / 16 if resize == "pad" else 0  # half a place: large in a narrow image
    width, height = (right - left) // 4, (bottom - top) // 4
    for x, y in ((left, top), (left, bottom - height), (right - width, top), (right - width, bottom - height)):
        image = Image.new("RGB", size, "gray")
        image.paste((20, 200, 20), (x, y, x + width, y + height))
        prediction, maps = predict(checkpoint.preprocess.pixels(image)[None])
        assert prediction.logits.argmax(1).item() == 1 and maps.shape == (1, 3, 8, 8)
        alpha = drawn(maps[0, 1], checkpoint.preprocess, size)[..., 3].astype(float)
        scale = OVERLAY_SIDE / max(size)
        assert alpha.shape == (round(size[1] * scale), round(size[0] * scale))
        pixels = (np.indices(alpha.shape) + 0.5) / scale  # in the image's own
        for row, column in (pixels[:, alpha == alpha.max()].mean(1), (alpha * pixels).sum((1, 2)) / alpha.sum()):
            assert x - near < column < x + width + near and y - near < row < y + height + near
        assert alpha.max() > 150 and (alpha > 0).mean() < (0.3 if near else 0.2)
        assert not drawn(maps[0, 0], checkpoint.preprocess, size)[..., 3].any()  # nothing speaks for red
    fast = cam_predictor(checkpoint, replace(CPU, dtype=torch.bfloat16))(checkpoint.preprocess.pixels(image)[None])[1]
    assert fast.dtype == torch.float32 and 0 < (fast - maps).abs().max() < 0.03 * maps.abs().max()


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "alexnet", "efficientnet_lite0"])
def test_any_network_gives_the_predictors_answers_and_grad_cams_maps_of_the_most_probable_classes(name):
    classes = MAX_CLASSES + 2
    images = torch.randint(256, (24, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    checkpoint = Checkpoint(name, list("abcdefghijkl"), Preprocess(size=64), built(name, classes).state_dict())
    network, x = checkpoint.network(), checkpoint.preprocess.normalize(images)
    _, features, _ = predictor.with_features(network, CPU)(x)
    checkpoint.temperature, checkpoint.ood_stats = 2.5, fit_ood_stats(features, features)
    assert len(features) >= 4 and {values.dtype for values in features} == {torch.float32}
    images = torch.cat([images[:2], torch.full_like(images[:1], 255)])
    answer = cam_predictor(checkpoint, CPU)
    with torch.inference_mode():  # although maps need gradients
        prediction, maps = answer(images)
    for found, expected in zip(prediction, build_predictor(checkpoint, CPU)(images), strict=True):
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
    assert prediction.is_ood.tolist() == [False, False, True]
    last_map = network.forward_features(x[:2]).detach().requires_grad_()
    logits = network.forward_head(last_map)
    close(prediction.logits[:2], logits.detach())
    assert maps.shape == (3, classes, *last_map.shape[2:]) and maps.dtype == torch.float32 and maps[:2].any()
    for n, k in itertools.product(range(2), range(classes)):
        (gradient,) = torch.autograd.grad(logits[n, k] - logits[n].mean(), last_map, retain_graph=True)
        evidence = (gradient[n].sum((1, 2), keepdim=True) * last_map[n]).sum(0).detach()
        close(maps[n, k], evidence if k in logits[n].topk(MAX_CLASSES).indices else 0 * evidence)


def test_an_overlay_is_transparent_without_evidence_and_where_the_network_did_not_look_and_has_any_size():
    for values in (-torch.rand(6, 6), torch.zeros(6, 6), torch.full((6, 6), torch.nan)):
        assert not drawn(values)[..., 3].any()
    wide = drawn(torch.ones(6, 6), size=(400, 200))[..., 3]
    assert wide.shape == (80, 160) and wide[:, 40:120].all() and not wide[:, :40].any() and not wide[:, 120:].any()
    for size, side, resize in itertools.product([(1, 1), (5000, 1), (1, 5000)], (1, 7), RESIZES):
        shown = drawn(torch.ones(side, side), Preprocess(resize=resize), size)
        assert max(shown.shape[:2]) == OVERLAY_SIDE and min(shown.shape[:2]) >= 1 and shown[..., 3].any()


def clusters(count: int, seed: int, shift: float = 0.0, length: float = 5.0) -> list[Tensor]:
    """Features of `count` images of two classes; `shift` moves the maps, `length` is that of the last vector."""
    generator = torch.Generator().manual_seed(seed)
    maps = [torch.randn(count, width, generator=generator) + shift for width in (4, 6, 8, 10)]
    last = torch.randn(count, 12, generator=generator).abs() * 0.1
    last[torch.arange(count), torch.arange(count) % 2] += length
    return [*maps, torch.rand(count, 3, generator=generator), last]


def with_stats(stats: dict) -> Checkpoint:
    return Checkpoint("resnet18", ["a", "b"], Preprocess(), {}, ood_stats=stats, path="file.pth")


def test_what_lies_elsewhere_scores_higher_and_96_percent_of_future_images_pass():
    stats = fit_ood_stats(clusters(300, 0), clusters(200, 1))
    known = ood_score(stats, clusters(500, 2))
    for other in ({"shift": 3.0}, {"length": 3.0}, {"shift": 1.5, "length": 4.0}):
        unlike = ood_score(stats, clusters(500, 3, **other))
        assert (unlike > stats["threshold"]).float().mean() > 0.95 and unlike.median() > known.max()
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
    same = [torch.ones_like(values) for values in few]  # features that never change
    for training, validation in ((clusters(4, 0), few), (same, same)):  # 4: fewer images than channels
        stats = fit_ood_stats(training, validation)
        predictor.check_ood_stats(with_stats(stats))
        assert ood_score(stats, validation).max().item() == stats["threshold"]


def test_from_images_to_predictions(tmp_path):
    torch.manual_seed(0)
    weights = Checkpoint("resnet18", ["across", "down"], Preprocess(32), MODELS["resnet18"](num_classes=2).state_dict())
    images = [read_folder(make_images(tmp_path / str(seed), {"across": 30, "down": 30}, seed=seed)) for seed in (0, 1)]
    weights.ood_stats = fit_ood(weights, CPU, *images)
    known = torch.stack([weights.preprocess.read(path) for path in images[1].paths])
    found = build_predictor(weights, CPU)(torch.cat([known, torch.full_like(known[:1], 255)]))
    assert found.is_ood[:-1].sum() <= 0.05 * len(known) and found.is_ood[-1]


def test_damaged_statistics_are_refused():
    stats, inverse = fit_ood_stats(clusters(300, 0), clusters(200, 1)), {"map0.inverse": torch.eye(5)}
    for change in ({"threshold": "high"}, {"threshold": float("nan")}, {"map0.mean": None}, {7: 1}, inverse):
        for build in (build_predictor, cam_predictor):
            with pytest.raises(CheckpointError, match=r"file\.pth .*novelty"):
                build(with_stats(stats | change), CPU)


def test_where_blurred_images_have_longer_vectors_length_counts_for_nothing():
    """As in networks that know ImageNet; else a blurred image of the classes passes, and any other as well."""
    longer, shorter = clusters(9, 4, length=8.0), clusters(9, 4, length=3.0)
    by_length, without = (fit_ood_stats(clusters(300, 0), clusters(200, 1), part) for part in (shorter, longer))
    predictor.check_ood_stats(with_stats(without))
    far, long = clusters(100, 3, shift=3.0, length=9.0), clusters(100, 2, length=9.0)
    assert (ood_score(without, far) > without["threshold"]).all()
    torch.testing.assert_close(ood_score(without, long), ood_score(without, clusters(100, 2, length=1.0)))
    assert (ood_score(by_length, long) < ood_score(by_length, clusters(100, 2, length=1.0))).all()
