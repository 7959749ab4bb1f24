"""Which training image goes into which shard, and how the shards are written.

The contents' SHA-256 decide the order: as good as drawn by lot, so that every shard has all classes, and the same
everywhere. Images that look the same stay together, so that no shard set aside for validation has the double of one
to train with.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from classifier.data.shards import Shard, write_index
from classifier.preparation.duplicates import HashedImage, Ruling

FEWEST = 10  # shards, so that a tenth of the images can be set aside


def arrange(
    images: Sequence[HashedImage], rulings: Sequence[Ruling], files: Sequence[str], size: int
) -> list[list[int]]:
    """The places of the training images, shard by shard.

    Args:
        images: what there is.
        rulings: what `duplicates.rule` said of it.
        files: "train/<class>/<name>", "test/...", or "" for those left out.
        size: images in a shard, about; fewer where there would not be FEWEST shards.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for i, file in enumerate(files):
        if file.startswith("train/"):
            groups[rulings[i].group].append(i)

    def lot(same: list[int]) -> str:
        return hashlib.sha256(min(images[i].sha256 for i in same).encode()).hexdigest()  # not the split's order again

    total = sum(map(len, groups.values()))
    wanted = max(-(-total // size), min(FEWEST, total))
    shards: list[list[int]] = [[] for _ in range(wanted)]
    taken = 0
    for same in sorted(groups.values(), key=lot):
        shards[taken * wanted // total] += sorted(same, key=lambda i: (images[i].sha256, images[i].label))
        taken += len(same)
    return [shard for shard in shards if shard]


def write(
    shards: Sequence[Sequence[int]], files: Sequence[str], sources: Sequence[Path], folder: Path
) -> dict[int, str]:
    """Write the shards and their index into a new folder; each source is deleted once it is in a shard.

    Args:
        shards: from `arrange`.
        files: "train/<class>/<name>"; classes are numbered in the order of their names.
        sources: where the image of each place is now.
        folder: that gets 00000.tar and so on.

    Returns:
        For each place where its image is now: "train/00003.tar/000000123.jpg".
    """
    from webdataset import ShardWriter  # not at the top: it loads PyTorch

    folder.mkdir(parents=True)
    label_of = {i: files[i].split("/")[1] for shard in shards for i in shard}
    classes = sorted(set(label_of.values()))
    number_of = {name: label for label, name in enumerate(classes)}
    where: dict[int, str] = {}
    index = []
    files_open: list[BinaryIO] = []

    def begin(name: str) -> BinaryIO:  # webdataset would take the letter of a Windows disk for a URL's scheme
        files_open.append(Path(name).open("wb"))  # noqa: SIM115
        return files_open[-1]

    def end(name: str) -> None:
        files_open.pop().close()

    pattern = f"{folder.as_posix().replace('%', '%%')}/%05d.tar"
    bar = tqdm(total=len(label_of), desc="writing shards", unit="picture", disable=None)
    limits = {"maxcount": len(label_of), "maxsize": 1e18}  # a new shard begins where `arrange` says
    with ShardWriter(pattern, **limits, verbose=0, mtime=0, opener=begin, post=end) as writer, bar:
        for number, shard in enumerate(shards):
            if number:
                writer.next_stream()
            counts, members = [0] * len(classes), []
            for i in shard:
                label, content = number_of[label_of[i]], sources[i].read_bytes()
                key, ending = f"{len(where):09}", files[i].rpartition(".")[2].lower()
                writer.write({"__key__": key, ending: content, "cls": str(label)})
                sources[i].unlink()
                counts[label] += 1
                members.append((label, hashlib.blake2b(content, digest_size=16).hexdigest()))
                where[i] = f"{folder.name}/{number:05}.tar/{key}.{ending}"
                bar.update()
            fingerprint = hashlib.blake2b(repr(sorted(members)).encode(), digest_size=16).hexdigest()
            index.append(Shard(f"{number:05}.tar", 0, counts, fingerprint))
    sized = [Shard(one.name, (folder / one.name).stat().st_size, one.counts, one.fingerprint) for one in index]
    write_index(folder, classes, sized)
    return where
