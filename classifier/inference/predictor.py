"""A trained network that answers: optimized for inference, with its out-of-distribution (OOD) score, as a `Prediction`.

evaluate.py, predict.py and the page compute with it, so that all of them give the same answers.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.device import Compute

EPSILON = 1e-6
MIN_MEAN_SIDE = 24  # positions along a side of a feature map that its mean is over, at least; all would take 16% longer

Features = list[Tensor]


class Prediction(NamedTuple):
    """The answers for N images, on the CPU."""

    logits: Tensor  # (N, classes) float32
    probabilities: Tensor  # (N, classes) float32: softmax of the logits divided by the temperature
    is_ood: Tensor  # (N,) bool: unlike the training images, so none of the classes
    features: Tensor | None = None  # (N, D) float32: the input of the last linear layer


def build_predictor(checkpoint: Checkpoint, compute: Compute) -> Callable[[Tensor], Prediction]:
    """Return a function from images (N, 3, S, S) uint8, S being `checkpoint.preprocess.size`, to a `Prediction`.

    Raises CheckpointError for damaged OOD statistics; the function raises UserError where the device has too little
    memory or logits are not finite.
    """
    if checkpoint.session:
        return lambda images: session_answers(checkpoint, images)[0]
    check_ood_stats(checkpoint)
    forward = (with_features if checkpoint.ood_stats else with_head_input)(checkpoint.network(), compute)

    def predict(images: Tensor) -> Prediction:
        try:
            output = forward(checkpoint.preprocess.normalize(images))
        except torch.OutOfMemoryError:
            message = f"{compute.device} has too little memory for {len(images)} images. Try a smaller --batch-size."
            raise UserError(message) from None
        prediction = prediction_from_logits(checkpoint, *output[:2])
        if not prediction.logits.isfinite().all():
            raise UserError(f"{checkpoint.path} gives logits that are not finite. Train again with a smaller --lr.")
        return prediction

    return predict


def session_answers(checkpoint: Checkpoint, images: Tensor) -> tuple[Prediction, Tensor]:
    """Return what an ONNX file answers, from images as for `build_predictor`: a prediction, and maps as in cam.py.

    Without OOD statistics no image is out of distribution, without maps these are 0: (N, classes, 1, 1).
    """
    names = [output.name for output in checkpoint.session.get_outputs()]
    found = checkpoint.session.run(names, {"picture": images.permute(0, 2, 3, 1).contiguous().numpy()})
    values = dict(zip(names, map(torch.from_numpy, found), strict=True))
    is_ood = values["unlike"] > 0 if "unlike" in values else torch.zeros(len(images), dtype=torch.bool)
    maps = values.get("maps", torch.zeros(len(images), len(checkpoint.classes), 1, 1))
    return Prediction(values["logits"], values["probabilities"], is_ood, values["features"]), maps


def prediction_from_logits(checkpoint: Checkpoint, logits: Tensor, features: Features) -> Prediction:
    """Return the prediction for N images from what `with_features` gives for them: logits (N, classes) and features."""
    logits, stats = logits.detach().cpu(), checkpoint.ood_stats
    is_ood = ood_score(stats, features) > stats["threshold"] if stats else torch.zeros(len(logits), dtype=torch.bool)
    return Prediction(logits, (logits / checkpoint.temperature).softmax(1), is_ood, features[-1].cpu())


def ood_score(ood_stats: dict, features: list[Tensor]) -> Tensor:
    """Return (N,) float32 on the CPU, the larger the more unlike; above `ood_stats["threshold"]` no class fits.

    `ood_stats` are from `calibration.fit_ood`, features of N images from `with_features`.
    """
    parts = (ood_parts(ood_stats, features) - ood_stats["mean"]) / ood_stats["std"]
    return parts[:, 0] + parts[:, 1:].mean(1)


def ood_parts(ood_stats: dict, features: list[Tensor]) -> Tensor:
    """Return (N, 1 + maps) float32 on the CPU: how short the last vector is, and how unusual each earlier map."""
    parts = [-features[-1].float().cpu().norm(dim=1)]
    maps = sum(name.endswith(".inverse") for name in ood_stats)
    for i, values in enumerate(features[:maps]):
        x = (values.float().cpu() - ood_stats[f"map{i}.mean"]) / ood_stats[f"map{i}.std"]
        parts.append((x @ ood_stats[f"map{i}.inverse"] * x).sum(1).clamp_min(EPSILON).log())
    return torch.stack(parts, 1)


def check_ood_stats(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for OOD statistics that are not empty and cannot score an image."""
    stats = checkpoint.ood_stats
    try:
        features = [torch.zeros(1, len(value)) for name, value in stats.items() if name.endswith(".mean")]
        features.append(torch.zeros(1, 1))
        valid = not stats or math.isfinite(ood_score(stats, features).item() + stats["threshold"])
    except Exception:  # whatever may be in the file
        valid = False
    if not valid:
        message = "{file} is not a complete .pth of train.py ({reason}). Train it again."
        raise CheckpointError(message, file=checkpoint.path, reason="novelty has values that it cannot have")


def optimize_for_inference(network: nn.Module, compute: Compute) -> Callable[[Tensor], Tensor]:
    """Return a function from normalized images (N, 3, H, W) float32 to logits (N, classes) float32 on the device.

    It holds a copy of the network with batch norm folded into the convolutions and with weights in the format of
    `compute`, but for the last linear layer: in float32, so that rounding to 8 bits does not make two logits equal.
    """
    forward = with_head_input(network, compute)
    return lambda x: forward(x)[0]


def with_head_input(network: nn.Module, compute: Compute) -> Callable[[Tensor], tuple[Tensor, Features]]:
    """Return a function as `optimize_for_inference` does, but to (logits, [input of the last linear layer (N, D)])."""
    network, last_layer = optimized(network, compute)
    head_inputs: list[Tensor] = []
    last_layer.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0].float()))

    @torch.inference_mode()
    def forward(x: Tensor) -> tuple[Tensor, Features]:
        logits = network(x.to(compute.device, compute.dtype, memory_format=compute.memory_format)).float()
        return logits, [head_inputs.pop()]

    return forward


def with_features(network: nn.Module, compute: Compute) -> Callable[[Tensor], tuple[Tensor, Features, Tensor]]:
    """Return a function as `optimize_for_inference` does, but to (logits, features, last feature map (N, C, h, w)).

    Features are float32 on the device: for each size that feature maps have on their way through the network, from the
    largest to the smallest, the channel means of the last map of that size, (N, C) each; then the input of the last
    linear layer, (N, D). The logits can be differentiated with respect to the last map. One thread at a time.
    """
    network, last_layer = optimized(network, compute)
    trunk, head = split_network(network, last_layer)

    def forward(x: Tensor) -> tuple[Tensor, Features, Tensor]:
        with torch.inference_mode():
            last_map, means = trunk(x.to(compute.device, compute.dtype, memory_format=compute.memory_format))
        with torch.inference_mode(False):
            last_map = last_map.clone().requires_grad_()
            logits, head_input = head(last_map)
        return logits, [*means, head_input], last_map

    return forward


def split_network(network: nn.Module, last_layer: nn.Module) -> tuple[Callable, Callable]:
    """Return two functions, which hooks in the network serve: x -> (last map, means), last map -> (logits, head input).

    They are as `with_features` describes. Without `forward_features`, x is the last map, and there are no means.
    """
    maps: dict[torch.Size, Tensor] = {}  # the last map of each size
    head_inputs: list[Tensor] = []

    def keep_map(_module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            maps[output.shape[2:]] = output

    for module in network.modules():
        module.register_forward_hook(keep_map)
    last_layer.register_forward_pre_hook(lambda _, inputs: head_inputs.append(inputs[0].detach().float()))

    def trunk(x: Tensor) -> tuple[Tensor, Features]:
        maps.clear()
        last_map = network.forward_features(x) if hasattr(network, "forward_features") else x
        means = [_channel_means(values) for values in maps.values()]
        maps.clear()
        return last_map, means

    def head(last_map: Tensor) -> tuple[Tensor, Tensor]:
        logits = network.forward_head(last_map) if hasattr(network, "forward_head") else network(last_map)
        maps.clear()
        return logits.float(), head_inputs.pop()

    return trunk, head


def _channel_means(values: Tensor) -> Tensor:
    """Return the mean of each channel, (N, C, H, W) -> (N, C) float32, over every n-th position of large maps."""
    step = max(1, min(values.shape[2:]) // MIN_MEAN_SIDE)
    return values[:, :, ::step, ::step].mean((2, 3), dtype=torch.float32)


def optimized(network: nn.Module, compute: Compute) -> tuple[nn.Module, nn.Module]:
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
    modules = dict(network.named_modules())
    calls = [node.target for node in graph.nodes if node.op == "call_module"]
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" else None
        if not isinstance(before, fx.Node) or len(before.users) > 1 or before.op != "call_module":
            continue
        convolution, norm = modules[before.target], modules[node.target]
        used_once = calls.count(before.target) == calls.count(node.target) == 1
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and used_once:
            network.set_submodule(before.target, fuse_conv_bn_eval(convolution, norm))
            network.set_submodule(node.target, nn.Identity())
    return network
