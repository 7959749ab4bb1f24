"""Class activation maps: which places of an image speak for each class, and a picture of it to lay over the photograph.

Most networks end in the mean over all places and one linear layer. There the linear layer can as well be applied at
each place: the class activation map of Zhou et al., "Learning Deep Features for Discriminative Localization", 2016
(https://arxiv.org/abs/1512.04150). The logit is its mean over all places, plus the bias, so nothing is left out and no
backward pass is needed. AlexNet and VGG end otherwise; for them the gradient tells how much each channel counts:
Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017
(https://arxiv.org/abs/1610.02391).

A map shows what speaks for a class more than for the others: the mean over all classes is subtracted, as softmax
ignores what all classes have in common. With 200 test images of cats and dogs, blurring the fifth of the image where
the map of the predicted class is strongest lowers its probability by 0.23, at random places by 0.03
(python -m benchmarks.heatmap module/catdog-resnet18.pth).
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
from classifier.inference import ood
from classifier.inference.predictor import Prediction, build_predictor, prediction_from_logits, with_feature_maps

MAX_GRADIENT_CLASSES = 10  # per image
OVERLAY_SIDE = 160  # pixels; maps have 6 to 8 places along a side, so that more would show nothing more
WEAK_LOGITS = 1.0  # a map that stays below this is drawn paler
COLOR_LEVELS = 64  # more cannot be told apart, and make the file larger
MAX_OPACITY = 0.75  # of the strongest evidence; the photograph has to stay visible
# from weak to strong evidence, ever lighter: dark colours show on light photographs, light ones on dark photographs
COLORS = ("#3b0f8f", "#8b0aa5", "#c92f7b", "#ee6a50", "#fca636", "#f7f03a")


def cam_predictor(checkpoint: Checkpoint, compute: Compute) -> Callable[[Tensor], tuple[Prediction, Tensor]]:
    """Return a function from images, as for `build_predictor`, to a `Prediction` and maps in one forward pass.

    Maps are (N, classes, h, w) float32 on the CPU, h and w being those of the last feature map, in logits: by how much
    the class would exceed the mean of all classes if the whole image were like this place (but for the bias). Where
    gradients are needed, only the MAX_GRADIENT_CLASSES most probable classes have one; the maps of the others are 0.
    A network without `forward_features` has maps of zeros. Several threads may call the function.

    Raises:
        CheckpointError: the OOD statistics are damaged.
    """
    ood.check(checkpoint)
    network = checkpoint.network()
    if not hasattr(network, "forward_features"):  # a network of the user's own
        predict = build_predictor(checkpoint, compute)
        return lambda images: (predict(images), torch.zeros(len(images), len(checkpoint.classes), 1, 1))
    linear = linear_after_mean(network)
    weight = None if linear is None else linear.weight.detach().to(compute.device)
    forward = with_feature_maps(network, compute, gradient=linear is None)

    def predict_with_maps(images: Tensor) -> tuple[Prediction, Tensor]:
        logits, features, last_map = forward(checkpoint.preprocess.normalize(images))
        maps = gradient_maps(logits, last_map) if weight is None else activation_maps(last_map, weight)
        return prediction_from_logits(checkpoint, logits, features), maps.cpu()

    return predict_with_maps


def linear_after_mean(network: nn.Module) -> nn.Linear | None:
    """Return the last linear layer if `forward_head` is the mean over all places followed by it, else None.

    Tested with a map of random numbers; the network is in evaluation mode, float32, on the CPU.
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
    """Return (N, classes, h, w) float32 from (N, C, h, w) and the last linear layer's weight (classes, C).

    The mean over all places, plus the bias, is the logit, each minus its mean over the classes.
    """
    return torch.einsum("kc,nchw->nkhw", weight - weight.mean(0), last_map.float())


def gradient_maps(logits: Tensor, last_map: Tensor) -> Tensor:
    """Return (N, classes, h, w) float32 from (N, classes) and the map (N, C, h, w), with gradient, that they come from.

    Grad-CAM times the number of places, which makes it equal to `activation_maps` where both exist, and without the
    final ReLU: what speaks against a class is negative.
    """
    count = min(MAX_GRADIENT_CLASSES, logits.shape[1])
    best = logits.topk(count).indices
    with torch.inference_mode(False):  # whatever the caller has switched off
        chosen = (logits - logits.mean(1, keepdim=True)).gather(1, best.clone())  # (N, count)
        each = torch.eye(count, device=logits.device)[:, None].expand(count, len(logits), count)
        (gradients,) = torch.autograd.grad(chosen, last_map, each, is_grads_batched=True)  # (count, N, C, h, w)
    evidence = torch.einsum("knc,nchw->nkhw", gradients.float().sum((3, 4)), last_map.detach().float())
    maps = torch.zeros(*logits.shape, *last_map.shape[2:], device=logits.device)
    return maps.scatter_(1, best[..., None, None].expand_as(evidence), evidence)


def overlay(values: Tensor, preprocess: Preprocess, image_size: tuple[int, int]) -> bytes:
    """Return a small PNG with transparency, in the proportions of the image, to be laid over all of it.

    Args:
        values: (h, w), one map of `cam_predictor`.
        preprocess: determines which part of the image the network saw; the rest stays transparent.
        image_size: width and height of the upright image in pixels.

    Returns:
        Colours from weak to strong evidence; transparent where there is none, or evidence against the class.
    """
    scale = OVERLAY_SIDE / max(image_size)
    width, height = (max(1, round(side * scale)) for side in image_size)
    left, top, right, bottom = (round(side * scale) for side in preprocess.box(*image_size))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    values = values.float().nan_to_num(0, 0, 0).numpy()
    seen = Image.fromarray(values).resize((right - left, bottom - top), Image.Resampling.BICUBIC)
    most = values.max()  # bicubic curves overshoot, and would find evidence where no place has any
    strength = np.asarray(seen).clip(0, max(most, 0)) / max(most, WEAK_LOGITS)
    levels = np.zeros((height, width), np.uint8)  # into the palette, of which the first is transparent
    levels[top:bottom, left:right] = ((COLOR_LEVELS - 1) * strength).round()[: height - top, : width - left]
    image = Image.fromarray(levels)
    anchors = np.array([list(bytes.fromhex(color[1:])) for color in COLORS])
    positions = np.linspace(0, len(COLORS) - 1, COLOR_LEVELS)
    palette = np.stack([np.interp(positions, np.arange(len(COLORS)), channel) for channel in anchors.T], 1)
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=np.linspace(0, 255 * MAX_OPACITY, COLOR_LEVELS).astype(np.uint8).tobytes())
    return stream.getvalue()
