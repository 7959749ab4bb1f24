"""Images as people have them -> dataset/train/<class>/ and dataset/test/<class>/ (and val/, where they have that).

    python prepare.py train.zip --test 1000     Kaggle's "Dogs vs. Cats", 1,000 of each class for testing
    python prepare.py photos                    a folder (or zip) with one sub-folder per class, or train/ and test/
    python prepare.py list.txt                  a text file with `path class` per line, or a CSV file
    python prepare.py --download                Microsoft's cats and dogs from the web, 825 MB
    python prepare.py --sample                  no photographs at hand: drawn cats and dogs
    python prepare.py photos --group-by "patient[0-9]+"   a patient stays on one side of every split
    python prepare.py photos --shards           training images in WebDataset's tar files, dataset/train/00000.tar ...

Every image is decoded in full. Bad ones and copies are left out and listed in rejected.csv and duplicates.csv; what
looks the same never lies on both sides of the split. The source is never changed.

Expected: 22,000 of Kaggle's photographs (200 x 200) take 16 s on two processor cores. 59 of them are alike, in 29
groups: 5 exact copies are left out, and two images are there both as a cat and as a dog.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro import conf

from classifier.cli import UserError, parse, plural, print_table, quoted, run
from classifier.data import archives, sample_set
from classifier.data.formats import list_endings
from classifier.files import class_folders
from classifier.preparation import duplicates, outputs, sources, split
from classifier.preparation.examine import examine_all
from classifier.preparation.layout import ClassFolder

# Size and SHA-256 as others have published them: wget's logs on the web, GoMLX's dogs-and-cats example.
ARCHIVE = "kagglecatsanddogs_5340.zip"
ARCHIVE_URL = f"https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/{ARCHIVE}"
ARCHIVE_BYTES = 824_887_076
ARCHIVE_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"

COLUMNS = ("kept", "rejected", "duplicate", "train", "val", "test")
Table = dict[str, dict[str, int]]  # class -> column -> images


@dataclass
class Settings:
    """The command line."""

    source: conf.Positional[Annotated[Path | None, conf.arg(metavar="[SOURCE]")]] = None
    """A zip, a folder or a text list of images."""
    output: Path = Path("dataset")
    """The folder that gets train/ and test/, and val/ where the source has such a part."""
    test: float = 0.1
    """Test part of each class: below 1 a fraction, from 1 on a number of images. Unused where the source is split."""
    class_folder: ClassFolder = "auto"
    """Which folders are the classes, where there are folders in folders and prepare.py asks."""
    group_by: Annotated[str, conf.arg(metavar="REGEX")] = ""
    """Keep together, on one side of every split, images whose path in the source gives the same here: the regular
    expression's first group, or all that it matches."""
    columns: Annotated[str, conf.arg(metavar="PATH,CLASS")] = ""
    """Of a list: the columns with path and class, by name or number."""
    download: bool = False
    """Get Microsoft's cats and dogs (825 MB) as the source."""
    sample: bool = False
    """Write the sample set of drawings, into OUTPUT/sample, instead."""
    shards: bool = False
    """Write OUTPUT/train/*.tar (WebDataset shards, for more images than a disk) instead of folders; OUTPUT/test stays
    a folder."""
    shard_size: int = 1000
    """With --shards: images in one, about; fewer where there would not be ten."""


def main() -> None:
    """Prepare what the command line says."""
    settings = parse(Settings, __doc__.split("\n")[0], at_least={"shard_size": 1}, config=(conf.FlagCreatePairsOff,))
    output = settings.output
    if (settings.source is not None) + settings.download + settings.sample != 1:
        raise UserError("Give one of SOURCE (a zip, folder or text list), --download and --sample; see --help.")
    if not (0 < settings.test < 1 or (settings.test >= 1 and settings.test % 1 == 0)):
        raise UserError(f"--test {settings.test:g}: expected a fraction such as 0.1, or a whole number such as 1000.")
    try:
        re.compile(settings.group_by)
    except re.error as error:
        raise UserError(f"--group-by '{settings.group_by}' is not a regular expression: {error}.") from None
    if settings.sample and settings.shards:
        raise UserError("--sample writes folders. Then: python prepare.py dataset/sample --shards --output OTHER")
    if settings.sample:
        sample_set.unpack(output / "sample")
        print(f"The sample set of drawings is in {output / 'sample'}.")
        print_next(output / "sample")
        return
    with outputs.locked(output):
        source = download(output) if settings.download else settings.source
        prepare(source, settings)


def download(output: Path) -> Path:
    """Return the path of Microsoft's archive in `output`, downloaded where it is not there yet."""
    from classifier.preparation.download import fetch

    outputs.is_prepared(output, {"source": ARCHIVE})  # raises before the download
    archive = output / ARCHIVE
    if not archive.exists():
        print(f"Downloading {ARCHIVE_URL} (825 MB)", flush=True)
    fetch(ARCHIVE_URL, archive, ARCHIVE_BYTES, ARCHIVE_SHA256)
    return archive


def prepare(source: Path, settings: Settings) -> None:
    """Fill the output from `source`, or say that it is filled already.

    Raises UserError where the source cannot be used or the output holds something else; the output is then as before.
    """
    output, shard_size = settings.output, settings.shard_size if settings.shards else 0
    here, there = source.resolve(), output.resolve()
    if here.is_dir() and (there.is_relative_to(here) or here in (there / "train", there / "val", there / "test")):
        raise UserError(f"{source} overlaps with {output}, where images are written. Give another --output.")
    options = {"test": settings.test, "shard_size": shard_size}
    options |= {name: getattr(settings, name) for name in ("group_by", "columns", "class_folder")}
    options = {name: value for name, value in options.items() if value not in (0, "", "auto")}
    mark = {"fingerprint": sources.fingerprint(source), "settings": options}
    if outputs.is_prepared(output, mark, here.name):
        print(f"{output} is prepared already, from this source with these settings. Nothing was changed.")
        print_next(output)
        return
    with outputs.staged(output) as (scratch, result):
        try:
            found = sources.read_source(source, scratch, settings.class_folder, settings.columns)
            sources.settle_split(found, with_val=not shard_size)
            if settings.group_by:
                split.name_families(found, re.compile(settings.group_by))
            needed = sum(image.size + 4096 for image in found.images)  # a file takes whole blocks of the disk
            sources.check_space(output, needed, f"Copying {plural(len(found.images), 'image')}")
            examine_all(found.images, scratch)
        finally:
            archives.open_zip.cache_clear()  # before the scratch folder goes: Windows deletes no open file
        table, notes = fill(found, settings.test, result, shard_size)
        manifest = json.dumps({"source": here.name, **mark, "classes": table}, indent=2)
        (result / "prepared.json").write_text(manifest, encoding="utf-8")
    columns = next(iter(table.values())).keys()
    rows = {**table, "total": {column: sum(row[column] for row in table.values()) for column in columns}}
    print_table([("class", *columns), *((label, *(f"{n:,}" for n in row.values())) for label, row in rows.items())])
    print("".join(f"- {note}\n" for note in notes), end="")
    print_next(output)


def fill(found: sources.Source, test: float, result: Path, shard_size: int) -> tuple[Table, list[str]]:
    """Move each examined image where it belongs, and write the CSV files. Return the counts, and remarks on them."""
    folders = class_folders({image.label for image in found.images})
    good = [image for image in found.images if not image.problem]
    rejected = sorted((image.name, image.label, image.problem) for image in found.images if image.problem)
    duplicates.find_duplicates(good)
    split.join_units(good)
    split.assign_parts(good, test)

    count = Counter((image.label, image.part or "duplicate") for image in good)
    count.update((image.label, "kept") for image in good if image.part)
    count.update((label, "rejected") for _, label, _ in rejected)
    has_val = any(image.part == "val" for image in good)
    columns = [column for column in COLUMNS if column != "val" or has_val]
    table = {label: {column: count[label, column] for column in columns} for label in folders}
    for label, row in table.items():
        if not row["train"]:
            shown = ", ".join(f"{number:,} {column}" for column, number in row.items() if number)
            shown += "".join([f"; {name} {problem}" for name, of, problem in rejected if of == label][:1])
            raise UserError(f"Class '{label}' has no image to train with ({shown}). Add some, or leave the class out.")

    split.name_files(good, folders)
    if shard_size:
        outputs.write_shards(good, shard_size, result)
    for image in good:
        if image.part and image.copy.exists():  # not in shards
            (result / image.target).parent.mkdir(parents=True, exist_ok=True)
            image.copy.rename(result / image.target)
    alike = duplicates.duplicate_rows(good)
    write_csv(result / "rejected.csv", ("picture", "class", "reason"), rejected)
    write_csv(result / "duplicates.csv", duplicates.COLUMNS, alike)

    if families := split.family_rows(good):
        write_csv(result / "groups.csv", split.GROUP_COLUMNS, families)

    conflicts = sum(image.conflict for image in good)
    missing = {part: [label for label, row in table.items() if not row.get(part, 1)] for part in ("val", "test")}
    untested = missing["test"] == [*table]
    remarks = {
        f"{plural(len(rejected), 'unreadable image')}: rejected.csv": rejected,
        f"{plural(len(alike), 'image')} with look-alikes, {conflicts:,} of them in two classes: duplicates.csv": alike,
        f"{plural(found.unlabelled, 'image')} without a class, not used": found.unlabelled,
        f"{plural(len(found.ignored), 'file that is not an image', 'files that are not images')}: "
        f"{list_endings(found.ignored)}": found.ignored,
        f"no validation images of {', '.join(missing['val'])}": missing["val"],
        f"no test images of {', '.join(missing['test'])}": missing["test"] and not untested,
        "no test images; python evaluate.py --part val scores the validation images": untested,
        **{f"class '{label}' is in the folder {folder}": label != folder for label, folder in folders.items()},
    }
    return table, found.notes + [remark for remark, holds in remarks.items() if holds]


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table with a byte order mark, without which Excel misreads Chinese."""
    with path.open("w", encoding="utf-8-sig", errors="replace", newline="") as file:
        csv.writer(file).writerows([heading, *rows])


def print_next(data: Path) -> None:
    """Print the command that comes next."""
    print("Next: python train.py" + ("" if data == Path("dataset") else f" --data {quoted(data)}"))


if __name__ == "__main__":
    run(main)
