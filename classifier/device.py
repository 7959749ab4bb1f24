"""Where the network computes, and how precisely."""

from dataclasses import dataclass
from typing import Literal

import torch

from classifier.cli import UserError

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """A device, a number format for convolutions and matrix products, and why these."""

    device: torch.device
    dtype: torch.dtype
    why_device: str
    why_dtype: str

    def autocast(self) -> torch.autocast:
        """The context in which the network runs; with float32 it changes nothing."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if enabled else None, enabled=enabled)

    def __str__(self) -> str:
        return f"{device_name(self.device)} ({self.why_device}), {dtype_name(self.dtype)} ({self.why_dtype})"


def choose(device: str = "auto", precision: Precision = "auto") -> Compute:
    """The fastest device that is there and a number format that is fast on it.

    Args:
        device: "auto", or a name that PyTorch knows: "cpu", "cuda", "cuda:1", "mps".
        precision: "bf16" is bfloat16 autocast; weights, batch norm, softmax and loss stay in float32.

    Raises:
        UserError: there is no such device.
    """
    chosen, why_device = _device(device)
    if precision != "auto":
        return Compute(chosen, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision], why_device, "as asked")
    native, why_dtype = _native_bf16(chosen)
    return Compute(chosen, torch.bfloat16 if native else torch.float32, why_device, why_dtype)


def _device(name: str) -> tuple[torch.device, str]:
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


def _native_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether bfloat16 is computed by hardware; where it is emulated it is slower than float32, not faster."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
    elif device.type == "cpu":
        names = ("avx512_bf16", "amx_bf16")
        if hasattr(torch.cpu, "get_capabilities"):  # PyTorch 2.12 and later
            native = any(torch.cpu.get_capabilities().get(name) for name in names)
        else:
            checks = (f"_is_{name}_supported" for name in ("avx512_bf16", "amx_tile"))
            native = any(getattr(torch.cpu, check, bool)() for check in checks)
    else:
        return False, "bfloat16 brings nothing here"
    return native, "it computes that natively" if native else "it has no native bfloat16, which would be slower"


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
