"""Where a network computes, and in which number format: both follow from what the machine can do."""

import contextlib
import ctypes
import os
from dataclasses import dataclass
from typing import Literal

import torch

from classifier.cli import UserError
from classifier.distributed import LOCAL_RANK, LOCAL_WORLD_SIZE, WORLD_SIZE

EACH = f"{WORLD_SIZE} processes, each on " if WORLD_SIZE > 1 else ""  # for people, before the name of a device

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# values of ONEDNN_MAX_CPU_ISA that leave oneDNN its bfloat16 instructions; others take them away
ISA_WITH_BFLOAT16 = {"DEFAULT", "ALL", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX"}
ISA_WITH_BFLOAT16 |= {"AVX512_CORE_AMX_FP16", "AVX10_1_512", "AVX10_1_512_AMX", "AVX10_1_512_AMX_FP16"}


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


def select_compute(device: str, precision: Precision, recorded: str = "") -> Compute:
    """The device to compute on and the number format that suits it.

    On the CPU that is bfloat16 where the processor computes it natively, otherwise float32; on CUDA bfloat16 from
    compute capability 8.0 on, float16 from 7.0 on. All are channels-last, the faster order of values for convolutions
    (`python -m benchmarks.compute_only` measures it).

    Args:
        device: as for `select_device`.
        precision: "auto", or the format to compute convolutions and matrix products in. Weights that are trained,
            batch norm, softmax and loss are float32 always.
        recorded: the format that a resumed run has recorded, such as "bfloat16 channels-last"; kept with "auto".

    Raises:
        UserError: there is no such device.
    """
    chosen, why_device = select_device(device)
    set_up(chosen)
    dtype, why = native_dtype(chosen)
    memory_format = torch.channels_last
    if precision != "auto":
        dtype, why = DTYPES[precision], "as asked"
        if chosen.type == "cuda" and dtype == torch.float32:
            why += "; products in TF32 where the GPU has it"
    elif recorded:
        name, _, order = recorded.partition(" ")
        dtype, why = getattr(torch, name), "as this run began"
        memory_format = torch.channels_last if order else torch.contiguous_format
    return Compute(chosen, dtype, memory_format, why_device, why)


def native_dtype(device: torch.device) -> tuple[torch.dtype, str]:
    """The shortest format that the device computes natively, and why it is this one."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16, "the GPU computes it natively"
        if capability >= (7, 0):
            return torch.float16, "the GPU computes it natively, and bfloat16 not"
        return torch.float32, "the GPU has no faster format"
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16, "the processor computes it natively"
    return torch.float32, "nothing shorter is native here"


def _cpu_has_bfloat16() -> bool:
    """Whether oneDNN, which computes PyTorch's convolutions on x86, may use and finds bfloat16 instructions."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT")).upper()
    return limit in ISA_WITH_BFLOAT16 and torch.cpu._is_avx512_bf16_supported()


def select_device(name: str) -> tuple[torch.device, str]:
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
    if LOCAL_WORLD_SIZE > 1 and found.get(chosen.partition(":")[0]):
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
            f"--device {name} is one GPU, but {LOCAL_WORLD_SIZE} processes on this machine need one each. Say --device "
            f"{kind}, or start one process."
        )
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if count < LOCAL_WORLD_SIZE:
        raise UserError(
            f"--device {name}: {LOCAL_WORLD_SIZE} processes on this machine need a GPU each, and it has {count}. Start "
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
