"""Weights to begin with, instead of random ones: torchvision's of ImageNet, or those in any .pth."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from classifier import checkpoint
from classifier.cli import UserError
from classifier.data import loaders
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.evaluation.metrics import infer
from classifier.inference.predictor import optimize_for_inference
from zoo import MODELS

IMAGENET = "imagenet"
BATCH = 32  # images at a time, where nothing is learned


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights, and how images have to look for them."""

    source: str
    model: str
    classes: list[str]
    preprocess: Preprocess
    state_dict: dict[str, Tensor]


def load_pretrained(source: str, model: str) -> PretrainedWeights:
    """The weights that `--weights` names.

    Args:
        source: "imagenet" or a .pth: one of ours, or a plain state_dict.
        model: the network that they are for; of a .pth, empty for whatever it holds.

    Raises:
        UserError: no such file, weights of another network, or torchvision's could not be fetched.
    """
    if source == IMAGENET:
        saved = _imagenet(model)
    else:
        saved = checkpoint.load(Path(source))
        if model and saved.model != model:
            raise UserError(f"{source} holds weights of {saved.model}, not of {model}. Leave out --model {model}.")
    return PretrainedWeights(source, saved.model, saved.classes, saved.preprocess, saved.state_dict)


def look(source: str, model: str) -> tuple[str, Preprocess]:
    """The network that `--weights` are for, and how images have to look for them; nothing is fetched.

    Raises UserError as `read_beginning`.
    """
    if source == IMAGENET:
        model = model or "resnet18"
        return model, checkpoint.usual_preprocess(model)
    beginning = load_pretrained(source, model)
    return beginning.model, beginning.preprocess


def _imagenet(model: str) -> checkpoint.Checkpoint:
    weights = torchvision.models.get_model_weights(model).DEFAULT
    try:
        state_dict = weights.get_state_dict(progress=True, check_hash=True)  # kept in PyTorch's own cache
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: not the bytes that its name promises
        raise UserError(
            f"ImageNet's weights of {model} could not be fetched from {weights.url} ({error}). "
            "Fetch that file elsewhere and give it as --weights FILE."
        ) from error
    return checkpoint.plain(f"{model}, ImageNet", state_dict)


def features(
    network: nn.Module,
    images: loaders.ImageDataset,
    preprocess: Preprocess,
    compute: Compute,
    workers: int,
    places: Sequence[int] | None = None,
) -> loaders.Features:
    """What the last layer of `network` sees of all images, or of those at these places."""
    trunk = copy.deepcopy(network)
    last = last_layer(trunk)
    trunk.set_submodule(next(name for name, module in trunk.named_modules() if module is last), nn.Identity())
    batches = loaders.on_device(loaders.loader(images, BATCH, workers, places), compute.device)
    return loaders.Features(*infer(optimize_for_inference(trunk, compute), batches, preprocess))


def begin(network: nn.Module, beginning: PretrainedWeights, classes: list[str]) -> str:
    """Load what fits into `network`, in place; what depends on the classes only where those are the same.

    Returns:
        A sentence on what was taken and what is new.
    """
    own = network.state_dict()
    new = [] if beginning.classes == classes else class_dependent(beginning.model)
    taken = {name: value for name, value in beginning.state_dict.items() if name not in new}
    network.load_state_dict(taken, strict=False)  # every other name and shape was compared when the file was read
    values = sum(own[name].numel() for name in taken)
    text = f"begins with {beginning.source}: {len(taken)} of {len(own)} tensors, {values / 1e6:.1f} million values"
    if not new:
        return f"{text}; the classes are the same"
    told = f"{len(beginning.classes)} classes" if len(beginning.classes) > 8 else ", ".join(beginning.classes)
    return f"{text}; new for other classes than {told}: {', '.join(new)}"


def class_dependent(model: str) -> list[str]:
    """Names of the tensors whose shape depends on the number of classes."""
    with torch.device("meta"):
        two, three = (MODELS[model](num_classes=count).state_dict() for count in (2, 3))
    return [name for name, value in two.items() if value.shape != three[name].shape]


def last_layer(network: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def freeze(network: nn.Module, frozen: bool) -> None:
    """Let only the last layer learn, or everything; in the frozen part batch norm's statistics stay as well."""
    network.train(not frozen).requires_grad_(not frozen)
    last_layer(network).requires_grad_(True)
