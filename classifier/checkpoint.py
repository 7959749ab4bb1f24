"""The .pth: save, load. The only place that reads or writes one.

A file holds one dictionary of tensors and plain values, which `torch.load(..., weights_only=True)` reads. Its keys are
"format", which is 1, and the fields of `Checkpoint`.

A plain state_dict of a network in MODELS, as older scripts and torchvision save, is read as well.
"""

import dataclasses
import difflib
import importlib.metadata
import math
import os
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
LAST = ".last.pth"  # ends the name of the file to resume from
SHIPPED = "catdog-resnet18.pth"  # comes with the project, and is used where there is no other
TUTORIAL = dataclasses.replace(NORMALIZATIONS["half"], resize="squash")  # how the scripts of many tutorials preprocess
WRAPPERS = r"^(module\.|_orig_mod\.)+"  # prefixes that DataParallel and torch.compile put before parameter names
OLD_DENSENET = r"(denselayer\d+\.(?:norm|conv))\.([12])\."  # norm.1 was norm1 in torchvision's oldest files


class CheckpointError(UserError):
    """A .pth that is missing, damaged, foreign or hostile; the message names the file and what to do."""


@dataclass
class Checkpoint:
    """The content of a .pth, and what loading it adds."""

    model: str  # "resnet18", a name in zoo.MODELS
    classes: list[str]  # ["cat", "dog"], in the order of the logits
    preprocess: Preprocess  # a dictionary in the file
    state_dict: dict[str, Tensor]  # of the plain network, on the CPU; see `in_half`
    scores: dict = field(default_factory=dict)  # {"val": {...}, "test": {...}}: accuracy, loss, count and more
    data: dict = field(default_factory=dict)  # folder, kind ("drawings" or "photographs"), images per part
    settings: dict = field(default_factory=dict)  # of the run, as train.py had them
    versions: dict = field(default_factory=dict)  # of python, torch, torchvision, pillow
    created: str = ""  # when, ISO 8601
    resume: dict = field(default_factory=dict)  # only in <run>.last.pth: what train.py needs to resume exactly
    temperature: float = 1.0  # divides the logits to calibrate the probabilities; fitted on validation images
    ood_stats: dict = field(default_factory=dict)  # "novelty" in the file: see inference/ood.py; opaque here
    path: Path | None = None  # not in the file, as the next one
    assumed: str = ""  # the preprocessing assumed for a plain state_dict, which does not record it

    def network(self) -> nn.Module:
        """Return the network with these weights, on the CPU, in evaluation mode."""
        network = MODELS[self.model](num_classes=len(self.classes))
        network.load_state_dict(self.state_dict)
        return network.eval()


IN_FILE = [entry.name for entry in dataclasses.fields(Checkpoint)[:-3]]  # fields whose names are keys of the file, too


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a .pth atomically.

    Raises CheckpointError for a folder that cannot be written to or a full disk; an older file is still there.
    """
    content = {"format": FORMAT, **{name: getattr(checkpoint, name) for name in IN_FILE}}
    content["created"] = checkpoint.created or datetime.now().astimezone().isoformat(timespec="seconds")
    content["versions"] = checkpoint.versions or versions()
    content |= {"preprocess": checkpoint.preprocess.to_dict(), "novelty": checkpoint.ood_stats}
    content["state_dict"] = {name: value.detach().cpu().clone() for name, value in checkpoint.state_dict.items()}
    try:
        with atomic_write(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(
            f"{path} could not be written: {error}. Free some space or choose another place."
        ) from error


def amend(path: Path, scores: dict | None = None, **fields) -> None:
    """Add `scores` by part ("test"), or replace other fields of a .pth of ours; its date stays, for `newest`."""
    checkpoint, before = load(path), path.stat()
    save(dataclasses.replace(checkpoint, scores=checkpoint.scores | (scores or {}), **fields), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def finite(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether no weight is infinite or NaN."""
    return all(bool(value.isfinite().all()) for value in state_dict.values())


def versions() -> dict[str, str]:
    """Return the versions that pixels and numbers depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("torchvision", "pillow")}
    return {"python": platform.python_version(), "torch": str(torch.__version__), **packages}


def in_half(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return kernels and matrices as float16, which halves the file; biases and batch norm are small and stay exact."""
    return {name: value.half() if value.ndim > 1 else value.clone() for name, value in state_dict.items()}


def newest(folder: Path) -> Path:
    """Return the newest .pth that is not to resume from; the one that comes with the project only if it is alone.

    Raises CheckpointError where there is none.
    """
    files = [file for file in folder.glob("*.pth") if not file.name.endswith(LAST)]
    files = [file for file in files if file.name != SHIPPED] or files
    if not files:
        raise CheckpointError("{folder} holds no .pth yet. Train a network first: python train.py", folder=folder)
    return max(files, key=lambda file: file.stat().st_mtime)


def load(path: Path, mmap: bool = False) -> Checkpoint:
    """Read a .pth of ours, or a plain state_dict of a network in MODELS.

    With `mmap`, tensors stay in the file, and damaged ones are not noticed: for a look at the rest.
    Raises CheckpointError where the file is missing, damaged, not a .pth, carries pickled code, or has weights that do
    not fit its network.
    """
    content = _read(path, mmap)
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise CheckpointError("{file} holds a {kind}, not a .pth of train.py or a state_dict.", file=path, kind=kind)
    checkpoint = _from_train(path, content) if "format" in content else plain(path, content)
    checkpoint.path = path
    return checkpoint


def _read(path: Path, mmap: bool) -> object:
    if not path.is_file():
        names = [file.name for file in sorted((path if path.is_dir() else path.parent).glob("*.pth"))]
        near = ", ".join(difflib.get_close_matches(path.name, names, n=1) or names) or "no .pth files"
        raise CheckpointError("{file} does not exist or is a folder. Near it: {near}.", file=path, near=near)
    reason: object = ""
    try:
        return safe_load.load(path, mmap)
    except safe_load.UntrustedError as error:
        message, reason = "{file} is not used: {reason}. Do not trust this file.", error
    except PermissionError as error:
        message, reason = "{file} cannot be read: {reason}.", error.strerror
    except Exception as error:  # truncated and damaged files end in RuntimeError, EOFError, OSError, BadZipFile, ...
        message = "{file} is damaged, was not copied whole, or is not a .pth. Copy or train it again."
        if "Unsupported global" in str(error):
            message = (
                "{file} carries pickled Python code, which could do anything and is not run. If you trust its origin, "
                "load it where it comes from and save model.state_dict() instead of the whole model."
            )
    raise CheckpointError(message, file=path, reason=reason)


def _from_train(path: Path, content: Mapping) -> Checkpoint:
    version, model = str(content["format"])[:20], str(content.get("model"))[:80]  # they may be anything
    if version != str(FORMAT):
        message = "{file} has format {format}; this version reads format {known}. Update the project."
        raise CheckpointError(message, file=path, format=version, known=FORMAT)
    if model not in MODELS:
        message = "{file} is for {network!r}; known here are {networks}."
        raise CheckpointError(message, file=path, network=model, networks=", ".join(MODELS))
    try:
        values = {name: content[name] for name in IN_FILE if name in content}
        values |= {"preprocess": Preprocess.from_dict(content["preprocess"]), "ood_stats": content.get("novelty", {})}
        checkpoint = Checkpoint(**values)
        _check_values(checkpoint)
        if shapes(checkpoint.state_dict) != shapes_of(model, len(checkpoint.classes)):
            raise ValueError(f"its weights differ from those of {model} with {len(checkpoint.classes)} classes")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = "{file} is not a complete .pth of train.py ({reason}). Train it again."
        raise CheckpointError(message, file=path, reason=error) from error
    return checkpoint


def _check_values(checkpoint: Checkpoint) -> None:
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


def plain(path: Path | str, content: Mapping) -> Checkpoint:
    """Return a Checkpoint of a plain state_dict, whose shapes tell the network; classes and preprocessing are assumed.

    Raises CheckpointError where it fits no network.
    """
    if isinstance(content.get("state_dict"), Mapping):  # scripts that save more than the weights put them there
        content = content["state_dict"]
    weights = {
        re.sub(OLD_DENSENET, r"\1\2.", re.sub(WRAPPERS, "", str(name), count=1)): value
        for name, value in content.items()
    }
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError("{file} is neither a .pth of train.py nor a plain state_dict.", file=path)
    for name in [name for name in weights if name.endswith("running_var")]:  # PyTorch 0.4.0 did not count batches
        weights.setdefault(name.replace("running_var", "num_batches_tracked"), torch.tensor(0))
    matrices = [value for value in weights.values() if value.ndim == 2]  # the last one is the last linear layer's
    classes = max(1, len(matrices[-1])) if matrices else 1
    model = next((name for name in MODELS if shapes(weights) == shapes_of(name, classes)), None)
    if model is None:
        message = "{file} holds a state_dict that fits none of {networks}."
        raise CheckpointError(message, file=path, networks=", ".join(MODELS))
    preprocess = usual_preprocess(model) if classes == 1000 else TUTORIAL
    assumed = f"{preprocess.resize} to {preprocess.size}, mean {preprocess.mean}, std {preprocess.std}"
    return Checkpoint(model, [f"class {i}" for i in range(classes)], preprocess, weights, assumed=assumed)


def usual_preprocess(model: str) -> Preprocess:
    """Return the preprocessing of torchvision's ImageNet weights; those of GoogLeNet were trained elsewhere."""
    return NORMALIZATIONS["half" if model == "googlenet" else "imagenet"]


def shapes(state_dict: Mapping[str, Tensor]) -> dict[str, tuple]:
    """Return the shape of each tensor."""
    return {name: tuple(value.shape) for name, value in state_dict.items()}


def shapes_of(model: str, classes: int) -> dict[str, tuple]:
    """Return the shape of each tensor of a network."""
    with torch.device("meta"):  # shapes only, no memory and no time
        return shapes(MODELS[model](num_classes=classes).state_dict())
