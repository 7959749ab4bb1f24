"""All networks by name. Each is written by hand in a file of its own; the ResNets are in `resnet.py`."""

from collections.abc import Callable

from torch import nn

from resnet import resnet18, resnet34, resnet50, resnet101, resnet152

# name -> builder(num_classes=...)
MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
}
