"""What is read from each kind of source, and what is refused."""

import os
import re
import shutil
import stat
import struct
import zipfile
from types import SimpleNamespace

import pytest

from classifier.cli import UserError
from classifier.data import archives
from classifier.preparation import sources
from tests.raw_images import image, make_folder, make_zip

JPEG = b"\xff\xd8 never decoded here"


@pytest.fixture(autouse=True)
def _close():
    yield
    archives.open_zip.cache_clear()


def found(source, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return sources.read_source(source, scratch)


def triples(source):
    return {(entry.name, entry.label, entry.split) for entry in source.images}


LAYOUTS = {  # file = class @ split
    "kaggle flat": "cat.0.jpg=cat dog.12.jpg=dog",
    "kaggle in train/": "train/cat.0.jpg=cat train/dog.0.jpg=dog",
    "kaggle unpacked, with unlabelled images": "cats/train/cat.0.jpg=cat cats/train/dog.0.jpg=dog cats/test1/1.jpg",
    "microsoft": "PetImages/Cat/0.jpg=Cat PetImages/Dog/0.jpg=Dog",
    "folders": "cats/a\u00a0b.jpg=cats Dogs/deeper/1.png=Dogs",
    "folders in wrappers": "a/b/x/1.jpg=x a/b/y/1.jpg=y a/cover.png",
    "a class called train": "bus/1.jpg=bus train/1.jpg=train",
    "only a train part": "train/x/1.jpg=x train/y/1.jpg=y",
    "train, test": "d/train/x/1.jpg=x@train d/train/y/1.jpg=y@train d/test/x/2.jpg=x@test",
    "train, val": "train/x/1.jpg=x@train train/y/1.jpg=y@train val/x/2.jpg=x@test",
    "all three": "Training/x/1.jpg=x@train Training/y/1.jpg=y@train Valid/x/2.jpg=x@train Testing/y/2.jpg=y@test",
    "in Chinese": "图片/猫/小猫.jpg=猫 图片/狗/1.jpg=狗",
}
JUNK = ["Thumbs.db", "x/._1.jpg", "__MACOSX/x/1.jpg", ".git/a.jpg", "readme[1].txt", "x/.DS_Store"]


@pytest.mark.parametrize("make", [make_zip, make_folder])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout, make, tmp_path):
    files = [re.fullmatch("([^=]+)(?:=([^@]+)(?:@(.+))?)?", file).groups() for file in layout.split(" ")]
    result = found(make(tmp_path / "source", dict.fromkeys([*JUNK, *(name for name, *_ in files)], JPEG)), tmp_path)
    assert triples(result) == {file for file in files if file[1]}
    assert any("validation images" in note for note in result.notes) == ("val" in layout.lower())
    in_hidden_folders = 0 if make is make_zip else 2  # which are not opened
    assert len(result.ignored) == len(JUNK) - in_hidden_folders and result.unlabelled == sum(
        label is None for _, label, _ in files
    )


def test_kaggles_outer_zip(tmp_path):
    inner = make_zip(tmp_path / "train.zip", {f"train/{label}.{i}.jpg": image(i) for i in range(2) for label in "ab"})
    unlabelled = make_zip(tmp_path / "test1.zip", {"test1/1.jpg": JPEG})
    members = {"train.zip": inner.read_bytes(), "test1.zip": unlabelled.read_bytes(), "sampleSubmission.csv": b"id"}
    outer = make_zip(tmp_path / "dogs-vs-cats.zip", members)
    result = found(outer, tmp_path)
    assert {entry.label for entry in result.images} == {"a", "b"} and len(result.images) == 4
    assert sources.read_bytes(result.images[0]) in (image(0), image(1))
    assert len(result.ignored) == 2 and "train.zip in dogs-vs-cats.zip" in result.notes[0]


@pytest.mark.parametrize("encoding", ["gbk", "utf-8", "cp437"])
def test_names_without_the_utf8_flag(encoding, tmp_path):
    classes = ("Café", "Thé") if encoding == "cp437" else ("猫", "誠実")  # 誠 ends in a backslash's byte in GBK
    names = {
        f"图片/{label}/照片 {i}.jpg" if encoding != "cp437" else f"{label}/{i}.jpg": label
        for label in classes
        for i in "12"
    }
    source = make_zip(tmp_path / "a.zip", dict.fromkeys(names, JPEG), encoding)
    assert not any(info.flag_bits & 0x800 for info in zipfile.ZipFile(source).infolist())
    assert triples(found(source, tmp_path)) == {(name, label, None) for name, label in names.items()}


def test_parts_beside_something_else_are_not_guessed(tmp_path):
    members = [f"{part}/cat/1.jpg" for part in ("train", "valid")] + ["sample/cat/1.jpg"]
    source = make_zip(tmp_path / "a.zip", dict.fromkeys(members, JPEG))
    with pytest.raises(UserError, match="Beside train, valid there is sample"):
        found(source, tmp_path)


def test_backslashes_in_zip_names(tmp_path):
    source = make_zip(tmp_path / "a.zip", {"set\\cats\\1.jpg": JPEG, "set\\dogs\\1.jpg": JPEG, "set\\empty\\": b""})
    assert triples(found(source, tmp_path)) == {("set/cats/1.jpg", "cats", None), ("set/dogs/1.jpg", "dogs", None)}


LISTS = {  # 猫 in GBK is a valid è in UTF-8
    "spaces": ("a b.jpg 猫\n\nc.jpg\tdog\n".replace("\t", "   "), {"a b.jpg": "猫", "c.jpg": "dog"}),
    "tabs": ("# made by hand\na b.jpg\tbig cat\nc.jpg\tdog\n", {"a b.jpg": "big cat", "c.jpg": "dog"}),
    "commas": ('path,label\r\n"d,e.jpg",猫\r\na b.jpg, small dog\r\n', {"d,e.jpg": "猫", "a b.jpg": "small dog"}),
    "windows": ("sub\\子.jpg 0\nc.jpg 1\nnotes.txt 1\n", {"sub/子.jpg": "0", "c.jpg": "1"}),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists(kind, encoding, tmp_path):
    text, expected = LISTS[kind]
    make_folder(tmp_path / "my set", dict.fromkeys(["a b.jpg", "c.jpg", "d,e.jpg", "sub/子.jpg"], JPEG))
    source = tmp_path / "my set" / "清单.txt"
    source.write_bytes(text.encode(encoding))
    result = found(source, tmp_path)
    assert triples(result) == {(name, label, None) for name, label in expected.items()}
    assert all(sources.read_bytes(entry) == JPEG for entry in result.images)


def test_list_with_a_missing_file(tmp_path):
    make_folder(tmp_path, {"a.jpg": JPEG})
    source = tmp_path / "list.txt"
    source.write_text("a.jpg cat\nC:\\gone\\b.jpg dog\n" + "x" * 300 + ".jpg dog\n")
    missing = next(entry for entry in found(source, tmp_path).images if "gone" in entry.name)
    with pytest.raises(sources.ImageError, match="cannot be read"):
        sources.read_bytes(missing)


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "set", "cannot be read"),
        ({"1.jpg": JPEG, "2.jpg": JPEG}, "", r"2 images without.*a folder per class"),
        ({"cat.1.jpg": JPEG, "cat.2.jpg": JPEG}, "", "of 1 class cat"),
        ({"train.zip": JPEG}, "", r"It holds train\.zip"),
        ({"a.zip": b"<!DOCTYPE html>"}, "a.zip", "neither a zip nor a text list"),
        ({"a.zip": b""}, "a.zip", "neither a zip nor a text list"),
        ({"a.rar": b"Rar!\x1a\x07\x00"}, "a.rar", "unpack other archives"),
        ({"a.tar.gz": b"\x1f\x8b\x08"}, "a.tar.gz", "unpack other archives"),
        ({"list": b"hello world\n"}, "list", "expected lines like"),
        ({"a.jpg": JPEG, "list": b"a.jpg\nb.jpg\n"}, "list", r"found 'a\.jpg'"),
        ({"a.jpg": JPEG, "list": b"a.jpg cat\nb.jpg\n"}, "list", r"found 'b\.jpg'"),
        ({"list": b" \n"}, "list", "found 'nothing'"),
        ({"list": b"nowhere/a.jpg cat\nnowhere/b.jpg dog\n"}, "list", "none of its files exists"),
    ],
)
def test_nothing_that_can_be_used(files, source, message, tmp_path):
    make_folder(tmp_path, files)
    with pytest.raises(UserError, match=message):
        found(tmp_path / source, tmp_path)


# ---- dangers ------------------------------------------------------------------------------------------------------

OUTSIDE = ["../e.jpg", "x/../../e.jpg", "/etc/e.jpg", "C:\\e.jpg", "c:e.jpg", "..\\e.jpg", "\\\\host\\x.jpg"]


def patched(path, offset, form, value):
    """Change a field of the last entry in the central directory."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.rindex(b"PK\x01\x02") + offset, value)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "field", "message"),
    [
        *((name, None, "points outside") for name in OUTSIDE),
        ("x/link.jpg", (38, "<I", (stat.S_IFLNK | 0o777) << 16), "a link to another file"),
        ("x/secret.jpg", (8, "<H", 1), "password"),
        ("x/odd.jpg", (10, "<H", 99), "method 99"),
        ("x/bomb.jpg", (24, "<I", 4_000_000_000), "would unpack to 4,000 MB"),
    ],
)
def test_dangerous_member(name, field, message, tmp_path):
    source = make_zip(tmp_path / "a.zip", {"x/1.jpg": JPEG, "y/1.jpg": JPEG, name: JPEG})
    with pytest.raises(UserError, match=message):
        found(patched(source, *field) if field else source, tmp_path)


def test_bomb_that_lies_about_its_size(tmp_path):
    source = make_zip(tmp_path / "a.zip", {"y/1.jpg": JPEG, "x/1.jpg": bytes(10_000_000)})
    result = found(patched(source, 24, "<I", 1000), tmp_path)
    with pytest.raises(UserError, match="damaged"):
        sources.read_bytes(result.images[1])


def test_bomb_inside_a_zip(tmp_path, monkeypatch):
    inner = make_zip(tmp_path / "train.zip", {"x/1.jpg": JPEG, "y/1.jpg": JPEG})
    outer = make_zip(tmp_path / "outer.zip", {"train.zip": inner.read_bytes()})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000_000))
    with pytest.raises(UserError, match="GB are free"):
        found(patched(outer, 24, "<I", 4_000_000_000), tmp_path)
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_truncated(kept, tmp_path):
    whole = make_zip(tmp_path / "a.zip", {f"{x}/{i}.jpg": image(i) for x in "xy" for i in range(3)}).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match="damaged or incomplete"):
        found(tmp_path / "b.zip", tmp_path)


def test_damaged_in_the_middle(tmp_path):
    source = make_zip(tmp_path / "a.zip", {"x/1.jpg": image(1), "y/1.jpg": image(2)})
    with source.open("r+b") as file:
        file.seek(200)
        file.write(bytes(10))
    with pytest.raises(UserError, match=r"is damaged at .x/1\.jpg"):
        [sources.read_bytes(entry) for entry in found(source, tmp_path).images]


def test_folder_that_links_to_itself(tmp_path):
    source = make_folder(tmp_path / "set", {"x/1.jpg": JPEG, "y/1.jpg": JPEG})
    try:
        (source / "x" / "again").symlink_to(source, target_is_directory=True)
        (source / "z").symlink_to(make_folder(tmp_path / "elsewhere", {"1.jpg": JPEG}), target_is_directory=True)
    except OSError:
        pytest.skip("this system lets nobody make links")
    assert triples(found(source, tmp_path)) == {(f"{label}/1.jpg", label, None) for label in "xyz"}


def test_an_image_file_beyond_the_limit(tmp_path):
    source = make_folder(tmp_path / "set", {"x/1.jpg": b"", "y/1.jpg": JPEG})
    os.truncate(source / "x" / "1.jpg", archives.MAX_BYTES + 1)  # takes no room on the disk
    large = next(image for image in found(source, tmp_path).images if image.label == "x")
    with pytest.raises(sources.ImageError, match="has more than 200 MB"):
        sources.read_bytes(large)


def test_fingerprint_follows_the_content(tmp_path):
    members = {"x/1.jpg": image(1), "y/1.jpg": image(2)}
    first = sources.fingerprint(make_zip(tmp_path / "a.zip", members))
    assert sources.fingerprint(make_zip(tmp_path / "b.zip", dict(reversed(members.items())))) == first
    assert sources.fingerprint(make_zip(tmp_path / "c.zip", members | {"x/1.jpg": image(3)})) != first
    folder = make_folder(tmp_path / "folder", members)
    before = sources.fingerprint(folder)
    assert sources.fingerprint(folder) == before
    (folder / "x" / "2.jpg").write_bytes(JPEG)
    assert sources.fingerprint(folder) != before
