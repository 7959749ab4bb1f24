"""Start from trained weights: load them into a network, and fit a new last layer on top of them."""

import copy
import time
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from classifier import checkpoint, distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, plural, shorten
from classifier.data import loaders
from classifier.device import Compute
from classifier.evaluation import metrics
from classifier.inference.predictor import optimize_for_inference
from classifier.training.config import IMAGENET, TrainConfig
from classifier.training.datasets import Loaders
from classifier.training.optim import training_loss
from zoo import class_dependent

L2_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # on the last layer's weights, to choose from
MAX_ITERATIONS = 200  # of L-BFGS


def load(model: nn.Module, cfg: TrainConfig, classes: list[str]) -> Checkpoint:
    """Load what --weights names into `model`, in place, and return them.

    The last layers are loaded only where the classes are the same, and of a foreign network the layers that fit.
    Raises UserError: no such file, weights of another network, or ImageNet's could not be downloaded.
    """
    with distributed.local_main_process_first():  # one process per machine downloads
        weights = imagenet(cfg.model) if cfg.weights == IMAGENET else checkpoint.load(Path(cfg.weights), trunk=True)
    if weights.model != cfg.model:
        raise UserError(f"{cfg.weights} holds weights of {weights.model}. Leave out --model {cfg.model}.")
    new = [] if weights.classes == classes else class_dependent(weights.model)
    loaded = {name: value for name, value in weights.state_dict.items() if name not in new}
    model.load_state_dict(loaded, strict=False)  # other names and shapes were compared when the file was read
    note = "the classes are the same"
    if new:
        listed = shorten(", ".join(weights.classes), 80) or "unknown"
        note = f"new because its classes are others ({listed}): {', '.join(new)}"
    if missing := [name for name in model.state_dict() if name not in {*weights.state_dict, *new}]:
        note += f"; new because nothing in the file fits: {shorten(', '.join(missing), 160)}"
    print(f"starts from {cfg.weights}: {len(loaded)} of {len(model.state_dict())} tensors; {note}")
    return weights


def imagenet(model: str) -> Checkpoint:
    """Return torchvision's weights of a network. Raises UserError where they cannot be downloaded."""
    weights = torchvision.models.get_model_weights(model).DEFAULT
    try:
        state_dict = weights.get_state_dict(progress=True, check_hash=True)  # kept in PyTorch's own cache
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the checksum differs
        raise UserError(
            f"ImageNet's weights of {model} could not be downloaded from {weights.url} ({error}). "
            "Download that file elsewhere and give it as --weights FILE."
        ) from error
    return checkpoint.plain(f"{model}, ImageNet", state_dict)


def last_layer(model: nn.Module) -> nn.Linear:
    """Return the linear layer that computes the logits."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def freeze(model: nn.Module) -> None:
    """Let only the last layer learn."""
    model.requires_grad_(False)
    last_layer(model).requires_grad_(True)


# ---- a frozen network without augmentation


def fit_last_layer(
    model: nn.Module, ema: nn.Module, data: Loaders, compute: Compute, cfg: TrainConfig, class_weights: Tensor | None
) -> tuple[float, float, int, float]:
    """Compute the features of all images once and fit the last layer of `model` and `ema` to them, in place.

    The L2 penalty is the one in L2_PENALTIES with the smallest validation loss. Returns the sum of losses, the correct
    predictions and the number of training images in all processes, and seconds.
    """
    start, trunk = time.perf_counter(), copy.deepcopy(model)
    head = last_layer(trunk)
    trunk.set_submodule(next(name for name, module in trunk.named_modules() if module is head), nn.Identity())
    predict = optimize_for_inference(trunk, compute)
    parts = []
    for batches in (data.train_once, data.val):
        own = metrics.infer(predict, loaders.on_device(batches, compute.device), data.preprocess)
        gathered = zip(*distributed.all_gather_object(own), strict=True)
        parts.append([torch.cat(part).to(compute.device) for part in gathered])
    (x, labels), (val_x, val_labels) = parts
    fits = []
    for penalty in L2_PENALTIES:
        layer = _fit_linear(x, labels, head.out_features, penalty, cfg.label_smoothing, class_weights)
        fits.append((metrics.loss(layer(val_x), val_labels), penalty, layer))
    _, penalty, layer = distributed.broadcast_object(min(fits, key=lambda fit: fit[0]))
    for network in (model, ema):
        last_layer(network).load_state_dict(layer.state_dict())
    print(f"last layer fitted to the features of {plural(len(x), 'image')}, L2 penalty {penalty:g}", flush=True)
    logits = layer.to(x.device)(x)
    correct = round(metrics.accuracy(logits, labels) * len(x))
    return metrics.loss(logits, labels) * len(x), correct, len(x), time.perf_counter() - start


def _fit_linear(
    x: Tensor, labels: Tensor, classes: int, penalty: float, label_smoothing: float, class_weights: Tensor | None
) -> nn.Linear:
    """Return the linear layer with the smallest cross-entropy on features (N, D), plus penalty * |weight|^2."""
    scale = x.std().clamp_min(1e-6)  # so that a penalty means the same for every network
    layer = nn.Linear(x.shape[1], classes, device=x.device)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=MAX_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = training_loss(layer(x / scale), labels, label_smoothing, class_weights)
        loss = loss + penalty * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    layer.weight.data /= scale
    return layer.requires_grad_(False)
