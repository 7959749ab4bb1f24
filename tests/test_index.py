"""Many images: how they are listed, kept in memory, and known again without being opened."""

import os
import shutil
import sys
import tracemalloc
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from classifier.cli import UserError
from classifier.data import ahead, image_folder, index, listing
from classifier.data.columns import Digests, Labels, Paths
from classifier.data.images import has_image_extension
from classifier.data.listing import list_files
from tests.conftest import run_code

LONG_AGO = 1_600_000_000


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (LONG_AGO, LONG_AGO))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Files of two classes, for which an index is kept although they are few."""
    monkeypatch.setattr(index, "FEW", 1)
    for name in ("cat", "dog"):
        for i in range(6):
            write(tmp_path / "train" / name / f"{i}.jpg", f"{name} {i}".encode())
    return tmp_path / "train"


@pytest.fixture
def asked(monkeypatch):
    """The names of the files that are read."""
    names, real = [], image_folder.digest

    def note(path):
        names.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(image_folder, "digest", note)
    return names


def read(root):
    return image_folder.with_digests(image_folder.read_folder(root))


def right(folder):
    """Whether the digests are those of the files."""
    return folder.digests == [blake2b(Path(path).read_bytes(), digest_size=16).digest() for path in folder.paths]


# --- the list


def test_the_list_is_that_of_imagefolder(tmp_path):
    names = ["b/2.jpg", "b/10.JPEG", "b/猫.png", "b/x.txt", "b/._1.jpg", "b/no ending", "b/jpg", "b/a.jpg.part"]
    names += [
        "a/deep/er/1.webp",
        "a/deep/1.gif",
        "a/deep-er/1.jpg",
        "a/deep.jpg/1.jpg",
        "a/z.jpg",
        "a/A.jpg",
        "c/1.bmp",
    ]
    for name in names:
        write(tmp_path / "train" / name, name.encode())
    shutil.copytree(tmp_path / "train" / "a", tmp_path / "elsewhere")
    if os.name != "nt":
        (tmp_path / "train" / "c" / "linked").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "train" / "c" / "one.jpg").symlink_to(tmp_path / "train" / "b" / "2.jpg")
        (tmp_path / "train" / "d").symlink_to(tmp_path / "elsewhere" / "deep")
    oracle = ImageFolder(str(tmp_path / "train"), is_valid_file=has_image_extension)
    folder = image_folder.read_folder(tmp_path / "train")
    assert folder.classes == oracle.classes
    assert list(zip(folder.paths, folder.labels, strict=True)) == oracle.samples


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own there")
def test_a_link_to_a_folder_above_is_not_followed(root):
    (root / "cat" / "all").symlink_to(root)
    (root / "cat" / "same").symlink_to(root / "cat")
    assert image_folder.read_folder(root).counts() == {"cat": 6, "dog": 6}


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_names_that_are_no_text_are_listed_and_read(root):
    write(Path(os.fsdecode(os.fsencode(root / "cat") + b"/\xff\xfe.jpg")), b"x")
    write(root / "dog" / "two\nlines.jpg", b"y")
    for folder in (read(root), read(root)):
        assert len(folder) == 14 and right(folder)


@pytest.mark.skipif(os.name == "nt", reason="links need a right of their own there")
def test_a_link_to_nothing_is_told(root):
    (root / "cat" / "gone.jpg").symlink_to(root / "nothing")
    for _ in range(2):
        with pytest.raises(UserError, match=r"gone\.jpg cannot be read"):
            read(root)


# --- what is remembered


def test_files_that_are_as_they_were_are_not_opened(root, asked):
    first = read(root)
    assert len(asked) == 12 and right(first)
    asked.clear()
    again = read(root)
    assert asked == [] and again == first


def test_changed_new_renamed_and_gone_files_are_noticed(root, asked):
    read(root)
    asked.clear()
    write(root / "cat" / "1.jpg", b"another length")
    (root / "cat" / "2.jpg").write_bytes(b"CAT 2")  # as long as before, at another time
    write(root / "cat" / "00.jpg", b"new")
    (root / "cat" / "3.jpg").rename(root / "cat" / "9.jpg")
    (root / "dog" / "4.jpg").unlink()
    folder = read(root)
    assert sorted(asked) == ["00.jpg", "1.jpg", "2.jpg", "9.jpg"]
    assert len(folder) == 12 and right(folder)
    asked.clear()
    assert right(read(root))
    assert asked == ["2.jpg"]  # which changed just now, and might do so again without anything to show it


def test_the_index_moves_with_the_dataset(root, asked, tmp_path):
    (tmp_path / "dataset").mkdir()
    read(root)
    for name in ("train", ".cache"):
        shutil.move(tmp_path / name, tmp_path / "dataset" / name)
    asked.clear()
    assert right(read(tmp_path / "dataset" / "train")) and asked == []


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage", "other version", "folder"])
def test_a_damaged_or_foreign_index_is_made_anew(root, asked, damage):
    read(root)
    place = index.place_of(root)
    content = bytearray(place.read_bytes())
    for at in range(0, len(content), 97) if damage == "flip" else [0]:
        wrong = bytearray(content)
        wrong[at] ^= 1
        wrong = {"cut": wrong[:200], "empty": b"", "garbage": bytes(i % 251 for i in range(3000))}.get(damage, wrong)
        place.unlink()
        if damage == "folder":
            place.mkdir()
        else:
            place.write_bytes(content.replace(b"digests 1", b"digests 2") if damage == "other version" else wrong)
        asked.clear()
        assert right(read(root))
        assert len(asked) == 12
        if damage != "folder":
            assert place.read_bytes() == content


def test_where_nothing_can_be_written_it_works_without(root, asked):
    (root.parent / ".cache").write_text("a file in its place")
    assert right(read(root)) and right(read(root))
    assert len(asked) == 24


def test_a_failed_write_leaves_the_old_one_and_no_rest(root, monkeypatch):
    read(root)
    before = index.place_of(root).read_bytes()
    write(root / "cat" / "7.jpg", b"new")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        assert right(read(root))
    assert index.place_of(root).read_bytes() == before
    assert [path.name for path in (root.parent / ".cache").iterdir()] == ["train.files"]


def test_few_small_files_have_no_index(root, monkeypatch):
    monkeypatch.undo()
    read(root)
    assert not (root.parent / ".cache").exists()


def test_where_it_lies():
    assert index.place_of(Path("dataset/test")) == Path("dataset/.cache/test.files")
    assert index.place_of(Path("photos")) == Path("photos/.cache/photos.files")


def test_images_that_are_left_out_stay_in_the_index(root, asked):
    everything = image_folder.read_folder(root)
    some = everything.subset([i for i in range(12) if i != 3])
    assert right(image_folder.with_digests(some)) and "3.jpg" not in asked[:4]
    asked.clear()
    assert right(image_folder.with_digests(everything)) and asked == ["3.jpg"]
    asked.clear()
    assert right(image_folder.with_digests(some)) and right(image_folder.with_digests(everything)) and asked == []


# --- listed ahead of time


@pytest.fixture
def begun(root, monkeypatch):
    """The folder is being listed by another process, as one with very many images is."""
    monkeypatch.setattr(ahead, "MANY", 0)
    read(root)
    ahead.begin(["--epochs", "3", "--data", str(root.parent)])
    assert len(ahead.begun) == 1
    yield ahead.begun[0][1]
    ahead.begun.clear()


def test_another_process_lists_the_same(root, begun, monkeypatch):
    monkeypatch.setattr(listing, "_list_classes", lambda *_: pytest.fail("listed a second time"))
    found = list_files(root, ["cat", "dog"])
    assert begun.returncode == 0 and not ahead.begun
    assert found.paths == [str(root / name / f"{i}.jpg") for name in ("cat", "dog") for i in range(6)]
    assert found.counts == [6, 6]
    assert found.stamps.tolist() == [[5, LONG_AGO * 10**9]] * 12


def test_a_file_that_has_changed_is_noticed_by_it(root, asked, monkeypatch):
    monkeypatch.setattr(ahead, "MANY", 0)
    read(root)
    asked.clear()
    write(root / "cat" / "1.jpg", b"another length")
    write(root / "dog" / "6.jpg", b"new")
    (root / "dog" / "0.jpg").unlink()
    ahead.begin([f"--data={root.parent}"])
    assert right(read(root)) and sorted(asked) == ["1.jpg", "6.jpg"]


def test_what_it_did_not_list_is_listed_here(root, begun, tmp_path):
    write(tmp_path / "other" / "train" / "cat" / "1.jpg", b"x")
    assert list_files(tmp_path / "other" / "train", ["cat"]).counts == [1]  # --resume says another --data
    assert begun.returncode is not None


def test_a_class_that_came_since_is_listed_here(root, begun):
    begun.stdout.peek(1)  # it has looked at the folder
    write(root / "emu" / "1.jpg", b"x")
    assert image_folder.read_folder(root).counts() == {"cat": 6, "dog": 6, "emu": 1}


def test_without_the_other_process_it_works_as_well(root, begun, monkeypatch):
    begun.kill()
    assert right(read(root))
    monkeypatch.setattr(sys, "executable", str(root / "no python"))
    ahead.begin(["--data", str(root.parent)])
    assert not ahead.begun and right(read(root))


def test_few_images_and_other_places_are_not_listed_ahead(root, tmp_path):
    read(root)
    for arguments in (["--data", str(tmp_path)], ["--data", str(root)], ["--data"], ["--data", "http://a/b"], []):
        ahead.begin(arguments)
    assert not ahead.begun


def test_train_begins_before_pytorch_is_imported():
    code = (
        "import runpy, sys\nfrom classifier.data import ahead, listing\n"
        "ahead.begin = lambda arguments: sys.exit(f'{arguments} {\"torch\" in sys.modules}')\n"
        "sys.argv[1:] = ['--data', 'x']\nrunpy.run_path('train.py', run_name='__main__')"
    )
    assert run_code(code).stderr.strip() == "['--data', 'x'] False"


# --- in memory


def test_columns_are_like_lists():
    paths = ["b/2.jpg", "a/猫.png", "", "c.jpg"]
    for column, values in (
        (Paths.of(paths), paths),
        (Labels([3, 1, 2, 1]), [3, 1, 2, 1]),
        (Digests([bytes([i]) * 16 for i in range(4)]), [bytes([i]) * 16 for i in range(4)]),
    ):
        assert len(column) == 4 and list(column) == values and column == values and values == column
        assert column != values[:3] and column != [*values[:3], None] and column != 3
        assert [column[i] for i in (0, 3, -1, -4)] == [values[i] for i in (0, 3, -1, -4)]
        assert column[1:] == values[1:] and column[::-2] == values[::-2] and column[4:] == []
        assert values[1] in column and column.index(values[1]) == 1
        places = np.array([3, 3, 0])
        assert column.take(places) == [values[i] for i in places]
        assert column.take(places).take(np.array([2])) == values[:1]
        assert column + values == values * 2
        with pytest.raises(IndexError):
            column[4]


def test_paths_know_where_they_were_taken_from():
    names = Paths.of([f"{i}.jpg" for i in range(8)])
    whole = names.take(np.array([6, 1, 2, 7, 3]))
    assert whole.take(np.array([4, 0, 2])).places_in(whole).tolist() == [4, 0, 2]
    assert whole.places_in(names).tolist() == [6, 1, 2, 7, 3]
    for other in (Paths.of(["1.jpg"]), names.take(np.array([6, 0]))):
        with pytest.raises(ValueError, match="not taken from these"):
            other.places_in(whole)


def test_digests_are_found_among_others():
    random = np.random.default_rng(0)
    rows = random.integers(0, 256, (500, 16), dtype=np.uint8)
    rows[7] = rows[490]  # a copy
    rows[8, :8] = rows[9, :8] = rows[480, :8]  # which begin alike
    strangers = random.integers(0, 256, (20, 16), dtype=np.uint8)
    strangers[3, :8] = rows[480, :8]
    wanted = Digests(np.concatenate([rows[::-1], strangers]))
    found = Digests(rows).find(wanted)
    assert (found[500:] == -1).all()
    assert (rows[found[:500]] == rows[::-1]).all()
    assert Digests([]).find(wanted).tolist() == [-1] * 520


@pytest.mark.parametrize("count", [0, 1, 9, 500])
def test_digests_that_begin_alike_are_sorted_and_copies_found(count):
    rows = np.random.default_rng(count).integers(0, 2, (count, 16), dtype=np.uint8)
    rows[:, 3:13] = 0
    values = [row.tobytes() for row in rows]
    digests = Digests(rows)
    assert digests.take(digests.order()) == sorted(values)
    assert digests.last_copies().tolist() == [count - 1 - values[::-1].index(value) for value in values]


def test_the_fingerprint_is_what_it_always_was(root):
    folder = read(root)
    members = sorted(zip(list(folder.labels), list(folder.digests), strict=True))
    expected = blake2b(repr((folder.classes, members)).encode(), digest_size=16).hexdigest()
    assert folder.fingerprint() == folder.subset(range(11, -1, -1)).fingerprint() == expected
    assert folder.subset(range(11)).fingerprint() != expected


def test_of_many_images_the_fingerprint_still_tells_contents_and_classes(root, monkeypatch):
    monkeypatch.setattr(image_folder, "MANY", 12)
    folder = read(root)
    same = folder.subset(range(11, -1, -1))
    others = [
        image_folder.ImageFolder(root, ["cat", "Dog"], folder.paths, folder.labels, folder.digests),
        image_folder.ImageFolder(root, folder.classes, folder.paths, folder.labels[::-1], folder.digests),
        image_folder.ImageFolder(root, folder.classes, folder.paths, folder.labels, Digests(folder.digests.array ^ 1)),
    ]
    assert same.fingerprint() == folder.fingerprint()
    assert len({folder.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_a_image_takes_less_than_200_bytes(tmp_path, monkeypatch):
    class Entry:
        def __init__(self, i):
            self.name = b"%08d.jpg" % i

        def stat(self):
            return SimpleNamespace(st_size=5, st_mtime_ns=LONG_AGO * 10**9)

    count = 20_000
    listing = "classifier.data.listing._candidates"
    monkeypatch.setattr(listing, lambda top: ((top, Entry(i)) for i in range(count)))
    monkeypatch.setattr(image_folder, "digest", lambda path: blake2b(path.encode(), digest_size=16).digest())
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    tracemalloc.start()
    try:
        folder = read(tmp_path / "train")
        parts = image_folder.split_validation(folder, 0.1)
        now, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(part) for part in (folder, *parts)] == [2 * count, round(1.8 * count), round(0.2 * count)]
    assert now / len(folder) < 100
    assert most / len(folder) < 200


def test_listing_says_sizes_and_times(root):
    listing = list_files(root, ["cat", "dog"])
    assert listing.counts == [6, 6]
    assert listing.stamps.tolist() == [[5, LONG_AGO * 10**9]] * 12
