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

from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.device import Compute
from classifier.inference import ood

PLACES = 24  # along a side of a map, at least, where it has as many; all of them tell a little more, and take long


class Prediction(NamedTuple):
    """Of N images, on the CPU."""

    logits: Tensor  # (N, classes) float32, as the network gives them
    probabilities: Tensor  # (N, classes) float32, of the logits divided by the temperature
    is_ood: Tensor  # (N,) bool: neither of the classes, since unlike the images that it learned from
    ood_score: Tensor  # (N,) float32: the larger, the more unlike; NaN where the weights do not tell


def build_predictor(checkpoint: Checkpoint, compute: Compute) -> Callable[[Tensor], Prediction]:
    """A function from pixels (N, 3, H, W) uint8, of the side that the checkpoint asks for, to `Answers`.

    The network is loaded and made ready here, once.
    """
    known = checkpoint.ood_stats
    check_ood_stats(checkpoint)
    predict = (with_features if known else optimize_for_inference)(checkpoint.network(), compute)

    def answer(pixels: Tensor) -> Prediction:
        found = predict(checkpoint.preprocess.normalize(pixels))
        logits, features = found if known else (found, [])
        return prediction_from_logits(checkpoint, logits, features)

    return answer


def check_ood_stats(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError, which names the file, where its OOD statistics are not what `ood.fit` returns."""
    try:
        ood.check(checkpoint.ood_stats)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.path} is not a complete .pth of train.py ({error}). Train it again."
        ) from error


def prediction_from_logits(checkpoint: Checkpoint, logits: Tensor, features: list[Tensor]) -> Prediction:
    """What the logits (N, classes) of N images mean, with the `features` that `inference.seeing` gives beside them.

    Without what tells unlike images in the checkpoint, no features are needed.
    """
    known = checkpoint.ood_stats
    logits = logits.detach().cpu()
    probabilities = (logits / checkpoint.temperature).softmax(1)
    score = ood.score(known, features) if known else torch.full((len(logits),), torch.nan)
    unlike = score > known["threshold"] if known else torch.zeros(len(logits), dtype=torch.bool)
    return Prediction(logits, probabilities, unlike, score)


def optimize_for_inference(network: nn.Module, compute: Compute) -> Callable[[Tensor], Tensor]:
    """A function from images (N, 3, H, W) float32, normalised, to logits (N, classes) float32 on the device.

    It holds a copy: batch norm is folded into the convolutions, and all weights but those of the last linear layer are
    in the format of `compute`. That layer stays in float32, so that logits of 8 bits do not make two classes equal.
    `network` stays as it is.
    """
    network, _ = _made_ready(network, compute)

    @torch.inference_mode()
    def logits(x: Tensor) -> Tensor:
        x = x.to(compute.device, compute.dtype, memory_format=compute.memory_format)
        return network(x).float()

    return logits


def with_features(network: nn.Module, compute: Compute) -> Callable[[Tensor], tuple[Tensor, list[Tensor]]]:
    """As `prepared`, for any network in MODELS, but to (logits, features): what novelty.py judges by.

    Features, float32 on the device: of each size that the maps have on their way through the network the mean of each
    channel of the last such map, (N, C) each, from the largest maps to the smallest; then what the last linear layer
    takes, (N, D). No layer is named, so this holds for every network.
    """
    see = with_feature_maps(network, compute)
    return lambda x: see(x)[:2]


def with_feature_maps(
    network: nn.Module, compute: Compute, gradient: bool = False
) -> Callable[[Tensor], tuple[Tensor, list[Tensor], Tensor]]:
    """As `prepared_with_features`, but to (logits, features, last map): heatmap.py wants that map, (N, C, h, w).

    With `gradient`, the logits keep how they came from the last map, and their gradient can be asked for.
    """
    network, last = _made_ready(network, compute)
    maps: dict[tuple[int, ...], Tensor] = {}  # the last map of each size
    taken: list[Tensor] = []
    lock = threading.Lock()  # the page asks from several threads, and what is noted belongs to one question

    def note_map(_module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            maps[tuple(output.shape[2:])] = output

    for module in network.modules():
        module.register_forward_hook(note_map)
    last.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].detach().float()))

    def see(x: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        with lock:
            try:
                with torch.inference_mode():
                    x = x.to(compute.device, compute.dtype, memory_format=compute.memory_format)
                    last_map = network.forward_features(x)
                    means = [_channel_means(values) for values in maps.values()]
                with torch.inference_mode(not gradient):
                    if gradient:
                        last_map = last_map.clone().requires_grad_()
                    logits = network.forward_head(last_map).float()
                return logits, [*means, taken[0]], last_map
            finally:
                maps.clear()
                taken.clear()

    return see


def _channel_means(values: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C) float32; of a large map, every so many places: all would make answers 16% slower."""
    step = max(1, min(values.shape[2:]) // PLACES)
    return values[:, :, ::step, ::step].mean((2, 3), dtype=torch.float32)


def _made_ready(network: nn.Module, compute: Compute) -> tuple[nn.Module, nn.Module]:
    """The copy that `prepared` describes, and its last linear layer (or itself where it has none)."""
    network = fold_batch_norm(copy.deepcopy(network).eval()).requires_grad_(False)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    exact = [copy.deepcopy(module.state_dict()) for module in last]
    network = network.to(compute.device, compute.dtype, memory_format=compute.memory_format)
    for module, weights in zip(last, exact, strict=True):
        module.float().load_state_dict(weights)
        module.register_forward_pre_hook(lambda _, inputs: tuple(x.float() for x in inputs))
    return network, (last or [network])[0]


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """`network`, in evaluation mode, with each batch norm that follows a convolution made part of it, in place.

    A trained batch norm multiplies each channel by a constant and adds another one, and so can the convolution before
    it. A network that torch.fx cannot trace stays as it is: slower, not wrong.
    """
    try:
        graph = fx.Tracer().trace(network)
    except Exception:  # tracing runs the network's own code, which may fail in any way on values that are none
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
