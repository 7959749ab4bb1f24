"""Where the network computes, and in which format."""

import contextlib
import ctypes
from dataclasses import dataclass

import torch

from classifier.cli import UserError


@dataclass(frozen=True)
class Compute:
    """A device, a format (of numbers in convolutions and matrix products, of values in memory), and why these."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    why_device: str
    why_format: str

    @property
    def format(self) -> str:
        """ "float32", "bfloat16 channels-last"."""
        return dtype_name(self.dtype) + " channels-last" * (self.memory_format == torch.channels_last)

    def autocast(self) -> torch.autocast:
        """The context in which the network trains; with float32 it changes nothing."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if enabled else None, enabled=enabled)

    def __str__(self) -> str:
        return f"{device_name(self.device)} ({self.why_device}), {self.format} ({self.why_format})"


def find_device(name: str) -> tuple[torch.device, str]:
    """The device of that name, or for "auto" the fastest that is there; and why.

    Args:
        name: "auto", or a name that PyTorch knows: "cpu", "cuda", "cuda:1", "mps".

    Raises:
        UserError: there is no such device.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        best = next((kind for kind, there in found.items() if there), "cpu")
        return torch.device(best), "the fastest here" if best != "cpu" else "PyTorch finds no GPU"
    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *[f"cuda:{i}" for i in range(torch.cuda.device_count())], *["mps"] * found["mps"]]
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used ({reason}). Here there are: {', '.join(there)}.") from None
    return chosen, "as asked"


def set_up(device: torch.device) -> None:
    """What PyTorch leaves to be asked for: fast float32 products on CUDA, and memory that stays with the process."""
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    elif device.type == "cpu":
        # glibc gives large blocks back to the system at once, and every step then has to ask for, and clear, all of its
        # activations anew; other systems' libraries have no mallopt. M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD -1.
        with contextlib.suppress(OSError, AttributeError, TypeError):
            libc = ctypes.CDLL(None)
            if libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 32 << 20):  # older ones refuse more than 32 MB
                libc.mallopt(-1, (1 << 31) - 1)


def dtype_name(dtype: torch.dtype) -> str:
    """ "bfloat16", "float32"."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """ "NVIDIA H200", "AMD EPYC, 2 threads": for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        name = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name", "CPU")
        return f"{name}, {torch.get_num_threads()} threads"
    return device.type
