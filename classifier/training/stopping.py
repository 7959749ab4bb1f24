"""How a run ends before its time: asked to by a signal, or by a fault; in both cases what was done is saved."""

import contextlib
import gc
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from classifier import distributed
from classifier.cli import UserError
from classifier.data.images import ImageError
from classifier.text import quoted

MEMORY = ("out of memory", "allocate memory")  # in what PyTorch says where memory is short: of a GPU, of the CPU

# what PyTorch says -> what can be done
ADVICE = dict.fromkeys(MEMORY, "A new run with a smaller --batch-size or --size needs less memory.")
ADVICE |= {
    "DataLoader worker": "A process that opens images was ended, probably for want of memory: use fewer --workers.",
    "compiler": "--compile needs a C++ compiler; it can be left out.",
}


def stop_on_signal() -> list[int]:
    """A list that Ctrl-C and SIGTERM put an entry into; the loop then finishes its step and saves. Twice: at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        # of several processes, torchrun sends it once more to those that got it from the terminal or the system
        signal.signal(number, signal.default_int_handler if distributed.WORLD_SIZE == 1 else signal.SIG_IGN)
        if hasattr(signal, "SIGCHLD"):  # processes that open images may have got the same signal and end: no fault
            signal.signal(signal.SIGCHLD, lambda *_: None)
        if distributed.IS_MAIN:
            again = "; once more stops at once" if distributed.WORLD_SIZE == 1 else ""
            print(f"\nfinishing this step, then saving{again}", file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received


class WholeSteps:
    """Sees to it that what is saved is the state between two steps, wherever in a step an error comes from."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.before: list[Tensor] = []  # batch norm's means and variances, which a forward pass changes
        self.changing = False  # weights or counts: then there is no way back

    def begin(self) -> None:
        """A step begins."""
        if hasattr(signal, "SIGCHLD"):
            # where a process that opens images is killed, PyTorch's handler would raise an error between any two
            # lines; without it, the error comes some seconds later, from where the next batch is asked for
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.before = [buffer.clone() for buffer in self.network.buffers()]

    def end(self) -> None:
        """The step is made, counted and recorded."""
        self.changing = False
        self.before = []

    @torch.no_grad()
    def undo(self) -> None:
        """Go back to before a step that is under way, if one is. Raises UserError where that is no longer possible."""
        if self.changing:
            raise UserError("it stopped while weights were being changed.")
        if self.before:
            for buffer, before in zip(self.network.buffers(), self.before, strict=True):
                buffer.copy_(before)
            self.before = []


@contextlib.contextmanager
def saving_on_failure(save: Callable[[], None], path: Path, stop_if_asked: Callable[[], None]) -> Iterator[None]:
    """What fails in the middle of a run is raised after its steps are saved; as a UserError if it is no bug.

    Args:
        save: writes `path`.
        path: NAME.last.pth.
        stop_if_asked: ends the run where a signal is the reason of the failure.
    """
    try:
        yield
    except (ImageError, OSError, MemoryError, RuntimeError) as error:
        if distributed.peer_lost(
            error
        ):  # the steps made are as good as ever; the process that saves is perhaps this one
            with contextlib.suppress(UserError, OSError):
                save()
            raise
        said = [str(error).split("\n")[0] or type(error).__name__]
        try:
            stop_if_asked()  # a signal to all processes has ended those that open images: no fault
            save()
            kept = "Saved; to" if distributed.IS_MAIN else "What was saved last is still there; to"
        except (UserError, OSError) as second:
            if not path.exists():
                raise UserError("\n".join([*said, f"Nothing could be saved: {second}"])) from None
            said.append(f"The steps since the last save could not be saved: {second}")
            kept = "What was saved before is still there; to"
        go_on = f"{kept} go on: python train.py --resume {quoted(path)}"
        short = is_short_of_memory(error)
        advice = [text for sign, text in ADVICE.items() if sign in str(error) or (short and sign in MEMORY)]
        if isinstance(error, RuntimeError) and not advice:
            print("\n".join([*said[1:], go_on]), file=sys.stderr)
            raise
        if short:
            traceback.clear_frames(error.__traceback__)  # they hold what the failed step had computed so far
            gc.collect()
        raise UserError("\n".join([*said, *[line for line in advice if line][:1], go_on])) from None


def is_short_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the machine had too little memory. PyTorch has an error of its own for GPUs only."""
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    return known or (isinstance(error, RuntimeError) and any(sign in str(error) for sign in MEMORY))
