"""How weights are moved: which loss, at which rate and decay each, and their average over time."""

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

AUXILIARY = 0.3  # weight of the loss of each of GoogLeNet's auxiliary classifiers, as in its paper


def training_loss(
    outputs: Tensor | tuple[Tensor, ...], targets: Tensor, smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of the logits, and of those of auxiliary classifiers where a network gives any in training.

    Args:
        outputs: (N, classes), or several of them, the network's own logits first.
        targets: (N,) labels, or (N, classes) shares of mixed images.
        smoothing: share of the truth that is spread over all classes.
        weight: (classes,) or None.
    """
    logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = F.cross_entropy(logits.float(), targets, weight, label_smoothing=smoothing)
    for other in auxiliary:
        loss = loss + AUXILIARY * F.cross_entropy(other.float(), targets, weight, label_smoothing=smoothing)
    return loss


def parameter_groups(network: nn.Module, weight_decay: float, early_lr: float = 1.0) -> list[dict]:
    """Groups for the optimiser, each with the `share` of the learning rate that it gets.

    Kernels and matrices are decayed; biases and batch norm's scales, which have one dimension, are not. The first
    quarter of the network's tensors gets the share `early_lr`, the last one all, and those between come between, evenly
    on a logarithmic scale (Howard and Ruder, https://arxiv.org/abs/1801.06146: discriminative fine-tuning).
    """
    parameters = list(network.parameters())
    groups = defaultdict(list)
    for i, parameter in enumerate(parameters):
        share = early_lr ** (1 - (4 * i // len(parameters)) / 3)
        groups[share, weight_decay if parameter.ndim > 1 else 0.0].append(parameter)
    return [{"params": members, "weight_decay": decay, "share": share} for (share, decay), members in groups.items()]


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """ema <- decay * ema + (1 - decay) * network; early on it forgets faster, so that it keeps up."""
    decay = min(decay, (1 + step) / (10 + step))
    averaged: list[list[Tensor]] = [[], []]
    for mean, value in zip(ema.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            averaged[0].append(mean)
            averaged[1].append(value)
        else:
            mean.copy_(value)  # batch norm counts its batches
    get_ema_multi_avg_fn(decay)(*averaged, None)
