"""One process or many: which part of the work is this one's, and what all of them found together.

    torchrun --nproc-per-node=8 train.py ...

torchrun starts the processes and tells each, in environment variables, how many there are and which one it is. Without
it there is one process, and everything here returns at once.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

RANK, COUNT, LOCAL_RANK = (
    int(os.environ.get(name, i)) for name, i in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
)
FIRST = RANK == 0
NO_BAR = None if FIRST else True  # for tqdm's `disable`: without a terminal, and in all processes but the first
PATIENCE = timedelta(hours=2)  # for one that opens all pictures once while the others wait

T = TypeVar("T")


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[None]:
    """Meet the other processes, for the time being; only the first one's standard output is seen.

    Args:
        device: where this process computes; on CUDA they talk through NCCL, otherwise through gloo.
    """
    if COUNT == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    with contextlib.ExitStack() as stack:
        if not FIRST:
            nowhere = stack.enter_context(Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
        sys.stdout.flush()
        dist.destroy_process_group()  # after a failure not: it would wait for the others


def own(items: Sequence[T]) -> Sequence[T]:
    """This process's share: every COUNT-th item."""
    return items[RANK::COUNT]


def gathered(values: T) -> list[T]:
    """What each process gives, in the order of their ranks, in every process; plain values and tensors on the CPU."""
    if COUNT == 1:
        return [values]
    everyone: list = [None] * COUNT
    dist.all_gather_object(everyone, values)
    return everyone


def interleaved(values: Tensor, total: int) -> Tensor:
    """Undo `own`: of each process the rows of its share, on the CPU -> all `total` rows in their order, everywhere."""
    parts = gathered(values)
    whole = values.new_empty((total, *values.shape[1:]))
    for rank, part in enumerate(parts):
        whole[rank::COUNT] = part
    return whole


def from_first(value: T) -> T:
    """The first process's value, in every process."""
    if COUNT == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def total(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if COUNT > 1:
        dist.all_reduce(values)
    return values


@contextlib.contextmanager
def one_first() -> Iterator[None]:
    """What is done here is done by one process of each machine, then by the others, which find it done."""
    if COUNT > 1 and LOCAL_RANK:
        dist.barrier()
    yield
    if COUNT > 1 and not LOCAL_RANK:
        dist.barrier()
