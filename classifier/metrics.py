"""Run a network over pictures once; everything else is a pure function of its logits and the labels."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.device import Compute
from classifier.preprocess import Preprocess


@torch.inference_mode()
def infer(
    network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], preprocess: Preprocess, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) float32 and labels (N,) of all pictures, on the CPU, in the order they came.

    Args:
        network: on the device of `compute`; put into evaluation mode, and back as it was.
        batches: (pixels (n, 3, H, W) uint8, labels (n,)), for instance from `data.on_device`.
        preprocess: normalises the pixels.
        compute: device and precision.
    """
    training = network.training
    network.eval()
    logits, labels = [], []
    for pixels, target in batches:
        x = preprocess.normalize(pixels).contiguous(memory_format=torch.channels_last)
        with compute.autocast():
            logits.append(network(x).float().cpu())
        labels.append(target.cpu())
    network.train(training)
    return torch.cat(logits), torch.cat(labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of pictures whose largest logit is the label's."""
    return (logits.argmax(1) == labels).double().mean().item()


def loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, without label smoothing."""
    return F.cross_entropy(logits, labels).item()
