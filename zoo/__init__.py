"""All networks by name. Each is written by hand in a file of its own; the ResNets are in `resnet.py`.

Every network offers `forward_features(x)`, the last feature map, and `forward_head(features)`, the logits. Parameter
names equal torchvision's, or timm's where it has no such network. A network's file is imported when it is first built.
"""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module

import torch
from torch import Tensor, nn

UNLIKELY = 99991  # classes; no hidden layer has as many neurons


def _build(module: str, name: str, **options) -> nn.Module:
    return getattr(import_module(module), name)(**options)


FILES = {
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "zoo.alexnet": ("alexnet",),
    "zoo.vgg": ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    "zoo.googlenet": ("googlenet",),
    "zoo.densenet": ("densenet121", "densenet169", "densenet201"),
    "zoo.efficientnet_lite": ("efficientnet_lite0",),
}
# name -> builder(num_classes=1000)
MODELS: dict[str, Callable[..., nn.Module]] = {
    name: partial(_build, module, name) for module, names in FILES.items() for name in names
}


def unknown(name: str) -> str:
    """Return the error message for a name that is not in MODELS: the closest one, and all."""
    closest = get_close_matches(name.lower(), MODELS, n=1, cutoff=0.5)
    suggestion = f" Did you mean {closest[0]}?" if closest else ""
    return f"There is no network {name!r}.{suggestion} Available: {', '.join(MODELS)}."


def shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple]:
    """Return the shape of each tensor."""
    return {name: tuple(value.shape) for name, value in state_dict.items()}


def shapes_of(model: str, classes: int) -> dict[str, tuple]:
    """Return the shape of each tensor of a network; its last layer's are the last two."""
    return _shapes_of(MODELS[model], classes).copy()


@cache  # a third of a second for a large network
def _shapes_of(build: Callable[..., nn.Module], classes: int) -> dict[str, tuple]:
    with torch.device("meta"):  # shapes only, no memory
        return shapes(build(num_classes=classes).state_dict())


def class_dependent(model: str) -> list[str]:
    """Return the names of the tensors whose shape depends on the number of classes."""
    return [name for name, shape in shapes_of(model, UNLIKELY).items() if shape[:1] == (UNLIKELY,)]


def smallest_size(model: str) -> int:
    """Return the side in pixels of the smallest image that a network takes."""
    with torch.device("meta"):
        return getattr(MODELS[model](num_classes=2), "smallest", 1)


class Network(nn.Module):
    """What all networks but ResNet share: a check of the image's size, the way from image to logits."""

    smallest: int  # side in pixels of the smallest image of which the poolings leave something

    def __init__(self):
        super().__init__()
        self.register_forward_pre_hook(check_size)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, after its ReLU and pooling: (N, 3, H, W) -> (N, C, h, w)."""
        return self.features(x)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits: (N, C, h, w) -> (N, num_classes)."""
        return self.classifier(torch.flatten(self.avgpool(features), 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.forward_head(self.forward_features(x))


def check_size(network: Network, inputs: tuple[Tensor]) -> None:
    """Raise a ValueError for images (N, 3, H, W) smaller than `network.smallest`; a forward pre-hook."""
    height, width = inputs[0].shape[-2:]
    if min(height, width) < network.smallest:
        needed = f"images of at least {network.smallest} x {network.smallest} pixels"
        raise ValueError(f"{type(network).__name__} needs {needed}; these have {width} x {height}.")
