"""What a zip, a folder or a text list holds: for each image its name, its class, the split it was given, its bytes.

Nothing is written here except a zip found inside a zip, which goes into a scratch folder. The source is never changed.
"""

import codecs
import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from classifier.cli import UserError
from classifier.data import archives
from classifier.data.images import ImageError, has_image_extension, is_image_path
from classifier.preparation.labels import labels
from classifier.preparation.lists import read_list

SPARE = 100_000_000  # bytes of the disk that stay free
OTHER_ARCHIVES = {
    b"Rar!": "a RAR",
    b"7z\xbc\xaf": "a 7-Zip",
    b"\x1f\x8b": "a gzip",
    b"BZh": "a bzip2",
    b"\xfd7zX": "an xz",
}


@dataclass(frozen=True)
class Entry:
    """An image of the source: `file` is the image itself or, with a `member` number, the zip that holds it."""

    name: str  # as shown to people: the path inside the source, with "/"
    label: str
    split: str | None  # "train", "test", or None where the source gives no split
    file: Path
    member: int | None
    size: int


@dataclass
class Source:
    """What was found: the labelled images, and how many other files there were."""

    entries: list[Entry]
    ignored: int = 0  # not images
    unlabelled: int = 0  # images that belong to no class
    notes: list[str] = field(default_factory=list)


def read_source(source: Path, scratch: Path) -> Source:
    """List the labelled images in a zip, a folder or a text list.

    Args:
        source: the file or folder.
        scratch: an existing folder for a zip found inside the zip.

    Raises:
        UserError: for a source that is missing, damaged, dangerous, of another kind, or holds no two classes.
    """
    found = _reader(source)(source, scratch)
    if not found.entries:
        raise UserError(_nothing_found(source, found))
    classes = sorted({entry.label for entry in found.entries})
    if len(classes) < 2:
        raise UserError(f"{source}: all {len(found.entries)} images are of one class, '{classes[0]}'; two are needed")
    return _settle_split(found)


def fingerprint(source: Path) -> str:
    """A text that differs when the source's content does: of names, sizes and check sums or times, not of all bytes.

    Raises:
        UserError: as `read_source`.
    """
    reader, lines = _reader(source), []
    if reader is _read_zip:
        lines = [f"{of.orig_filename}|{of.file_size}|{of.CRC}" for of in archives.open_zip(source).infolist()]
    elif reader is _read_folder:
        files = ((file, file.stat()) for file in _files(source))
        lines = [f"{file.relative_to(source).as_posix()}|{of.st_size}|{of.st_mtime_ns}" for file, of in files]
    else:
        files = ((name, label, _stat(file)) for name, label, file in read_list(source))
        lines = [f"{name}|{label}|{of and (of.st_size, of.st_mtime_ns)}" for name, label, of in files]
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "backslashreplace")).hexdigest()


def read_bytes(entry: Entry) -> bytes:
    """The bytes of one image.

    Raises:
        ImageError: where that one file cannot be read.
        UserError: where the zip is damaged there, so that nothing else in it can be trusted either.
    """
    if entry.member is None:
        try:
            if entry.file.stat().st_size > archives.MAX_BYTES:
                raise ImageError(f"has more than {archives.MAX_BYTES // 10**6} MB")
            return entry.file.read_bytes()
        except FileNotFoundError:
            raise ImageError("is not there") from None
        except (OSError, ValueError) as error:
            raise ImageError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return archives.read_member(entry.file, entry.member)


def close_zips() -> None:
    """Close what `read_bytes` keeps open; Windows deletes no open file."""
    archives.open_zip.cache_clear()


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise a UserError where the disk of `folder` has no `needed` bytes free."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise UserError(
            f"{what} needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free: "
            "make room, or choose another disk with --output"
        )


def _reader(source: Path) -> Callable[[Path, Path], Source]:
    """The function that reads this kind of source, told by its first bytes and not by its name."""
    if source.is_dir():
        return _read_folder
    try:
        with source.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise UserError(f"{source} is not there: give a zip, a folder or a text list") from None
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror})") from None
    if head.startswith(b"PK"):
        return _read_zip
    for start, kind in OTHER_ARCHIVES.items():
        if head.startswith(start):
            raise UserError(f"{source} is {kind} archive: unpack it and give the folder")
    if (
        source.suffix.lower() == ".zip"
        or not head
        or (b"\0" in head and head[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    ):
        shown = "empty" if not head else "a web page" if head.lstrip()[:1] == b"<" else "something else"
        raise UserError(f"{source} is no zip and no text list but {shown}: get the file again, or give a folder")
    return _read_list


# ---- zip, folder, list --------------------------------------------------------------------------------------------


def _read_zip(path: Path, scratch: Path, depth: int = 0) -> Source:
    members = archives.members(path)
    images = [member for member in members if is_image_path(member[0])]
    archives.check_images(path, images)
    infos = archives.open_zip(path).infolist()
    entries = [
        Entry("/".join(parts), label, split, path, number, infos[number].file_size)
        for (parts, number), (split, label) in zip(images, labels([parts for parts, _ in images]), strict=True)
        if label
    ]
    found = Source(entries, len(members) - len(images), len(images) - len(entries))
    zips = {parts[-1].lower(): number for parts, number in members if parts[-1].lower().endswith(".zip")}
    inner = zips.get("train.zip", next(iter(zips.values())) if len(zips) == 1 else None)
    if entries or inner is None or depth == 2:
        return found
    # Kaggle's dogs-vs-cats.zip holds train.zip. It is copied out, since reading it in place is slow.
    name, target = infos[inner].filename, scratch / f"inner{depth}.zip"
    check_space(scratch, 2 * infos[inner].file_size, f"unpacking {name} from {path}")
    archives.copy_member(path, inner, target)
    try:
        deeper = _read_zip(target, scratch, depth + 1)
    except UserError as error:  # of a file that the person has not
        raise UserError(str(error).replace(str(target), f"{path}: {name}")) from None
    counts = {"ignored": deeper.ignored + found.ignored - 1, "unlabelled": deeper.unlabelled + found.unlabelled}
    return replace(deeper, **counts, notes=[f"the images are those of {name} in {path.name}", *deeper.notes])


def _read_folder(folder: Path, scratch: Path) -> Source:
    files = [(file, file.relative_to(folder).parts) for file in _files(folder)]
    images = [(file, parts) for file, parts in files if is_image_path(parts)]
    entries = [
        Entry("/".join(parts), label, split, file, None, file.stat().st_size)
        for (file, parts), (split, label) in zip(images, labels([parts for _, parts in images]), strict=True)
        if label
    ]
    return Source(entries, len(files) - len(images), len(images) - len(entries))


def _files(folder: Path) -> list[Path]:
    """All files below; a folder that is a link counts as well, unless it leads back to where it is in."""
    found, open_folders = [], [(folder, ())]
    while open_folders:
        here, above = open_folders.pop()
        real = os.path.realpath(here)
        if real in above:
            continue
        try:
            children = list(here.iterdir())
        except OSError as error:
            raise UserError(f"{here} cannot be read ({error.strerror})") from None
        open_folders += [(child, (*above, real)) for child in children if child.is_dir()]
        found += [child for child in children if child.is_file()]
    return found


def _read_list(path: Path, scratch: Path) -> Source:
    listed = [(name, label, file, _stat(file)) for name, label, file in read_list(path)]
    if not any(of for *_, of in listed):
        raise UserError(
            f"{path}: none of its {len(listed)} files is there; the first is sought at {listed[0][2]}. "
            "Paths are meant from the folder of the list"
        )
    entries = [
        Entry(name, label, None, file, None, of.st_size if of else 0)
        for name, label, file, of in listed
        if has_image_extension(file)
    ]
    return Source(entries, len(listed) - len(entries))


def _stat(file: Path) -> os.stat_result | None:
    """Size and time of a file, None where there is none, or no file could have that name."""
    try:
        return file.stat() if file.is_file() else None
    except (OSError, ValueError):
        return None


def _settle_split(found: Source) -> Source:
    """The given split as train and test: validation images are set aside from train later, by train.py."""
    given = {entry.split for entry in found.entries}
    if "train" not in given or given <= {"train", None}:
        return replace(found, entries=[replace(entry, split=None) for entry in found.entries])
    into = {"train": "train", "test": "test", "val": "train" if "test" in given else "test"}
    notes = list(found.notes)
    if "val" in given:
        reason = "train.py sets its own validation images aside" if "test" in given else "there is no test part"
        notes.append(f"the source's validation images join {into['val']}: {reason}")
    entries = [replace(entry, split=into[entry.split or "train"]) for entry in found.entries]
    return replace(found, entries=entries, notes=notes)


def _nothing_found(source: Path, found: Source) -> str:
    zips = sorted(source.glob("*.zip")) if source.is_dir() else []
    hint = f" There is {zips[0].name} in it: give that." if zips else ""
    return (
        f"{source}: no image with a class was found ({found.unlabelled} images without, {found.ignored} other "
        f"files). Expected a folder per class, at least two of them with images in them, names like cat.0.jpg, or a "
        f"list of 'path class'.{hint}"
    )
