"""The .pth: save, load. The only place that reads or writes one.

A file holds one dictionary of tensors and plain values, which `torch.load(..., weights_only=True)` reads. Its keys are
"format", which is 1, and the fields of `Checkpoint`.

A state_dict of a network in MODELS, as other programs and torchvision save it, is read as well: see foreign.py.
"""

import dataclasses
import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path, PureWindowsPath
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from tyro import conf

from classifier import safe_load
from classifier.cli import shorten
from classifier.data.transforms import MAX_SIZE, NORMALIZATIONS, RESIZES, Preprocess
from classifier.files import atomic_write
from classifier.safe_load import CheckpointError
from zoo import MODELS, class_dependent, shapes, shapes_of, smallest_size

FORMAT = 1
OURS = {"format", "preprocess"}  # keys that no other program's file has together
LAST = ".last.pth"  # ends the name of the file to resume from
# come with the project, the best first, and are used where there are no others
SHIPPED = ("catdog-efficientnet_lite0.pth", "catdog-resnet18.pth")
TUTORIAL = dataclasses.replace(NORMALIZATIONS["half"], resize="squash")  # how the scripts of many tutorials preprocess
LITE = Preprocess(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)  # (x - 127) / 128 of values in 0..255


UNKNOWN = (-1.0, -1.0, -1.0)
RGB = conf.arg(metavar="R G B", help_behavior_hint="")


@dataclass(frozen=True)
class Stated:
    """What a state_dict of another program does not say; a .pth of train.py does."""

    image_size: Annotated[int, conf.arg(help_behavior_hint="")] = 0
    """For weights of other programs, which do not say it: side in pixels of the images that they learned from."""
    resize: Annotated[Literal["", RESIZES], conf.arg(metavar="|".join(RESIZES), help_behavior_hint="")] = ""
    """Likewise: how images became squares."""
    mean: Annotated[tuple[float, float, float], RGB] = UNKNOWN
    """Likewise: mean of each channel, in 0..1; ImageNet's is 0.485 0.456 0.406."""
    std: Annotated[tuple[float, float, float], RGB] = UNKNOWN
    """Likewise: standard deviation of each channel; ImageNet's is 0.229 0.224 0.225."""
    classes: Annotated[str, conf.arg(metavar="NAME,NAME,...", help_behavior_hint="")] = ""
    """Likewise: names of the classes, in the order of the outputs."""

    def given(self) -> dict[str, object]:
        """Return what is stated, by field."""
        return {name: value for name, value in vars(self).items() if value not in (0, "", UNKNOWN)}

    def class_names(self) -> list[str]:
        """Return the names, [] without any. Raises CheckpointError for such as are not folder names, or equal."""
        names = [name.strip() for name in self.classes.split(",") if name.strip()]
        if len(set(names)) < len(names) or any(PureWindowsPath(name).name != name for name in names):
            raise CheckpointError("--classes needs names that differ and could be those of folders.")
        return names

    def preprocess(self, usual: Preprocess) -> tuple[Preprocess, str]:
        """Return the stated values, in place of the missing ones the usual, and these as flags.

        Raises CheckpointError for values out of range.
        """
        keys = {"image_size": "size", "resize": "resize", "mean": "mean", "std": "std"}
        given = {keys[name]: value for name, value in self.given().items() if name in keys}
        if not 1 <= given.get("size", 1) <= MAX_SIZE:
            message = "--image-size is {size}; expected 1 to {largest}."
            raise CheckpointError(message, size=given["size"], largest=MAX_SIZE)
        if wrong := [v for key in ("mean", "std") for v in given.get(key, ()) if not 0 <= v <= 1]:
            message = "--mean or --std: found {values}, expected values in 0..1; those in 0..255, divided by 255."
            raise CheckpointError(message, values=", ".join(map(str, wrong)))
        try:
            preprocess = dataclasses.replace(usual, **given)
        except ValueError as error:
            raise CheckpointError("--image-size, --mean or --std: {reason}", reason=error) from None
        assumed = {name: str(getattr(preprocess, key)) for name, key in keys.items() if key not in given}
        flags = [f"--{name.replace('_', '-')} {value.strip('()').replace(',', '')}" for name, value in assumed.items()]
        return preprocess, " ".join(flags)


UNSTATED = Stated()


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
    ood_stats: dict = field(default_factory=dict)  # "novelty" in the file: see inference/calibration.py; opaque here
    path: Path | None = None  # not in the file, as the next ones
    assumed: str = ""  # for a state_dict of another program, which does not say it, as flags that would
    named: bool = True  # whether the names of the classes are known
    session: object = None  # of onnxruntime: for an ONNX file, which has no state_dict; see inference/onnx_file.py

    def network(self) -> nn.Module:
        """Return the network with these weights, on the CPU, in evaluation mode."""
        network = MODELS[self.model](num_classes=len(self.classes))
        network.load_state_dict(self.state_dict)
        return network.eval()


IN_FILE = [entry.name for entry in dataclasses.fields(Checkpoint)[:-5]]  # fields whose names are keys of the file, too


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a .pth atomically.

    Raises CheckpointError for a folder that cannot be written to or a full disk; an older file is still there.
    """
    content = content_of(checkpoint)
    content["state_dict"] = {name: value.detach().cpu().clone() for name, value in checkpoint.state_dict.items()}
    try:
        with atomic_write(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        raise CheckpointError(
            f"{path} could not be written: {error}. Free some space or choose another place."
        ) from error


def content_of(checkpoint: Checkpoint) -> dict:
    """Return what a file holds, by key; `from_content` undoes it."""
    content = {"format": FORMAT, **{name: getattr(checkpoint, name) for name in IN_FILE}}
    content["created"] = checkpoint.created or datetime.now().astimezone().isoformat(timespec="seconds")
    content["versions"] = checkpoint.versions or versions()
    return content | {"preprocess": checkpoint.preprocess.to_dict(), "novelty": checkpoint.ood_stats}


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
    """Return the newest .pth that is not to resume from; where there is none, the best that comes with the project.

    Raises CheckpointError where there is none of these either.
    """
    own = [file for file in folder.glob("*.pth") if not file.name.endswith(LAST) and file.name not in SHIPPED]
    if own:
        return max(own, key=lambda file: file.stat().st_mtime)
    for file in (folder / name for name in SHIPPED):
        if file.is_file():
            return file
    raise CheckpointError("{folder} holds no .pth yet. Train a network first: python train.py", folder=folder)


def name_of(path: Path) -> str:
    """Return what to call a file: an .onnx keeps its ending, as it is mostly beside a .pth."""
    return path.name if path.suffix.lower() == ".onnx" else path.stem


def load(path: Path, mmap: bool = False, stated: Stated = UNSTATED, trunk: bool = False) -> Checkpoint:
    """Read a .pth of ours, or a state_dict of a network in MODELS, about which `stated` says what it does not.

    With `mmap`, tensors stay in the file, and damaged ones are not noticed: for a look at the rest. With `trunk`, a
    state_dict may have another last layer or lack others; those are missing in the checkpoint, too.
    Raises CheckpointError where the file is missing, damaged, not a .pth, carries pickled code, or has weights that do
    not fit its network.
    """
    content = safe_load.read(path, mmap)
    if isinstance(content, (list, tuple)):  # (weights, state of the optimizer)
        content = dict(enumerate(content))
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        raise CheckpointError("{file} holds a {kind}, not a .pth of train.py or a state_dict.", file=path, kind=kind)
    if not content.keys() >= OURS:
        checkpoint = plain(path, content, stated, trunk)
    else:
        checkpoint = from_content(path, content, stated)
    checkpoint.path = path
    return checkpoint


def from_content(path: Path, content: Mapping, stated: Stated = UNSTATED, weights: bool = True) -> Checkpoint:
    """Return the checkpoint of a file of ours. Raises CheckpointError where a value, or if asked a weight, is amiss."""
    if stated != UNSTATED:
        message = "{file} says itself how images are prepared and what its classes are. Leave out {flags}."
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in stated.given())
        raise CheckpointError(message, file=path, flags=flags)
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
        if weights and shapes(checkpoint.state_dict) != shapes_of(model, len(checkpoint.classes)):
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


def plain(path: Path | str, content: Mapping, stated: Stated = UNSTATED, trunk: bool = False) -> Checkpoint:
    """Return a Checkpoint of a state_dict, whose shapes tell the network; what nobody states is assumed.

    Raises CheckpointError where it fits no network, unless with `trunk` its first layers do; for values out of range.
    """
    from classifier import foreign  # our own files do not need it

    found = foreign.find(path, content)
    if found.differs and not trunk:
        message = (
            "{file} fits {network} but for {differences}. It cannot be used as it is; "
            "python train.py --weights {file} trains what is new and keeps the rest."
        )
        differences = shorten("; ".join(found.differs), 300)
        raise CheckpointError(message, file=path, network=found.model, differences=differences)
    weights, classes = found.state_dict, found.outputs
    if classes == 1:  # a logit z whose sigmoid is the second class's probability, which is softmax of (0, z)
        of_classes = weights.keys() & class_dependent(found.model)
        weights |= {name: torch.cat([weights[name] * 0, weights[name]]) for name in of_classes}
        classes = 2
    if not trunk:  # GoogLeNet's auxiliary layers are for training, and torchvision leaves them out
        blank = {name: torch.zeros(shape) for name, shape in shapes_of(found.model, classes).items()}
        weights = {name: weights.get(name, value) for name, value in blank.items()}
    names = stated.class_names() or found.classes[:classes]
    if names and classes not in (0, len(names)):
        message = "--classes has {named} names, but {file} knows {count} classes."
        raise CheckpointError(message, file=path, named=len(names), count=classes)
    usual = usual_preprocess(found.model) if classes == 1000 else TUTORIAL
    preprocess, flags = stated.preprocess(usual)
    if stated.image_size and preprocess.size < (smallest := smallest_size(found.model)):
        message = "--image-size is {size}; {network} needs at least {smallest} pixels."
        raise CheckpointError(message, size=preprocess.size, network=found.model, smallest=smallest)
    assumed = [flags] if flags else []
    if not names:
        assumed.append("names of the classes: --classes")
    if found.outputs == 1:
        assumed.append("the one output's sigmoid is the probability of the second class")
    if found.origin:
        assumed.append(f"the weights are those in {found.origin}")
    assumed += [f"{name} does not matter" for name in found.not_read]
    return Checkpoint(
        found.model,
        names or [f"class {i}" for i in range(classes)],
        preprocess,
        weights,
        assumed="; ".join(assumed),
        named=bool(names),
    )


def usual_preprocess(model: str) -> Preprocess:
    """Return the preprocessing of a network's ImageNet weights, some of which were trained in TensorFlow."""
    return {"googlenet": NORMALIZATIONS["half"], "efficientnet_lite0": LITE}.get(model, NORMALIZATIONS["imagenet"])
