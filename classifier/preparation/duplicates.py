"""Find images that are the same, byte for byte or to the eye, so that none is on both sides of the split.

To the eye means by perceptual hash: copies that were resized, recompressed, recoloured or slightly cropped differ in
few of its 256 bits, different images in about 128.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from classifier.preparation.sources import SourceImage

# Of the 22,000 Kaggle photographs, 4,317 flowers and 5,000 CIFAR-10 images, all 81 pairs that differ in up to 64
# bits were looked at, and are the same image. Different images begin at 70.
MAX_BITS = 64
MAX_COARSE_BITS = 20  # of the 64 lowest frequencies: those pairs differ in at most 18, and most need no more comparing
RANK = {"train": 0, "val": 1, "test": 2}  # an image in two parts stays in the one of higher rank
COLUMNS = ("group", "class", "picture", "match", "file", "note")  # file: "" for an image that was left out


def near_groups(hashes: Sequence[bytes | None]) -> np.ndarray:
    """Return for each image the number of the first one that looks the same, over any chain of pairs, (N,).

    All pairs are compared, a row at a time, so that memory stays small: 5.4 s for 100,000 images.
    """
    group = np.arange(len(hashes))
    known = np.array([i for i, bits in enumerate(hashes) if bits is not None], dtype=np.int64)
    if len(known) < 2:
        return group
    fine = np.frombuffer(b"".join(bits for bits in hashes if bits is not None), dtype=np.uint8).reshape(-1, 32)
    low = np.unpackbits(fine, axis=1).reshape(-1, 16, 16)[:, :8, :8].reshape(-1, 64)
    coarse = np.packbits(low, axis=1).view(np.uint64).ravel()  # (N,)
    fine = fine.view(np.uint64)  # (N, 4)
    root = np.arange(len(known))
    for i in range(len(known) - 1):
        close = i + 1 + np.flatnonzero(np.bitwise_count(coarse[i + 1 :] ^ coarse[i]) <= MAX_COARSE_BITS)
        close = close[root[close] != root[i]]
        if close.size:
            close = close[np.bitwise_count(fine[close] ^ fine[i]).sum(axis=1) <= MAX_BITS]
            joined = np.unique(np.append(root[close], root[i]))
            root[np.isin(root, joined)] = joined[0]
    group[known] = known[root]
    return group


def find_duplicates(images: Sequence[SourceImage]) -> None:
    """Set `group`, `conflict` and `left_out` of each image. The order of `images` changes no decision.

    Of exact copies in one class one is kept, that in the test part first, then that for validation. Where the split is
    given, an image is left out of training that is also, exactly or nearly, used for validation or testing, and one of
    validation that is used for testing.
    """
    copies: dict[tuple[str, str], SourceImage] = {}
    for image in sorted(images, key=lambda image: (-RANK.get(image.split, 0), image.name)):
        first = copies.setdefault((image.label, image.sha256), image)
        if first is not image:
            image.left_out = f"same file as {first.name}"

    same_bytes: dict[str, int] = {}  # images too plain for a perceptual hash are the same where their bytes are
    for image, number in zip(images, near_groups([image.phash for image in images]), strict=True):
        image.group = same_bytes.setdefault(image.sha256, int(number))
    for group in groups(images):
        # its first image in the part that must be new to the others
        kept = [image for image in group if image.split and not image.left_out]
        first = min(kept, key=lambda image: (-RANK[image.split], image.name), default=None)
        classes = {image.label for image in group}
        for image in group:
            image.conflict = len(classes) > 1
            if first and image.split != first.split and not image.left_out:
                image.left_out = f"also in the {first.split} part, as {first.name}"


def groups(images: Sequence[SourceImage], by: Literal["group", "unit"] = "group") -> list[list[SourceImage]]:
    """Return the groups of images that look the same, or the units that must stay together; most have one member."""
    members: dict[int, list[SourceImage]] = {}
    for image in images:
        members.setdefault(getattr(image, by), []).append(image)
    return list(members.values())


def duplicate_rows(images: Sequence[SourceImage]) -> list[tuple]:
    """Return the rows of duplicates.csv, COLUMNS: every image that has a double, group by group."""
    doubles = [group for group in groups(sorted(images, key=lambda one: (one.name, one.sha256))) if len(group) > 1]
    rows = []
    for number, group in enumerate(doubles, 1):
        match = "same file" if len({image.sha256 for image in group}) == 1 else "looks the same"
        for image in group:
            note = "; ".join(filter(None, ["in two classes" * image.conflict, image.left_out]))
            rows.append((number, image.label, image.name, match, image.target, note))
    return rows
