"""The .pth: save, load. The only place that reads or writes one.

A file holds one dictionary of tensors and plain values, which `torch.load(..., weights_only=True)` reads:

    format      1
    model       "resnet18", a name in zoo.MODELS
    classes     ["cat", "dog"], in the order of the logits
    preprocess  size, resize, mean, std, interpolation: see preprocess.py
    state_dict  the weights of the plain network: kernels and matrices in float16, which halves the file
    scores      {"val": {...}, "test": {...}}: accuracy, loss, count and more
    temperature divides the logits, so that probabilities mean what they say; fitted on validation images
    novelty     what tells images unlike the training images: see inference/ood.py; here just a dictionary
    data        folder, kind ("drawings" or "photographs"), images per part
    settings    the run's settings, as train.py had them
    versions    of python, torch, torchvision, pillow
    created     when, ISO 8601
    resume      only in <run>.last.pth: what train.py needs to go on exactly: see run_state.py

A plain state_dict of a network in MODELS, as older scripts and torchvision save, is read as well.
"""

import dataclasses
import difflib
import importlib.metadata
import math
import os
import pickle
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PureWindowsPath

import torch
from torch import Tensor, nn

from classifier import safe_load
from classifier.cli import UserError
from classifier.data.transforms import NORMALIZATIONS, Preprocess
from classifier.files import atomic_write
from zoo import MODELS

FORMAT = 1
KEYS = {"ood_stats": "novelty"}  # field -> key in the file, where they differ
LAST = ".last.pth"  # ends the name of the file to resume from
SHIPPED = "catdog-resnet18.pth"  # comes with the project, and is used where there is no other
OLDER = dataclasses.replace(NORMALIZATIONS["half"], resize="squash")  # as scripts of tutorials prepare images
WRAPPERS = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile put before parameter names


class CheckpointError(UserError):
    """A .pth that is missing, damaged, foreign or hostile; the message names the file and what to do."""


@dataclass
class Checkpoint:
    """What a .pth says. `state_dict` lies on the CPU."""

    model: str
    classes: list[str]
    preprocess: Preprocess
    state_dict: dict[str, Tensor]
    scores: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    created: str = ""
    resume: dict = field(default_factory=dict)
    temperature: float = 1.0
    ood_stats: dict = field(default_factory=dict)
    path: Path | None = None
    assumed: str = ""  # the preprocessing taken for granted where a plain state_dict does not say

    def network(self) -> nn.Module:
        """The network with these weights, on the CPU, in evaluation mode."""
        network = MODELS[self.model](num_classes=len(self.classes))
        network.load_state_dict(self.state_dict)
        return network.eval()


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a .pth, whole or not at all: a reader sees the old file or the new one, never half of one.

    Raises:
        CheckpointError: the folder cannot be written to or the disk is full; an older file is still there.
    """
    content = {"format": FORMAT, "created": datetime.now().astimezone().isoformat(timespec="seconds")}
    content |= {"versions": versions()}
    for key, value in vars(checkpoint).items():
        if value and key not in ("path", "assumed"):
            content[KEYS.get(key, key)] = value
    content["preprocess"] = checkpoint.preprocess.to_dict()
    content["state_dict"] = {name: value.detach().cpu().clone() for name, value in checkpoint.state_dict.items()}

    try:
        with atomic_write(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(
            f"{path} could not be written: {error}. Free some space or choose another place."
        ) from error


def amend(path: Path, scores: dict | None = None, **fields) -> None:
    """Add `scores`, by part ("test"), or replace other fields of an existing .pth of ours.

    Its date stays, so that it is not the newest.
    """
    checkpoint = load(path)
    checkpoint = dataclasses.replace(checkpoint, scores=checkpoint.scores | (scores or {}), **fields)
    before = path.stat()
    save(checkpoint, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def finite(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether all weights are numbers: neither infinite nor NaN."""
    return all(bool(value.isfinite().all()) for value in state_dict.values())


def versions() -> dict[str, str]:
    """The versions that decide about pixels and numbers."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": importlib.metadata.version("torchvision"),
        "pillow": importlib.metadata.version("pillow"),
    }


def load(path: Path) -> Checkpoint:
    """Read a .pth of ours, or a plain state_dict of a network in MODELS.

    Raises:
        CheckpointError: no such file, not a .pth, truncated, damaged, carries pickled code, unknown network, weights
            that do not fit it.
    """
    content = _read(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, but a .pth of train.py or a state_dict is needed."
        )
    checkpoint = _own(path, content) if "format" in content else plain(path, content)
    checkpoint.path = path
    return checkpoint


def glance(path: Path) -> tuple[dict, bool]:
    """The settings of a run in <run>.last.pth, and whether it has come to its end. Its tensors stay on the disk.

    Raises:
        Exception: `load` says what is wrong.
    """
    safe_load.check_file(path, checksums=False)
    said = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return dict(said["settings"]), bool(said["resume"].get("done", True))


def in_half(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Kernels and matrices as float16; what has one dimension (biases, batch norm) is small and stays exact."""
    return {name: value.half() if value.ndim > 1 else value.clone() for name, value in state_dict.items()}


def newest(folder: Path) -> Path:
    """The .pth written last, those to resume from aside; the one that comes with the project only if it is alone.

    Raises CheckpointError where there is none.
    """
    files = [file for file in folder.glob("*.pth") if not file.name.endswith(LAST)]
    files = [file for file in files if file.name != SHIPPED] or files
    if not files:
        raise CheckpointError(f"{folder} holds no .pth yet. Train a network first: python train.py")
    return max(files, key=lambda file: file.stat().st_mtime)


def _read(path: Path) -> object:
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        names = [str(file) for file in sorted(folder.glob("*.pth"))]
        near = difflib.get_close_matches(str(path), names, n=1, cutoff=0.6)
        found = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names) or 'no .pth files'}."
        raise CheckpointError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}. {found}")
    damaged = f"{path} is damaged, was not copied whole, or is no .pth. Copy or train it again."
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        safe_load.check_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        safe_load.check_content(content)
        return content
    except pickle.UnpicklingError as error:
        # a pickle that is not one of plain data names what it wants to call; other files only look like one by chance
        if "Unsupported global" in str(error) or head[:1] == b"\x80" or head == b"PK\x03\x04":
            raise CheckpointError(
                f"{path} carries pickled Python code, which could do anything and is not run. If you trust its origin, "
                "load it where it comes from and save model.state_dict() instead of the whole model."
            ) from None
        raise CheckpointError(f"{path} is not a .pth of PyTorch (its content is something else).") from None
    except safe_load.UntrustedError as error:
        raise CheckpointError(f"{path} is not used: {error}. Do not trust this file.") from None
    except Exception as error:  # truncated and damaged files end in RuntimeError, EOFError, OSError, BadZipFile, ...
        raise CheckpointError(damaged) from error


def _own(path: Path, content: Mapping) -> Checkpoint:
    said, model = str(content["format"])[:20], str(content.get("model"))[:80]  # they may be anything
    if said != str(FORMAT):
        raise CheckpointError(f"{path} has format {said}; this version reads format {FORMAT}. Update the project.")
    if model not in MODELS:
        raise CheckpointError(f"{path} is for {model!r}; known here are {', '.join(MODELS)}.")
    names = {entry.name for entry in dataclasses.fields(Checkpoint)} - {"path", "assumed"}
    try:
        values = {name: content[KEYS.get(name, name)] for name in names if KEYS.get(name, name) in content}
        values["preprocess"] = Preprocess.from_dict(content["preprocess"])
        checkpoint = Checkpoint(**values)
        names = checkpoint.classes if isinstance(checkpoint.classes, list) else [None]
        if not all(isinstance(name, str) and PureWindowsPath(name).name == name for name in names):
            raise TypeError("class names have to be text, each the name of a folder")
        if not isinstance(checkpoint.temperature, float) or not 0 < checkpoint.temperature < math.inf:
            raise TypeError("temperature is not a number above 0")
        for name in ("scores", "ood_stats", "data", "settings", "versions", "resume"):
            if not isinstance(getattr(checkpoint, name), dict):
                raise TypeError(f"{name} is not a dictionary")
        if not all(isinstance(value, (str, int, float, bool)) for value in checkpoint.settings.values()):
            raise TypeError("settings have to be text, numbers, yes or no")
        fits = shapes(checkpoint.state_dict) == shapes_of(checkpoint.model, len(checkpoint.classes))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path} is not a complete .pth of train.py ({error}). Train it again.") from error
    if not fits:
        raise CheckpointError(
            f"{path} says {checkpoint.model} with {len(checkpoint.classes)} classes, but its weights differ."
        )
    return checkpoint


def plain(path: Path | str, content: Mapping) -> Checkpoint:
    """A state_dict says neither classes nor preprocessing; only its shapes tell which network it belongs to.

    Raises CheckpointError where it fits none.
    """
    if isinstance(content.get("state_dict"), Mapping):  # scripts that save more than the weights put them there
        content = content["state_dict"]
    weights = {}
    for name, value in content.items():
        name = str(name)
        while name.startswith(WRAPPERS):  # in either order
            name = name.split(".", 1)[1]
        name = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)  # torchvision's oldest files
        weights[name] = value
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} is neither a .pth of train.py nor a plain state_dict.")
    for name in [name for name in weights if name.endswith("running_var")]:  # PyTorch 0.4.0 did not count batches
        weights.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    last = [value for value in weights.values() if value.ndim == 2][-1:]  # the matrix of the last linear layer
    classes = max(1, len(last[0])) if last else 1
    model = next((name for name in MODELS if shapes(weights) == shapes_of(name, classes)), None)
    if model is None:
        raise CheckpointError(f"{path} holds a state_dict that fits none of {', '.join(MODELS)}.")
    preprocess = usual_preprocess(model) if classes == 1000 else OLDER
    assumed = f"{preprocess.resize} to {preprocess.size}, mean {preprocess.mean}, std {preprocess.std}"
    return Checkpoint(model, [f"class {i}" for i in range(classes)], preprocess, weights, assumed=assumed)


def usual_preprocess(model: str) -> Preprocess:
    """What torchvision's ImageNet weights of a network are used to; those of GoogLeNet were trained elsewhere."""
    return NORMALIZATIONS["half" if model == "googlenet" else "imagenet"]


def shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple]:
    """Of each tensor."""
    return {name: tuple(value.shape) for name, value in state_dict.items()}


def shapes_of(model: str, classes: int) -> dict[str, tuple]:
    """Those that a network's tensors have."""
    with torch.device("meta"):  # shapes only, no memory and no time
        return shapes(MODELS[model](num_classes=classes).state_dict())
