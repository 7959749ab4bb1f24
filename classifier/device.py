"""Where a network computes, and in which number format: both follow from what the machine can do."""

import contextlib
import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from classifier.cli import UserError, plural, shorten
from classifier.distributed import LOCAL_RANK, LOCAL_WORLD_SIZE, WORLD_SIZE, broadcast_object

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# values of ONEDNN_MAX_CPU_ISA that take oneDNN its bfloat16 instructions, and those that take it AMX alone
ISA_WITHOUT_BFLOAT16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"}
ISA_WITHOUT_AMX = {"AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512"}


@dataclass(frozen=True)
class Compute:
    """A device, the number format of convolutions and matrix products with its reason, and the memory format."""

    device: torch.device
    dtype: torch.dtype
    memory_format: torch.memory_format
    reason: str = ""

    @property
    def format(self) -> str:
        """ "float32", "bfloat16 channels-last"."""
        return dtype_name(self.dtype) + " channels-last" * (self.memory_format == torch.channels_last)

    def autocast(self) -> torch.autocast:
        """Return the context in which the network trains; with float32 it changes nothing."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if enabled else None, enabled=enabled)

    def __str__(self) -> str:
        return f"{device_name(self.device)}, {self.format} ({self.reason})"


def select_compute(device: str, precision: Precision, recorded: str = "") -> Compute:
    """Return the device to compute on and the number format that suits it; the main process's in all processes.

    `device` is as for `select_device`. `precision` is "auto" for `fastest_format`, or the format of convolutions and
    matrix products; the weights that are trained, batch norm, softmax and loss are float32 always. `recorded` is the
    `Compute.format` of the run that is resumed, which "auto" keeps.
    """
    chosen = select_device(device)
    set_up(chosen)
    dtype, memory_format = fastest_format(chosen)
    reason = "it has no faster format" if dtype == torch.float32 else "its fastest format"
    if precision != "auto":
        dtype, reason = DTYPES[precision], "as asked"
    elif recorded:
        name, _, order = recorded.partition(" ")
        dtype, reason = getattr(torch, name), "as this run began"
        memory_format = torch.channels_last if order else torch.contiguous_format
    return Compute(chosen, *broadcast_object((dtype, memory_format)), reason)


def fastest_format(device: torch.device) -> tuple[torch.dtype, torch.memory_format]:
    """Return the number format that is fastest by what the device says of itself, bfloat16 before float16.

    Channels-last is faster for convolutions, in float32 too: without bfloat16, a CPU takes 1.12 times as many training
    steps of ResNet-18 per second, and answers 1.23 times as many images (see benchmarks/compute_only.py).
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA", "")
    has_bf16, has_amx = torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported()
    on_cpu = device.type == "cpu" and bfloat16_is_faster(cpu_name(), has_bf16, has_amx, limit)
    if capability >= (8, 0) or on_cpu:
        dtype = torch.bfloat16
    else:
        dtype = torch.float16 if capability >= (7, 0) else torch.float32
    # some kernels of MPS have refused channels-last
    return dtype, torch.contiguous_format if device.type == "mps" else torch.channels_last


def bfloat16_is_faster(cpu: str, has_bf16: bool, has_amx: bool, limit: str = "") -> bool:
    """Whether oneDNN, which computes PyTorch's convolutions on x86, is faster in bfloat16 than in float32.

    It is with AMX, and with AVX-512's instructions on AMD's processors, which multiply twice as many numbers with them.
    Intel's do not: there ResNet-18 takes 1.3 times as long to train as in float32, and 1.5 times to answer. ARM
    processors have bfloat16, too, but PyTorch's backward pass does not use it.

    Args:
        cpu: the processor's name.
        has_bf16, has_amx: whether it has these instructions.
        limit: ONEDNN_MAX_CPU_ISA, the instructions that oneDNN may use.
    """
    if limit.upper() in ISA_WITHOUT_BFLOAT16:
        return False
    return (has_amx and limit.upper() not in ISA_WITHOUT_AMX) or (has_bf16 and "AMD" in cpu)


def cpu_name() -> str:
    """Return the processor's name as PyTorch says it, "AMD EPYC", or for its older versions the system; else "CPU"."""
    if name := getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name"):
        return name
    with contextlib.suppress(OSError, IndexError):  # OSError: not Linux
        return re.findall("model name.*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    return platform.processor() or "CPU"


def select_device(name: str) -> torch.device:
    """Return the device of a name ("cpu", "cuda", "cuda:1", "mps"), for "auto" the fastest one.

    Of several processes on a machine, each gets its own GPU for "auto" and "cuda". Raises UserError where there is no
    such device, or not one for each process.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = next((kind for kind, there in available.items() if there), "cpu") if name == "auto" else name
    kind, _, number = chosen.partition(":")
    if LOCAL_WORLD_SIZE > 1 and available.get(kind):
        count = 1 if number or kind == "mps" else torch.cuda.device_count()
        if count < LOCAL_WORLD_SIZE:
            raise UserError(
                f"--device {name} is {plural(count, 'GPU')}, but {LOCAL_WORLD_SIZE} processes on this machine need one "
                f"each. Start fewer (--nproc-per-node), use --device {kind} to get all GPUs, or --device cpu."
            )
        chosen = f"{kind}:{LOCAL_RANK}"
    try:
        device = torch.device(chosen)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        names = ["cpu", *[f"cuda:{i}" for i in range(torch.cuda.device_count())], *["mps"] * available["mps"]]
        reason = shorten(str(error).splitlines()[0].split(". ")[0], 100)  # PyTorch may list all of its backends
        raise UserError(f"--device {name} cannot be used ({reason}). This machine has: {', '.join(names)}.") from None
    return device


def set_up(device: torch.device) -> None:
    """On CUDA switch on TF32 and choose kernels that give the same result twice; let a CPU's process keep freed memory.

    cuDNN's search for the fastest kernels goes by a stop watch, and has to be repeated for each size of images: on an
    H100 it took 5 to 10 seconds each time, and made later epochs an eighth faster.
    """
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    elif device.type == "cpu":
        # glibc returns large blocks to the system at once, and every step would ask for all of its activations anew;
        # other C libraries have no mallopt. M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD -1.
        with contextlib.suppress(OSError, AttributeError, TypeError):
            libc = ctypes.CDLL(None)
            if libc.mallopt(-3, 1 << 30) or libc.mallopt(-3, 32 << 20):  # older versions refuse more than 32 MB
                libc.mallopt(-1, (1 << 31) - 1)


def dtype_name(dtype: torch.dtype) -> str:
    """Return "bfloat16", "float32"."""
    return str(dtype).removeprefix("torch.")


def device_name(device: torch.device) -> str:
    """Return "NVIDIA H200", "2 processes, each on AMD EPYC, 2 threads"."""
    name = device.type
    if name == "cuda":
        name = torch.cuda.get_device_name(device)
    elif name == "cpu":
        name = f"{cpu_name()}, {plural(torch.get_num_threads(), 'thread')}"
    return f"{WORLD_SIZE} processes, each on {name}" if WORLD_SIZE > 1 else name
