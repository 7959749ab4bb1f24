"""The class of each image, and its part of a given split, by the folders in which people keep and publish images.

cat/1.jpg                 a folder per class; inside wrapper folders (archive/pets/cat/1.jpg) as well
cat.0.jpg                 Kaggle's file names
train/cat/1.jpg           a folder per part, with either of these inside; named Training_Set, seg_test, valid, ...
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from classifier.cli import UserError, shorten

ClassFolder = Literal["auto", "outer", "inner"]
FILLER = "(?:data|sets?|images?|imgs?|pictures?|photos?|files?|folder|dir|seg|split|public|private|数据|图片|集)*"
PART = re.compile(
    f"{FILLER}(?:(?P<train>train(?:ing)?|训练)|(?P<val>val(?:id(?:ation)?)?|dev|验证)|(?P<eval>eval(?:uation)?)"
    f"|(?P<test>test(?:ing)?|holdout|测试)|(?P<unlabelled>(?:single)?pred(?:ict(?:ions?)?)?|unlabell?ed)){FILLER}"
)
ALSO_CLASSES = {"train", "valid"}  # beside bus, beside invalid
NUMBERED = re.compile(r"(.+?)\.\d+\.\w+")  # Kaggle's cat.0.jpg
MAX_COLUMNS = 200  # of a list in a message


@dataclass
class Folder:
    """The images of a folder, as (name, index), and the folders in it."""

    files: list[tuple[str, int]] = field(default_factory=list)
    folders: dict[str, "Folder"] = field(default_factory=dict)

    def unwrap(self, classes: Iterable[str] = ()) -> "Folder":
        """Return the first folder below that has not just one folder in it; one of `classes` is no wrapper."""
        folder = self
        while len(folder.folders) == 1 and folder.folders.keys().isdisjoint(classes):
            (folder,) = folder.folders.values()
        return folder

    def images(self, name: str) -> Iterator[tuple[int, str]]:
        """Yield each image in this folder, whose name is given, as (index, name of the innermost folder)."""
        pending = [(name, self)]
        for innermost, folder in pending:
            yield from ((index, innermost) for _, index in folder.files)
            pending += folder.folders.items()


def part_names(names: Iterable[str]) -> dict[str, str]:
    """Return those of some names that mean "train", "val", "test" or "unlabelled", with that meaning.

    Capitals, digits, fillers such as "set", and words that all the names share do not count.
    """
    words = {name: _words(name) for name in names}
    shared = set.intersection(*map(set, words.values())) if len(words) > 1 else set()
    found = {}
    for name, own in words.items():
        if match := PART.fullmatch("".join(own)) or PART.fullmatch("".join(w for w in own if w not in shared)):
            found[name] = match.lastgroup
    evaluation = "test" if "val" in found.values() and "test" not in found.values() else "val"
    return {name: evaluation if part == "eval" else part for name, part in found.items()}


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+", name)]


def read_layout(paths: Sequence[Sequence[str]], classes: ClassFolder = "auto") -> list[tuple[str | None, str | None]]:
    """Return (part, class) of each path, given as its parts, None where it has none.

    `classes` says which folders they are where both the "outer" and the "inner" ones may be. Raises UserError where
    that, or what is beside the parts of a split, is unclear.
    """
    top = Folder()
    for index, path in enumerate(paths):
        folder = top
        for name in path[:-1]:
            folder = folder.folders.setdefault(class_name(name), Folder())
        folder.files.append((path[-1], index))
    found = _with_parts(top.unwrap(), classes)
    return [found.get(index, (None, None)) for index in range(len(paths))]


def class_name(label: str) -> str:
    """Return a class's name without white space around it, in Unicode's composed form: macOS writes é as two."""
    return unicodedata.normalize("NFC", label.strip())


def _with_parts(folder: Folder, classes: ClassFolder) -> dict[int, tuple[str | None, str]]:
    """Return {index: (part, class)} of the labelled images in a folder that is no wrapper."""
    inside = {name: inner.unwrap() for name, inner in folder.folders.items()}
    parts = part_names(inside)
    others = inside.keys() - parts.keys()
    split = {name for name in others if len(part_names(inside[name].folders)) > 1}
    unclear = {name for name in others - split if inside[name].folders}
    if others and classes == "outer":
        parts, split = {}, set()
    elif len(parts) == 1 and not split and {name.lower() for name in parts} <= ALSO_CLASSES:
        parts = {name: part for name, part in parts.items() if inside[name].folders}  # or it is a class
    if not parts and not split:
        mixed = {part for name in inside for part in part_names(_words(name)).values()} if classes == "auto" else ()
        if len(mixed) > 1:
            raise _unclear(inside, ())
        return {index: (None, label) for index, label in _classes(folder, classes).items()}
    if unclear or (len(split) > 1 and not parts) or (len(parts) == 1 and not split):
        raise _unclear(parts or split, unclear or others - split)
    found: dict[int, tuple[str | None, str]] = {}
    for name in sorted(parts, key=lambda name: parts[name] != "train"):  # its classes are those of the others
        known = {label for _, label in found.values()}
        if parts[name] != "unlabelled":
            found |= {i: (parts[name], label) for i, label in _classes(folder.folders[name], classes, known).items()}
    for name in split:  # a second copy of everything, in a folder inside the first
        found |= _with_parts(inside[name], classes)
    return found


def _unclear(parts: Iterable[str], others: Iterable[str]) -> UserError:
    beside = f", beside other folders ({_shown(others)})" if others else ""
    return UserError(
        f"Found parts of a split ({_shown(parts)}){beside}, but not which belong together. Give a folder or zip that "
        "holds only these, or rename the folders of a split to train, val and test. If each of these is a class, use "
        "--class-folder outer."
    )


def _shown(names: Iterable[str]) -> str:
    return shorten(", ".join(sorted(names)), MAX_COLUMNS)


def _classes(folder: Folder, classes: ClassFolder, known: Iterable[str] = ()) -> dict[int, str]:
    """Return {index: class} of the images in wrapper folders, by their folders or, without any, by their names."""
    folder = folder.unwrap(known)
    if not folder.folders:
        return {index: class_name(match[1]) for name, index in folder.files if (match := NUMBERED.fullmatch(name))}
    below = {name: inner.unwrap().folders.keys() for name, inner in folder.folders.items()}
    copies = {name for name, names in below.items() if len(names & below.keys()) > 1}  # of everything, inside it
    times = Counter(name for label, names in below.items() if label not in copies for name in names)
    outer = _shown(name for name, names in below.items() if len(names) > 1 and any(times[n] > 1 for n in names))
    if outer and classes == "auto":
        inner = _shown(name for name, count in times.items() if count > 1)
        raise UserError(
            f"{outer} have folders of the same names inside ({inner}). If the classes are {outer}, use --class-folder "
            f"outer; if they are {inner}, use --class-folder inner. Or rename the outer folders to train, val and test "
            "if they are the parts of a split."
        )
    found = {
        index: innermost if classes == "inner" else name
        for name, inner in folder.folders.items()
        for index, innermost in inner.images(name)
    }
    for name in copies if classes == "auto" else ():
        found |= _classes(folder.folders[name], classes)
    return found
