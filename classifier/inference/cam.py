"""Class activation maps: which places of an image speak for each class, and a picture of it to lay over the photograph.

How much each channel of the last feature map counts for a class is the mean of its gradient: Selvaraju et al.,
"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017
(https://arxiv.org/abs/1610.02391). In networks that end in the mean over all places and one linear layer, these are
that layer's weights: Zhou et al., "Learning Deep Features for Discriminative Localization", 2016
(https://arxiv.org/abs/1512.04150), and the mean of a map, plus the bias, is the logit.

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
from torch import Tensor

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference.predictor import (
    Prediction,
    build_predictor,
    check_ood_stats,
    prediction_from_logits,
    session_answers,
    with_features,
)

MAX_CLASSES = 10  # of an image that get a map
OVERLAY_SIDE = 160  # pixels; maps have 6 to 8 places along a side, so that more would show nothing more
WEAK_LOGITS = 1.0  # a map that stays below this is drawn paler
COLOR_LEVELS = 64  # more cannot be told apart, and make the file larger
MAX_OPACITY = 0.75  # of the strongest evidence; the photograph has to stay visible
# from weak to strong evidence, ever lighter: dark colours show on light photographs, light ones on dark photographs
COLORS = ("#3b0f8f", "#8b0aa5", "#c92f7b", "#ee6a50", "#fca636", "#f7f03a")


def cam_predictor(checkpoint: Checkpoint, compute: Compute) -> Callable[[Tensor], tuple[Prediction, Tensor]]:
    """Return a function from images, as for `build_predictor`, to a `Prediction` and maps in one forward pass.

    Maps are (N, classes, h, w) float32 on the CPU, h and w being those of the last feature map, in logits: by how much
    the class would exceed the mean of all classes if the whole image were like this place (but for the bias). Only the
    10 most probable classes have one; the maps of the others are 0, and all maps of a network without
    `forward_features`. In an ONNX file all classes have maps, or none has. Raises CheckpointError for damaged OOD
    statistics.
    """
    if checkpoint.session:
        return lambda images: session_answers(checkpoint, images)
    check_ood_stats(checkpoint)
    network = checkpoint.network()
    if not hasattr(network, "forward_features"):  # a network of the user's own
        predict = build_predictor(checkpoint, compute)
        return lambda images: (predict(images), torch.zeros(len(images), len(checkpoint.classes), 1, 1))
    forward = with_features(network, compute)

    def predict_with_maps(images: Tensor) -> tuple[Prediction, Tensor]:
        logits, features, last_map = forward(checkpoint.preprocess.normalize(images))
        return prediction_from_logits(checkpoint, logits, features), activation_maps(logits, last_map).cpu()

    return predict_with_maps


def activation_maps(logits: Tensor, last_map: Tensor) -> Tensor:
    """Return (N, classes, h, w) float32 from (N, classes) and the map (N, C, h, w), with gradient, that they come from.

    Grad-CAM times the number of places, without the final ReLU: what speaks against a class is negative.
    """
    count = min(MAX_CLASSES, logits.shape[1])
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

    Its colours go from weak to strong evidence; it is transparent where there is none, or evidence against the class.

    Args:
        values: (h, w), one map of `cam_predictor`.
        preprocess: determines which part of the image the network saw; the rest stays transparent. Bars are cut off.
        image_size: width and height of the upright image in pixels.
    """
    scale = OVERLAY_SIDE / max(image_size)
    width, height = (max(1, round(side * scale)) for side in image_size)
    left, top, right, bottom = (round(side * scale) for side in preprocess.box(*image_size))
    values = values.float().nan_to_num(0, 0, 0).numpy()
    size = max(1, right - left), max(1, bottom - top)
    seen = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
    most = values.max()  # bicubic curves overshoot, and would find evidence where no place has any
    strength = np.asarray(seen).clip(0, max(most, 0)) / max(most, WEAK_LOGITS)
    levels = ((COLOR_LEVELS - 1) * strength).round().astype(np.uint8)  # into the palette, whose first is transparent
    image = Image.new("L", (width, height))
    image.paste(Image.fromarray(levels), (left, top))
    anchors = np.array([list(bytes.fromhex(color[1:])) for color in COLORS])
    positions = np.linspace(0, len(COLORS) - 1, COLOR_LEVELS)
    palette = np.stack([np.interp(positions, np.arange(len(COLORS)), channel) for channel in anchors.T], 1)
    image.putpalette(palette.round().astype(np.uint8).tobytes())
    stream = io.BytesIO()
    image.save(stream, "PNG", transparency=np.linspace(0, 255 * MAX_OPACITY, COLOR_LEVELS).astype(np.uint8).tobytes())
    return stream.getvalue()
