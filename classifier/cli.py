"""How a script talks to the person at the keyboard: settings in, one clear message out.

A settings dataclass makes the command line (tyro): its fields are the flags, the docstring under each
field is its help. `--help`, a suggestion for a misspelt flag and the choices for a wrong value come with it.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import tyro

Settings = TypeVar("Settings")

FIRST = os.environ.get("LOCAL_RANK", "0") == "0"  # of the processes that torchrun has started on this machine
HEAD_START = 10  # seconds: to end takes up to 3 on a busy machine, and then torchrun ends the others at once


class UserError(Exception):
    """Something the person can mend. The message says what was found, what was expected and what to do.

    Args:
        message: an English sentence. With `values` it is a template for `str.format`, and the key under which a
            catalogue of another language holds its translation.
        values: what fills the template.
    """

    def __init__(self, message: str, /, **values: object):
        super().__init__(message)
        self.message, self.values = message, values

    def __str__(self) -> str:
        return self.translated({})

    def translated(self, catalogue: Mapping[str, str]) -> str:
        """The sentence in the catalogue's language (English template -> template); in English where it has none."""
        template = catalogue.get(self.message, self.message)
        return template.format(**self.values) if self.values else template


def parse(settings: type[Settings], description: str, args: Sequence[str] | None = None, **options) -> Settings:
    """The command line (or `args`) as an instance of the dataclass `settings`.

    `options` go to `tyro.cli`; `default=` takes an instance whose values replace the field defaults.
    A wrong command line prints what is wrong and exits with status 2.
    """
    return tyro.cli(settings, description=description, args=args, **options)


def run(main: Callable[[], None]) -> None:
    """Run a script's `main` and exit: with status 2 and one message after a `UserError`, with 130 after Ctrl-C.

    A mistake that all of several processes find is told by the first one of a machine.
    """
    for stream in (sys.stdout, sys.stderr):  # a Windows console may not know every character of a file name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        main()
    except UserError as error:
        _let_first_speak()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if FIRST:
            print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except SystemExit as done:
        if done.code == 2:  # the command line is wrong, or the first has found what all have to stop for
            _let_first_speak()
        raise
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a folder without permission, a name that the system does not allow
        _let_first_speak()
        print(f"error: {error.strerror or error}" + f": {error.filename}" * bool(error.filename), file=sys.stderr)
        sys.exit(2)


def _let_first_speak() -> None:
    if not FIRST:
        time.sleep(HEAD_START)
