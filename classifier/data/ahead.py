"""How are very many files listed while PyTorch is still being imported?

Both take seconds, and Python does one thing at a time; so another process lists them: `begin` starts it, `listed` takes
what it found. That pays where there are very many, and the index of an earlier run (index.py) tells that there are.
This file, and what that process needs, do without PyTorch.
"""

import argparse
import contextlib
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MANY = 5_000_000  # bytes of an index: of some 80,000 images, whose listing takes as long as starting the process
PROJECT = Path(__file__).parents[2]
begun: list[tuple[str, subprocess.Popen]] = []  # one at most, and the folder that it lists


def place_of(root: Path) -> Path:
    """The index that belongs to the folder of classes `root`: beside dataset/train, but in photos."""
    return (root.parent if root.name in ("train", "test") else root) / ".cache" / f"{root.name}.files"


def begin(arguments: Sequence[str]) -> None:
    """Start listing the folder of classes that train.py will ask for, given its command line."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)  # reports no mistakes
    parser.add_argument("--data", nargs="?", default="dataset")
    root = Path(parser.parse_known_args(arguments)[0].data or "", "train")
    paths = [str(PROJECT), os.environ.get("PYTHONPATH", "")]
    with contextlib.suppress(OSError):  # no index, or no other process: it is listed later
        if place_of(root).stat().st_size > MANY:
            process = subprocess.Popen(
                [sys.executable, "-m", "classifier.data.listing", root],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # should it fail, the other listing will say why
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
            begun.append((str(root), process))


def listed(root: Path, classes: Sequence[str]) -> list | None:
    """What the other process found in these folders of `root`; None where it was not asked, or did not get there."""
    if not begun:
        return None
    name, process = begun.pop()
    if name != str(root):  # a resumed run knows better than its command line
        process.kill()
    with process:
        try:
            its_classes, parts = pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
    return parts if name == str(root) and its_classes == classes else None
