"""Which number format is fastest here? Measured on the network itself, once per machine; on CUDA the GPU tells."""

import contextlib
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from classifier import distributed
from classifier.device import Compute, device_name, find_device, set_up
from classifier.inference import prepared
from classifier.optimization import training_loss

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

MEMORY = Path("logs/speed.json")  # what was measured before
BATCH = 8  # pictures in a trial step
CLEARLY = 1.1  # times as fast
SECONDS = 0.5  # of trial steps for each candidate, after the first one

# name -> number format, order of the values in memory
CANDIDATES = {
    "float32": (torch.float32, torch.contiguous_format),
    "float32 channels-last": (torch.float32, torch.channels_last),
    "bfloat16 channels-last": (torch.bfloat16, torch.channels_last),
    "float16 channels-last": (torch.float16, torch.channels_last),
}


def choose(
    device: str, precision: Precision, network: nn.Module, size: int, training: bool = False, before: str = ""
) -> Compute:
    """The fastest device that is there, and the format that is fastest on it for this network.

    Of several processes each has its device; the format is that of the first, which alone tries.

    Args:
        device: see `device.find_device`.
        precision: "auto" measures; "bf16" and "fp16" compute in 16 bits, "fp32" in 32. Weights that are trained, batch
            norm, softmax and loss are float32 always.
        network: on the CPU; stays as it is.
        size: side of its pictures in pixels.
        training: whether a training step counts, or an answer.
        before: the format that a resumed run began with, kept where the other choices allow it.

    Raises:
        UserError: there is no such device.
    """
    chosen, why_device = find_device(device)
    set_up(chosen)
    name, why_format = distributed.first_decides(lambda: _fastest(chosen, precision, network, size, training, before))
    return Compute(chosen, *CANDIDATES[name], why_device, why_format)


def _fastest(
    device: torch.device, precision: Precision, network: nn.Module, size: int, training: bool, before: str
) -> tuple[str, str]:
    """The format, and why it."""
    names, why = _candidates(device)
    if precision != "auto":
        names = [name for name, (dtype, _) in CANDIDATES.items() if dtype == DTYPES[precision]]
        why = "as asked"
        if device.type == "cuda":
            names = names[-1:]
            why += "; products in TF32 where the GPU has it" * (precision == "fp32")
    if before in names:
        names, why = [before], why or "as this run began"
    if len(names) > 1:
        rates = _remembered(names, device, network, size, training) or {names[0]: 0.0}  # float32 works everywhere
        best = names[0] if names[0] in rates else next(iter(rates))
        for name in rates:  # from plain to special; one that is hardly faster would only be chosen by chance
            best = name if rates[name] > CLEARLY * rates[best] else best
        others = ", ".join(f"{name} {rate:,.0f}" for name, rate in rates.items() if name != best)
        why = why or f"{rates[best]:,.0f} images/s in a short trial" + f"; {others}" * bool(others)
        names = [best]
    return names[0], why


def _candidates(device: torch.device) -> tuple[list[str], str]:
    """Formats worth a trial on this device; of one alone, why it."""
    if device.type != "cuda":  # float16, with its small range, is no faster here: on request only
        return [name for name in CANDIDATES if not name.startswith("float16")], ""
    capability = torch.cuda.get_device_capability(device)
    if capability >= (8, 0):
        return ["bfloat16 channels-last"], "it computes that natively"
    if capability >= (7, 0):
        return ["float16 channels-last"], "it computes that natively, and no bfloat16"
    return ["float32 channels-last"], "it has no faster format"


def _remembered(
    names: list[str], device: torch.device, network: nn.Module, size: int, training: bool
) -> dict[str, float]:
    """Images/s of each candidate that works, as measured now or, on this machine, before."""
    parameters = sum(parameter.numel() for parameter in network.parameters())
    key = (
        f"{device_name(device)}, {os.environ.get('ONEDNN_MAX_CPU_ISA', torch.backends.cpu.get_cpu_capability())}, "
        f"torch {torch.__version__}, {type(network).__name__} of {parameters:,} parameters at {size}, "
        f"{'training' if training else 'answering'}"
    )
    try:
        memory = json.loads(MEMORY.read_text(encoding="utf-8"))
        known = memory.get(key, {})
        rates = {name: float(known[name]) for name in names if name in known}
    except (OSError, ValueError, TypeError, AttributeError):  # not there yet, or not ours any more
        memory, rates = {}, {}
    if rates.keys() != set(names):
        rates = _measure(names, device, network, size, training)
        memory[key] = memory.get(key, {}) | rates
        with contextlib.suppress(OSError):  # without memory the next run measures again
            MEMORY.parent.mkdir(exist_ok=True)
            temporary = MEMORY.with_name(f".{MEMORY.name}.{os.getpid()}.tmp")
            temporary.write_text(json.dumps(memory, indent=2) + "\n", encoding="utf-8")
            temporary.replace(MEMORY)
    return {name: rate for name, rate in rates.items() if rate}


def _measure(names: list[str], device: torch.device, network: nn.Module, size: int, training: bool) -> dict[str, float]:
    rates = {}
    for name in names:
        compute = Compute(device, *CANDIDATES[name], "", "")
        try:
            step = training_step(network, compute, size) if training else _answer(network, compute, size)
            times = [_seconds(step)]  # the first step also sets things up
            while len(times) < 3 or sum(times[1:]) < SECONDS:
                times.append(_seconds(step))
                if sum(times) > 4 * SECONDS:  # a large network: one step tells enough
                    break
            rates[name] = BATCH / min(times)
        except (RuntimeError, TypeError) as error:  # the device has no such format, or too little memory at present
            if "memory" not in str(error):
                rates[name] = 0.0
    return rates


def _seconds(step: Callable[[], float]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def training_step(network: nn.Module, compute: Compute, size: int, pictures: int = BATCH) -> Callable[[], float]:
    """A function that passes so many pictures forward and backward through a copy of `network`."""
    network = copy.deepcopy(network).to(compute.device, memory_format=compute.memory_format).train()
    x = torch.zeros(pictures, 3, size, size, device=compute.device).contiguous(memory_format=compute.memory_format)

    def step() -> float:
        with compute.autocast():
            outputs = network(x)
        loss = training_loss(outputs, torch.zeros(pictures, dtype=torch.long, device=compute.device))
        network.zero_grad()
        loss.backward()
        return sum(parameter.grad.sum() for parameter in network.parameters() if parameter.ndim == 1).item()

    return step


def _answer(network: nn.Module, compute: Compute, size: int) -> Callable[[], float]:
    logits = prepared(network, compute)
    x = torch.zeros(BATCH, 3, size, size)
    return lambda: logits(x).sum().item()
