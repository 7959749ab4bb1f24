"""How a run ends before its time: asked to by a signal, or by a fault; in both cases what was done is saved."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from classifier.cli import UserError
from classifier.pictures import PictureError
from classifier.text import quoted


def stop_on_signal() -> list[int]:
    """A list that Ctrl-C and SIGTERM put an entry into; the loop then finishes its step and saves. Twice: at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)
        if hasattr(signal, "SIGCHLD"):  # processes that open pictures may have got the same signal and end: no fault
            signal.signal(signal.SIGCHLD, lambda *_: None)
        print("\nfinishing this step, then saving; once more stops at once", file=sys.stderr, flush=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received


@contextlib.contextmanager
def saving_on_failure(save: Callable[[], None], path: Path, stop_if_asked: Callable[[], None]) -> Iterator[None]:
    """What fails in the middle of a run becomes a UserError, after the steps made so far are saved."""
    try:
        yield
    except (PictureError, RuntimeError) as error:
        stop_if_asked()  # a signal to all processes has ended those that open pictures: no fault
        out_of_memory = isinstance(error, torch.OutOfMemoryError)
        if isinstance(error, RuntimeError) and not out_of_memory:
            raise
        save()
        advice = "\nA new run with a smaller --batch-size needs less memory." if out_of_memory else ""
        raise UserError(f"{error}{advice}\nSaved; to go on: python train.py --resume {quoted(path)}") from None
