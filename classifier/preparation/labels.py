"""From the paths of images to their classes and the split they were given."""

import re
import unicodedata

from classifier.cli import UserError

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test", "test1": "test",  # test1: Kaggle's
}  # fmt: skip
NUMBERED = re.compile(r"(.+?)\.\d+\.\w+")  # Kaggle's cat.0.jpg


def labels(paths: list[tuple[str, ...]]) -> list[tuple[str | None, str | None]]:
    """(split, class) of each path, None where there is none.

    Wrapper folders are passed through; then come folders that are all named train, val, test, if any; then one
    folder per class, or Kaggle's file names `cat.0.jpg`.
    """
    depth, below = 0, paths
    while len({path[depth] for path in below if len(path) > depth + 1}) == 1:
        below = [path for path in below if len(path) > depth + 1]
        depth += 1
    wrapper = below[0][:depth] if below else ()
    tops = {path[depth] for path in below if len(path) > depth + 1}
    parts = sorted(top for top in tops if top.lower() in SPLITS)
    is_split = bool(tops) and len(parts) == len(tops)
    if len(parts) > 1 and not is_split:
        raise UserError(
            f"beside {', '.join(parts)} there is {', '.join(sorted(tops - set(parts)))}: the first are parts of a "
            "split, and what the others are is unclear. Give a folder or zip without them"
        )
    answers = []
    for path in paths:
        rest = path[depth:] if path[:depth] == wrapper else ()
        split = SPLITS[rest[0].lower()] if is_split and len(rest) > 1 else None
        rest = rest[1:] if split else rest
        numbered = NUMBERED.fullmatch(rest[0]) if len(rest) == 1 else None
        label = rest[0] if len(rest) > 1 else numbered[1] if numbered else None
        answers.append((split, label and plain(label)))
    return answers


def plain(label: str) -> str:
    """One spelling: macOS writes é as two characters."""
    return unicodedata.normalize("NFC", label.strip())
