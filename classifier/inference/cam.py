"""Where did a network look? The evidence for each class at each place, and an image of it to lay over the photograph.

Most networks end in the mean over all places and one linear layer. There the linear layer can as well be applied at
each place: the class activation map of Zhou et al., "Learning Deep Features for Discriminative Localization", 2016
(https://arxiv.org/abs/1512.04150). The logit is its mean over all places, plus the bias, so nothing is left out and no
backward pass is needed. AlexNet and VGG end otherwise; for them the gradient says how much each channel counts:
Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017
(https://arxiv.org/abs/1610.02391).

A map shows what speaks for a class more than for the others: the mean over all classes is taken off, as softmax does
not see what all classes have in common. With 200 test images of cats and dogs, blurring the fifth of the image
where the map of the answer is strongest makes its probability fall by 0.23, at random places by 0.03; with the mean
left in, by 0.23 as well (python -m benchmarks.heatmap module/catdog-resnet18.pth).
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference.predictor import (
    Prediction,
    build_predictor,
    check_ood_stats,
    prediction_from_logits,
    with_feature_maps,
)

BEST = 10  # classes whose gradients are computed, at most
LONG_SIDE = 160  # pixels of an overlay; maps have 6 to 8 places along a side, so that more would show nothing more
WEAK = 1.0  # logits: a map that stays below this is drawn paler
LEVELS = 64  # of colour; more cannot be told apart, and make the file larger
OPAQUE = 0.75  # of the strongest evidence; the photograph stays to be seen

# from weak to strong evidence, ever lighter: dark colours show on light photographs, light ones on dark photographs
COLOURS = ("#3b0f8f", "#8b0aa5", "#c92f7b", "#ee6a50", "#fca636", "#f7f03a")


def cam_predictor(checkpoint: Checkpoint, compute: Compute) -> Callable[[Tensor], tuple[Prediction, Tensor]]:
    """A function from pixels (N, 3, H, W) uint8, on the device, as for `answer.answerer`, to `Answers` and maps.

    Maps are (N, classes, h, w) float32 on the CPU, h and w being those of the last feature map, in logits: were the
    whole image like this place, the class would have so much more than the mean of all classes (but for the bias).
    Where gradients are needed, only the BEST most probable classes of an image have one; those of the others are 0.

    A network without `forward_features` has maps of zeros.

    The network is loaded and made ready here, once, and runs once for both. Several threads may ask.
    """
    check_ood_stats(checkpoint)
    network = checkpoint.network()
    if not hasattr(network, "forward_features"):  # one of somebody's own, which does not offer what is needed
        answer = build_predictor(checkpoint, compute)
        return lambda pixels: (answer(pixels), torch.zeros(len(pixels), len(checkpoint.classes), 1, 1))
    linear = linear_after_mean(network)
    weight = None if linear is None else linear.weight.detach().to(compute.device)
    see = with_feature_maps(network, compute, gradient=linear is None)

    def look(pixels: Tensor) -> tuple[Prediction, Tensor]:
        logits, features, last_map = see(checkpoint.preprocess.normalize(pixels))
        maps = gradient_maps(logits, last_map) if weight is None else activation_maps(last_map, weight)
        return prediction_from_logits(checkpoint, logits, features), maps.cpu()

    return look


def linear_after_mean(network: nn.Module) -> nn.Linear | None:
    """The last linear layer, if `forward_head` is the mean over all places and then that layer; else None.

    Tried out on a map of random numbers; `network` is in evaluation mode, float32, on the CPU.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        return None
    features = torch.rand(1, layers[-1].in_features, 3, 4)
    try:
        with torch.inference_mode():
            logits, expected = network.forward_head(features), layers[-1](features.mean((2, 3)))
    except RuntimeError:  # its maps have another number of channels than that layer takes
        return None
    return layers[-1] if torch.allclose(logits, expected, rtol=1e-3, atol=1e-4) else None


def activation_maps(last_map: Tensor, weight: Tensor) -> Tensor:
    """(N, C, h, w) and the last linear layer's weight (classes, C) -> (N, classes, h, w) float32.

    The mean over all places, plus the bias, is the logit, each less its mean over the classes.
    """
    return torch.einsum("kc,nchw->nkhw", weight - weight.mean(0), last_map.float())


def gradient_maps(logits: Tensor, last_map: Tensor) -> Tensor:
    """(N, classes) and the last map (N, C, h, w) that they came from, with gradient -> (N, classes, h, w) float32.

    Grad-CAM times the number of places, which makes it equal to `activation_maps` where both can be had, and without
    the final ReLU: what speaks against a class is negative.
    """
    count = min(BEST, logits.shape[1])
    best = logits.topk(count).indices
    with torch.inference_mode(False):  # whatever the caller has switched off
        chosen = (logits - logits.mean(1, keepdim=True)).gather(1, best.clone())  # (N, count)
        each = torch.eye(count, device=logits.device)[:, None].expand(count, len(logits), count)
        (gradients,) = torch.autograd.grad(chosen, last_map, each, is_grads_batched=True)  # (count, N, C, h, w)
    evidence = torch.einsum("knc,nchw->nkhw", gradients.float().sum((3, 4)), last_map.detach().float())
    maps = torch.zeros(*logits.shape, *last_map.shape[2:], device=logits.device)
    return maps.scatter_(1, best[..., None, None].expand_as(evidence), evidence)


def overlay(values: Tensor, preprocess: Preprocess, image_size: tuple[int, int]) -> bytes:
    """A small PNG with transparency, in the proportions of the image, to be laid over all of it.

    Args:
        values: (h, w), one map of `looker`.
        preprocess: tells which part of the image the network saw; the rest stays transparent.
        image_size: width and height of the upright image in pixels.

    Returns:
        Colours from weak to strong evidence. Where there is none, or evidence against the class, all is transparent.
    """
    scale = LONG_SIDE / max(image_size)
    width, height = (max(1, round(side * scale)) for side in image_size)
    left, top, right, bottom = (round(side * scale) for side in preprocess.box(*image_size))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    values = values.float().nan_to_num(0, 0, 0).numpy()
    seen = Image.fromarray(values).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    most = values.max()  # bicubic curves overshoot, and would find evidence where no place has any
    strength = np.asarray(seen).clip(0, max(most, 0)) / max(most, WEAK)
    levels = np.zeros((height, width), np.uint8)  # into the table of colours, of which the first is transparent
    levels[top:bottom, left:right] = ((LEVELS - 1) * strength).round()[: height - top, : width - left]
    image = Image.fromarray(levels)
    image.putpalette(_colours().tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=np.linspace(0, 255 * OPAQUE, LEVELS).astype(np.uint8).tobytes())
    return stream.getvalue()


def _colours() -> np.ndarray:
    """(LEVELS, 3) uint8: COLOURS and what lies between them."""
    anchors = np.array([list(bytes.fromhex(colour[1:])) for colour in COLOURS])
    at, levels = np.linspace(0, 1, len(COLOURS)), np.linspace(0, 1, LEVELS)
    return np.stack([np.interp(levels, at, channel) for channel in anchors.T], 1).round().astype(np.uint8)
