"""Which images are for training and which for testing: by their content, so the same everywhere."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from classifier.cli import UserError
from classifier.preparation.duplicates import HashedImage, Ruling


def assign_sides(images: Sequence[HashedImage], rulings: Sequence[Ruling], test: float) -> list[str]:
    """ "train", "test", or "" for those left out.

    A given split is kept. Otherwise each class's groups of like images are ordered by their smallest SHA-256, and
    the first ones are for testing: the same on any machine, in any order of files, under any names. A group goes to
    one side as a whole, to train where it has two classes.

    Args:
        images: what there is.
        rulings: what `duplicates.rule` said of it.
        test: below 1 the fraction of each class that is for testing, from 1 on the number of images.

    Raises:
        UserError: where a class has not that many.
    """
    sides = ["" if ruling.left_out else "train" for ruling in rulings]
    if any(image.split for image in images):
        return [side and image.split for side, image in zip(sides, images, strict=True)]
    groups: dict[int, list[int]] = defaultdict(list)
    for i, ruling in enumerate(rulings):
        if not ruling.left_out and not ruling.conflict:
            groups[ruling.group].append(i)
    wanted = test_counts(images, rulings, test)
    missing = dict(wanted)
    for same in sorted(groups.values(), key=lambda same: min(images[i].sha256 for i in same)):
        label = images[same[0]].label
        if len(same) <= missing[label]:
            missing[label] -= len(same)
            for i in same:
                sides[i] = "test"
    for label, number in missing.items():
        if number == wanted[label]:
            raise UserError(
                f"class '{label}': no {number} images can be set aside for testing, since too many of them look the "
                "same and would be on both sides: choose a larger --test, or add other images"
            )
    return sides


def test_counts(images: Iterable[HashedImage], rulings: Iterable[Ruling], test: float) -> dict[str, int]:
    """How many images of each class are for testing.

    Raises:
        UserError: where a class has not that many, and one more to train with.
    """
    rows = [(image.label, ruling) for image, ruling in zip(images, rulings, strict=True) if not ruling.left_out]
    kept = Counter(label for label, _ in rows)
    free = Counter(label for label, ruling in rows if not ruling.conflict)
    wanted = {label: int(test) if test >= 1 else max(1, int(kept[label] * test + 0.5)) for label in sorted(kept)}
    for label, number in wanted.items():
        if number > min(free[label], kept[label] - 1):
            shared = kept[label] - free[label]
            raise UserError(
                f"--test {test:g}: class '{label}' has {kept[label]:,} good images"
                + (f", {shared:,} of them also in another class" if shared else "")
                + f"; it cannot give {number:,} for testing and keep some for training: "
                + ("choose a smaller --test, or add images" if number > 1 else "add images")
            )
    return wanted
