"""Where the network computes, and how precisely."""

from dataclasses import dataclass
from typing import Literal

import torch

from classifier.cli import UserError

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """A device, a number format for convolutions and matrix products, and why they were chosen."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    def autocast(self) -> torch.autocast:
        """The context in which the network runs; with float32 it changes nothing."""
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if enabled else None, enabled=enabled)

    def __str__(self) -> str:
        return f"{device_name(self.device)}, {str(self.dtype).removeprefix('torch.')} ({self.reason})"


def choose(device: str = "auto", precision: Precision = "auto") -> Compute:
    """The fastest device that is there and a number format that is fast on it.

    Args:
        device: "auto", or a name that PyTorch knows: "cpu", "cuda", "cuda:1", "mps".
        precision: "bf16" is bfloat16 autocast; weights, batch norm, softmax and loss stay in float32.

    Raises:
        UserError: there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available()
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device {device} cannot be used ({reason}). Here there are: {', '.join(['cpu', *found])}."
        ) from None
    if precision != "auto":
        return Compute(chosen, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision], "as asked")
    native, why = _native_bf16(chosen)
    return Compute(chosen, torch.bfloat16 if native else torch.float32, why)


def _native_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether bfloat16 is computed by hardware; where it is emulated it is slower than float32, not faster."""
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= (8, 0)
        return native, f"a GPU {'with' if native else 'without'} bfloat16 units"
    if device.type == "cpu":
        native = any(_cpu().get(name) for name in ("avx512_bf16", "amx_bf16"))
        return native, f"a CPU {'with' if native else 'without'} bfloat16 instructions"
    return False, "bfloat16 brings nothing here"


def device_name(device: torch.device) -> str:
    """ "NVIDIA H200", "AMD EPYC, 2 threads": for reports."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return (
        f"{_cpu().get('cpu_name') or 'CPU'}, {torch.get_num_threads()} threads" if device.type == "cpu" else device.type
    )


def _cpu() -> dict:
    """What the CPU can do and is called, as PyTorch sees it; nothing on versions that do not say (before 2.12)."""
    return dict(getattr(torch.cpu, "get_capabilities", dict)())
