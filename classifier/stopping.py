"""How a run ends before its time: asked to by a signal, or by a fault; in both cases what was done is saved."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from classifier.cli import UserError
from classifier.pictures import PictureError
from classifier.text import quoted

# what PyTorch says -> what can be done
ADVICE = {
    "out of memory": "A new run with a smaller --batch-size or --size needs less memory.",
    "allocate memory": "A new run with a smaller --batch-size or --size needs less memory.",
    "DataLoader worker": "A process that opens pictures was ended, probably for want of memory: use fewer --workers.",
    "compiler": "--compile needs a C++ compiler; it can be left out.",
}


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
    """What fails in the middle of a run is raised after its steps are saved; as a UserError if it is no bug."""
    try:
        yield
    except (PictureError, OSError, RuntimeError) as error:
        stop_if_asked()  # a signal to all processes has ended those that open pictures: no fault
        save()
        advice = [text for sign, text in ADVICE.items() if sign in str(error)]
        if isinstance(error, RuntimeError) and not advice:
            print(f"Saved; to go on: python train.py --resume {quoted(path)}", file=sys.stderr)
            raise
        lines = [str(error).split("\n")[0], *advice[:1], f"Saved; to go on: python train.py --resume {quoted(path)}"]
        raise UserError("\n".join(lines)) from None
