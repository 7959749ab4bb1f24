"""--teacher: learn the answers of trained networks in place of the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (https://arxiv.org/abs/1503.02531): how
sure a teacher is, and of what else, says more about an image than its label. Beyer et al., "Knowledge distillation: A
good teacher is patient and consistent", 2021 (https://arxiv.org/abs/2106.05237): teacher and student see the same
crop, and many epochs with mixed images pay, since every crop and mixture has a target of its own.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from classifier import checkpoint, distributed
from classifier.cli import UserError
from classifier.data.transforms import Preprocess, resize_batch
from classifier.device import Compute
from classifier.inference.predictor import optimize_for_inference
from classifier.training.config import TrainConfig
from classifier.training.run import RunState


def load(
    cfg: TrainConfig, state: RunState, classes: list[str], preprocess: Preprocess, compute: Compute
) -> Callable[[Tensor], Tensor]:
    """Return a function from the student's input, normalized by `preprocess`, to what it has to answer.

    (N, 3, H, W) -> (N, classes), the mean of the teachers' calibrated probabilities. Each teacher sees the pixels that
    the student sees, mixed images too, resized to the side that it was trained for. `state` keeps the weights' digest.

    Raises UserError: no such file, other classes than those of the training images, other weights than the run had.
    """
    teachers = [checkpoint.load(Path(name.strip())) for name in cfg.teacher.split(",") if name.strip()]
    if not teachers:
        raise UserError(f"--teacher {cfg.teacher} names no file. Expected one or several .pth, separated by commas.")
    content = hashlib.sha256()  # of what the answers depend on; evaluate.py adds scores to a file
    for one in teachers:
        content.update(repr((one.model, one.preprocess, one.temperature)).encode())
        for value in one.state_dict.values():
            content.update(value.contiguous().flatten().view(torch.uint8).numpy())
        if one.classes != classes:
            raise UserError(
                f"--teacher {one.path} knows {', '.join(one.classes)}; expected the classes of the training images, "
                f"{', '.join(classes)}."
            )
    digest = content.hexdigest()
    if state.teacher not in ("", digest) or len(set(distributed.all_gather_object(digest))) > 1:
        raise UserError(
            f"--teacher {cfg.teacher}: the run began with other weights, or another process has others. All need the "
            "same teacher to the end; if its file was moved, name it with --teacher."
        )
    state.teacher = digest
    names = " and ".join(f"{one.path} ({one.model})" for one in teachers)
    print(f"learns from the {'mean of the ' * (len(teachers) > 1)}answers of {names}")
    networks = [(one, optimize_for_inference(one.network(), compute)) for one in teachers]

    def answers(x: Tensor) -> Tensor:
        pixels = 255 * preprocess.denormalize(x)
        found = []
        for one, forward in networks:
            logits = forward(one.preprocess.normalize(resize_batch(pixels, one.preprocess.size)))
            found.append((logits / one.temperature).softmax(1))
        mean = torch.stack(found).mean(0)
        if not mean.isfinite().all():
            raise UserError(f"--teacher {cfg.teacher} gives answers that are not numbers. Try --precision fp32.")
        return mean

    return answers
