"""Where the network computes, and in which format."""

import contextlib
import ctypes
import os
from dataclasses import dataclass

import torch

from classifier.cli import UserError
from classifier.distributed import COUNT, LOCAL_RANK

# Processes that torchrun has started on this machine. It lets each compute with one thread, unless OMP_NUM_THREADS says
# otherwise, and so it stays: on the CPU as many processes are meant as there are cores, on GPUs little is left for it.
LOCAL_COUNT = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
EACH = f"{COUNT} processes, each on " if COUNT > 1 else ""  # for people, before the name of a device


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
        return f"{EACH}{device_name(self.device)} ({self.why_device}), {self.format} ({self.why_format})"


def find_device(name: str) -> tuple[torch.device, str]:
    """The device of that name, or for "auto" the fastest that is there; and why.

    Of several processes on a machine, "auto" and "cuda" give each a GPU of its own.

    Args:
        name: "auto", or a name that PyTorch knows: "cpu", "cuda", "cuda:1", "mps".

    Raises:
        UserError: there is no such device, or not one for each process.
    """
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen, why = name, "as asked"
    if name == "auto":
        chosen = next((kind for kind, there in found.items() if there), "cpu")
        why = "the fastest here" if chosen != "cpu" else "PyTorch finds no GPU"
    if LOCAL_COUNT > 1 and found.get(chosen.partition(":")[0]):
        chosen = _own_gpu(name, chosen)
    try:
        device = torch.device(chosen)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        there = ["cpu", *[f"cuda:{i}" for i in range(torch.cuda.device_count())], *["mps"] * found["mps"]]
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name} cannot be used ({reason}). Here there are: {', '.join(there)}.") from None
    return device, why


def _own_gpu(name: str, chosen: str) -> str:
    """The GPU of this process, one of several on this machine. Raises UserError where there is not one for each."""
    kind, _, number = chosen.partition(":")
    if number:
        raise UserError(
            f"--device {name} is one GPU, but {LOCAL_COUNT} processes on this machine need one each. Say --device "
            f"{kind}, or start one process."
        )
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if count < LOCAL_COUNT:
        raise UserError(
            f"--device {name}: {LOCAL_COUNT} processes on this machine need a GPU each, and it has {count}. Start "
            f"{count} (--nproc-per-node={count}), or compute with --device cpu."
        )
    return f"{kind}:{LOCAL_RANK}"


def set_up(device: torch.device) -> None:
    """What PyTorch leaves to be asked for: fast float32 products on CUDA, and memory that stays with the process."""
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # for what asks for no GPU by its number
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
        threads = torch.get_num_threads()
        return f"{name}, {threads} thread{'s' * (threads > 1)}"
    return device.type
