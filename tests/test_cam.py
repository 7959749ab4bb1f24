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
from classifier.inference.cam import (
    MAX_GRADIENT_CLASSES,
    OVERLAY_SIDE,
    activation_maps,
    cam_predictor,
    gradient_maps,
    linear_after_mean,
    overlay,
)
from classifier.inference.predictor import build_predictor, with_features
from tests.test_zoo import filled
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.channels_last, "", "")
SEEN = Preprocess(size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))  # for which grey is no colour


class Colours(nn.Module):
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


class Flat(Colours):
    """The same with a head that knows places, as AlexNet and VGG have it."""

    def __init__(self, num_classes: int = 3):
        super().__init__()
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 48), nn.ReLU(True))
        self.head.append(nn.Linear(48, num_classes))

    def forward_head(self, features):
        return self.head(features)


def colours(monkeypatch, kind=Colours, resize="crop") -> Checkpoint:
    """Weights that know their colours."""
    monkeypatch.setitem(MODELS, "colours", kind)
    network = kind()
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for module in linear:
        nn.init.eye_(module.weight)
        nn.init.zeros_(module.bias)
    if kind is Flat:
        linear[-1].weight.data = 10 * torch.eye(3).repeat_interleave(16, 1)
    else:
        linear[-1].weight.data *= 100
    return Checkpoint("colours", ["red", "green", "blue"], replace(SEEN, resize=resize), network.state_dict())


def built(name: str, classes: int = 3) -> Checkpoint:
    with torch.device("meta"):
        network = MODELS[name](num_classes=classes)
    names = [f"class {i}" for i in range(classes)]
    return Checkpoint(name, names, Preprocess(size=64), filled(network).state_dict())


def some(count: int = 2, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), generator=torch.Generator().manual_seed(seed)).byte()


def drawn(values, preprocess=SEEN, size=(300, 200)) -> np.ndarray:
    """(H, W, 4): the overlay as a browser shows it."""
    content = overlay(values, preprocess, size)
    assert len(content) < 8 << 10
    image = Image.open(io.BytesIO(content))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGBA"))


@pytest.mark.parametrize("kind", [Colours, Flat])
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("size", [(300, 100), (100, 300), (120, 120)])
def test_the_evidence_lies_where_the_colour_is(monkeypatch, kind, resize, size):
    checkpoint = colours(monkeypatch, kind, resize=resize)
    look = cam_predictor(checkpoint, CPU)
    left, top, right, bottom = (0, 0, *size) if resize == "squash" else checkpoint.preprocess.box(*size)
    width, height = round(right - left) // 4, round(bottom - top) // 4
    for right_half in (False, True):
        for lower_half in (False, True):
            at = (
                round(right) - width if right_half else round(left),
                round(bottom) - height if lower_half else round(top),
            )
            image = Image.new("RGB", size, "gray")
            image.paste((20, 200, 20), (*at, at[0] + width, at[1] + height))
            answers, maps = look(checkpoint.preprocess.pixels(image)[None])
            assert answers.logits.argmax(1).item() == 1 and maps.shape == (1, 3, 8, 8)
            alpha = drawn(maps[0, 1], checkpoint.preprocess, size)[..., 3].astype(float)
            scale = OVERLAY_SIDE / max(size)
            assert alpha.shape == (round(size[1] * scale), round(size[0] * scale))
            pixels = (np.indices(alpha.shape) + 0.5) / scale  # in the image's own
            strongest = pixels[:, alpha == alpha.max()].mean(1)
            for y, x in (strongest, (alpha * pixels).sum((1, 2)) / alpha.sum()):
                assert at[0] < x < at[0] + width and at[1] < y < at[1] + height
            assert alpha.max() > 150 and (alpha > 0).mean() < 0.2
            assert not drawn(maps[0, 0], checkpoint.preprocess, size)[..., 3].any()  # nothing speaks for red


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "googlenet", "densenet121", "alexnet", "vgg11_bn"])
def test_any_network(name):
    checkpoint, pixels = built(name), some()
    answers, maps = cam_predictor(checkpoint, CPU)(pixels)
    network = checkpoint.network()
    linear = linear_after_mean(network)
    with torch.no_grad():
        last_map = network.forward_features(checkpoint.preprocess.normalize(pixels))
        logits = network.forward_head(last_map)
    torch.testing.assert_close(answers.logits, logits, rtol=1e-3, atol=1e-3 * logits.abs().max().item())
    assert maps.shape == (2, 3, *last_map.shape[2:]) and maps.dtype == torch.float32 and maps.abs().amax() > 0
    torch.testing.assert_close(maps.sum(1), torch.zeros_like(maps[:, 0]), rtol=0, atol=1e-4 * maps.abs().max().item())
    if name in ("alexnet", "vgg11_bn"):
        assert linear is None
        return
    expected = answers.logits - linear.bias
    expected = expected - expected.mean(1, keepdim=True)
    close = {"rtol": 1e-3, "atol": 1e-3 * maps.abs().max().item()}
    torch.testing.assert_close(maps.mean((2, 3)), expected.detach(), **close)
    last_map.requires_grad_()
    torch.testing.assert_close(maps, gradient_maps(network.forward_head(last_map), last_map), **close)


def test_a_head_that_only_looks_alike_is_found_out():
    class Largest(Colours):
        def forward_head(self, features):
            return self.head(features.amax((2, 3)))

    assert isinstance(linear_after_mean(Colours()), nn.Linear)
    assert linear_after_mean(Largest()) is None is linear_after_mean(Flat())
    assert linear_after_mean(nn.Sequential()) is None


def test_gradients_are_those_that_one_at_a_time_gives_and_of_the_best_classes_only():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(5 * 12, 30), nn.ReLU(), nn.Linear(30, MAX_GRADIENT_CLASSES + 3))
    last_map = torch.rand(2, 5, 3, 4, requires_grad=True)
    logits = head(last_map)
    maps = gradient_maps(logits, last_map)
    logits = head(last_map)
    best = logits.argsort(1, descending=True)
    assert maps.shape == (2, MAX_GRADIENT_CLASSES + 3, 3, 4)
    for i in range(2):
        for k in best[i, :MAX_GRADIENT_CLASSES]:
            (gradient,) = torch.autograd.grad(logits[i, k] - logits[i].mean(), last_map, retain_graph=True)
            expected = (gradient[i].sum((1, 2))[:, None, None] * last_map[i]).sum(0)
            torch.testing.assert_close(maps[i, k], expected.detach())
        assert not maps[i, best[i, MAX_GRADIENT_CLASSES:]].any()


def test_of_two_classes_what_speaks_for_one_speaks_against_the_other():
    maps = activation_maps(torch.rand(2, 7, 3, 3), torch.randn(2, 7))
    torch.testing.assert_close(maps[:, 0], -maps[:, 1])


def test_answers_are_those_of_answerer(monkeypatch):
    checkpoint, pixels = built("resnet18"), some(20)
    _, features = with_features(checkpoint.network(), CPU)(checkpoint.preprocess.normalize(pixels))
    checkpoint.temperature, checkpoint.ood_stats = 2.5, ood.fit(features, features)
    blank = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    for asked in (pixels, blank):
        answers, _ = cam_predictor(checkpoint, CPU)(asked)
        for found, expected in zip(answers, build_predictor(checkpoint, CPU)(asked), strict=True):
            torch.testing.assert_close(found, expected, equal_nan=True)
            assert not found.requires_grad
    assert answers.is_ood.all()
    flat, _ = cam_predictor(colours(monkeypatch, Flat), CPU)(pixels)
    assert flat.ood_score.isnan().all() and not flat.is_ood.any() and not flat.probabilities.requires_grad


@pytest.mark.parametrize("kind", [Colours, Flat])
def test_bfloat16_gives_nearly_the_same_map(monkeypatch, kind):
    checkpoint, pixels = colours(monkeypatch, kind), some()
    exact = cam_predictor(checkpoint, CPU)(pixels)[1]
    fast = cam_predictor(checkpoint, Compute(CPU.device, torch.bfloat16, CPU.memory_format, "", ""))(pixels)[1]
    assert fast.dtype == torch.float32
    assert 0 < (fast - exact).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("kind", [Colours, Flat])
def test_several_threads_ask_at_once(monkeypatch, kind):
    look = cam_predictor(colours(monkeypatch, kind), CPU)
    pixels = [some(seed=i) for i in range(8)]
    expected = [look(asked)[1] for asked in pixels]
    found: dict[int, list[torch.Tensor]] = {i: [] for i in range(8)}

    def ask(i):
        for _ in range(20):
            found[i].append(look(pixels[i])[1])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
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
    look = cam_predictor(colours(monkeypatch, Flat), CPU)
    expected = look(some())[1]
    with without():
        torch.testing.assert_close(look(some())[1], expected)


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
