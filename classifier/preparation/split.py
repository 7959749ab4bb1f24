"""Decide which images are for training and which for testing, by content alone, and what their files are called."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from classifier.cli import UserError, plural
from classifier.data.formats import HEAD_BYTES, has_image_extension, image_extension
from classifier.files import safe_name
from classifier.preparation.duplicates import groups
from classifier.preparation.sources import Source, SourceImage

GROUP_COLUMNS = ("file", "group")


def name_families(found: Source, pattern: re.Pattern) -> None:
    """Set `family` of each image to what `pattern` finds in its name: its first group or, without one, all of it.

    Remarks on images without a match, and on families in several parts of a given split.

    Raises:
        UserError: the pattern matches no name, or puts all images of a class into one family.
    """
    parts, families, expression = defaultdict(set), defaultdict(list), f"--group-by '{pattern.pattern}'"
    for image in found.images:
        match = pattern.search(image.name)
        image.family = (match[min(pattern.groups, 1)] or "") if match else ""
        families[image.label].append(image.family)
        parts[image.family].add(image.split)
    advice = (
        f"It is searched in paths such as {found.images[0].name}, and should find what names a patient, for example."
    )
    if not any(parts):
        raise UserError(f"{expression} matches none of {plural(len(found.images), 'image')}. {advice}")
    for label, names in families.items():
        if len(names) > 1 and names[0] and {*names} == {names[0]}:
            raise UserError(
                f"{expression} puts all {len(names):,} images of class '{label}' into one group, '{names[0]}', so none "
                f"could be for testing. {advice}"
            )
    alone = sum(not image.family for image in found.images)
    spanning = sorted(name for name, of in parts.items() if name and len(of) > 1)
    notes = {
        f"{plural(len({*parts} - {''}), 'group')} of images that belong together: groups.csv": True,
        f"{plural(alone, 'image')} that --group-by does not match, each a group of its own": alone,
        f"{plural(len(spanning), 'group')} in several parts of the source, such as '{''.join(spanning[:1])}': scores "
        "will look better than they are": spanning,
    }
    found.notes += [note for note, holds in notes.items() if holds]


def join_units(images: Sequence[SourceImage]) -> None:
    """Set `unit` of each image, after `find_duplicates`."""
    roots = {}

    def root(key: int | str) -> int | str:
        while roots.setdefault(key, key) != key:
            key = roots[key]
        return key

    for image in images:
        roots[root(image.group)] = root(image.family or image.group)
    for image in images:
        image.unit = root(image.group)


def family_rows(images: Sequence[SourceImage]) -> list[tuple[str, str]]:
    """Return the rows of groups.csv, GROUP_COLUMNS: the used images of all units with a family, by its first name."""
    units = [(min(filter(None, (image.family for image in unit)), default=""), unit) for unit in groups(images, "unit")]
    return sorted((image.target, name) for name, unit in units for image in unit if name and image.target)


def assign_parts(images: Sequence[SourceImage], test: float) -> None:
    """Set `part` of each image to "train", "val", "test" or, where it is left out, "".

    A given split is kept. Otherwise the groups of images that look the same are taken in the order of their smallest
    SHA-256, the first ones of each class for testing: the same on any machine, in any order of files, under any
    names. A group goes to one part as a whole, to train where it has two classes.

    With families, units take the place of groups. One with two classes may be for testing as well, unless an image in
    it is itself in both; and where all that are left are larger than what their classes miss, those up to twice as
    large may be.

    Args:
        images: after `find_duplicates` and `join_units`.
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
    free = [unit for unit in groups(kept, "unit") if not any(image.conflict for image in unit)]
    free.sort(key=lambda unit: min(image.sha256 for image in unit))
    with_families = any(image.family for image in kept)
    for excess in (1, 2) if with_families else (1,):
        for unit in free:
            own = Counter(image.label for image in unit)
            if unit[0].part == "train" and all(own[label] <= excess * missing[label] for label in own):
                missing.update({label: missing[label] - own[label] for label in own})
                for image in unit:
                    image.part = "test"
    for label, number in missing.items():
        if number == wanted[label]:
            raise UserError(
                f"Class '{label}' cannot give {plural(number, 'image')} for testing: too many of its images look the "
                f"same{' or belong together' * with_families} and would be on both sides. Choose a larger --test, or "
                "add other images."
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
