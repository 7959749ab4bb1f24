"""Index labelled images: `torchvision.datasets.ImageFolder` with this project's rules, and the validation split.

    DATA/train/<class>/*      DATA/val/<class>/*, where there is one      DATA/test/<class>/*

An image is identified by its path relative to the folder and its size in bytes, so a folder that was moved or copied
is still the same. Labels that people have corrected (corrections.csv) take precedence over the folders.
"""

import contextlib
import copy
import csv
import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets

from classifier.cli import UserError, plural, shorten
from classifier.data.formats import is_image, is_visible
from classifier.data.images import load_image, walk

FINGERPRINT = "paths1-"  # begins a fingerprint; earlier versions hashed contents and split the images by them
MAX_COLUMNS = 200  # of a list in a message


class ImageFolder(datasets.ImageFolder):
    """The labelled images of `root/<class>/**`; `folder[i]` is (RGB image, label), which is a position in `classes`.

    Attributes besides torchvision's `classes`, `class_to_idx`, `samples` and `targets`:
        paths, labels: of the images, in the order of `samples`.
        corrected: what corrections.csv did, as one line to print.
    """

    def __init__(self, root: str | os.PathLike, classes: Sequence[str] | None = None):
        self._given_classes = classes
        super().__init__(Path(root), loader=load_image)
        self.corrected = ""
        self.paths, self.labels = [path for path, _ in self.samples], self.targets

    def find_classes(self, directory: str | os.PathLike) -> tuple[list[str], dict[str, int]]:
        """Return the classes, by default those of `class_names`, and the label of each."""
        names = list(self._given_classes or class_names(Path(directory)))
        return names, {name: label for label, name in enumerate(names)}

    @staticmethod
    def make_dataset(directory: str | os.PathLike, class_to_idx: dict[str, int], **_) -> list[tuple[str, int]]:
        """List (path, label) in torchvision's order; a class may be empty."""
        return [
            (path, label)
            for class_name, label in sorted(class_to_idx.items())
            for folder, files in sorted(walk(Path(directory, class_name)))
            for name in sorted(files)
            if is_image(path := os.path.join(folder, name))  # noqa: PTH118 (three times as fast as pathlib)
        ]

    def _copy(self, samples: list[tuple[str, int]]) -> "ImageFolder":
        other = copy.copy(self)
        other.samples = other.imgs = samples
        other.paths, other.labels = [path for path, _ in samples], [label for _, label in samples]
        other.targets = other.labels
        return other

    def counts(self) -> dict[str, int]:
        """Return the number of images of each class."""
        counts = Counter(self.labels)
        return {name: counts[label] for label, name in enumerate(self.classes)}

    def subset(self, indices: Sequence[int]) -> "ImageFolder":
        """Return the images with these indices, in this order, with all classes."""
        return self._copy([self.samples[i] for i in indices])

    def relative_paths(self) -> list[str]:
        """Return the images' paths relative to `root`, with forward slashes, in Unicode's composed form (NFC)."""
        start = len(os.path.join(self.root, ""))  # noqa: PTH118 (with the separator)
        return [unicodedata.normalize("NFC", path[start:].replace(os.sep, "/")) for path in self.paths]

    def fingerprint(self) -> str:
        """Return a hash of the classes and of each image's label, relative path and size in bytes."""
        classes = [unicodedata.normalize("NFC", name) for name in self.classes]
        sizes = [stat.st_size if (stat := stat_or_none(path)) else -1 for path in self.paths]
        members = sorted(zip(self.relative_paths(), (classes[label] for label in self.labels), sizes, strict=True))
        content = repr((sorted(classes), members)).encode("utf-8", "surrogateescape")
        return FINGERPRINT + hashlib.blake2b(content, digest_size=16).hexdigest()


def stat_or_none(path: str) -> os.stat_result | None:
    """Return the file's status; None for a link to nothing, of which opening it will say so."""
    with contextlib.suppress(OSError):
        return os.stat(path)  # noqa: PTH116 (faster)


def class_names(root: Path) -> list[str]:
    """Return the sub-folders of `root`, sorted, without hidden and system folders; none where there is no `root`."""
    found = os.scandir(root) if root.is_dir() else ()
    return sorted(entry.name for entry in found if entry.is_dir() and is_visible(entry.name))


def is_shards(spec: str) -> bool:
    """Whether `--data` means shards: .tar files, a URL, or a folder with shards.json in it or in its train/."""
    indices = Path(spec, "shards.json"), Path(spec, "train", "shards.json")
    return spec.endswith(".tar") or spec.startswith(("http://", "https://")) or any(map(Path.is_file, indices))


def has_images(root: Path) -> bool:
    """Whether any class folder of `root` holds an image."""
    return any(_has_image(root / name) for name in class_names(root))


def _has_image(folder: Path) -> bool:
    return any(is_image(Path(parent, name)) for parent, files in walk(folder) for name in files)


def read_folder(root: Path, corrected: bool = True, classes: Sequence[str] | None = None) -> ImageFolder:
    """Index `root/<class>/**`.

    Args:
        root: the folder of classes.
        corrected: whether to apply corrections.csv: labels that it changes, images that it leaves out.
        classes: those of the training images, which are the labels then; some of them may have no images here.

    Raises:
        UserError: the folder, images, a class's images or a second class are missing, or a class is not in `classes`.
    """
    expected = f"Expected {root}/<class>/<images>; python prepare.py FILE_OR_FOLDER makes that from what you have."
    if not root.is_dir():
        raise UserError(f"{root} {'is not a folder' if root.exists() else 'does not exist'}. {expected}")
    names = class_names(root)
    for name in names:
        if name.encode("utf-8", "ignore").decode() != name:  # bytes in another system's encoding
            raise UserError(f"{root} has a class whose name is not valid text, {name!r}. Rename that folder.")
    if unknown := [name for name in names if name not in (classes or names) and _has_image(root / name)]:
        theirs, ours = (shorten(", ".join(words), MAX_COLUMNS) for words in (unknown, classes))
        raise UserError(
            f"{root} has classes that the training images do not have: {theirs}. Expected {ours}. "
            "Rename or remove these folders, or name others with --data DIR."
        )
    folder = ImageFolder(root, classes)
    if not len(folder):
        raise UserError(f"{root} has no images. {expected}")
    if corrected:
        folder = _corrected(folder)
    empty = [name for name, count in folder.counts().items() if not count]
    if classes is None and empty:
        cause = f" ({folder.corrected})" if folder.corrected else ""
        raise UserError(
            f"{root} has classes without images: {', '.join(empty)}{cause}. Add images, or remove the folders."
        )
    if len(folder.classes) < 2:
        raise UserError(f"{root} has only one class ({folder.classes[0]}). Add a folder with a second one.")
    return folder


def _corrected(folder: ImageFolder) -> ImageFolder:
    if not any((place / "corrections.csv").is_file() for place in (folder.root, folder.root.parent)):
        return folder
    from classifier.data import corrections  # not at the top: few folders have them

    decided, remarks = corrections.of_folder(folder.root, folder.classes, folder.paths)
    named = [(path, decided.get(path, folder.classes[label])) for path, label in folder.samples]
    result = folder._copy([(path, folder.class_to_idx[name]) for path, name in named if name])
    left_out, relabelled = len(folder) - len(result), len(set(result.samples) - set(folder.samples))
    if relabelled or left_out or remarks:
        result.corrected = f"corrections.csv: {relabelled:,} relabelled, {left_out:,} left out"
    if remarks:
        result.corrected += (
            f", {plural(len(remarks), 'row')} without effect ({shorten('; '.join(remarks), MAX_COLUMNS)})"
        )
    return result


def train_and_val(root: Path, share: float, fold: int = 1, corrected: bool = True) -> tuple[ImageFolder, ImageFolder]:
    """Return the images of `root`/train and, for validation, `root`/val; where there is none, a split of `root`/train.

    Raises:
        UserError: as `read_folder` and `split_validation`; or a fold is asked for where there is a val/.
    """
    training = read_folder(root / "train", corrected)
    if not has_images(root / "val"):
        return split_validation(training, share, fold)
    if fold != 1:
        raise UserError(
            f"--fold {fold} is a part of the training images, but {root / 'val'} holds the validation images. "
            "Move it elsewhere, or leave out --fold."
        )
    return training, read_folder(root / "val", corrected, classes=training.classes)


def split_validation(folder: ImageFolder, share: float, fold: int = 1) -> tuple[ImageFolder, ImageFolder]:
    """Split off a `share` of each class, at least one image, for validation; return (training, validation).

    The images of a class are put in the order of a hash of their relative paths; the first fold is the first share of
    them, the second fold the next, and so on. So the split is the same on every machine. Images that look alike or
    belong together, as prepare.py lists them in duplicates.csv and groups.csv beside `folder.root`, stay together.

    Raises:
        UserError: a class has too few images, or too few that neither look alike nor belong together; or a table of
            these is damaged.
    """
    keys, homes = _group_keys(folder)
    members: list[list[int]] = [[] for _ in folder.classes]
    for index in sorted(range(len(folder)), key=keys.__getitem__):
        members[homes[index]].append(index)
    held_out: set[int] = set()
    for own in members:
        begin = round((fold - 1) * share * len(own))
        end = min(len(own), max(begin + 1, round(fold * share * len(own))))
        starts = {keys[index]: position for position, index in reversed([*enumerate(own)])}  # of each group
        held_out.update(index for index in own if begin <= starts[keys[index]] < end)
    chosen = Counter(folder.labels[index] for index in held_out)
    for label, (name, count) in enumerate(folder.counts().items()):
        if chosen[label] in (0, count):
            raise UserError(
                f"{folder.root / name} has too few different images ({count:,}) to train on and to hold out "
                f"{share:.0%} for validation. Add images."
            )
    training = [index for index in range(len(folder)) if index not in held_out]
    return folder.subset(training), folder.subset(sorted(held_out))


def _group_keys(folder: ImageFolder) -> tuple[list[bytes], list[int]]:
    """Return the hash of each image's relative path, and the label in whose order it is put: its own.

    Of images that look alike or belong together, the smallest hash among them; of a group of groups.csv, the label with
    the fewest images among its own, so that it stays whole where it has several.
    """
    names, groups = folder.relative_paths(), {}
    keys = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    for table in ("duplicates.csv", "groups.csv"):  # of an image in both, its group holds the images that look like it
        report = folder.root.parent / table
        if report.is_file():
            try:
                with report.open(encoding="utf-8-sig", newline="") as file:
                    for row in csv.DictReader(file):
                        groups[unicodedata.normalize("NFC", Path(row["file"]).as_posix())] = (table, row["group"])
            except (csv.Error, KeyError, TypeError, UnicodeDecodeError):  # edited by a person or another program
                raise UserError(
                    f"{report} is not as prepare.py wrote it: expected UTF-8 and the columns group and file, separated "
                    "by commas. Restore it, or remove it if no images look alike or belong together."
                ) from None
    members = [groups.get(f"{folder.root.name}/{name}", ("", name)) for name in names]
    smallest = dict(sorted(zip(members, keys, strict=True), reverse=True))  # of equal members the last one counts
    counts, homes = Counter(folder.labels), {}
    for member, label in zip(members, folder.labels, strict=True):
        if member[0] == "groups.csv":
            homes[member] = min(label, homes.get(member, label), key=lambda one: (counts[one], one))
    labels = [homes.get(member, label) for member, label in zip(members, folder.labels, strict=True)]
    return [smallest[member] for member in members], labels


def leak_remark(part: str, images: ImageFolder, training: ImageFolder, validation: ImageFolder) -> str:
    """Return a sentence if any of these "test" or "validation" images (`part`) are images of training; otherwise ""."""
    others = [folder for folder in (training, validation) if folder.root.resolve() != images.root.resolve()]
    common = same_contents(images.paths, [path for folder in others for path in folder.paths])
    if not common:
        return ""
    kind = "training or validation" if len({folder.root for folder in others}) > 1 else "training"
    are = f"is also a {kind} image" if len(common) == 1 else f"are also {kind} images"
    return (
        f"{len(common):,} of {plural(len(images), f'{part} image')} {are} (for example, {common[0][0]} is the same as "
        f"{common[0][1]}), which makes the score look better than it is."
    )


def same_contents(paths: Sequence[str], others: Sequence[str]) -> list[tuple[str, str]]:
    """Return the files among `paths` whose content one of `others` has, too, each with one of these.

    Files are only read where sizes are equal, and read whole only where their middles are equal.
    """
    ours, theirs = (dict.fromkeys(part, ()) for part in (paths, others))
    for depth in range(3):
        ours, theirs = ({path: (*keys, _key(path, depth)) for path, keys in part.items()} for part in (ours, theirs))
        common = {*ours.values()} & {*theirs.values()}
        ours, theirs = ({path: keys for path, keys in part.items() if keys in common} for part in (ours, theirs))
    twins = {keys: path for path, keys in theirs.items()}
    return [(path, twins[keys]) for path, keys in ours.items()]


def _key(path: str, depth: int) -> object:
    """Return the file's size; for depth 1, 4 kB from its middle; for depth 2, a hash of it; unreadable, its path."""
    try:
        size = os.stat(path).st_size  # noqa: PTH116 (faster)
        if depth == 0:
            return size
        with Path(path).open("rb") as file:
            file.seek(size // 2 if depth == 1 else 0)
            return file.read(4096) if depth == 1 else hashlib.blake2b(file.read()).digest()
    except OSError:
        return path


def class_weights(folder: ImageFolder) -> Tensor:
    """Return the mean number of images of a class divided by that of each class, (classes,) float32."""
    counts = torch.tensor(list(folder.counts().values()), dtype=torch.float)
    return counts.mean() / counts


def imbalance_warning(folder: ImageFolder) -> str:
    """Return a remark if the largest class has more than 1.5 times as many images as the smallest, otherwise ""."""
    counts = sorted((count, name) for name, count in folder.counts().items())
    (few, smallest), (many, largest) = counts[0], counts[-1]
    if many <= 1.5 * few:
        return ""
    return f"the classes are imbalanced: {largest} has {many / few:.1f} times as many images as {smallest}"
