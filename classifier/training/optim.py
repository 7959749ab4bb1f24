"""How the weights are updated: loss, parameter groups, and the schedules of learning rate, image size and EMA."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.evaluation import metrics
from classifier.training.config import TrainConfig

AUXILIARY_WEIGHT = 0.3  # of the loss of each of GoogLeNet's auxiliary classifiers, as in its paper


def training_loss(
    outputs: Tensor | tuple[Tensor, ...], targets: Tensor, label_smoothing: float = 0.0, weight: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of the logits, plus that of auxiliary classifiers where a network has them.

    Args:
        outputs: (N, classes), or several of them, the network's own logits first.
        targets: (N,) labels, or (N, classes) probabilities of mixed images.
        label_smoothing: share of each label that is spread over all classes.
        weight: (classes,) or None.
    """
    loss, *auxiliary = (
        F.cross_entropy(logits.float(), targets, weight, label_smoothing=label_smoothing)
        for logits in (outputs if isinstance(outputs, tuple) else (outputs,))
    )
    return sum((AUXILIARY_WEIGHT * other for other in auxiliary), start=loss)


def batch_scores(outputs: Tensor | tuple[Tensor, ...], targets: Tensor) -> Tensor:
    """Return the sum of losses, without smoothing as in validation, and the correct predictions: (2,) float64."""
    logits = (outputs[0] if isinstance(outputs, tuple) else outputs).detach().float()
    labels = targets if targets.ndim == 1 else targets.argmax(1)
    scores = metrics.loss(logits, targets), metrics.accuracy(logits, labels)
    return len(logits) * torch.tensor(scores, dtype=torch.float64)


def train_mode(model: nn.Module, cfg: TrainConfig) -> None:
    """Switch to training mode, but for batch norm that keeps its statistics.

    That is all of it with --freeze, and with --freeze-bn all but that of auxiliary classifiers, which may be new.
    """
    model.train(not cfg.freeze)
    for name, module in model.named_modules() if cfg.freeze_bn else ():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not name.startswith("aux"):
            module.eval()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def param_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Return two groups for the optimizer: kernels and matrices are decayed, biases and batch norm's scales are not."""
    decayed, others = [], []
    for parameter in model.parameters():
        (decayed if parameter.ndim > 1 else others).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def lr_at(step: int, total_steps: int, cfg: TrainConfig) -> float:
    """Return the learning rate: a linear warm-up, then half a cosine (https://arxiv.org/abs/1608.03983) or constant."""
    warmup_steps = round(cfg.warmup * total_steps)
    if step < warmup_steps:
        return cfg.lr * (step + 1) / warmup_steps
    if cfg.schedule == "constant":
        return cfg.lr
    return cfg.lr * (1 + math.cos(math.pi * (step - warmup_steps) / (total_steps - warmup_steps))) / 2


def image_size_at(epoch: int, cfg: TrainConfig) -> int:
    """Return the side of the training images: from `grow_from * size` evenly to `size`, in steps of 16 pixels."""
    progress = epoch / (cfg.epochs - 1) if cfg.epochs > 1 else 1.0
    side = cfg.size * (cfg.grow_from + progress * (1 - cfg.grow_from))
    return cfg.size if cfg.size - side < 8 else max(32, 16 * round(side / 16))


def ema_decay_at(step: int, cfg: TrainConfig) -> float:
    """Return the decay of the moving average of the weights: smaller in the first steps, so that it keeps up."""
    return min(cfg.ema, (1 + step) / (10 + step))
