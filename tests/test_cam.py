"""Class activation maps lie where the evidence is, for any network, and come with the same predictions."""

import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference import ood
from classifier.inference.cam import MAX_CLASSES, OVERLAY_SIDE, activation_maps, cam_predictor, overlay
from classifier.inference.predictor import build_predictor, with_features
from tests.test_zoo import filled
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.channels_last)
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


class Flat(Colors):
    """The same with a head that knows places, as AlexNet and VGG have it."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 48), nn.ReLU(True))
        self.head.append(nn.Linear(48, num_classes))

    def forward_head(self, features):
        return self.head(features)


def colors(monkeypatch, kind=Colors, resize="crop") -> Checkpoint:
    """Weights that know their colours."""
    monkeypatch.setitem(MODELS, "colors", kind)
    network = kind()
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        nn.init.eye_(module.weight)
        nn.init.zeros_(module.bias)
    if kind is Flat:
        linear[-1].weight.data = 10 * torch.eye(3).repeat_interleave(16, 1)
    else:
        linear[-1].weight.data *= 100
    return Checkpoint("colors", ["red", "green", "blue"], replace(PREPROCESS, resize=resize), network.state_dict())


def built(name: str, classes: int = 3) -> Checkpoint:
    with torch.device("meta"):
        network = MODELS[name](num_classes=classes)
    names = [f"class {i}" for i in range(classes)]
    return Checkpoint(name, names, Preprocess(size=64), filled(network).state_dict())


def noise(count: int = 2, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)).byte()


def drawn(values, preprocess=PREPROCESS, size=(300, 200)) -> np.ndarray:
    """(H, W, 4): the overlay as a browser shows it."""
    content = overlay(values, preprocess, size)
    assert len(content) < 8 << 10
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGBA"))


# -------------------------------------------------------------------------------------------------------- the maps


@pytest.mark.parametrize("kind", [Colors, Flat])
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (120, 120)])
def test_the_evidence_lies_where_the_color_is(monkeypatch, kind, resize, size):
    checkpoint = colors(monkeypatch, kind, resize=resize)
    predict = cam_predictor(checkpoint, CPU)
    left, top, right, bottom = (round(side) for side in checkpoint.preprocess.box(*size))
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
            assert x < column < x + width and y < row < y + height
        assert alpha.max() > 150 and (alpha > 0).mean() < 0.2
        assert not drawn(maps[0, 0], checkpoint.preprocess, size)[..., 3].any()  # nothing speaks for red


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "googlenet", "densenet121", "alexnet", "vgg11_bn"])
def test_any_network(name):
    checkpoint, images = built(name), noise()
    prediction, maps = cam_predictor(checkpoint, CPU)(images)
    network = checkpoint.network()
    with torch.no_grad():
        last_map = network.forward_features(checkpoint.preprocess.normalize(images))
        logits = network.forward_head(last_map)
    torch.testing.assert_close(prediction.logits, logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item())
    assert maps.shape == (2, 3, *last_map.shape[2:]) and maps.dtype == torch.float32 and maps.abs().amax() > 0
    close = {"rtol": 1e-3, "atol": 1e-3 * maps.abs().max().item()}
    torch.testing.assert_close(maps.sum(1), torch.zeros_like(maps[:, 0]), **close)
    if name not in ("alexnet", "vgg11_bn"):  # the last layer, applied at each place, as in Zhou et al.
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
        weight = (linear.weight - linear.weight.mean(0)).detach()
        torch.testing.assert_close(maps, torch.einsum("kc,nchw->nkhw", weight, last_map), **close)


def test_only_the_most_probable_classes_have_a_map():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(5 * 12, 30), nn.ReLU(), nn.Linear(30, MAX_CLASSES + 3))
    last_map = torch.rand(2, 5, 3, 4, requires_grad=True)
    maps = activation_maps(head(last_map), last_map)
    logits = head(last_map)
    best = logits.argsort(1, descending=True)
    assert maps.shape == (2, MAX_CLASSES + 3, 3, 4)
    for i in range(2):
        for k in best[i, :MAX_CLASSES]:
            (gradient,) = torch.autograd.grad(logits[i, k] - logits[i].mean(), last_map, retain_graph=True)
            expected = (gradient[i].sum((1, 2))[:, None, None] * last_map[i]).sum(0)
            torch.testing.assert_close(maps[i, k], expected.detach())
        assert not maps[i, best[i, MAX_CLASSES:]].any()


def test_predictions_are_those_of_the_predictor(monkeypatch):
    checkpoint, images = built("resnet18"), noise(20)
    _, features, _ = with_features(checkpoint.network(), CPU)(checkpoint.preprocess.normalize(images))
    checkpoint.temperature, checkpoint.ood_stats = 2.5, ood.fit(features, features)
    blank = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    for asked in (images, blank):
        prediction, _ = cam_predictor(checkpoint, CPU)(asked)
        for found, expected in zip(prediction, build_predictor(checkpoint, CPU)(asked), strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True)
            assert not found.requires_grad
    assert prediction.is_ood.all()
    flat, _ = cam_predictor(colors(monkeypatch, Flat), CPU)(images)
    assert flat.ood_score.isnan().all() and not flat.is_ood.any()


def test_bfloat16_gives_nearly_the_same_map(monkeypatch):
    checkpoint, images = colors(monkeypatch), noise()
    exact = cam_predictor(checkpoint, CPU)(images)[1]
    fast = cam_predictor(checkpoint, replace(CPU, dtype=torch.bfloat16))(images)[1]
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.03 * exact.abs().max()


def test_several_threads_ask_at_once(monkeypatch):
    predict = cam_predictor(colors(monkeypatch), CPU)
    images = [noise(seed=i) for i in range(8)]
    expected = [predict(asked)[1] for asked in images]
    found: dict[int, list[torch.Tensor]] = {i: [] for i in range(8)}
    threads = [
        threading.Thread(target=lambda i=i: found[i].extend(predict(images[i])[1] for _ in range(20))) for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, maps in found.items():
        assert len(maps) == 20
        for other in maps:
            torch.testing.assert_close(other, expected[i])


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_switched_off(monkeypatch, without):
    predict = cam_predictor(colors(monkeypatch), CPU)
    expected = predict(noise())[1]
    with without():
        torch.testing.assert_close(predict(noise())[1], expected)


# ----------------------------------------------------------------------------------------------------- the overlay


@pytest.mark.parametrize("values", [-torch.rand(6, 6), torch.zeros(6, 6), torch.full((6, 6), torch.nan)])
def test_no_evidence_is_transparent(values):
    assert not drawn(values)[..., 3].any()


def test_what_the_network_did_not_see_is_transparent():
    values = torch.ones(6, 6)
    wide = drawn(values, Preprocess(resize="crop"), (400, 200))[..., 3]
    assert wide.shape == (80, 160) and wide[:, 40:120].all() and not wide[:, :40].any() and not wide[:, 120:].any()
    tall = drawn(values, Preprocess(resize="crop"), (200, 400))[..., 3]
    assert (tall == wide.T).all()
    assert drawn(values, Preprocess(resize="squash"), (400, 200))[..., 3].all()


def test_more_evidence_is_less_transparent_and_lighter():
    shown = drawn(torch.linspace(-2, 4, 7).repeat(7, 1), Preprocess(resize="squash"))
    alpha, light = shown[50, :, 3].astype(int), shown[50, :, :3].sum(1)
    assert (np.diff(alpha) >= 0).all() and alpha[0] == 0 and 150 < alpha[-1] < 220
    assert (np.diff(light[alpha > 0].astype(int)) >= 0).all()
    faint = drawn(torch.linspace(0, 0.2, 7).repeat(7, 1))[..., 3]
    assert 0 < faint.max() < 60  # little evidence does not look like much


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000), (3, 4), (6000, 4000)])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_any_size_of_image_and_map(size, resize):
    for side in (1, 2, 7):
        shown = drawn(torch.ones(side, side), Preprocess(resize=resize), size)
        assert max(shown.shape[:2]) == OVERLAY_SIDE and min(shown.shape[:2]) >= 1 and shown[..., 3].any()
