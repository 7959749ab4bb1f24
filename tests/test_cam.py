"""Class activation maps lie where the evidence is, for any network, and come with the same predictions."""

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import RESIZES, Preprocess
from classifier.inference.calibration import fit_ood_stats
from classifier.inference.cam import MAX_CLASSES, OVERLAY_SIDE, activation_maps, cam_predictor, overlay
from classifier.inference.predictor import build_predictor, with_features
from tests.test_predictor import CPU, built, close
from zoo import MODELS

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


def colors(monkeypatch, resize="crop") -> Checkpoint:
    """Weights that know their colours."""
    monkeypatch.setitem(MODELS, "colors", Colors)
    weights = {"head.weight": 100 * torch.eye(3), "head.bias": torch.zeros(3)}
    return Checkpoint("colors", ["red", "green", "blue"], replace(PREPROCESS, resize=resize), weights)


def of_zoo(name: str) -> Checkpoint:
    return Checkpoint(name, ["a", "b", "c"], Preprocess(size=64), built(name).state_dict())


def noise(count: int = 2, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)).byte()


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
    checkpoint = colors(monkeypatch, resize)
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


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "vgg11_bn", "efficientnet_lite0"])
def test_any_network(name):
    checkpoint, images = of_zoo(name), noise()
    prediction, maps = cam_predictor(checkpoint, CPU)(images)
    network = checkpoint.network()
    last_map = network.forward_features(checkpoint.preprocess.normalize(images)).detach().requires_grad_()
    logits = network.forward_head(last_map)
    close(prediction.logits, logits.detach())
    assert maps.shape == (2, 3, *last_map.shape[2:]) and maps.dtype == torch.float32 and maps.abs().amax() > 0
    for k in range(3):
        (gradient,) = torch.autograd.grad((logits[:, k] - logits.mean(1)).sum(), last_map, retain_graph=True)
        close(maps[:, k], (gradient.sum((2, 3), keepdim=True) * last_map).sum(1).detach())


def test_only_the_most_probable_classes_have_a_map():
    last_map = torch.rand(2, MAX_CLASSES + 3, 3, 4, requires_grad=True)
    logits = last_map.mean((2, 3))
    with_map = activation_maps(logits, last_map).abs().amax((2, 3)) > 0
    for chosen, order in zip(with_map, logits.argsort(1, descending=True), strict=True):
        assert chosen[order[:MAX_CLASSES]].all() and not chosen[order[MAX_CLASSES:]].any()


def test_predictions_are_those_of_the_predictor(monkeypatch):
    checkpoint, images = of_zoo("resnet18"), noise(24)
    _, features, _ = with_features(checkpoint.network(), CPU)(checkpoint.preprocess.normalize(images))
    checkpoint.temperature, checkpoint.ood_stats = 2.5, fit_ood_stats(features, features)
    blank = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    for asked in (images, blank):
        prediction, _ = cam_predictor(checkpoint, CPU)(asked)
        for found, expected in zip(prediction, build_predictor(checkpoint, CPU)(asked), strict=True):
            torch.testing.assert_close(found, expected)
            assert not found.requires_grad
    assert prediction.is_ood.all()
    flat, _ = cam_predictor(colors(monkeypatch), CPU)(images)
    assert not flat.is_ood.any()


def test_bfloat16_gives_nearly_the_same_map(monkeypatch):
    checkpoint, images = colors(monkeypatch), noise()
    exact = cam_predictor(checkpoint, CPU)(images)[1]
    fast = cam_predictor(checkpoint, replace(CPU, dtype=torch.bfloat16))(images)[1]
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.03 * exact.abs().max()


def test_maps_are_made_whatever_the_caller_has_switched_off(monkeypatch):
    predict, images = cam_predictor(colors(monkeypatch), CPU), noise()
    expected = predict(images)[1]
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(predict(images)[1], expected)


def test_without_evidence_and_where_the_network_did_not_look_it_is_transparent():
    for values in (-torch.rand(6, 6), torch.zeros(6, 6), torch.full((6, 6), torch.nan)):
        assert not drawn(values)[..., 3].any()
    wide, tall = (drawn(torch.ones(6, 6), size=size)[..., 3] for size in ((400, 200), (200, 400)))
    assert wide.shape == (80, 160) and wide[:, 40:120].all() and not wide[:, :40].any() and not wide[:, 120:].any()
    assert (tall == wide.T).all()
    assert drawn(torch.ones(6, 6), Preprocess(resize="squash"), (400, 200))[..., 3].all()
    bars = torch.ones(8, 8)
    bars[2:6] = -1  # the photograph
    for values, size in ((bars, (400, 200)), (bars.T, (200, 400))):  # bicubic curves reach over the edges a little
        assert not drawn(values, Preprocess(resize="pad"), size)[16:-16, 16:-16, 3].any()
        assert drawn(-values, Preprocess(resize="pad"), size)[16:-16, 16:-16, 3].all()


def test_more_evidence_is_less_transparent_and_lighter():
    shown = drawn(torch.linspace(-2, 4, 7).repeat(7, 1), Preprocess(resize="squash"))
    alpha, light = shown[50, :, 3].astype(int), shown[50, :, :3].sum(1)
    assert (np.diff(alpha) >= 0).all() and alpha[0] == 0 and 150 < alpha[-1] < 220
    assert (np.diff(light[alpha > 0].astype(int)) >= 0).all()
    faint = drawn(torch.linspace(0, 0.2, 7).repeat(7, 1))[..., 3]
    assert 0 < faint.max() < 60  # little evidence does not look like much


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (6000, 4000)])
def test_any_size_of_image_and_map(size):
    for side, resize in itertools.product((1, 7), RESIZES):
        shown = drawn(torch.ones(side, side), Preprocess(resize=resize), size)
        assert max(shown.shape[:2]) == OVERLAY_SIDE and min(shown.shape[:2]) >= 1 and shown[..., 3].any()
