"""torch.distributed, thinly: what each process does, and what all of them know.

    torchrun --nproc-per-node=8 train.py ...

torchrun starts the processes and describes them in environment variables. Without it there is one process, and the
functions here return at once.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from classifier.cli import UserError

RANK, LOCAL_RANK = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))
WORLD_SIZE = int(os.environ.get("WORLD_SIZE", 1))
LOCAL_WORLD_SIZE = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes on this machine
IS_MAIN = RANK == 0
DISABLE_TQDM = None if IS_MAIN else True  # None: only where the output is no terminal
TIMEOUT = timedelta(hours=2)  # the others wait while one process decodes all images once
PEER_LOST = ("closed by peer", "likely closed", "reset by peer", "Broken pipe", "NCCL", "Connection refused")

T = TypeVar("T")


class NullLogger:
    """A logger that does nothing: what all processes but the main one have."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Join the process group for the block, and silence the standard output of all but the main process.

    Tensors on the CPU travel through gloo, those on GPUs through NCCL.
    Raises UserError where another process has ended.
    """
    if WORLD_SIZE == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with (
        Path(os.devnull).open("w", errors="replace") as null,
        contextlib.redirect_stdout(sys.stdout if IS_MAIN else null),
    ):
        try:
            store, rank, world_size = next(dist.rendezvous("env://", timeout=TIMEOUT))
            own = dist.PrefixStore(f"attempt {join_attempt(store, rank, world_size)}", store)
            dist.init_process_group(backend, store=own, rank=rank, world_size=world_size, timeout=TIMEOUT)
            yield
        except RuntimeError as error:
            if not peer_lost(error):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(f"Another process has ended or cannot be reached; see its message. ({reason})") from None
        sys.stdout.flush()
    dist.destroy_process_group()  # not after an error: it would wait for the others


def join_attempt(store: dist.Store, rank: int, world_size: int) -> int:
    """Return the number of the attempt that this process belongs to, once all processes have been started for it.

    torchrun's store keeps the addresses of dead processes, and torchrun restarts the processes of each machine on its
    own. So every process counts its lives in the store, and the main process gives each new life an attempt, once.
    """
    if rank:
        return int(store.get(f"attempt of {rank}, life {store.add(f'lives {rank}', 1)}"))  # waits for it
    attempt, missing = store.add("attempt", 1), set(range(1, world_size))
    while missing:
        for other in sorted(missing):
            life, known = store.add(f"lives {other}", 0), store.add(f"known {other}", 0)
            if life > known:
                store.add(f"known {other}", life - known)
                store.set(f"attempt of {other}, life {life}", str(attempt))
                missing.remove(other)
        time.sleep(0.02)
    return attempt


def peer_lost(error: BaseException) -> bool:
    """Whether an error says that another process has ended."""
    return WORLD_SIZE > 1 and isinstance(error, RuntimeError) and any(sign in str(error) for sign in PEER_LOST)


def shard(items: Sequence[T]) -> Sequence[T]:
    """Return this process's part, items[rank::world_size]."""
    return items[RANK::WORLD_SIZE]


def all_gather_object(value: T) -> list[T]:
    """Return the values of all processes in the order of their ranks; tensors have to be on the CPU."""
    values = [value] * WORLD_SIZE
    if WORLD_SIZE > 1:
        dist.all_gather_object(values, value)
    return values


def gather_strided(rows: Tensor, total: int) -> Tensor:
    """Undo `shard`: return all `total` rows in their order from each process's part, which is on the CPU."""
    gathered = rows.new_empty((total, *rows.shape[1:]))
    for rank, part in enumerate(all_gather_object(rows)):
        gathered[rank::WORLD_SIZE] = part
    return gathered


def broadcast_object(value: T) -> T:
    """Return the main process's value."""
    box = [value]
    if WORLD_SIZE > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def run_on_main_and_broadcast(function: Callable[[], T]) -> T:
    """Return what `function` returns in the main process; where it exits there, all processes exit."""
    value, error = None, None
    try:
        value = function() if IS_MAIN else None
    except (UserError, SystemExit) as failure:  # SystemExit after --help, for instance
        error = failure
    value, failed, status = broadcast_object((value, error is not None, getattr(error, "code", 2)))
    if failed:
        raise error or SystemExit(status)
    return value


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if WORLD_SIZE > 1:
        dist.all_reduce(values)
    return values


@contextlib.contextmanager
def local_main_process_first() -> Iterator[None]:
    """Run the block in one process of each machine, then in its others, which find the result there."""
    if WORLD_SIZE > 1 and LOCAL_RANK:
        dist.barrier()
    yield
    if WORLD_SIZE > 1 and not LOCAL_RANK:
        dist.barrier()


def data_parallel(network: nn.Module) -> nn.Module:
    """Return the network with gradients averaged over all processes."""
    return DistributedDataParallel(network) if WORLD_SIZE > 1 else network


def average_buffers(network: nn.Module) -> None:
    """Give every process the mean of all processes' batch norm statistics."""
    for buffer in network.buffers() if WORLD_SIZE > 1 else ():
        if buffer.is_floating_point():
            buffer.copy_(all_reduce_sum(buffer) / WORLD_SIZE)


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """Return the network with batch norm over the images of all processes, which PyTorch computes on GPUs only.

    Raises UserError on CPUs.
    """
    if WORLD_SIZE > 1 and next(network.parameters()).device.type != "cuda":
        raise UserError("--sync-bn needs GPUs. Leave it out: each process then normalizes by its own images.")
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if WORLD_SIZE > 1 else network
