"""Fill a folder as a whole or not at all; write images in shards.

Everything is written into a hidden folder inside the output. When it is complete, it is renamed to READY, in one step;
from then on its parts only move up. A run that was killed before that step has left nothing but the hidden folder,
which the next run removes; after it, the next run completes the moves.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from classifier.cli import UserError
from classifier.files import file_lock
from classifier.preparation.duplicates import groups
from classifier.preparation.sources import SourceImage

RESULTS = ("train", "val", "test", "rejected.csv", "duplicates.csv", "groups.csv", "prepared.json")
STAGING, READY, LOCK = ".preparing-", ".prepared", "preparing"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # no reading fails with these
MIN_SHARDS = 10  # so that a tenth of the images can be used for validation


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other runs out of the folder `output` for the block, and first finish what a killed one left there.

    Raises UserError where another run is at work.
    """
    made = [folder for folder in (output, *output.parents) if not folder.exists()]
    with file_lock(output / LOCK, f"Another prepare.py is at work in {output}. Wait for it, or end it.", timeout=1):
        try:
            for stale in output.glob(STAGING + "*"):
                shutil.rmtree(stale, ignore_errors=True)
            if (output / READY).is_dir():
                _publish(output)
                print("An earlier run was stopped just before its end; it is complete now.")
            yield
        finally:
            with contextlib.suppress(OSError):
                (output / f".{LOCK}.lock").unlink(missing_ok=True)
                for folder in made:
                    folder.rmdir()  # only where it is empty still


@contextlib.contextmanager
def staged(output: Path) -> Iterator[tuple[Path, Path]]:
    """Make two hidden folders in `output`, (scratch, result). What is in `result` at the end moves to `output`.

    With any exception both vanish and `output` is as before. Raises UserError where the disk becomes full.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=STAGING, dir=output, ignore_cleanup_errors=True) as staging:
            scratch, result = Path(staging, "scratch"), Path(staging, "result")
            scratch.mkdir()
            result.mkdir()
            yield scratch, result
            if hasattr(os, "sync"):
                os.sync()  # the images reach the disk before the name that says they are there
            result.rename(output / READY)
    except OSError as error:
        if error.errno not in FULL:
            raise
        advice = "Make room, or choose another disk with --output."
        raise UserError(f"{output} cannot be filled ({error.strerror}). {advice}") from None
    _publish(output)


def is_prepared(output: Path, mark: Mapping[str, object], source: str = "") -> bool:
    """Whether `output` holds the results whose prepared.json has these values; False where it holds none.

    Raises UserError where it holds other ones: two sources or two splits are never mixed. With the name of the
    `source`, it tells where nothing but that has changed.
    """
    occupied = [name for name in RESULTS if _in_use(output / name)]
    if not occupied:
        return False
    was = {}
    with contextlib.suppress(OSError, ValueError):
        was = json.loads((output / "prepared.json").read_text(encoding="utf-8"))
    if (output / "train").is_dir() and mark.items() <= was.items():
        return True
    origin = "not made by prepare.py"
    if "source" in was:
        options = was["settings"].items()
        options = " ".join(f"--{name.replace('_', '-')} {str(value).removesuffix('.0')}" for name, value in options)
        origin = f"made from {was['source']} with {options}"
        is_same = was["source"] == source and was["settings"] == mark["settings"]
        if is_same and was["fingerprint"] != mark["fingerprint"]:
            origin = f"made from {source}, which has changed since, or from another {source}"
    raise UserError(
        f"{output} already holds {', '.join(occupied)}, {origin}. Two sources or two splits are never mixed: choose "
        "another --output, or move these away first."
    )


def _publish(output: Path) -> None:
    ready = output / READY
    for name in (name for name in RESULTS if (ready / name).exists()):
        if _in_use(output / name):
            raise UserError(f"{output / name} has appeared meanwhile. Move it away and run the same command again.")
        if (output / name).is_dir():
            (output / name).rmdir()  # empty; Windows cannot rename onto a folder
        (ready / name).rename(output / name)
    ready.rmdir()


def _in_use(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else os.path.lexists(path)


def write_shards(images: Sequence[SourceImage], size: int, result: Path) -> None:
    """Write the training images into WebDataset shards in `result`/train, with their index, and set their targets.

    The hashes of their contents decide on the order, so that each shard has all classes, and every run writes the
    same shards, of about `size` images, or fewer where there would not be MIN_SHARDS. Images of a unit stay
    together, in training or in validation.
    """
    from webdataset import TarWriter  # not at the top: it loads PyTorch, as the next one does

    from classifier.data.shards import Shard, write_index

    def order(group: list[SourceImage]) -> str:
        return hashlib.sha256(min(image.sha256 for image in group).encode()).hexdigest()  # not that of the split again

    used = [image for image in images if image.part == "train"]
    count = max(-(-len(used) // size), min(MIN_SHARDS, len(used)))
    shards: dict[int, list[SourceImage]] = defaultdict(list)
    taken = 0
    for group in sorted(groups(used, "unit"), key=order):
        shards[taken * count // len(used)] += sorted(group, key=lambda image: (image.sha256, image.label))
        taken += len(group)

    folder, index, keys = result / "train", [], itertools.count()
    folder.mkdir()
    classes = sorted({image.target.split("/")[1] for image in used})
    for number, shard in enumerate(tqdm(shards.values(), desc="writing shards", unit="shard", disable=None)):
        path, labels = folder / f"{number:05}.tar", [classes.index(image.target.split("/")[1]) for image in shard]
        with path.open("wb") as file, TarWriter(file, mtime=0) as tar:
            for image, label, key in zip(shard, labels, keys, strict=False):
                ending = image.target.rpartition(".")[2].lower()
                tar.write({"__key__": f"{key:09}", ending: image.copy.read_bytes(), "cls": str(label)})
                image.copy.unlink()
                image.target = f"train/{path.name}/{key:09}.{ending}"
        contents = repr(sorted((label, image.sha256) for label, image in zip(labels, shard, strict=True)))
        fingerprint = hashlib.sha256(contents.encode()).hexdigest()
        index.append(Shard(path.name, path.stat().st_size, [labels.count(i) for i in range(len(classes))], fingerprint))
    write_index(folder, classes, index)
