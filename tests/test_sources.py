"""What is read from each kind of source, and what is refused."""

import os
import re
import shutil
import stat
import struct
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


def found(source, tmp_path, **options):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True, parents=True)
    result = sources.read_source(source, scratch, **options)
    sources.settle_split(result, with_val=True)
    return result


def found_by_list(folder, files, text, encoding="utf-8", **options):
    """What is read of a list beside these files."""
    make_folder(folder, dict.fromkeys(files, JPEG) | {"清单.csv": text.encode(encoding)})
    return found(folder / "清单.csv", folder, **options)


def triples(source):
    return {(entry.name, entry.label, entry.split) for entry in source.images}


def patched(path, offset, form, value):
    """Change a field of the last entry in the central directory."""
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, content.rindex(b"PK\x01\x02") + offset, value)
    path.write_bytes(content)
    return path


LAYOUTS = {  # file = class @ split
    "kaggle unpacked, with unlabelled images": "cats/train/cat.0.jpg=cat cats/train/dog.0.jpg=dog cats/test1/1.jpg",
    "folders": "cats/a\u00a0b.jpg=cats Dogs/deeper/1.png=Dogs",
    "folders in wrappers": "a/b/x/1.jpg=x a/b/y/1.jpg=y a/cover.png",
    "a class called train": "bus/1.jpg=bus train/1.jpg=train",
    "all three": "Training/x/1.jpg=x@train Training/y/1.jpg=y@train Valid/x/2.jpg=x@val Testing/y/2.jpg=y@test",
    "parts in Chinese": "训练集/猫/1.jpg=猫@train 训练集/狗/1.jpg=狗@train 测试集/猫/2.jpg=猫@test",
    # as published
    "cat and dog": """training_set/training_set/cats/cats.1.jpg=cats@train
        training_set/training_set/dogs/dogs.1.jpg=dogs@train
        test_set/test_set/cats/2.jpg=cats@test test_set/test_set/dogs/2.jpg=dogs@test""",
    "intel": """seg_train/seg_train/sea/1.jpg=sea@train seg_train/seg_train/ice/1.jpg=ice@train
        seg_test/seg_test/sea/2.jpg=sea@test seg_pred/seg_pred/3.jpg""",
    "only train and predictions": "Train_Set/x/1.jpg=x Train_Set/y/1.jpg=y single_prediction/1.jpg",
    "capitals and fillers": """archive/Train_Set/x/1.jpg=x@train archive/Train_Set/y/1.jpg=y@train
        archive/Test_Set/x/2.jpg=x@test archive/validation_images/x/3.jpg=x@val""",
    "data, dev, eval": "train_data/x/1.jpg=x@train train_data/y/1.jpg=y@train dev/x/2.jpg=x@val eval/y/3.jpg=y@test",
    "train, eval": "train/x/1.jpg=x@train train/y/1.jpg=y@train eval/x/2.jpg=x@val",
    "fer": "Training/x/1.jpg=x@train Training/y/1.jpg=y@train PublicTest/x/2.jpg=x@test PrivateTest/x/3.jpg=x@test",
    "asl": """asl_alphabet_train/asl_alphabet_train/A/1.jpg=A@train
        asl_alphabet_train/asl_alphabet_train/B/1.jpg=B@train
        asl_alphabet_test/A/2.jpg=A@test asl_alphabet_test/asl.png""",
    "a second copy inside": """chest_xray/train/x/1.jpg=x@train chest_xray/train/y/1.jpg=y@train
        chest_xray/test/x/2.jpg=x@test chest_xray/chest_xray/train/x/1.jpg=x@train
        chest_xray/chest_xray/train/y/1.jpg=y@train chest_xray/chest_xray/test/x/2.jpg=x@test""",
    "a second copy, without parts": "cells/x/1.jpg=x cells/y/2.jpg=y cells/cells/x/1.jpg=x cells/cells/y/2.jpg=y",
    "other images beside": "d/train/x/1.jpg=x@train d/train/y/1.jpg=y@train d/test/x/2.jpg=x@test figures/1.png",
    "wrappers in one part": "train/all/x/1.jpg=x@train train/all/y/1.jpg=y@train test/y/2.jpg=y@test",
    "tiny-imagenet": "t/train/n1/images/1.jpg=n1 t/train/n2/images/1.jpg=n2 t/val/images/v1.jpg t/test/images/t1.jpg",
    "numbered parts": "train_1/x/1.jpg=x@train train_1/y/1.jpg=y@train train_2/x/3.jpg=x@train test1/y/2.jpg=y@test",
    "classes named like parts": "valid/1.jpg=valid invalid/1.jpg=invalid",
}
ASKS = {
    "cameras": ("camera1/cat/1 camera1/dog/2 camera2/cat/3 camera2/dog/4", "camera1, camera2 have folders of the same"),
    "different sets": ("a/cat/1 a/dog/2 b/cat/3 b/bird/4", "If the classes are a, b, use --class-folder outer"),
    "in a part": ("train/a/x/1 train/a/y/2 train/b/x/3 train/b/y/4 test/a/x/5", "if they are x, y, use"),
    "two sets": ("a/train/x/1 a/train/y/2 a/test/x/3 b/train/x/4 b/train/y/5 b/test/y/6", r"split \(a, b\), but not"),
    "horse2zebra": ("trainA/1 trainB/2 testA/3 testB/4", r"split \(testA, testB, trainA, trainB\)"),
    "beside classes": ("train/x/1 train/y/4 valid/x/2 some/x/3 some/y/5", r"\(train, valid\), beside .* \(some\)"),
    "a test folder beside classes": ("cat/1 dog/2 test/3", r"\(test\), beside other folders \(cat, dog\)"),
}
JUNK = ["Thumbs.db", "x/._1.jpg", "__MACOSX/x/1.jpg", ".git/a.jpg", "readme[1].txt", "x/.DS_Store"]


@pytest.mark.parametrize("make", [make_zip, make_folder])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout, make, tmp_path):
    files = [re.fullmatch("([^=]+)(?:=([^@]+)(?:@(.+))?)?", file).groups() for file in re.split(r"[ \n]+", layout)]
    result = found(make(tmp_path / "source", dict.fromkeys([*JUNK, *(name for name, *_ in files)], JPEG)), tmp_path)
    assert triples(result) == {file for file in files if file[1]}
    assert result.unlabelled == sum(label is None for _, label, _ in files)
    assert len(result.ignored) == len(JUNK) - (0 if make is make_zip else 2)  # in hidden folders, which are not opened


def test_kaggles_outer_zip_and_a_bomb_in_it(tmp_path, monkeypatch):
    inner = make_zip(tmp_path / "train.zip", {f"train/{label}.{i}.jpg": image(i) for i in range(2) for label in "ab"})
    unlabelled = make_zip(tmp_path / "test1.zip", {"test1/1.jpg": JPEG})
    members = {"test1.zip": unlabelled.read_bytes(), "sampleSubmission.csv": b"id", "train.zip": inner.read_bytes()}
    outer = make_zip(tmp_path / "dogs-vs-cats.zip", members)
    result = found(outer, tmp_path)
    assert {entry.label for entry in result.images} == {"a", "b"} and len(result.images) == 4
    assert sources.read_bytes(result.images[0]) in (image(0), image(1))
    assert "train.zip in dogs-vs-cats.zip" in result.notes[0]
    assert "1 other zip is not used, such as test1.zip: to use all, unpack" in result.notes[1]
    bomb = patched(make_zip(tmp_path / "bomb.zip", members), 24, "<I", 4_000_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000_000))
    with pytest.raises(UserError, match="GB are free"):
        found(bomb, tmp_path / "other")
    assert not list((tmp_path / "other" / "scratch").iterdir())


@pytest.mark.parametrize("encoding", ["gbk", "utf-8", "cp850"])
def test_names_without_the_utf8_flag(encoding, tmp_path):
    classes = ("Löwe", "Bär") if encoding == "cp850" else ("猫", "誠実")  # 誠 ends in a backslash's byte in GBK
    name = "{}/{}.jpg" if encoding == "cp850" else "图片/{}/照片 {}.jpg"
    names = {name.format(label, i): label for label in classes for i in "12"}
    source = make_zip(tmp_path / "a.zip", dict.fromkeys(names, JPEG), encoding)
    assert triples(found(source, tmp_path)) == {(name, label, None) for name, label in names.items()}


WESTERN = ["Löwe", "Schäferhund", "Größe", "Müßiggang", "Berger américain", "questo è un gatto", "c'è", "90°"]
WORDS = {
    "cp1252": WESTERN,
    "utf-8": [*WESTERN, "α", "β"],
    "gbk": ["猫", "狗", "龍", "狗/貓", "狮", "鹿", "鸭", "驴", "猫,鞋", "T恤", "a狗a", "猫1.jpg"],
}


@pytest.mark.parametrize(("encoding", "word"), [(encoding, word) for encoding in WORDS for word in WORDS[encoding]])
def test_the_encoding_of_a_single_word(encoding, word):
    for text in (word, f"1.jpg,{word}\n2.jpg,dog\n"):
        assert text.encode(encoding).decode(archives.encoding_of(text.encode(encoding), "cp1252")) == text


@pytest.mark.parametrize(("layout", "message"), ASKS.values(), ids=ASKS)
def test_unclear_layouts_are_not_guessed(layout, message, tmp_path):
    source = make_zip(tmp_path / "a.zip", {f"{name}.jpg": JPEG for name in layout.split()})
    with pytest.raises(UserError, match=message):
        found(source, tmp_path)
    outer = 1 if layout.startswith("train/a") else 0
    answers = found(source, tmp_path, classes="outer").images
    assert {entry.label for entry in answers} == {name.split("/")[outer] for name in layout.split()}


def test_inner_folders_are_the_classes_if_one_says_so_and_backslashes_are_separators(tmp_path):
    names = ["x/train/cam1/cat/1.jpg", "x/train/cam1/dog/2.jpg", "x/train/cam2/cat/3.jpg", "x/test/cam1/cat/4.jpg"]
    members = {name.replace("/", "\\"): JPEG for name in names} | {"x\\empty\\": b""}
    result = found(make_zip(tmp_path / "a.zip", members), tmp_path, classes="inner")
    assert triples(result) == {(name, name.split("/")[3], name.split("/")[1]) for name in names}


LISTS = {  # the list, the classes of the files that it means, other files; 猫 in GBK is a valid è in UTF-8
    "spaces": ("a b.jpg 猫\n\nc.jpg\tdog\n".replace("\t", "   "), {"a b.jpg": "猫", "c.jpg": "dog"}),
    "tabs": ("# made by hand\na b.jpg\tbig cat\nc.jpg\tdog\n", {"a b.jpg": "big cat", "c.jpg": "dog"}),
    "commas": ('path,label\r\n"d,e.jpg",猫\r\na b.jpg, small dog\r\n', {"d,e.jpg": "猫", "a b.jpg": "small dog"}),
    "semicolons": ('"file";"class"\n"a b.jpg";"猫"\nc.jpg;dog\n', {"a b.jpg": "猫", "c.jpg": "dog"}),
    "decimal commas": ("file;x;label\nc.jpg;0,5;猫\na b.jpg;1,5;dog\n", {"c.jpg": "猫", "a b.jpg": "dog"}),
    "windows": ("sub\\子.jpg 0\nc.jpg 1\n", {"sub/子.jpg": "0", "c.jpg": "1"}),
    "class first": ("猫,c.jpg\ndog,a b.jpg\n", {"a b.jpg": "dog", "c.jpg": "猫"}),
    "more columns": (",file,Label,size\n0,c.jpg,猫,7\n1,a b.jpg,dog,7\n", {"c.jpg": "猫", "a b.jpg": "dog"}),
    "a folder column": ("folder,file,label\nsub,子.jpg,猫\n.,c.jpg,dog\n", {"sub/子.jpg": "猫", "c.jpg": "dog"}),
    "number signs": ("#1.jpg 猫\n# c.jpg dog\nc.jpg dog\n", {"#1.jpg": "猫", "c.jpg": "dog"}),
    "only number signs": ("# mine\n#1.jpg 猫\n#2.jpg dog\n", {"#1.jpg": "猫", "#2.jpg": "dog"}),
    "line breaks": ('path,x,label\nc.jpg,"a\n""b"",\n",猫\na b.jpg,-,dog\n', {"c.jpg": "猫", "a b.jpg": "dog"}),
    "a quote left open": ('c.jpg,"猫\na b.jpg,dog\n', {"c.jpg": "猫", "a b.jpg": "dog"}),
    # files that have to be searched for
    "dog breeds": ("id,breed\n1,猫\n2,dog\n", {"train/1.jpg": "猫", "train/2.png": "dog"}, "test/3.jpg"),
    "outputs": ("1 猫\n2 dog\n", {"a/1.jpg": "猫", "a/2.png": "dog"}, "old/prepared.json", "old/train/猫/1.jpg"),
    "only an output": ("1 猫\n2 dog\n", {"old/x/1.jpg": "猫", "old/x/2.png": "dog"}, "old/prepared.json"),
    "an ending": ("image;diagnosis\n1.jpg;猫\n2.png;dog\n", {"a/train/1.jpg": "猫", "b/2.png": "dog"}, "b/2.txt"),
    "another folder": ("dir,id,label\nx,1,猫\ny,1,dog\n", {"all/x/1.jpg": "猫", "all/y/1.png": "dog"}, "all/z/1.png"),
    "folders in the id": ("x/1 猫\ny/1 dog\n", {"all/x/1.jpg": "猫", "all/y/1.png": "dog"}, "all/z/1.png"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("kind", LISTS)
def test_lists(kind, encoding, tmp_path):
    text, expected, *others = LISTS[kind]
    result = found_by_list(tmp_path / "my set", ["a b.jpg", "c.jpg", *expected, *others], text, encoding)
    listed = {entry.file.relative_to(tmp_path / "my set").as_posix(): entry.label for entry in result.images}
    assert listed == expected and all(sources.read_bytes(entry) == JPEG for entry in result.images)


SPLIT_COLUMNS = {  # heading, a line, --columns, the cells of the column, the parts that they mean
    "birds": ("filepaths,labels,data set", "{i}.jpg,{label},{part}", "", "train valid test", "train val test"),
    "one class": ("image,Set,wing", "{i}.jpg,{part},{label}", "", "TRAIN Validation TRAIN", "train val train"),
    "--columns": ("a,b,split,id", "x,{label},{part},{i}.jpg", "id,b", "train test test", "train test test"),
    "no parts": ("image,label,part", "{i}.jpg,{label},{part}", "", "wing head head", None),
    "the class": ("image,a,set", "{i}.jpg,{label},{part}", "image,set", "train test test", None),
    "only train": ("image,label,split", "{i}.jpg,{label},{part}", "", "train train train", None),
}


@pytest.mark.parametrize(("heading", "line", "columns", "cells", "parts"), SPLIT_COLUMNS.values(), ids=SPLIT_COLUMNS)
def test_a_column_of_a_list_gives_the_split(heading, line, columns, cells, parts, tmp_path):
    lines = [line.format(i=i, label="aab"[i], part=part) for i, part in enumerate(cells.split())]
    files = ["0.jpg", "1.jpg", "2.jpg"]
    result = found_by_list(tmp_path, files, "\n".join([heading, *lines]), columns=columns)
    assert [image.split for image in result.images] == (parts.split() if parts else [None] * 3)
    assert ["column" in note for note in result.notes] == ([True] if parts else [])


@pytest.mark.parametrize("columns", ["image_id,dx", "dir/image_id,dx", "2,4", "Image_ID , DX"])
def test_columns_by_name_or_number(columns, tmp_path):
    lines = [f"all,{i},{'0' if i else 'x'},{'nv' if i % 2 else 'mel'}" for i in range(4)]
    given = (tmp_path, [f"all/{i}.jpg" for i in range(4)], "\n".join(["dir,image_id,lesion,dx", *lines]))
    assert [image.label for image in found_by_list(*given, columns=columns).images] == ["mel", "nv", "mel", "nv"]
    with pytest.raises(UserError, match=r"which columns hold path and class.*dir, image_id, lesion, dx"):
        found_by_list(*given)
    with pytest.raises(UserError, match="Its columns: dir, image_id, lesion, dx"):
        found_by_list(*given, columns="image_id,breed")


def test_numbers_of_classes_are_not_taken_for_files(tmp_path):
    files, text = [f"all/{i}.jpg" for i in range(6)], "label,id\n" + "".join(f"{i % 2},{i}\n" for i in range(6))
    assert [image.label for image in found_by_list(tmp_path, files, text).images] == ["0", "1"] * 3
    with pytest.raises(UserError, match="which columns hold path and class"):
        found_by_list(tmp_path, files, ",id,label\n" + "".join(f"{i},{5 - i},{i % 2}\n" for i in range(6)))


def test_lines_that_cannot_be_used(tmp_path):
    lines = ["id,label,split", "1,cat,train", "2,cat,train", "3,dog,test", "2,dog,", "3,cat,extra", "gone/4,dog,train"]
    text = "\n".join([*lines, "x" * 300 + ",dog,test"])
    result = found_by_list(tmp_path, ["x/1.jpg", "y/1.jpg", "x/2.jpg", "y/3.jpg"], text)
    of_no_part, missing = ["is of no part: see the column 'split'"] * 2, ["is missing"] * 2
    assert [image.problem for image in result.images] == ["may be x/1.jpg or y/1.jpg", "", "", *of_no_part, *missing]
    assert result.notes[1:] == ["5 lines of the list cannot be used: 1 may be x/1.jpg or y/1.jpg"]


@pytest.mark.parametrize(
    ("files", "source", "message"),
    [
        ({}, "set", "cannot be read"),
        ({"1.jpg": JPEG, "2.jpg": JPEG}, "", r"2 images without.*a folder per class"),
        ({"cat.1.jpg": JPEG, "cat.2.jpg": JPEG}, "", "of 1 class cat"),
        ({"a.zip": b"<!DOCTYPE html>"}, "a.zip", "neither a zip nor a text list"),
        ({"a.tar.gz": b"\x1f\x8b\x08"}, "a.tar.gz", "unpack other archives"),
        ({"list": b"hello world\n"}, "list", "Expected lines like"),
        ({"a.jpg": JPEG, "list": b"a.jpg\nb.jpg\n"}, "list", r"found 'a\.jpg'"),
        ({"a.jpg": JPEG, "list": b"a.jpg cat\nb.jpg\n"}, "list", r"found 'b\.jpg'"),
        ({"a.jpg": JPEG, "list": b"a.jpg,cat\na.jpg,\n"}, "list", r"found 'a\.jpg '"),
        ({"list": b" \n"}, "list", "found 'nothing'"),
        ({"labels.csv": b"1,cat\n", "train/1.jpg": JPEG}, "", r"It holds labels\.csv"),
        ({"list": b"nowhere/a.jpg cat\nnowhere/b.jpg dog\n"}, "list", "none of its files exists"),
    ],
)
def test_nothing_that_can_be_used(files, source, message, tmp_path):
    make_folder(tmp_path, files)
    with pytest.raises(UserError, match=message):
        found(tmp_path / source, tmp_path)


# ---- dangers ------------------------------------------------------------------------------------------------------

OUTSIDE = ["../e.jpg", "x/../../e.jpg", "/etc/e.jpg", "C:\\e.jpg", "c:e.jpg", "..\\e.jpg", "\\\\host\\x.jpg"]


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


def test_truncated_or_damaged_in_the_middle(tmp_path):
    whole = make_zip(tmp_path / "a.zip", {f"{x}/{i}.jpg": image(i) for x in "xy" for i in range(3)}).read_bytes()
    for kept in (0.3, 0.999):
        (tmp_path / f"{kept}.zip").write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(UserError, match="damaged or incomplete"):
            found(tmp_path / f"{kept}.zip", tmp_path)
    (tmp_path / "b.zip").write_bytes(whole[:200] + bytes(10) + whole[210:])
    with pytest.raises(UserError, match=r"is damaged at .x/0\.jpg"):
        [sources.read_bytes(entry) for entry in found(tmp_path / "b.zip", tmp_path).images]


def test_a_link_that_leads_nowhere_is_listed_and_a_pipe_is_not(tmp_path):
    source = make_folder(tmp_path / "set", {"x/1.jpg": JPEG, "y/1.jpg": JPEG})
    before = sources.fingerprint(source)
    (source / "x" / "2.jpg").symlink_to("gone.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(source / "x" / "3.jpg")
    (link,) = (image for image in found(source, tmp_path).images if "1" not in image.name)
    with pytest.raises(sources.ImageError, match=r"cannot be read \(No such file or directory\)"):
        sources.read_bytes(link)
    assert sources.fingerprint(source) != before


def test_an_image_file_beyond_the_limit(tmp_path):
    source = make_folder(tmp_path / "set", {"x/1.jpg": b"", "y/1.jpg": JPEG})
    os.truncate(source / "x" / "1.jpg", archives.MAX_BYTES + 1)  # takes no room on the disk
    large = next(image for image in found(source, tmp_path).images if image.label == "x")
    with pytest.raises(sources.ImageError, match="has more than 200 MB"):
        sources.read_bytes(large)
