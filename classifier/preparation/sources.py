"""List the images of a zip, a folder or a text list, with their classes and the split they were given.

Nothing is written here except a zip found inside a zip, which goes into a scratch folder. The source is never changed.
"""

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISLNK, S_ISREG

from classifier.cli import UserError, plural
from classifier.data import archives
from classifier.data.formats import ImageError, has_image_extension, is_image
from classifier.data.images import walk
from classifier.preparation.layout import ClassFolder, class_name, read_layout
from classifier.preparation.lists import UTF_16, read_list

SPARE_BYTES = 100_000_000  # of the disk stay free


@dataclass
class SourceImage:
    """An image on its way from the source into the dataset; the modules named below fill in the later fields."""

    name: str  # for people: the path inside the source, with "/"
    label: str
    split: str | None  # "train", "val" or "test"; None where the source has no split
    file: Path  # the image or, with a `member` number, the zip that holds it
    member: int | None
    size: int  # bytes
    problem: str = ""  # why it cannot be used: examine, or a list whose file is missing
    sha256: str = ""
    family: str = ""  # split: the group of --group-by that it belongs to, "" for none
    phash: bytes | None = None  # examine: perceptual hash, None for an image that is too plain
    copy: Path | None = None  # examine: its bytes in the scratch folder
    group: int = 0  # duplicates: the same for images that look the same
    unit: int = (
        0  # split: the same for images that must stay together: those of a `group` or a `family`, over any chain
    )
    conflict: bool = False  # duplicates: the group has two classes
    left_out: str = ""  # duplicates: why it is not used
    part: str = ""  # split: "train", "val", "test", or "" where it is not used
    target: str = ""  # split: "<part>/<class>/<name>"; in shards "train/<shard>/<name>"


@dataclass
class Source:
    """The labelled images of a source, and what else there was."""

    images: list[SourceImage]
    ignored: list[str] = field(default_factory=list)  # names of files that are not images
    unlabelled: int = 0  # images without a class
    notes: list[str] = field(default_factory=list)


def read_source(source: Path, scratch: Path, classes: ClassFolder = "auto", columns: str = "") -> Source:
    """List the labelled images in a zip, a folder or a text list; a zip inside a zip goes to the folder `scratch`.

    `classes` and `columns` say what `read_layout` and `read_list` cannot tell by themselves. Raises UserError
    where the source is missing, damaged, dangerous, of another kind, unclear, or has fewer than two classes.
    """
    if source.is_dir():
        files = _files(source)
        found = _labelled(
            [(file.relative_to(source).parts, is_image(file), file, None, of.st_size) for file, of in files],
            classes,
        )
    else:
        found = _read_zip(source, scratch, classes) if _is_zip(source) else _listed(source, columns)
    labels = sorted({image.label for image in found.images})
    if len(labels) < 2:
        others = [*sorted(source.glob("*.zip")), *sorted(source.glob("*.csv"))]
        zips = "".join(f" It holds {path.name}: give that file." for path in others[:1])
        unused = f"{plural(found.unlabelled, 'image')} without a class, {plural(len(found.ignored), 'other file')}"
        raise UserError(
            f"{source} holds images of {' '.join([plural(len(labels), 'class', 'classes'), *labels])}, and two are "
            f"needed ({unused}). Expected a folder per class, file names like cat.0.jpg, or a list with 'path class' "
            f"per line.{zips}"
        )

    return found


def settle_split(found: Source, with_val: bool) -> None:
    """Set `split` of all images, or to None where there are not both training images and others.

    Without `with_val`, validation images become training images.
    """
    if not with_val and any(image.split == "val" for image in found.images):
        found.notes.append("the validation images join train: of shards, train.py sets some aside for validation")
    for image in found.images:
        image.split = "train" if image.split == "val" and not with_val else image.split
    given = {image.split for image in found.images}
    is_split = "train" in given and not given <= {"train", None}
    for image in found.images:
        image.split = (image.split or "train") if is_split else None


def fingerprint(source: Path) -> str:
    """Hash names, sizes and checksums or times, so that a changed source is noticed. Raises UserError."""
    if not source.is_dir() and _is_zip(source):
        lines = [f"{of.orig_filename}|{of.file_size}|{of.CRC}" for of in archives.open_zip(source).infolist()]
    else:  # of a list, the files in it do not count
        files = _files(source) if source.is_dir() else [(source, source.stat())]
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


def _read_zip(path: Path, scratch: Path, classes: ClassFolder) -> Source:
    members, infos = archives.members(path), archives.open_zip(path).infolist()
    files = [(parts, is_used, path, number, infos[number].file_size) for parts, number, is_used in members]
    found = _labelled(files, classes)
    names = {parts[-1].lower(): number for parts, number, _ in members}
    zips = {name: number for name, number in names.items() if name.endswith(".zip") and not name.startswith(".")}
    inner = zips.get("train.zip", next(iter(zips.values())) if len(zips) == 1 else None)
    if found.images or inner is None or path.parent == scratch:
        return found
    # Kaggle's dogs-vs-cats.zip holds train.zip. It is copied out, since reading it in place is slow.
    name, target = infos[inner].filename, scratch / "inner.zip"
    check_space(scratch, 2 * infos[inner].file_size, f"unpacking {name} from {path}")
    with archives.open_member(path, inner) as member, target.open("wb") as file:
        shutil.copyfileobj(member, file, 1 << 20)
    found = _read_zip(target, scratch, classes)
    found.notes.insert(0, f"the images are those of {name} in {path.name}")
    if others := [other for other, number in zips.items() if number != inner]:
        count = plural(len(others), "other zip is", "other zips are")
        advice = "to use all, unpack each zip into a folder of its own, and give the folder that holds these"
        found.notes.insert(1, f"{count} not used, such as {others[0]}: {advice}")
    return found


def _labelled(files: list[tuple[tuple[str, ...], bool, Path, int | None, int]], classes: ClassFolder) -> Source:
    """Return the images among some files, given as (parts of the path, whether it is an image, file, member, size)."""
    inside = [file for file in files if file[1]]
    found = read_layout([parts for parts, *_ in inside], classes)
    images = [
        SourceImage("/".join(parts), label, split, *rest)
        for (parts, _, *rest), (split, label) in zip(inside, found, strict=True)
        if label
    ]
    return Source(images, ["/".join(parts) for parts, is_used, *_ in files if not is_used], len(inside) - len(images))


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Return the files with their status, and images that are links to nothing with that of the link."""
    found = []
    for file in (Path(here, name) for here, names in walk(folder) for name in names):
        with contextlib.suppress(OSError):  # it has gone meanwhile
            of = file.stat() if file.exists() else file.lstat()
            if S_ISREG(of.st_mode) or (S_ISLNK(of.st_mode) and has_image_extension(file.name)):
                found.append((file, of))
    return found


# ---- text list


def _listed(path: Path, columns: str) -> Source:
    folder, found = path.resolve().parent, Source([])
    lines, column = read_list(path, columns)
    for name, label, part, files in lines:
        file = files[0] if len(files) == 1 else folder / name
        image = SourceImage(name, class_name(label), part, file, None, file.stat().st_size if len(files) == 1 else 0)
        if not files:
            image.problem = "is missing"
        elif len(files) > 1:
            image.problem = "may be " + " or ".join(file.relative_to(folder).as_posix() for file in files[:2])
        elif column and not part:
            image.problem = f"is of no part: see the column '{column}'"
        found.images.append(image)
    if column:
        found.notes.append(f"the parts are those of the list's column '{column}'")
    if wrong := [image for image in found.images if image.problem]:
        count = plural(len(wrong), "line of the list", "lines of the list")
        found.notes.append(f"{count} cannot be used: {wrong[0].name} {wrong[0].problem}")
    return found
