"""What a trained network says of pictures: for evaluate.py, predict.py and the page, so that all say the same."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from classifier import novelty
from classifier.checkpoint import Checkpoint
from classifier.device import Compute
from classifier.inference import prepared, prepared_with_features


class Answers(NamedTuple):
    """Of N pictures, on the CPU."""

    logits: Tensor  # (N, classes) float32, as the network gives them
    probabilities: Tensor  # (N, classes) float32, of the logits divided by the temperature
    unlike: Tensor  # (N,) bool: neither of the classes, since unlike the pictures that it learned from
    novelty: Tensor  # (N,) float32: the larger, the more unlike; NaN where the weights do not tell


def answerer(checkpoint: Checkpoint, compute: Compute) -> Callable[[Tensor], Answers]:
    """A function from pixels (N, 3, H, W) uint8, of the side that the checkpoint asks for, to `Answers`.

    The network is loaded and made ready here, once.
    """
    known = checkpoint.novelty
    predict = (prepared_with_features if known else prepared)(checkpoint.network(), compute)

    def answer(pixels: Tensor) -> Answers:
        found = predict(checkpoint.preprocess.normalize(pixels))
        logits, features = found if known else (found, [])
        return answers_of(checkpoint, logits, features)

    return answer


def answers_of(checkpoint: Checkpoint, logits: Tensor, features: list[Tensor]) -> Answers:
    """What the logits (N, classes) of N pictures mean, with the `features` that `inference.seeing` gives beside them.

    Without what tells unlike pictures in the checkpoint, no features are needed.
    """
    known = checkpoint.novelty
    logits = logits.detach().cpu()
    probabilities = (logits / checkpoint.temperature).softmax(1)
    score = novelty.score(known, features) if known else torch.full((len(logits),), torch.nan)
    unlike = score > known["threshold"] if known else torch.zeros(len(logits), dtype=torch.bool)
    return Answers(logits, probabilities, unlike, score)
