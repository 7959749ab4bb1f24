"""Folders to labelled images: what there is, and what is set aside to choose the best epoch with.

    dataset/train/<class>/*        dataset/test/<class>/*

What people have decided about doubtful labels, in corrections.csv, goes before what the folders say. What the images
are told apart by, a digest of each file's content, is read once and remembered (index.py).
"""

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from classifier.cli import UserError
from classifier.data import corrections, index
from classifier.data.columns import BLOCK, DIGEST, Digests, Labels, Paths
from classifier.data.listing import Listing, class_names, has_images, list_files

__all__ = ["class_names", "has_images"]  # which belong to the folder that is read here
MANY = 100_000  # images from which on the fingerprint is that of the plain bytes
PART = 1 << 17  # bytes of a file in memory


@dataclass(frozen=True)
class ImageFolder:
    """The labelled images of one folder, in a fixed order."""

    root: Path
    classes: list[str]
    paths: Sequence[str]  # this and the next two are kept as columns.py does
    labels: Sequence[int]
    digests: Sequence[bytes] = ()  # of the files' contents, from `with_digests`
    corrected: str = ""  # what corrections.csv did to it, one line to print
    listing: Listing | None = field(default=None, repr=False, compare=False)  # that `paths` come from, until then

    def __post_init__(self):
        for name, column, make in (
            ("paths", Paths, Paths.of),
            ("labels", Labels, Labels),
            ("digests", Digests, Digests),
        ):
            if not isinstance(getattr(self, name), column):
                object.__setattr__(self, name, make(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.paths)

    def counts(self) -> dict[str, int]:
        """Images per class."""
        counts = np.bincount(self.labels.array, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    def subset(self, indices: Sequence[int]) -> "ImageFolder":
        """The images at these places, with all classes."""
        places = np.asarray(indices, dtype=np.int64)
        columns = {name: getattr(self, name) for name in ("paths", "labels", "digests")}
        return replace(self, **{name: column.take(places) for name, column in columns.items() if len(column)})

    def fingerprint(self) -> str:
        """Equal for the same contents in the same classes, wherever they lie and whatever they are called."""
        order = _by_class(self, self.digests)
        text = len(self) < MANY  # of (classes, [(label, digest), ...]); otherwise, many times faster, the plain numbers
        whole = hashlib.blake2b((f"({self.classes!r}, [" if text else repr(self.classes)).encode(), digest_size=16)
        for start in range(0, len(self), BLOCK):
            labels, digests = (column.take(order[start : start + BLOCK]) for column in (self.labels, self.digests))
            if text:
                members = repr(list(zip(labels, digests, strict=True)))[1:-1]
                whole.update((", " * bool(start) + members).encode())
            else:
                whole.update(labels.array.astype("<i4"))
                whole.update(digests.array)
        whole.update(b"])" if text else b"")
        return whole.hexdigest()


def read_folder(root: Path, corrected: bool = True) -> ImageFolder:
    """Index `root/<class>/*`.

    Args:
        root: the folder of classes.
        corrected: with the labels that corrections.csv gives, and without what it leaves out; otherwise as the folders
            say.

    Raises:
        UserError: no such folder, no images in it, one class only, or a class without images.
    """
    expected = f"{root}/<class>/<images>; python prepare.py FILE_OR_FOLDER makes that of what you have."
    if not root.is_dir():
        raise UserError(f"{root} {'is no folder' if root.exists() else 'does not exist'}. Expected {expected}")
    classes = class_names(root)
    listing = list_files(root, classes)
    if not len(listing.paths):
        raise UserError(f"{root} holds no images. Expected {expected}")
    labels = np.repeat(np.arange(len(classes)), listing.counts)
    folder = ImageFolder(root, classes, listing.paths, labels, listing=listing)
    for name in folder.classes:
        if name.encode("utf-8", "ignore").decode() != name:  # bytes of another system's encoding
            raise UserError(f"{root} has a class whose name is no text, {name!r}. Rename that folder.")
    empty = [name for name, count in folder.counts().items() if not count]
    if empty:
        raise UserError(f"{root} has classes without images: {', '.join(empty)}. Add images or remove the folder.")
    if len(folder.classes) < 2:
        raise UserError(
            f"{root} has one class only ({folder.classes[0]}); there is nothing to tell apart. Add a second folder."
        )
    return _corrected(folder) if corrected else folder


def _corrected(folder: ImageFolder) -> ImageFolder:
    table = corrections.table_of(folder.root)
    if not table.is_file():
        return folder
    decided, remarks = corrections.of_folder(folder.root, folder.classes, folder.paths, digest)
    labels = folder.labels.array.copy()
    kept = np.ones(len(folder), bool)
    for place, correction in decided.items():
        if correction.decision == corrections.RELABEL:
            labels[place] = folder.classes.index(correction.right)
        kept[place] = correction.decision != corrections.LEAVE_OUT
    relabelled = int((labels != folder.labels.array).sum())
    said = corrections.summary(relabelled, len(folder) - int(kept.sum()), remarks)
    folder = replace(folder, labels=labels, corrected=said).subset(np.flatnonzero(kept))
    if empty := [name for name, count in folder.counts().items() if not count]:
        raise UserError(
            f"{table} leaves {folder.root} without images of {', '.join(empty)}. Add images, or take decisions "
            "back by deleting their rows."
        )
    return folder


def with_digests(folder: ImageFolder) -> ImageFolder:
    """The folder with a digest of each file. Raises UserError for a file that cannot be read."""
    listing, paths = folder.listing, folder.paths
    if not listing or paths.text is not listing.paths.text:  # paths from elsewhere
        return replace(folder, digests=list(map(digest, paths)))
    digests = index.digests_of(listing, paths.rows, index.place_of(folder.root), digest)
    return replace(folder, digests=digests, listing=None)


def digest(path: str) -> bytes:
    """Of a file's content, 16 bytes. Raises UserError for a file that cannot be read."""
    content = hashlib.blake2b(digest_size=DIGEST)
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # open() takes as long as all the rest
        try:
            while part := os.read(file, PART):
                content.update(part)
        finally:
            os.close(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error
    return content.digest()


def scarcity(folder: ImageFolder) -> Tensor:
    """Mean number of images of a class / that of each class, (classes,): the fewer it has, the larger."""
    counts = torch.tensor(list(folder.counts().values()), dtype=torch.float)
    return counts.mean() / counts


def uneven(folder: ImageFolder) -> str:
    """A remark where the largest class has over half as many images again as the smallest; otherwise nothing."""
    counts = folder.counts()
    few, many = min(counts, key=counts.get), max(counts, key=counts.get)
    if counts[many] <= 1.5 * counts[few]:
        return ""
    return f"the classes are uneven: {many} has {counts[many] / counts[few]:.1f} times as many images as {few}"


def split_validation(folder: ImageFolder, share: float, fold: int = 1) -> tuple[ImageFolder, ImageFolder]:
    """(training, validation) images of a folder with digests: of each class the same share, and at least one.

    The first `fold` sets aside the first share of all, the second one the next, and so on.

    What a file contains decides, not its name or place, so the same images are set aside in every run and on every
    machine. Copies of an image in its class stay together; so do those that look the same, where prepare.py has
    listed them in duplicates.csv beside `folder.root`.

    Raises:
        UserError: a class with too few different images.
    """
    smallest = _smallest_of_group(folder)
    keys, order = smallest.keys, _by_class(folder, smallest)
    ends = np.cumsum(list(folder.counts().values())).tolist()
    aside = np.zeros(len(folder), bool)
    for name, start, stop in zip(folder.classes, [0, *ends], ends, strict=False):
        members = order[start:stop]
        own = keys[members]
        begin = round((fold - 1) * share * len(members))
        end = min(len(members), max(begin + 1, round(fold * share * len(members))))
        # whatever has the same key as the last one set aside goes with it
        begin, end = (int(own.searchsorted(own[at - 1], side="right")) if at else 0 for at in (begin, end))
        if end - begin in (0, len(members)):
            raise UserError(
                f"{folder.root / name} has {len(members)} images, too few different ones to train with some and set "
                f"{share:.0%} aside for validation. Add images."
            )
        aside[members[begin:end]] = True
    return folder.subset(np.flatnonzero(~aside)), folder.subset(np.flatnonzero(aside))


def _by_class(folder: ImageFolder, digests: Digests) -> np.ndarray:
    """The places of all images, class after class, in each by digest, (N,)."""
    order = digests.order()
    labels = folder.labels.array[order].astype(np.min_scalar_type(len(folder.classes)))  # small ones are sorted faster
    return order[labels.argsort(kind="stable")]


def _smallest_of_group(folder: ImageFolder) -> Digests:
    """For each image the smallest digest among those that look like it; its own where nothing does."""
    report = folder.root.parent / "duplicates.csv"
    if not report.is_file():
        return folder.digests
    with report.open(encoding="utf-8-sig", newline="") as file:
        groups = {str(Path(row["file"])): row["group"] for row in csv.DictReader(file) if row.get("file")}
    before = os.path.join(folder.root.parent, "")  # noqa: PTH118 (with the separator at its end)
    alike: dict[str, list[int]] = {}
    for place, path in enumerate(folder.paths):
        if number := groups.get(path.removeprefix(before)):
            alike.setdefault(number, []).append(place)
    digests = folder.digests.array.copy()
    for places in alike.values():
        digests[places] = digests[min(places, key=lambda place: digests[place].tobytes())]
    return Digests(digests)
