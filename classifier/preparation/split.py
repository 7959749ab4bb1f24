"""Decide which images are for training and which for testing, by content alone, and what their files are called."""

from collections import Counter
from collections.abc import Mapping, Sequence

from classifier.cli import UserError, plural
from classifier.data.formats import HEAD_BYTES, has_image_extension, image_extension
from classifier.files import safe_name
from classifier.preparation.duplicates import groups
from classifier.preparation.sources import SourceImage


def assign_parts(images: Sequence[SourceImage], test: float) -> None:
    """Set `part` of each image to "train", "val", "test" or, where it is left out, "".

    A given split is kept. Otherwise the groups of images that look the same are taken in the order of their smallest
    SHA-256, the first ones of each class for testing: the same on any machine, in any order of files, under any
    names. A group goes to one part as a whole, to train where it has two classes.

    Args:
        images: after `find_duplicates`.
        test: below 1 the fraction of each class that is for testing, from 1 on the number of images.

    Raises:
        UserError: a class has too few images.
    """
    kept = [image for image in images if not image.left_out]
    for image in kept:
        image.part = image.split or "train"
    if any(image.split for image in images):
        return
    counts = Counter(image.label for image in kept)
    shared = Counter(image.label for image in kept if image.conflict)
    wanted = {label: int(test) if test >= 1 else max(1, int(counts[label] * test + 0.5)) for label in sorted(counts)}
    for label, number in wanted.items():
        if number > min(counts[label] - shared[label], counts[label] - 1):
            raise UserError(
                f"--test {test:g}: class '{label}' has {plural(counts[label], 'good image')}, {shared[label]:,} of "
                f"them also in another class. It cannot give {number:,} for testing and keep some for training: "
                "choose a smaller --test, or add images."
            )
    missing = dict(wanted)
    free = groups([image for image in kept if not image.conflict])
    for group in sorted(free, key=lambda group: min(image.sha256 for image in group)):
        if len(group) <= missing[group[0].label]:
            missing[group[0].label] -= len(group)
            for image in group:
                image.part = "test"
    for label, number in missing.items():
        if number == wanted[label]:
            raise UserError(
                f"Class '{label}' cannot give {plural(number, 'image')} for testing: too many of its images look the "
                "same and would be on both sides. Choose a larger --test, or add other images."
            )


def name_files(images: Sequence[SourceImage], folders: Mapping[str, str]) -> None:
    """Set `target` of each image that is used to "<part>/<class folder>/<name>"."""
    taken = set()
    for image in sorted(images, key=lambda image: (image.name, image.sha256)):
        if image.part:
            folder, name = f"{image.part}/{folders[image.label]}", safe_name(image.name.split("/")[-1])
            if not has_image_extension(name):  # a file whose content has told that it is an image
                with image.copy.open("rb") as file:
                    name += image_extension(file.read(HEAD_BYTES))
            if (folder, name.casefold()) in taken:  # two folders of the source have an image of this name
                stem, dot, ending = name.rpartition(".")
                name = f"{stem[:40]}-{image.sha256}{dot}{ending}"
            taken.add((folder, name.casefold()))
            image.target = f"{folder}/{name}"
