"""Other people's weights: which network of MODELS a dictionary holds.

Programs put prefixes before the names, numbers in their place, other keys around them, and another last layer behind.
So a network is recognised by the ends of its names and by shapes; what is in doubt is said, not guessed.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath

import torch
from torch import Tensor

from classifier.cli import shorten
from classifier.files import safe_name
from classifier.safe_load import CheckpointError, StandIn
from zoo import MODELS, UNLIKELY, shapes_of

WRAPPERS = r"(?:^|(?<=\.))(?:module|_orig_mod|_forward_module)\."  # of DataParallel, torch.compile, DeepSpeed
OLD_DENSENET = r"(denselayer\d+\.(?:norm|conv))\.([12])\."  # norm.1 was norm1 in torchvision's oldest files
OF_TRAINING = r"loss|criterion|metric"  # begin the names of tensors that are no part of a network
OF_CLASSES = r"class|label|categor|names|idx"  # in the key of a list or dictionary of class names
MAX_DEPTH = 4  # dictionaries in one another
NEAR = 0.5  # share of a network's layers; files with fewer hold something else


@dataclass
class Found:
    """What a dictionary holds of a network."""

    model: str  # a name in MODELS
    state_dict: dict[str, Tensor]  # under the network's names; without GoogLeNet's auxiliary layers where they are not
    outputs: int  # of the last layer; 0 where it does not fit
    near: float  # share of the tensors before the last layer that fit
    differs: list[str]  # why it is not such a network; empty where it is
    origin: str  # where in the dictionary it is, for a reader
    classes: list[str] = field(default_factory=list)  # their names, where the dictionary has them
    not_read: list[str] = field(default_factory=list)  # objects beside the weights


def find(path: Path | str, content: Mapping) -> Found:
    """Return the network in a dictionary, which may lie in others; moving averages ("ema") go first.

    Raises CheckpointError where there are no weights, or none like those of a network in MODELS.
    """
    found: list[Found] = []
    names: list[str] = []
    for where, weights in _state_dicts(content):
        names += weights
        for variant in (weights, *_numbered(weights)):
            found += [_fit(where, model, variant) for model in MODELS]
    if not names:
        raise CheckpointError("{file} is neither a .pth of train.py nor a plain state_dict.", file=path)
    best = max(found, key=lambda fit: (not fit.differs, "ema" in fit.origin.lower(), fit.near))
    if best.near < NEAR:
        message = "{file} holds weights of another network ({names}). Known here are {networks}."
        raise CheckpointError(message, file=path, names=shorten(", ".join(names), 80), networks=", ".join(MODELS))
    best.classes = _class_names(content, max(2, best.outputs))
    best.not_read = [f"{key} ({type(value).__name__})" for key, value in content.items() if isinstance(value, StandIn)]
    return best


def _state_dicts(content: Mapping, where: tuple[str, ...] = ()) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield where each dictionary of weights is, and its tensors, with names as torchvision has today."""
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor) and "." in str(key)}
    weights = {
        re.sub(OLD_DENSENET, r"\1\2.", re.sub(WRAPPERS, "", key)): value.detach() for key, value in tensors.items()
    }
    for name in [name for name in weights if name.endswith("running_var")]:  # PyTorch 0.4.0 did not count batches
        weights.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    if any(value.ndim > 1 for value in weights.values()):
        yield ".".join(where), weights
    for key, value in content.items():
        if isinstance(value, Mapping) and len(where) < MAX_DEPTH:
            yield from _state_dicts(value, (*where, str(key)))


def _numbered(weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the weights with ResNet's names for the numbers that nn.Sequential(*resnet.children()) has instead."""
    children = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
    for prefix in [key.removesuffix("0.weight") for key, value in weights.items() if key.endswith("0.weight")]:
        found = {key: match for key in weights if (match := re.match(rf"{re.escape(prefix)}(\d+)\.", key))}
        numbers = dict.fromkeys(match[1] for match in found.values())
        names = dict(zip(numbers, children, strict=False))
        if len(names) >= len(children) - 1:
            of_key = {
                key: f"{prefix}{names.get(match[1], match[1])}.{key[match.end() :]}" for key, match in found.items()
            }
            yield {of_key.get(key, key): value for key, value in weights.items()}


def _fit(where: str, model: str, weights: Mapping[str, Tensor]) -> Found:
    """Compare weights with those of a network, under the prefix with which most of its names are among them."""
    shapes = shapes_of(model, UNLIKELY)
    dependent = [name for name, shape in shapes.items() if shape[:1] == (UNLIKELY,)]
    trunk = {name: shape for name, shape in shapes.items() if name not in dependent and not name.startswith("aux")}
    hits: Counter[str] = Counter()
    for key, value in weights.items():
        parts = key.split(".")
        for i in range(len(parts)):
            if trunk.get(".".join(parts[i:])) == value.shape:
                hits[".".join([*parts[:i], ""])] += 1
    rivals = [prefix for prefix, count in hits.items() if count == max(hits.values())] or [""]
    prefix = next((prefix for prefix in rivals if "ema" in prefix.lower()), rivals[0])

    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    fits = {name: own[name] for name, shape in trunk.items() if name in own and own[name].shape == shape}
    differs = [
        f"{name} is {_size(own[name].shape) if name in own else 'missing'}, expected {_size(shape)}"
        for name, shape in trunk.items()
        if name not in fits
    ]

    *_, head_weight, head_bias = shapes
    known = {prefix + name for name in shapes if name not in (head_weight, head_bias)}
    rest = {}
    for key, value in weights.items():
        network = max((rival for rival in rivals if key.startswith(rival)), key=len, default=prefix)
        if key not in known and network == prefix and value.ndim and not re.match(OF_TRAINING, key):
            rest[key] = value
    outputs = 0
    if head := _linear(rest, shapes[head_weight][1]):
        fits |= dict(zip((head_weight, head_bias), head, strict=True))
        outputs = len(head[1])
        for name, shape in shapes.items():
            expected = (outputs, *shape[1:]) if name in dependent else shape
            if name.startswith("aux") and name in own and own[name].shape == expected:
                fits[name] = own[name]
    else:
        there = ", ".join(f"{key} {_size(value.shape)}" for key, value in rest.items()) or "nothing"
        layer = head_weight.removesuffix(".weight")
        differs.insert(
            0, f"{layer}: expected one linear layer of {shapes[head_weight][1]} inputs, found {shorten(there, 120)}"
        )
    near = sum(name in fits for name in trunk) / len(trunk) if trunk else float(outputs > 0)
    return Found(model, fits, outputs, near, differs, ".".join(filter(None, (where, prefix.rstrip(".")))))


def _linear(rest: Mapping[str, Tensor], inputs: int) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias if the tensors are those of one linear layer, which may have no bias."""
    weight, *others = sorted(rest, key=lambda key: -rest[key].ndim) or [""]
    if not weight.endswith("weight") or rest[weight].ndim != 2 or rest[weight].shape[1] != inputs:
        return None
    bias = rest.get(weight.removesuffix("weight") + "bias", torch.zeros(len(rest[weight])))
    alone = others in ([], [weight.removesuffix("weight") + "bias"]) and bias.shape == rest[weight].shape[:1]
    return (rest[weight], bias) if alone else None


def _size(shape: tuple) -> str:
    return " x ".join(map(str, shape)) or "a number"


def _class_names(content: Mapping, count: int) -> list[str]:
    """Return `count` names from a list of them, or a dictionary from or to their numbers; [] without one."""
    waiting = list(content.items())
    for key, value in waiting:  # all dictionaries in one another; the list grows meanwhile
        names: list = []
        if isinstance(value, Mapping):
            waiting += value.items()
            numbers = {str(i): i for i in range(count)}
            if value.keys() and all(type(i) is int for i in value.values()):
                names = sorted(value, key=value.get) if sorted(value.values()) == list(range(count)) else []
            elif {str(i) for i in value} == numbers.keys():
                names = [value[i] for i in sorted(value, key=int)]
        elif isinstance(value, (list, tuple)):
            names = list(value)
        named = re.search(OF_CLASSES, str(key).lower()) and all(isinstance(name, str) for name in names)
        if named and len(set(names)) == len(names) == count:
            return [name if PureWindowsPath(name).name == name else safe_name(name) for name in names]
    return []
