"""Strangers' files: what they are, and torch.load(..., weights_only=True), where nothing is larger than the file.

PyTorch runs no code of the file's, but believes it: some kilobytes can ask for 100 GB, for lists that double with each
instruction, or for a key so deep that hashing it overflows the C stack.
"""

import difflib
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from classifier.cli import UserError

MAX_DEPTH = 100  # containers in one another; train.py's go 8 deep
MAX_VALUES = 3_000_000  # a run of 100,000 epochs keeps 1.2 million; three pickle instructions make, keep and add one
TOO_MANY = "it holds more values, or deeper ones in one another, than any .pth needs"
# torch.load accepts more, such as bytearray, which makes whatever it is told to
GLOBALS = r"collections (OrderedDict|Counter)|(builtins|__builtin__) set|_codecs encode|torch\.nn\.parameter Parameter"
GLOBALS += r"|torch(\.cuda)? (Size|\w+Storage|[a-z0-9_]+)|torch\._utils _rebuild_(tensor(_v2)?|parameter)"

# classes of settings and scores that programs save beside the weights; nothing of them is imported or run
HARMLESS = r"argparse\.Namespace|collections\.defaultdict|builtins\.(int|float|list|dict|str)|datetime\.\w+"
HARMLESS += r"|(numpy|pathlib|pytorch_lightning|lightning|lightning_fabric)(\.\w+)+"
# what else may be given as weights, by the ending of the file's name, its beginning, or a file in the zip that it is
OTHER_FORMATS = {".onnx": "ONNX", ".pt2": "torch.export", ".h5": "Keras", ".keras": "Keras", ".pb": "TensorFlow"}
BEGINNINGS = {rb"\x08.[\x12:]": "ONNX", rb"\x89HDF": "Keras", rb".{4}TFL3": "TensorFlow"}
IN_ZIP = {"constants.pkl": "TorchScript", "archive_format": "torch.export", "model.weights.h5": "Keras"}


class CheckpointError(UserError):
    """A file of weights that is missing, damaged, foreign or hostile; the message names the file and what to do."""


class StandIn:
    """Stands where a file has an object of a HARMLESS class, whose name its class has, and keeps nothing of it."""

    def __init__(self, *_: object):
        pass

    def __setstate__(self, _: object) -> None:
        pass


class StandInDict:
    """Makes a plain dictionary of a HARMLESS kind of it."""

    def __new__(cls, *_: object) -> dict:  # noqa: D102
        return {}


def read(path: Path, mmap: bool = False) -> object:
    """Return the content of a file of weights, tensors on the CPU; with `mmap` they stay in the file, unchecked.

    Raises CheckpointError where it is missing, damaged or hostile, or what is in it cannot be read without its code.
    """
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        names = [file.name for file in sorted(folder.glob("*.pth")) if file.is_file()]
        near = ", ".join(difflib.get_close_matches(path.name, names, n=1) or names) or "no .pth files"
        message = "{file} does not exist. Near it: {near}."
        if path.is_dir():
            message = "{file} is a folder; expected a file of weights. In it: {near}."
        raise CheckpointError(message, file=path, near=near)
    try:
        with path.open("rb") as file:
            head = file.read(10)
        kinds = [kind for beginning, kind in BEGINNINGS.items() if re.match(beginning, head, re.DOTALL)]
        if kind := OTHER_FORMATS.get(path.suffix.lower()) or "".join(kinds[:1]):
            raise _other_format(path, kind)
        if head[8:] == b'{"':  # JSON, after its length
            from safetensors.torch import load_file  # not at the top: rarely needed

            return load_file(path)
        return _load(path, mmap)
    except CheckpointError:
        raise
    except PermissionError as error:
        raise CheckpointError("{file} cannot be read: {reason}.", file=path, reason=error.strerror) from error
    except Exception as error:  # truncated and damaged files end in RuntimeError, EOFError, OSError, BadZipFile, ...
        message = "{file} is damaged, was not copied whole, or is not a .pth. Copy or train it again."
        raise CheckpointError(message, file=path) from error


def _load(path: Path, mmap: bool) -> object:
    """Return what torch.load does, after a look at what the file asks for.

    Objects of HARMLESS classes are a StandIn or a plain dictionary.
    Raises CheckpointError where the file needs other classes or asks for too much; any Exception where it is damaged.
    """
    harmless: set[str] = set()
    with path.open("rb") as file:
        in_zip = file.read(4) == b"PK\x03\x04"  # by which torch.load, too, tells its two formats
        file.seek(0)
        for _ in range(0 if in_zip else 5):  # pickles: magic, version, system, content, keys; before PyTorch 1.6
            harmless |= _check_pickle(path, file)
        archive = zipfile.ZipFile(file) if in_zip else None
        members = {name.split("/")[-1] for name in archive.namelist()} if archive else set()
        if kinds := members & IN_ZIP.keys():
            raise _other_format(path, IN_ZIP[kinds.pop()])
        if archive and "data.pkl" not in members:
            raise zipfile.BadZipFile  # of another kind
        if archive and sum(member.file_size for member in archive.infolist()) > path.stat().st_size:
            raise _untrusted(path, "it would unpack to more than it is, and PyTorch does not compress")
        if archive and not mmap and archive.testzip():  # torch.load does not compare checksums
            raise zipfile.BadZipFile
        for name in archive.namelist() if archive else []:
            if name.lower().endswith(".pkl"):
                harmless |= _check_pickle(path, archive.open(name))
    stand_ins = [
        (StandInDict if name.lower().endswith("dict") else type(name, (StandIn,), {}), name) for name in harmless
    ]
    with torch.serialization.safe_globals(stand_ins):
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    values = [content]
    for value in values:  # all that the content is made of; the list grows meanwhile
        if isinstance(value, torch.Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise _untrusted(path, f"it holds a tensor of {value.numel():,} values that are not there")
        parts = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        values += parts if isinstance(parts, (list, tuple, set)) else []
        if len(values) > MAX_VALUES:
            raise _untrusted(path, TOO_MANY)
    return content


def _other_format(path: Path, kind: str) -> CheckpointError:
    message = '{file} is {kind}. Needed are a PyTorch network\'s weights: torch.save(model.state_dict(), "weights.pth")'
    return CheckpointError(message, file=path, kind=kind)


def _untrusted(path: Path, reason: str) -> CheckpointError:
    return CheckpointError("{file} is not used: {reason}. Do not trust this file.", file=path, reason=reason)


def _check_pickle(path: Path, file: BinaryIO) -> set[str]:
    """Go through a pickle as its reader would, but make only [number of values, depth] of each object.

    Returns the HARMLESS classes in it, such as "argparse.Namespace".
    """
    stack, memo, copied, harmless = [], {}, 0, set()
    for step, (code, argument, _) in enumerate(pickletools.genops(file)):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif code.name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        else:
            if "GLOBAL" in code.name and not re.fullmatch(GLOBALS, str(argument)):
                name = str(argument).replace("__builtin__", "builtins").replace(" ", ".")
                if not re.fullmatch(HARMLESS, name):
                    message = (
                        "{file} carries pickled Python code ({reason}), which is not run. Load it where it comes from "
                        'and save the weights alone: torch.save(model.state_dict(), "weights.pth")'
                    )
                    reason = name[:80] if argument else "with pickle protocol 4"
                    raise CheckpointError(message, file=path, reason=reason)
                harmless.add(name)
            taken = []
            for kind in reversed(code.stack_before):
                if kind is not pickletools.markobject:  # which goes with the slice above it
                    taken += iter(stack.pop, None) if kind is pickletools.stackslice else [stack.pop()]
            result = taken.pop() if re.match("APPEND|SETITEM|BUILD|ADDITEMS", code.name) else [1, 0]
            result[:] = result[0] + sum(n for n, _ in taken), max(result[1], *(depth + 1 for _, depth in taken), 0)
            copied += result[0] * (code.name == "REDUCE")
            if max(result[0], copied, step / 4) > MAX_VALUES or result[1] > MAX_DEPTH:
                raise _untrusted(path, TOO_MANY)
            stack += [None if code.name == "MARK" else result] * len(code.stack_after)
    return harmless
