"""Is a .pth plain data, and no larger once it is read than it looks? Found out without reading it the dangerous way.

torch.load(..., weights_only=True) runs no code of the file's, but takes its word for sizes: some kilobytes can ask for
a hundred gigabytes, for lists that double with each instruction, or for a key so deep that Python's own stack
overflows. Pickles are programs; this goes through one step by step and only keeps account of what would be made.
"""

import pickle
import pickletools
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from torch import Tensor

DEEPEST = 100  # containers in one another; those of train.py go 8 deep
MOST = 3_000_000  # values; a run of 100,000 epochs keeps 1.2 million
STEPS = 4 * MOST  # of a pickle: to make a value, to keep it, to put it into another
LEGACY = 5  # pickles that follow each other in a file of PyTorch before 1.6: magic, version, system, content, keys

# what a state_dict and what goes with it are made of; torch.load knows others, which make as much as they are told to
NEEDED = {"collections OrderedDict", "collections Counter", "builtins set", "torch Size", "torch device"}
NEEDED |= {f"torch._utils _rebuild_{what}" for what in ("tensor", "tensor_v2", "parameter")}
NEEDED |= {"torch.nn.parameter Parameter", "_codecs encode"}  # the latter is how bytes are written
ADD_TO = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD", "ADDITEMS"}  # what they add to stays on the stack


class UntrustedError(ValueError):
    """What the file asks for and no .pth needs."""


class _Value:
    """What is known of a value: how many it is made of, how deep it is, and its text where it is one."""

    __slots__ = ("count", "depth", "text")

    def __init__(self, parts: list["_Value"], text: object = None):
        self.count, self.depth, self.text = 1, 0, text
        self.add(parts)

    def add(self, parts: list["_Value"]) -> None:
        self.count += sum(part.count for part in parts)
        self.depth = max(self.depth, 1 + max((part.depth for part in parts), default=-1))
        if self.count > MOST or self.depth > DEEPEST:
            raise UntrustedError("it holds more values, or deeper ones in one another, than any .pth needs")


def check_file(path: Path, checksums: bool = True) -> None:
    """Look through a file before torch.load reads it; without checksums, only through what is not tensors.

    Raises:
        UntrustedError: it would unpack to more than it is, or asks for more than any .pth needs.
        pickle.UnpicklingError: it names what is no plain data, as torch.load says it.
        Exception: it is damaged; which one depends on where.
    """
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head != b"PK\x03\x04":  # by which torch.load, too, tells its two formats
            for _ in range(LEGACY):
                check_pickle(file)
            return
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            # PyTorch packs nothing, so members that together are larger than the file are packed, or share their bytes
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise UntrustedError("it would unpack to more than it is, and PyTorch packs nothing")
            if checksums and archive.testzip() is not None:  # torch.load does not compare checksums
                raise zipfile.BadZipFile
            for member in members:
                if member.filename.lower().endswith(".pkl"):
                    with archive.open(member) as content:
                        check_pickle(content)


def check_pickle(file: BinaryIO) -> None:
    """Go through one pickle to its end. Raises as `check_file`."""
    stack: list[_Value | None] = []  # None: a mark
    kept: dict[int, _Value] = {}
    copied = 0
    for step, (code, argument, _) in enumerate(pickletools.genops(file)):
        name = code.name
        if name == "MARK":
            stack.append(None)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            kept[argument] = stack[-1]
        elif name == "MEMOIZE":
            kept[len(kept)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(kept[argument])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _taken(stack, code.stack_before)
            if name == "GLOBAL":
                _check_global(argument)
            elif name == "STACK_GLOBAL":
                _check_global(" ".join(str(part.text) for part in taken))
            if name in ADD_TO:
                taken[0].add(taken[1:])
                stack.append(taken[0])
            elif code.stack_after:
                stack.append(_Value(taken, argument if isinstance(argument, str) else None))
            if name == "REDUCE":  # which may copy what it is given, time and again
                copied += sum(part.count for part in taken)
            if copied > MOST or step > STEPS:
                raise UntrustedError("it makes more values than any .pth needs")


def _taken(stack: list[_Value | None], before: list) -> list[_Value]:
    """What an instruction takes off the stack."""
    taken: list[_Value] = []
    for kind in reversed(before):
        if kind is pickletools.stackslice:
            while (value := stack.pop()) is not None:
                taken.append(value)
        elif kind is not pickletools.markobject:  # taken off with what lies above it
            taken.append(stack.pop())
    return taken[::-1]


def _check_global(name: str) -> None:
    name = name.replace("__builtin__ ", "builtins ")  # as Python 2 called it, and pickles of its time do
    module, _, attribute = name.partition(" ")
    kind = module in ("torch", "torch.cuda") and (attribute.endswith("Storage") or attribute.islower())
    if name not in NEEDED and not kind:
        raise pickle.UnpicklingError(f"Unsupported global: {name[:80]!r}")


def check_content(content: object) -> None:
    """Raise UntrustedError for tensors that say to be larger than they are, and for endless nesting."""
    for count, value in enumerate(_all_values(content)):
        if count > MOST:
            raise UntrustedError("it holds more values than any .pth needs")
        if isinstance(value, Tensor) and value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UntrustedError(f"it holds a tensor of {value.numel():,} values that are not there")


def _all_values(content: object) -> Iterator[object]:
    """Everything inside, containers first."""
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value
        if depth > DEEPEST:
            raise UntrustedError("it holds values deeper in one another than any .pth needs")
        if isinstance(value, Mapping):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(part, depth + 1) for part in value]
