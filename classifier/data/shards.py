"""Which images are in WebDataset shards, and which of them are set aside to choose the best epoch with?

    dataset/train/00000.tar ...         key.jpg, key.cls (the class's number), key.jpg, ...
    dataset/train/shards.json           classes, and of each shard its size and its images per class

prepare.py --shards writes both. The index tells what a run has to know before its first step, so that no shard is read
for it. What is in memory depends on the number of shards, not of images.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from classifier.cli import UserError
from classifier.data.streams import is_web, open_stream

INDEX = "shards.json"
VERSION = 1
MAKE = "python prepare.py SOURCE --shards writes shards, and that file beside them"
AT_ONCE = 16  # shards that are looked for side by side


@dataclass(frozen=True)
class Shard:
    """One tar: its name, its size in bytes, its images of each class, and a digest of what is in it."""

    name: str
    bytes: int
    counts: list[int]
    fingerprint: str

    def __len__(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class Shards:
    """The labelled images of some shards; what `folders.Folder` is for images in folders."""

    root: str  # the folder or URL that holds the shards
    classes: list[str]
    shards: list[Shard] = field(repr=False)
    corrected: str = ""  # corrections.csv is about files, which these are not

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def counts(self) -> dict[str, int]:
        """Images per class."""
        return {name: sum(shard.counts[label] for shard in self.shards) for label, name in enumerate(self.classes)}

    def fingerprint(self) -> str:
        """Equal for shards of the same contents, wherever they lie and whatever they are called."""
        members = sorted(shard.fingerprint for shard in self.shards)
        return hashlib.blake2b(repr((self.classes, members)).encode(), digest_size=16).hexdigest()

    def above(self) -> str:
        """The folder or URL that the shards' own is in, where test/ is beside it."""
        return str(Path(self.root).resolve().parent) if "/" not in self.root else self.root.rpartition("/")[0]

    def place(self, shard: Shard) -> str:
        """The shard's path or URL."""
        return f"{self.root}/{shard.name}"


def are_meant(data: str) -> bool:
    """Whether `--data` names shards: .tar files, a URL, or a folder with shards.json, there or in its train/."""
    return is_web(data) or data.endswith(".tar") or any((Path(data) / at / INDEX).is_file() for at in ("", "train"))


def read(data: str) -> Shards:
    """The shards that `--data` names; each is looked for, none is read.

    Args:
        data: "dataset/train/{00000..00127}.tar", the same after http(s)://, or the folder or URL that holds
            shards.json and all of its shards; of a folder also the one above, dataset.

    Raises:
        UserError: no index, one that does not fit, shards that are not there or not as the index says, a range beyond
            it, a server that cannot be reached, a class without images.
    """
    data = data if is_web(data) else Path(data).as_posix()  # in braces, a backslash would be an escape
    if data.endswith(".tar"):
        root, _, names = data.rpartition("/")
        if "{" in root:
            raise UserError(f"--data {data}: braces are for the shards' names; all of them lie in one folder.")
        images = _read_index(root or ".")
        images = replace(images, shards=_chosen(images, names))
    else:
        root = data.rstrip("/")
        above = (Path(root) / "train" / INDEX).is_file()
        images = _read_index(f"{root}/train" if above else root)
    if empty := [name for name, count in images.counts().items() if not count]:
        raise UserError(f"The shards of {data} hold no images of {', '.join(empty)}. Name more of them.")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda shard: open_stream(images.place(shard), shard.bytes).close(), images.shards))
    return images


def write_index(folder: Path, classes: Sequence[str], shards: Sequence[Shard]) -> None:
    """Write shards.json into a folder of shards, a line for each."""
    rows = ",\n".join(json.dumps(asdict(shard)) for shard in shards)
    names = json.dumps(list(classes), ensure_ascii=False)
    text = f'{{"version": {VERSION}, "classes": {names}, "shards": [\n{rows}\n]}}\n'
    (folder / INDEX).write_text(text, encoding="utf-8")


def split_validation(images: Shards, share: float, fold: int = 1) -> tuple[Shards, Shards]:
    """(training, validation): whole shards, so that each is read for one purpose only.

    The first `fold` sets aside the first share of all, the second one the next, and so on. What the shards contain
    decides, so the same ones are set aside in every run and on every machine. prepare.py keeps images that look the
    same in one shard.

    Raises:
        UserError: too few shards, or a class that has no others.
    """
    order = sorted(images.shards, key=lambda shard: shard.fingerprint)
    begin = round((fold - 1) * share * len(order))
    end = max(begin + 1, round(fold * share * len(order)))
    aside = {shard.name for shard in order[begin:end]}
    parts = [
        replace(images, shards=[shard for shard in images.shards if (shard.name in aside) == chosen])
        for chosen in (False, True)
    ]
    if not all(part.shards for part in parts):
        raise UserError(
            f"{images.root}: too few shards ({len(order)}) to train with some and set {share:.0%} aside for "
            "validation (--val), whole ones. Name more, or write smaller ones with prepare.py --shard-size."
        )
    if empty := [name for name, count in parts[0].counts().items() if not count]:
        raise UserError(
            f"{images.root}: without the shards set aside for validation there are no images of "
            f"{', '.join(empty)}. Add images, or write smaller shards with prepare.py --shard-size."
        )
    return parts[0], parts[1]


def _read_index(root: str) -> Shards:
    place = f"{root}/{INDEX}"
    try:
        with open_stream(place) as stream:
            index = json.loads(stream.read())
    except UserError as error:
        raise UserError(f"{error}\nExpected a folder of shards with {INDEX}; {MAKE}.") from None
    except (ValueError, RecursionError):
        raise UserError(f"{place} is damaged. Get it again; {MAKE}.") from None
    try:
        if index["version"] != VERSION:
            raise UserError(f"{place} is of version {index['version']}; this one reads {VERSION}. {MAKE}.")
        images = Shards(root, [str(name) for name in index["classes"]], [Shard(**one) for one in index["shards"]])
        numbers = [number for shard in images.shards for number in (shard.bytes, *shard.counts)]
        fits = (
            images.shards
            and len(set(images.classes)) == len(images.classes) > 1
            and all(len(shard.counts) == len(images.classes) for shard in images.shards)
            and all(isinstance(number, int) and number >= 0 for number in numbers)
            and all(re.fullmatch(r"\w[\w.-]*\.tar", shard.name) for shard in images.shards)  # never another folder
            and all(isinstance(shard.fingerprint, str) for shard in images.shards)
        )
    except (TypeError, KeyError):
        fits = False
    if not fits:
        raise UserError(f"{place} is not an index of shards as prepare.py writes it. Get it again; {MAKE}.")
    return images


def _chosen(images: Shards, names: str) -> list[Shard]:
    """The shards that `{00000..00127}.tar` means, of those in the index."""
    from braceexpand import UnbalancedBracesError, braceexpand  # webdataset's own

    known, chosen = {shard.name: shard for shard in images.shards}, {}
    try:
        for name in braceexpand(names, escape=False):
            if name not in known:
                raise UserError(
                    f"{images.root}/{INDEX} knows no {name}, but {len(known)} shards, {min(known)} to {max(known)}. "
                    "Name some of those, or give the folder for all of them."
                )
            chosen[name] = known[name]
    except UnbalancedBracesError as error:
        raise UserError(f"--data {names}: {error}. Expected for instance {{00000..00127}}.tar.") from None
    return list(chosen.values())
