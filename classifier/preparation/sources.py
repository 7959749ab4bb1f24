"""List the images of a zip, a folder or a text list, with their classes and the split they were given.

Nothing is written here except a zip found inside a zip, which goes into a scratch folder. The source is never changed.
"""

import codecs
import csv
import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from classifier.cli import UserError
from classifier.data import archives
from classifier.data.formats import ImageError, has_image_extension, is_image
from classifier.data.images import walk
from classifier.text import plural

SPLITS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test", "test1": "test",  # test1: Kaggle's
}  # fmt: skip
NUMBERED = re.compile(r"(.+?)\.\d+\.\w+")  # Kaggle's cat.0.jpg
SPARE_BYTES = 100_000_000  # of the disk stay free
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass
class SourceImage:
    """An image on its way from the source into the dataset; the modules named below fill in the later fields."""

    name: str  # for people: the path inside the source, with "/"
    label: str
    split: str | None  # "train" or "test"; None where the source has no split
    file: Path  # the image or, with a `member` number, the zip that holds it
    member: int | None
    size: int  # bytes
    problem: str = ""  # examine: why it cannot be used
    sha256: str = ""
    phash: bytes | None = None  # examine: perceptual hash, None for an image that is too plain
    copy: Path | None = None  # examine: its bytes in the scratch folder
    group: int = 0  # duplicates: the same for images that look the same
    conflict: bool = False  # duplicates: the group has two classes
    left_out: str = ""  # duplicates: why it is not used
    part: str = ""  # split: "train", "test", or "" where it is not used
    target: str = ""  # split: "train/<class>/<name>"; in shards "train/<shard>/<name>"


@dataclass
class Source:
    """The labelled images of a source, and what else there was."""

    images: list[SourceImage]
    ignored: list[str] = field(default_factory=list)  # names of files that are not images
    unlabelled: int = 0  # images without a class
    notes: list[str] = field(default_factory=list)


def read_source(source: Path, scratch: Path) -> Source:
    """List the labelled images in a zip, a folder or a text list; a zip inside a zip goes to the folder `scratch`.

    Raises UserError where the source is missing, damaged, dangerous, of another kind, or has fewer than two classes.
    """
    if source.is_dir():
        files = _files(source)
        found = _labelled(
            [(file.relative_to(source).parts, is_image(file), file, None, file.stat().st_size) for file in files]
        )
    else:
        found = _read_zip(source, scratch) if _is_zip(source) else _read_list(source)
    classes = sorted({image.label for image in found.images})
    if len(classes) < 2:
        zips = "".join(f" It holds {path.name}: give that file." for path in sorted(source.glob("*.zip"))[:1])
        unused = f"{plural(found.unlabelled, 'image')} without a class, {plural(len(found.ignored), 'other file')}"
        raise UserError(
            f"{source} holds images of {plural(len(classes), 'class', 'classes')} {', '.join(classes)}, and two are "
            f"needed ({unused}). "
            f"Expected a folder per class, file names like cat.0.jpg, or a list with 'path class' per line.{zips}"
        )

    # train, val and test become train and test; a split without train, or of train alone, is none
    given = {image.split for image in found.images}
    is_split = "train" in given and not given <= {"train", None}
    val = "train" if "test" in given else "test"
    for image in found.images:
        image.split = (val if image.split == "val" else image.split or "train") if is_split else None
    if is_split and "val" in given:
        reason = "train.py chooses its own" if val == "train" else "there is no test part"
        found.notes.append(f"the validation images of the source join {val}: {reason}")
    return found


def fingerprint(source: Path) -> str:
    """Hash names, sizes and checksums or times, so that a changed source is noticed. Raises UserError."""
    if not source.is_dir() and _is_zip(source):
        lines = [f"{of.orig_filename}|{of.file_size}|{of.CRC}" for of in archives.open_zip(source).infolist()]
    else:  # of a list, the files in it do not count
        files = ((file, file.stat()) for file in (_files(source) if source.is_dir() else [source]))
        lines = [f"{file.relative_to(source).as_posix()}|{of.st_size}|{of.st_mtime_ns}" for file, of in files]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "backslashreplace")).hexdigest()


def read_bytes(image: SourceImage) -> bytes:
    """Read the bytes of one image. Raises ImageError for this file, UserError where the whole zip is damaged."""
    if image.member is not None:
        return archives.read_member(image.file, image.member)
    try:
        if image.size > archives.MAX_BYTES:
            raise ImageError(f"has more than {archives.MAX_BYTES // 10**6} MB")
        return image.file.read_bytes()
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise a UserError where the disk of `folder` does not have `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise UserError(
            f"{what} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free. Make room, or choose "
            "another disk with --output."
        )


def _is_zip(source: Path) -> bool:
    """Whether a file begins as a zip does; otherwise it is text. Raises UserError where it is neither."""
    try:
        with source.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror}). Give a zip, a folder or a text list.") from None
    is_zip = head.startswith(b"PK")
    is_text = head[:2] in UTF_16 or (head and not set(head) & {0, 0x1F, 0xFF})
    if not is_zip and (source.suffix.lower() == ".zip" or not is_text):
        raise UserError(
            f"{source} is neither a zip nor a text list. Get the file again; unpack other archives and give the folder."
        )
    return is_zip


# ---- zip and folder


def _read_zip(path: Path, scratch: Path) -> Source:
    members, infos = archives.members(path), archives.open_zip(path).infolist()
    found = _labelled([(parts, is_used, path, number, infos[number].file_size) for parts, number, is_used in members])
    zips = {parts[-1].lower(): number for parts, number, _ in members if parts[-1].lower().endswith(".zip")}
    inner = zips.get("train.zip", next(iter(zips.values())) if len(zips) == 1 else None)
    if found.images or inner is None or path.parent == scratch:
        return found
    # Kaggle's dogs-vs-cats.zip holds train.zip. It is copied out, since reading it in place is slow.
    name, target = infos[inner].filename, scratch / "inner.zip"
    check_space(scratch, 2 * infos[inner].file_size, f"unpacking {name} from {path}")
    with archives.open_member(path, inner) as member, target.open("wb") as file:
        shutil.copyfileobj(member, file, 1 << 20)
    try:
        deeper = _read_zip(target, scratch)
    except UserError as error:
        raise UserError(str(error).replace(str(target), f"{path}: {name}")) from None
    deeper.ignored += [other for other in found.ignored if other != name]
    deeper.unlabelled += found.unlabelled
    deeper.notes.insert(0, f"the images are those of {name} in {path.name}")
    return deeper


def _labelled(files: list[tuple[tuple[str, ...], bool, Path, int | None, int]]) -> Source:
    """Return the images among some files, given as (parts of the path, whether it is an image, file, member, size)."""
    inside = [file for file in files if file[1]]
    images = [
        SourceImage("/".join(parts), label, split, *rest)
        for (parts, _, *rest), (split, label) in zip(inside, _labels([parts for parts, *_ in inside]), strict=True)
        if label
    ]
    return Source(images, ["/".join(parts) for parts, is_used, *_ in files if not is_used], len(inside) - len(images))


def _files(folder: Path) -> list[Path]:
    found = (Path(here, name) for here, names in walk(folder) for name in names)
    return [file for file in found if file.is_file()]


def _labels(paths: Sequence[tuple[str, ...]]) -> list[tuple[str | None, str | None]]:
    """Return (split, class) of each path, None where it has none.

    Below any wrapper folders there may be folders that are all named train, val or test; then comes a folder per
    class, or Kaggle's file names `cat.0.jpg`.
    """
    depth, below = 0, paths
    while len(tops := {path[depth] for path in below if len(path) > depth + 1}) == 1:
        below = [path for path in below if len(path) > depth + 1]
        depth += 1
    parts = sorted(top for top in tops if top.lower() in SPLITS)
    is_split = bool(parts) and len(parts) == len(tops)
    if len(parts) > 1 and not is_split:
        raise UserError(
            f"Beside {', '.join(parts)} there is {', '.join(sorted(tops - set(parts)))}. The former are parts of a "
            "split; what the latter is, is unclear. Give a folder or zip without it."
        )
    answers = []
    for path in paths:
        rest = path[depth:] if below and path[:depth] == below[0][:depth] else ()
        split = SPLITS[rest[0].lower()] if is_split and len(rest) > 1 else None
        rest = rest[1:] if split else rest
        numbered = NUMBERED.fullmatch(rest[0]) if len(rest) == 1 else None
        label = rest[0] if len(rest) > 1 else numbered[1] if numbered else None
        answers.append((split, label and _class_name(label)))
    return answers


def _class_name(label: str) -> str:
    return unicodedata.normalize("NFC", label.strip())  # macOS writes é as two characters


# ---- text list


def _read_list(path: Path) -> Source:
    """Read a list of (path, class), without heading, empty lines and `#` comments.

    A tab, a comma or white space separates the two; paths may hold the other separators, and `/` or backslashes.
    Raises UserError where a line has no class, or none of the files exists.
    """
    raw = path.read_bytes()
    encoding = "utf-16" if raw.startswith(UTF_16) else archives.encoding_of(raw)
    lines = [line.strip() for line in raw.decode(encoding, "replace").removeprefix("\ufeff").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    readings = [[_split_line(line, separator) for line in lines] for separator in ("\t", ",", None)]
    rows = max(readings, key=lambda rows: sum(bool(label) and has_image_extension(name) for name, label in rows))
    if rows and not has_image_extension(rows[0][0]):
        rows = rows[1:]  # a heading
    bad = [name for name, label in rows if not name or not label] if rows else ["nothing"]
    if bad:
        raise UserError(f"{path}: expected lines like 'images/1.jpg cat' (path, then class), found '{bad[0][:80]}'.")
    images = [
        SourceImage(name, _class_name(label), None, file, None, file.stat().st_size if os.path.isfile(file) else 0)  # noqa: PTH113
        for name, label in rows
        if is_image(file := path.resolve().parent / name)
    ]
    if not any(image.size for image in images):
        raise UserError(f"{path}: none of its files exists. Paths are relative to the folder of the list.")
    used = {image.name for image in images}
    return Source(images, [name for name, _ in rows if name not in used])


def _split_line(line: str, separator: str | None) -> tuple[str, str]:
    fields = next(csv.reader([line])) if separator == "," else line.rsplit(separator, 1)
    return ",".join(fields[:-1]).strip().replace("\\", "/") or line, fields[-1].strip() if len(fields) > 1 else ""
