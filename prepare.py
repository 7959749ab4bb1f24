"""Images as people have them -> dataset/train/<class>/ and dataset/test/<class>/.

    python prepare.py train.zip --test 1000     Kaggle's "Dogs vs. Cats", 1,000 of each class for testing
    python prepare.py photos                    a folder (or zip) with one sub-folder per class, or train/ and test/
    python prepare.py list.txt                  a text file with `path class` per line
    python prepare.py --download                Microsoft's cats and dogs from the web, 825 MB
    python prepare.py --sample                  no photographs at hand: drawn cats and dogs
    python prepare.py photos --shards           training images in WebDataset's tar files, dataset/train/00000.tar ...

Every image is decoded in full. Bad ones and copies are left out and listed in rejected.csv and duplicates.csv; what
looks the same never lies on both sides of the split. The source is never changed.

Expected: 22,000 of Kaggle's photographs (200 x 200) take 12 s on two processor cores. 59 of them are alike, in 29
groups: 5 exact copies are left out, and two images are there both as a cat and as a dog.
"""

import csv
import importlib.metadata
import json
import platform
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

from tyro import conf

from classifier.cli import UserError, parse, run
from classifier.files import class_folders, safe_name
from classifier.preparation import duplicates, shards, sources, staging
from classifier.preparation.examine import Seen, examine_all
from classifier.preparation.split import assign_sides
from classifier.text import print_table, quoted

# Size and SHA-256 as others have published them: wget's logs on the web, GoMLX's dogs-and-cats example.
ARCHIVE = "kagglecatsanddogs_5340.zip"
ARCHIVE_URL = f"https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/{ARCHIVE}"
ARCHIVE_BYTES = 824_887_076
ARCHIVE_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

RESULTS = ("train", "test", "rejected.csv", "duplicates.csv", "prepared.json")
COLUMNS = ("kept", "rejected", "duplicate", "train", "test")
Table = dict[str, dict[str, int]]  # class -> column -> images


@dataclass
class Settings:
    """The command line."""

    source: conf.Positional[Annotated[Path | None, conf.arg(metavar="[SOURCE]")]] = None
    """A zip, a folder or a text list of images."""
    output: Path = Path("dataset")
    """The folder that gets train/ and test/."""
    test: float = 0.1
    """Test part of each class: below 1 a fraction, from 1 on a number of images. Unused where the source is split."""
    download: bool = False
    """Get Microsoft's cats and dogs (825 MB) as the source."""
    sample: bool = False
    """Draw the sample set, into OUTPUT/sample, instead."""
    shards: bool = False
    """Write OUTPUT/train/*.tar (WebDataset shards, for more images than a disk) instead of folders; OUTPUT/test stays
    a folder."""
    shard_size: int = 1000
    """With --shards: images in one, about; fewer where there would not be ten."""


def main() -> None:
    """Prepare what the command line says."""
    settings = parse(Settings, __doc__.split("\n")[0], config=(conf.FlagCreatePairsOff,))
    output = settings.output
    if (settings.source is not None) + settings.download + settings.sample != 1:
        raise UserError("give one of: a SOURCE (zip, folder or text list), --download, --sample; --help tells more")
    if not (0 < settings.test < 1 or (settings.test >= 1 and settings.test % 1 == 0)):
        raise UserError(f"--test {settings.test:g}: expected a fraction such as 0.1, or a whole number such as 1000")
    if settings.shard_size < 1:
        raise UserError(f"--shard-size {settings.shard_size}: expected at least one image")
    if settings.sample and settings.shards:
        raise UserError("--sample draws folders: python prepare.py dataset/sample --shards --output OTHER makes shards")
    if settings.sample:
        from classifier.data.sample_set import draw_sample_set

        draw_sample_set(output / "sample")
        print(f"The sample set of drawings is in {output / 'sample'}.")
        print_next(output / "sample")
        return
    with staging.file_lock(output):
        if staging.recover(output, RESULTS):
            print("An earlier run was stopped just before its end; it is complete now.")
        try:
            source = download(output) if settings.download else settings.source
            prepare(source, output, settings.test, settings.shard_size if settings.shards else 0)
        except BrokenPipeError:  # of the output, not of the folder
            raise
        except OSError as error:  # a full disk, a folder without permission: the text names the file
            raise UserError(f"{output} could not be filled: {error}") from None


def download(output: Path) -> Path:
    """Microsoft's archive in `output`, fetched where it is not there yet."""
    from classifier.preparation.download import fetch

    if staging.occupied(output, RESULTS) and read_manifest(output).get("source") != ARCHIVE:
        refuse(output)
    archive = output / ARCHIVE
    if not archive.exists():
        print(f"getting {ARCHIVE_URL} (825 MB)", flush=True)
        sources.check_space(output, 2 * ARCHIVE_BYTES, "the download, and the images in it,")
    fetch(ARCHIVE_URL, archive, ARCHIVE_BYTES, ARCHIVE_SHA256)
    return archive


def prepare(source: Path, output: Path, test: float, shard_size: int = 0) -> None:
    """Fill `output` from `source`, or say that it is filled already; with a `shard_size`, train/ with shards.

    Raises:
        UserError: for a source that cannot be used, or an output that holds something else. `output` is as before.
    """
    here, there = source.resolve(), output.resolve()
    if here.is_dir() and (there.is_relative_to(here) or here in (there / "train", there / "test")):
        raise UserError(f"{source} and {output}, where images are written, overlap: give another --output")
    options = {"test": test, **({"shard_size": shard_size} if shard_size else {})}
    mark = {"source": here.name, "fingerprint": sources.fingerprint(source), "settings": options}
    if staging.occupied(output, RESULTS):
        was = read_manifest(output)
        if any(was.get(key) != mark[key] for key in ("fingerprint", "settings")) or not (output / "train").is_dir():
            refuse(output)
        print(f"{output} is prepared already, from this source with these settings. Nothing was changed.")
        print_next(output)
        return
    with staging.staged(output, RESULTS) as (scratch, result):
        try:
            found = sources.read_source(source, scratch)
            room = sum(entry.size + 4096 for entry in found.entries)  # a file takes whole blocks of the disk
            sources.check_space(output, room, f"copying {len(found.entries):,} images")
            table, notes = fill(found, examine_all(found.entries, scratch), test, scratch, result, shard_size)
        finally:
            sources.close_zips()  # before the scratch folder goes: Windows deletes no open file
        manifest = {**mark, "classes": table, "versions": versions()}
        (result / "prepared.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    print_counts(table)
    for note in [*found.notes, *notes]:
        print(f"- {note}")
    print_next(output)


def fill(
    found: sources.Source, seen: Sequence[Seen], test: float, scratch: Path, result: Path, shard_size: int = 0
) -> tuple[Table, list[str]]:
    """Decide where each image goes, move it there from `scratch/<number>`, and write the reports.

    Returns:
        The table, and what it does not say.
    """
    folders = class_folders({entry.label for entry in found.entries})
    both = list(zip(found.entries, seen, strict=True))
    rejected = sorted((entry.name, entry.label, one.problem) for entry, one in both if one.problem)
    good = [(entry, one) for entry, one in both if not one.problem]
    images = [duplicates.HashedImage(entry.name, entry.label, entry.split, one.sha256, one.look) for entry, one in good]
    rulings = duplicates.rule(images)
    sides = assign_sides(images, rulings, test)

    count = Counter((image.label, side or "duplicate") for image, side in zip(images, sides, strict=True))
    count.update((image.label, "kept") for image, side in zip(images, sides, strict=True) if side)
    count.update((label, "rejected") for _, label, _ in rejected)
    table = {label: {column: count[label, column] for column in COLUMNS} for label in folders}
    for label, row in table.items():
        if not row["train"]:
            shown = ", ".join(f"{number:,} {column}" for column, number in row.items() if number)
            shown += "".join([f"; {name} {problem}" for name, of, problem in rejected if of == label][:1])
            raise UserError(f"class '{label}' has no image to train with ({shown}): add some, or leave the class out")

    files = name_files(images, sides, folders)
    places = [scratch / str(number) for number, one in enumerate(seen) if not one.problem]
    in_shards = {}
    if shard_size:
        in_shards = shards.write(shards.arrange(images, rulings, files, shard_size), files, places, result / "train")
    for i, (file, place) in enumerate(zip(files, places, strict=True)):
        if i in in_shards:
            files[i] = in_shards[i]
        elif file:
            (result / file).parent.mkdir(parents=True, exist_ok=True)
            place.rename(result / file)
    alike = duplicates.report(images, rulings, files)
    write_csv(result / "rejected.csv", ("picture", "class", "reason"), rejected)
    write_csv(result / "duplicates.csv", duplicates.COLUMNS, alike)

    conflicts = sum(ruling.conflict for ruling in rulings)
    untested = [label for label, row in table.items() if not row["test"]]
    remarks = {
        f"unreadable (rejected.csv): {len(rejected):,}": rejected,
        f"that look like another one (duplicates.csv): {len(alike):,}, of them in two classes: {conflicts:,}": alike,
        f"images without a class, left aside: {found.unlabelled:,}": found.unlabelled,
        f"files that are not images: {found.ignored:,}": found.ignored,
        f"without a test image: {', '.join(untested)}": untested,
        **{f"class '{label}' is in the folder {folder}": label != folder for label, folder in folders.items()},
    }
    return table, [remark for remark, holds in remarks.items() if holds]


def name_files(images: Sequence[duplicates.HashedImage], sides: Sequence[str], folders: dict[str, str]) -> list[str]:
    """ "<side>/<class>/<name>" for each image, "" for those left out."""
    files = [""] * len(images)
    taken = set()
    for i in sorted(range(len(images)), key=lambda i: (images[i].name, images[i].sha256)):
        if sides[i]:
            folder = f"{sides[i]}/{folders[images[i].label]}"
            name = safe_name(re.split(r"[/\\]", images[i].name)[-1])
            if (folder, name.casefold()) in taken:  # two folders of the source have an image of this name
                stem, dot, ending = name.rpartition(".")
                name = f"{stem[:40]}-{images[i].sha256}{dot}{ending}"
            taken.add((folder, name.casefold()))
            files[i] = f"{folder}/{name}"
    return files


# ---- reports ------------------------------------------------------------------------------------------------------


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence]) -> None:
    """A table with a byte order mark, without which Excel takes Chinese for something else."""
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as file:
        csv.writer(file).writerows([heading, *rows])


def print_counts(table: Table) -> None:
    """The counts per class."""
    total = {column: sum(row[column] for row in table.values()) for column in COLUMNS}
    rows = [(label, *(f"{row[column]:,}" for column in COLUMNS)) for label, row in [*table.items(), ("total", total)]]
    print_table([("class", *COLUMNS), *rows])


def print_next(data: Path) -> None:
    """The command that comes after this one."""
    print("Next: python train.py" + ("" if data == Path("dataset") else f" --data {quoted(data)}"))


def read_manifest(output: Path) -> dict:
    """What prepared.json says, {} where there is none."""
    try:
        return json.loads((output / "prepared.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def refuse(output: Path) -> NoReturn:
    """Raise the UserError for an output that holds something else."""
    holds, was = ", ".join(staging.occupied(output, RESULTS)), read_manifest(output)
    in_shards = was.get("settings", {}).get("shard_size")
    origin = (
        f"made from {was['source']} with --test {was['settings']['test']:g}"
        + (f" --shards --shard-size {in_shards}" if in_shards else "")
        if "source" in was
        else "not made by prepare.py"
    )
    raise UserError(
        f"{output} already holds {holds}, {origin}. Two sources, or two splits, are never mixed: "
        "choose another --output, or move these away first"
    )


def versions() -> dict[str, str]:
    """What decoded and compared the images."""
    packages = {name: importlib.metadata.version(name) for name in ("pillow", "ImageHash", "numpy")}
    return {"python": platform.python_version(), **packages}


if __name__ == "__main__":
    run(main)
