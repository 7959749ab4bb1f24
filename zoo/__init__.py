"""All networks by name. Each is written by hand in a file of its own; the ResNets are in `resnet.py`."""

from collections.abc import Callable
from difflib import get_close_matches

from torch import nn

from resnet import resnet18, resnet34, resnet50, resnet101, resnet152
from zoo.alexnet import alexnet
from zoo.densenet import densenet121, densenet169, densenet201
from zoo.googlenet import googlenet
from zoo.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn

# name -> builder(num_classes=...)
MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "resnet152": resnet152,
    "alexnet": alexnet,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vgg11_bn": vgg11_bn,
    "vgg13_bn": vgg13_bn,
    "vgg16_bn": vgg16_bn,
    "vgg19_bn": vgg19_bn,
    "googlenet": googlenet,
    "densenet121": densenet121,
    "densenet169": densenet169,
    "densenet201": densenet201,
}


def unknown(name: str) -> str:
    """What to say of a name that is not in MODELS: the nearest one, and all."""
    written = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    plain = {known.replace("_", ""): known for known in MODELS}
    nearest = get_close_matches(written, plain, n=1, cutoff=0.5)
    suggestion = f" Did you mean {plain[nearest[0]]}?" if nearest else ""
    return f"There is no network {name!r}.{suggestion} Known are {', '.join(MODELS)}."
