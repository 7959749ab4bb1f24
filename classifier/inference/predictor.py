"""What a trained network says of images: for evaluate.py, predict.py and the page, so that all say the same."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from classifier.checkpoint import Checkpoint
from classifier.device import Compute
from classifier.inference import ood
from classifier.inference.optimize import optimize_for_inference, with_features


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
    predict = (with_features if known else optimize_for_inference)(checkpoint.network(), compute)

    def answer(pixels: Tensor) -> Prediction:
        found = predict(checkpoint.preprocess.normalize(pixels))
        logits, features = found if known else (found, [])
        return prediction_from_logits(checkpoint, logits, features)

    return answer


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
