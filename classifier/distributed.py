"""One process or many: which part of the work is this one's, and what all of them found together.

    torchrun --nproc-per-node=8 train.py ...

torchrun starts the processes and tells each, in environment variables, how many there are and which one it is. Without
it there is one process, and everything here returns at once.
"""

import contextlib
import os
import sys
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
LOCAL_WORLD_SIZE = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that torchrun has started on this machine
IS_MAIN = RANK == 0
DISABLE_TQDM = None if IS_MAIN else True  # for tqdm's `disable`: where there is no terminal, and in all others
PATIENCE = timedelta(hours=2)  # for one that opens all images once while the others wait
GONE = ("closed by peer", "reset by peer", "Broken pipe", "NCCL", "Connection refused")  # another process has ended

T = TypeVar("T")


class NullLogger:
    """Takes every call and does nothing: what the other processes have in place of the one that writes."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Meet the other processes, for the time being; only the first one's standard output is seen.

    On the CPU they talk through gloo, about what is on a GPU through NCCL.

    Raises:
        UserError: another process has ended.
    """
    if WORLD_SIZE == 1:
        yield
        return
    store, rank, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:  # restarts of a machine alone are counted alike
        # what processes that have died left in the store, their addresses, is not for those that take their place
        store = dist.PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with (
        Path(os.devnull).open("w", errors="replace") as nowhere,
        contextlib.redirect_stdout(sys.stdout if IS_MAIN else nowhere),
    ):
        try:
            dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)
            yield
        except RuntimeError as error:
            if not gone(error):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(f"Another process has ended, or cannot be reached; see what it says. ({reason})") from None
        sys.stdout.flush()
    dist.destroy_process_group()  # after a failure not: it would wait for the others


def gone(error: BaseException) -> bool:
    """Whether this says that another process has ended."""
    return WORLD_SIZE > 1 and isinstance(error, RuntimeError) and any(sign in str(error) for sign in GONE)


def shard(items: Sequence[T]) -> Sequence[T]:
    """This process's share: every COUNT-th item."""
    return items[RANK::WORLD_SIZE]


def all_gather_object(values: T) -> list[T]:
    """What each process gives, in the order of their ranks, in every process; plain values and tensors on the CPU."""
    if WORLD_SIZE == 1:
        return [values]
    everyone: list = [None] * WORLD_SIZE
    dist.all_gather_object(everyone, values)
    return everyone


def gather_strided(values: Tensor, all_reduce_sum: int) -> Tensor:
    """Undo `own`: of each process the rows of its share, on the CPU -> all `total` rows in their order, everywhere."""
    whole = values.new_empty((all_reduce_sum, *values.shape[1:]))
    for rank, part in enumerate(all_gather_object(values)):
        whole[rank::WORLD_SIZE] = part
    return whole


def broadcast_object(value: T) -> T:
    """The first process's value, in every process."""
    if WORLD_SIZE == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def run_on_main_and_broadcast(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, in every process. Where it fails there, all end; the first says why."""
    if WORLD_SIZE == 1:
        return make()
    value, error = None, None
    try:
        value = make() if IS_MAIN else None
    except (UserError, SystemExit) as failure:
        error = failure
    code = error.code if isinstance(error, SystemExit) else 2  # --help, too, ends all
    value, failed, code = broadcast_object((value, error is not None, code))
    if failed:
        raise error or SystemExit(code)
    return value


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if WORLD_SIZE > 1:
        dist.all_reduce(values)
    return values


@contextlib.contextmanager
def local_main_process_first() -> Iterator[None]:
    """What is done here is done by one process of each machine, then by the others, which find it done."""
    if WORLD_SIZE > 1 and LOCAL_RANK:
        dist.barrier()
    yield
    if WORLD_SIZE > 1 and not LOCAL_RANK:
        dist.barrier()


# --- training


def data_parallel(network: nn.Module) -> nn.Module:
    """The network, whose gradients become the mean over all processes; where there is one, the network itself."""
    return DistributedDataParallel(network) if WORLD_SIZE > 1 else network


def no_sync(network: nn.Module) -> contextlib.AbstractContextManager:
    """Within it, the gradients of what `averaging` gave are not averaged yet: more parts of the step are to come."""
    return network.no_sync() if WORLD_SIZE > 1 else contextlib.nullcontext()


def broadcast_buffers(network: nn.Module) -> None:
    """The first process's batch norm statistics, in every process."""
    if WORLD_SIZE > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def synchronize_batch_norm(network: nn.Module) -> nn.Module:
    """The network with batch norm over the images of all processes, as if they were one batch; names stay."""
    if next(network.parameters()).device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm
    return network


class _Mean(torch.autograd.Function):
    """The mean over all processes, which gradients pass back through."""

    @staticmethod
    def forward(_context: object, values: Tensor) -> Tensor:
        return all_reduce_sum(values.clone()) / WORLD_SIZE

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return all_reduce_sum(gradient.clone()) / WORLD_SIZE


class SynchronizedBatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes, each of which has equally many images; PyTorch's own works on GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape"""
        if not self.training:
            return super().forward(x)
        exact, axes, shape = x.float(), (0, 2, 3), (1, -1, 1, 1)
        mean = _Mean.apply(exact.mean(axes))
        centred = exact - mean.view(shape)
        variance = _Mean.apply(centred.square().mean(axes))
        count = WORLD_SIZE * x.numel() / x.shape[1]
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)
