"""A trained network that answers: optimized for inference, with features for the OOD score, as a `Prediction`.

evaluate.py, predict.py and the page compute with it, so that all of them give the same answers.
"""

import copy
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from classifier.checkpoint import Checkpoint
from classifier.device import Compute
from classifier.inference import ood

MIN_MEAN_SIDE = 24  # positions along a side of a feature map that its mean is over, at least; all would take 16% longer

Features = list[Tensor]


class Prediction(NamedTuple):
    """The answers for N images, on the CPU."""

    logits: Tensor  # (N, classes) float32
    probabilities: Tensor  # (N, classes) float32: softmax of the logits divided by the temperature
    is_ood: Tensor  # (N,) bool: unlike the training images, so none of the classes
    ood_score: Tensor  # (N,) float32: the larger, the more unlike; NaN where the checkpoint has no OOD statistics


def build_predictor(checkpoint: Checkpoint, compute: Compute) -> Callable[[Tensor], Prediction]:
    """Return a function from images (N, 3, S, S) uint8, S being `checkpoint.preprocess.size`, to a `Prediction`.

    Raises:
        CheckpointError: the OOD statistics are damaged.
    """
    ood.check(checkpoint)
    has_ood = bool(checkpoint.ood_stats)
    forward = (with_features if has_ood else optimize_for_inference)(checkpoint.network(), compute)

    def predict(images: Tensor) -> Prediction:
        output = forward(checkpoint.preprocess.normalize(images))
        return prediction_from_logits(checkpoint, *(output if has_ood else (output, [])))

    return predict


def prediction_from_logits(checkpoint: Checkpoint, logits: Tensor, features: Features) -> Prediction:
    """Return the prediction for N images from their logits (N, classes) and the features of `with_features`.

    Without OOD statistics in the checkpoint, no features are needed.
    """
    logits = logits.detach().cpu()
    probabilities = (logits / checkpoint.temperature).softmax(1)
    if not checkpoint.ood_stats:
        return Prediction(
            logits, probabilities, torch.zeros(len(logits), dtype=torch.bool), torch.full((len(logits),), torch.nan)
        )
    score = ood.score(checkpoint.ood_stats, features)
    return Prediction(logits, probabilities, score > checkpoint.ood_stats["threshold"], score)


def optimize_for_inference(network: nn.Module, compute: Compute) -> Callable[[Tensor], Tensor]:
    """Return a function from normalized images (N, 3, H, W) float32 to logits (N, classes) float32 on the device.

    It holds a copy of the network with batch norm folded into the convolutions and with weights in the format of
    `compute`, but for the last linear layer: in float32, so that rounding to 8 bits does not make two logits equal.
    """
    network, _ = _optimized(network, compute)

    @torch.inference_mode()
    def logits(x: Tensor) -> Tensor:
        return network(x.to(compute.device, compute.dtype, memory_format=compute.memory_format)).float()

    return logits


def with_features(network: nn.Module, compute: Compute) -> Callable[[Tensor], tuple[Tensor, Features]]:
    """Return a function as `optimize_for_inference` does, but to (logits, features), for any network in MODELS.

    Features are float32 on the device: for each size that feature maps have on their way through the network, from the
    largest to the smallest, the channel means of the last map of that size, (N, C) each; then the input of the last
    linear layer, (N, D).
    """
    forward = with_feature_maps(network, compute)

    def logits_and_features(x: Tensor) -> tuple[Tensor, Features]:
        logits, features, _ = forward(x)
        return logits.detach(), features

    return logits_and_features


def with_feature_maps(network: nn.Module, compute: Compute) -> Callable[[Tensor], tuple[Tensor, Features, Tensor]]:
    """Return a function as `with_features` does, but to (logits, features, last feature map (N, C, h, w)).

    The logits can be differentiated with respect to that map.
    """
    network, last_layer = _optimized(network, compute)
    maps: dict[tuple[int, ...], Tensor] = {}  # the last map of each size
    head_inputs: list[Tensor] = []
    lock = threading.Lock()  # the page's threads share the network, and maps belong to one call

    def keep_map(_module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            maps[tuple(output.shape[2:])] = output

    for module in network.modules():
        module.register_forward_hook(keep_map)
    last_layer.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0].detach().float()))

    def forward(x: Tensor) -> tuple[Tensor, Features, Tensor]:
        with lock:
            try:
                with torch.inference_mode():
                    x = x.to(compute.device, compute.dtype, memory_format=compute.memory_format)
                    last_map = network.forward_features(x)
                    means = [_channel_means(values) for values in maps.values()]
                with torch.inference_mode(False):
                    last_map = last_map.clone().requires_grad_()
                    logits = network.forward_head(last_map).float()
                return logits, [*means, head_inputs[0]], last_map
            finally:
                maps.clear()
                head_inputs.clear()

    return forward


def _channel_means(values: Tensor) -> Tensor:
    """Return the mean of each channel, (N, C, H, W) -> (N, C) float32, over every n-th position of large maps."""
    step = max(1, min(values.shape[2:]) // MIN_MEAN_SIDE)
    return values[:, :, ::step, ::step].mean((2, 3), dtype=torch.float32)


def _optimized(network: nn.Module, compute: Compute) -> tuple[nn.Module, nn.Module]:
    """Return the copy that `optimize_for_inference` describes, and its last linear layer (or itself without one)."""
    network = fold_batch_norm(copy.deepcopy(network).eval()).requires_grad_(False)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    exact = [copy.deepcopy(module.state_dict()) for module in last]
    network = network.to(compute.device, compute.dtype, memory_format=compute.memory_format)
    for module, weights in zip(last, exact, strict=True):
        module.float().load_state_dict(weights)
        module.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
    return network, (last or [network])[0]


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Fold each batch norm that follows a convolution into it, in place; the network is in evaluation mode.

    A network that torch.fx cannot trace stays as it is: slower, not wrong.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # tracing runs the network's own code on values that are not tensors, which may fail in any way
        return network
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(network.get_submodule(node.target), nn.BatchNorm2d):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) > 1:
            continue
        convolution = network.get_submodule(before.target)
        if isinstance(convolution, nn.Conv2d) and calls.count(before.target) == calls.count(node.target) == 1:
            network.set_submodule(before.target, fuse_conv_bn_eval(convolution, network.get_submodule(node.target)))
            network.set_submodule(node.target, nn.Identity())
    return network
