"""All networks by name. Each is written by hand in a file of its own; the ResNets are in `resnet.py`.

Every network offers `forward_features(x)`, the last feature map, and `forward_head(features)`, the logits. Parameter
names equal torchvision's. A network's file is imported when it is first built.
"""

from collections.abc import Callable
from difflib import get_close_matches
from functools import partial
from importlib import import_module

from torch import Tensor, nn


def _build(module: str, name: str, **options) -> nn.Module:
    return getattr(import_module(module), name)(**options)


FILES = {
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "zoo.alexnet": ("alexnet",),
    "zoo.vgg": ("vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    "zoo.googlenet": ("googlenet",),
    "zoo.densenet": ("densenet121", "densenet169", "densenet201"),
}
# name -> builder(num_classes=1000)
MODELS: dict[str, Callable[..., nn.Module]] = {
    name: partial(_build, module, name) for module, names in FILES.items() for name in names
}


def unknown(name: str) -> str:
    """Return the error message for a name that is not in MODELS: the closest one, and all."""
    plain = {known.replace("_", ""): known for known in MODELS}
    written = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    closest = get_close_matches(written, plain, n=1, cutoff=0.5)
    suggestion = f" Did you mean {plain[closest[0]]}?" if closest else ""
    return f"There is no network {name!r}.{suggestion} Available: {', '.join(MODELS)}."


def check_size(network: nn.Module, inputs: tuple[Tensor]) -> None:
    """Refuse images of which the network's poolings would leave nothing; a forward pre-hook.

    Raises:
        ValueError: the images (N, 3, H, W) are smaller than `network.smallest` pixels.
    """
    height, width = inputs[0].shape[-2:]
    if min(height, width) < network.smallest:
        raise ValueError(
            f"{type(network).__name__} needs images of at least {network.smallest} x {network.smallest} pixels; "
            f"these have {width} x {height}."
        )
