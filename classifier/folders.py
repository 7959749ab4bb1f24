"""Folders to labelled pictures: what there is, and what is set aside to choose the best epoch with.

    dataset/train/<class>/*        dataset/test/<class>/*

torchvision's `ImageFolder` is the index: folder names, sorted, are the classes. What people have decided about doubtful
labels, in corrections.csv, goes before what the folders say.
"""

import csv
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.datasets import ImageFolder

from classifier import corrections
from classifier.cli import UserError
from classifier.pictures import is_candidate


@dataclass(frozen=True)
class Folder:
    """The labelled pictures of one folder, in a fixed order."""

    root: Path
    classes: list[str]
    paths: list[str]
    labels: list[int]
    digests: list[bytes] = field(default_factory=list)  # of the files' contents, from `with_digests`
    corrected: str = ""  # what corrections.csv did to it, one line to print

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Pictures per class."""
        counts = Counter(self.labels)
        return {name: counts[label] for label, name in enumerate(self.classes)}

    def subset(self, indices: Sequence[int]) -> "Folder":
        """The pictures at these places, with all classes."""
        columns = {name: getattr(self, name) for name in ("paths", "labels", "digests")}
        return replace(self, **{name: [column[i] for i in indices] for name, column in columns.items()})

    def fingerprint(self) -> str:
        """Equal for the same contents in the same classes, wherever they lie and whatever they are called."""
        members = sorted(zip(self.labels, self.digests, strict=True))
        return hashlib.blake2b(repr((self.classes, members)).encode(), digest_size=16).hexdigest()


def class_names(root: Path) -> list[str]:
    """The sub-folders of `root`, sorted, without hidden ones (.ipynb_checkpoints); none where `root` does not exist."""
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


class _Index(ImageFolder):
    """`ImageFolder` without hidden folders."""

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        names = class_names(Path(directory))
        return names, {name: label for label, name in enumerate(names)}


def has_pictures(root: Path) -> bool:
    """Whether any class folder of `root` holds a picture."""
    return any(_is_picture(root, path) for name in class_names(root) for path in (root / name).rglob("*"))


def _is_picture(root: Path, path: str | Path) -> bool:
    return is_candidate(path) and not any(part.startswith(".") for part in Path(path).relative_to(root).parts)


def read_folder(root: Path, corrected: bool = True) -> Folder:
    """Index `root/<class>/*`.

    Args:
        root: the folder of classes.
        corrected: with the labels that corrections.csv gives, and without what it leaves out; otherwise as the folders
            say.

    Raises:
        UserError: no such folder, no pictures in it, one class only, or a class without pictures.
    """
    expected = f"{root}/<class>/<pictures>; python prepare.py FILE_OR_FOLDER makes that of what you have."
    if not root.is_dir():
        raise UserError(f"{root} does not exist. Expected {expected}")
    if not has_pictures(root):
        raise UserError(f"{root} holds no pictures. Expected {expected}")
    index = _Index(str(root), is_valid_file=lambda path: _is_picture(root, path), allow_empty=True)
    folder = Folder(root, index.classes, [path for path, _ in index.samples], index.targets)
    for name in folder.classes:
        if name.encode("utf-8", "ignore").decode() != name:  # bytes of another system's encoding
            raise UserError(f"{root} has a class whose name is no text, {name!r}. Rename that folder.")
    empty = [name for name, count in folder.counts().items() if not count]
    if empty:
        raise UserError(f"{root} has classes without pictures: {', '.join(empty)}. Add pictures or remove the folder.")
    if len(folder.classes) < 2:
        raise UserError(
            f"{root} has one class only ({folder.classes[0]}); there is nothing to tell apart. Add a second folder."
        )
    return _corrected(folder) if corrected else folder


def _corrected(folder: Folder) -> Folder:
    table = corrections.table_of(folder.root)
    if not table.is_file():
        return folder
    decided, remarks = corrections.of_folder(folder.root, folder.classes, folder.paths, digest)
    labels = list(folder.labels)
    for place, correction in decided.items():
        if correction.decision == corrections.RELABEL:
            labels[place] = folder.classes.index(correction.right)
    left_out = {place for place, correction in decided.items() if correction.decision == corrections.LEAVE_OUT}
    kept = [place for place in range(len(folder)) if place not in left_out]
    relabelled = sum(label != own for label, own in zip(labels, folder.labels, strict=True))
    folder = replace(
        folder,
        paths=[folder.paths[place] for place in kept],
        labels=[labels[place] for place in kept],
        corrected=corrections.summary(relabelled, len(left_out), remarks),
    )
    if empty := [name for name, count in folder.counts().items() if not count]:
        raise UserError(
            f"{table} leaves {folder.root} without pictures of {', '.join(empty)}. Add pictures, or take decisions "
            "back by deleting their rows."
        )
    return folder


def with_digests(folder: Folder) -> Folder:
    """The folder with a digest of each file. Raises UserError for a file that cannot be read."""
    with ThreadPoolExecutor() as pool:
        return replace(folder, digests=list(pool.map(digest, folder.paths)))


def digest(path: str) -> bytes:
    """Of a file's content, 16 bytes. Raises UserError for a file that cannot be read."""
    try:
        return hashlib.blake2b(Path(path).read_bytes(), digest_size=16).digest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def scarcity(folder: Folder) -> Tensor:
    """Mean number of pictures of a class / that of each class, (classes,): the fewer it has, the larger."""
    counts = torch.tensor(list(folder.counts().values()), dtype=torch.float)
    return counts.mean() / counts


def uneven(folder: Folder) -> str:
    """A remark where the largest class has over half as many pictures again as the smallest; otherwise nothing."""
    counts = folder.counts()
    few, many = min(counts, key=counts.get), max(counts, key=counts.get)
    if counts[many] <= 1.5 * counts[few]:
        return ""
    return f"the classes are uneven: {many} has {counts[many] / counts[few]:.1f} times as many pictures as {few}"


def split_validation(folder: Folder, share: float, fold: int = 1) -> tuple[Folder, Folder]:
    """(training, validation) pictures of a folder with digests: of each class the same share, and at least one.

    The first `fold` sets aside the first share of all, the second one the next, and so on.

    What a file contains decides, not its name or place, so the same pictures are set aside in every run and on every
    machine. Copies of a picture in its class stay together; so do those that look the same, where prepare.py has
    listed them in duplicates.csv beside `folder.root`.

    Raises:
        UserError: a class with too few different pictures.
    """
    keys = _smallest_of_group(folder)
    training: list[int] = []
    validation: list[int] = []
    for label, name in enumerate(folder.classes):
        members = sorted((keys[i], i) for i, other in enumerate(folder.labels) if other == label)
        begin = round((fold - 1) * share * len(members))
        end = min(len(members), max(begin + 1, round(fold * share * len(members))))
        # whatever has the same key as the last one set aside goes with it
        before = members[begin - 1][0] if begin else b""
        last = members[end - 1][0]
        aside = [i for key, i in members if before < key <= last]
        if len(aside) in (0, len(members)):
            raise UserError(
                f"{folder.root / name} has {len(members)} pictures, too few different ones to train with some and set "
                f"{share:.0%} aside for validation. Add pictures."
            )
        validation += aside
        training += [i for key, i in members if not before < key <= last]
    return folder.subset(sorted(training)), folder.subset(sorted(validation))


def _smallest_of_group(folder: Folder) -> list[bytes]:
    """For each picture the smallest digest among those that look like it; its own where nothing does."""
    report = folder.root.parent / "duplicates.csv"
    if not report.is_file():
        return folder.digests
    with report.open(encoding="utf-8-sig", newline="") as file:
        groups = {str(Path(row["file"])): row["group"] for row in csv.DictReader(file) if row.get("file")}
    group = [groups.get(str(Path(path).relative_to(folder.root.parent))) for path in folder.paths]
    smallest: dict[str, bytes] = {}
    for number, digest in zip(group, folder.digests, strict=True):
        if number is not None:
            smallest[number] = min(digest, smallest.get(number, digest))
    return [smallest.get(number, digest) for number, digest in zip(group, folder.digests, strict=True)]
