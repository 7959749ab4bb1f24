"""What scripts read and say: command lines from settings dataclasses (tyro), errors as one message, tables.

The fields of the dataclass are the flags, the docstring below each field is its help. `--help`, a suggestion for a
misspelt flag and the choices for a wrong value come with it.
"""

import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
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


# ---- text; a Chinese character is two columns wide


def text_width(text: str) -> int:
    """Return the number of columns that a text takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def shorten(text: str, width: int) -> str:
    """Return the text if it has at most `width` columns, otherwise its start and an ellipsis."""
    if text_width(text) <= width:
        return text
    text = text[:width]  # no character is narrower than one column
    while text and text_width(text) >= width:
        text = text[:-1]
    return text + "…"


def no_formula(text: str) -> str:
    """Return a cell with an apostrophe before what a spreadsheet would take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def quoted(word: object) -> str:
    """Return a path or another word as it is written in a command, on Windows as elsewhere."""
    return f'"{word}"' if re.search(r"[\s&'();<>|*?\[]", str(word)) else str(word)


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return "1 image", "2,000 images"; `nouns` is the plural where it is not the noun and an s ("1 class")."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def print_table(rows: Iterable[Sequence[object]]) -> None:
    """Print rows, their first cells aligned to the left and the others to the right."""
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(text_width, column)) for column in zip(*lines, strict=True)]
    for name, *cells in lines:
        columns = (" " * (width + 2 - text_width(cell)) + cell for width, cell in zip(widths[1:], cells, strict=True))
        print(name + " " * (widths[0] - text_width(name)) + "".join(columns))
