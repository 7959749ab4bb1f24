"""Command lines from settings dataclasses (tyro), and errors as one message for the user.

The fields of the dataclass are the flags, the docstring below each field is its help. `--help`, a suggestion for a
misspelt flag and the choices for a wrong value come with it.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import tyro

Settings = TypeVar("Settings")

IS_LOCAL_MAIN = os.environ.get("LOCAL_RANK", "0") == "0"  # the first of torchrun's processes on this machine
HEAD_START_S = 10.0  # of the local main process to print an error and exit; torchrun then ends the others


class UserError(Exception):
    """An error that the user can mend; it says what was found, what was expected and what to do.

    `message` is an English sentence; with `values` it is a template for `str.format`, and the key of its translation.
    """

    def __init__(self, message: str, /, **values: object):
        super().__init__(message)
        self.message, self.values = message, values

    def __str__(self) -> str:
        return self.translated({})

    def translated(self, catalogue: Mapping[str, str]) -> str:
        """Return the sentence in the language of a catalogue (English template -> template), or in English."""
        template = catalogue.get(self.message, self.message)
        return template.format(**self.values) if self.values else template


def parse(
    settings: type[Settings],
    description: str,
    args: Sequence[str] | None = None,
    at_least: Mapping[str, int] | None = None,
    **options,
) -> Settings:
    """Return the command line (or `args`) as an instance of the dataclass `settings`; exit with 2 if it is wrong.

    `at_least` names the smallest value of some fields, raising UserError below it. `options` go to `tyro.cli`;
    `default=` takes an instance whose values replace the field defaults.
    """
    parsed = tyro.cli(settings, description=description, args=args, **options)
    for name, least in (at_least or {}).items():
        if (value := getattr(parsed, name)) < least:
            raise UserError(f"--{name.replace('_', '-')} is {value}; expected at least {least}.")
    return parsed


def run(main: Callable[[], None]) -> None:
    """Run a script's `main`; exit with 2 and one message after a `UserError` or `OSError`, with 130 after Ctrl-C.

    Of several processes on a machine that fail alike, the first one prints the message.
    """
    for stream in (sys.stdout, sys.stderr):  # a Windows console may not have every character of a file name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        main()
    except KeyboardInterrupt:
        if IS_LOCAL_MAIN:
            print("\nstopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SystemExit as error:
        if error.code == 2:  # a wrong command line, or an error that the main process has printed
            _wait_for_local_main()
        raise
    except (UserError, OSError) as error:  # OSError: a full disk, a folder without permission, ...
        _wait_for_local_main()
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _wait_for_local_main() -> None:
    if not IS_LOCAL_MAIN:
        time.sleep(HEAD_START_S)
