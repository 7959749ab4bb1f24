"""Text for tables, figures and messages; a Chinese character is two columns wide."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path


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


def quoted(path: Path) -> str:
    """Return a path as it is written in a command, on Windows as elsewhere."""
    return f'"{path}"' if " " in str(path) else str(path)


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
