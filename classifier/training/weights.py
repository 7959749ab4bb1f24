"""The weights that --weights names: those in any .pth, or torchvision's of ImageNet."""

from pathlib import Path
from urllib.error import URLError

import torchvision

from classifier import checkpoint
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess

IMAGENET = "imagenet"


def read_pretrained(source: str, model: str) -> Checkpoint:
    """Return the weights that --weights names, with their classes and preprocessing.

    Args:
        source: "imagenet" or a .pth: one of ours, or a plain state_dict.
        model: the network that they are for; empty for whatever a .pth holds.

    Raises:
        UserError: no such file, weights of another network, or torchvision's could not be downloaded.
    """
    saved = _imagenet(model) if source == IMAGENET else checkpoint.load(Path(source))
    if model and saved.model != model:
        raise UserError(f"{source} holds weights of {saved.model}, not of {model}. Leave out --model {model}.")
    return saved


def peek(source: str, model: str) -> tuple[str, Preprocess]:
    """Return the network and the preprocessing of --weights without downloading. Raises UserError."""
    if source == IMAGENET:
        model = model or "resnet18"
        return model, checkpoint.usual_preprocess(model)
    weights = read_pretrained(source, model)
    return weights.model, weights.preprocess


def _imagenet(model: str) -> Checkpoint:
    weights = torchvision.models.get_model_weights(model).DEFAULT
    try:
        state_dict = weights.get_state_dict(progress=True, check_hash=True)  # kept in PyTorch's own cache
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the checksum differs
        raise UserError(
            f"ImageNet's weights of {model} could not be downloaded from {weights.url} ({error}). "
            "Download that file elsewhere and give it as --weights FILE."
        ) from error
    return checkpoint.plain(f"{model}, ImageNet", state_dict)
