"""Decoded images in an array file: the same as newly decoded ones, whatever happens to the files."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from PIL import Image

from classifier.cli import UserError
from classifier.data import cache, loaders
from classifier.data.image_folder import read_folder, split_validation
from classifier.data.images import ImageError
from classifier.data.transforms import Preprocess
from classifier.files import file_lock
from tests.conftest import ENVIRONMENT, REPOSITORY, file_size_limit, make_images
from tests.raw_images import make_folder

SMALL, LARGE = Preprocess(24), Preprocess(1024)  # of the large ones, five at a time are written
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / "train", {"cat": 9, "dog": 6})


@pytest.fixture
def folder(root):
    return read_folder(root)


def cached(folder, preprocess=SMALL, workers=0):
    return loaders.cached_dataset(folder, preprocess, folder.root.parent / ".cache", CPU, workers)


def pixels(images):
    return torch.cat([pixels for pixels, _ in loaders.on_device(loaders.loader(images, 4), CPU)])


def decoded(folder, preprocess=SMALL):
    return pixels(loaders.ImageDataset(folder, preprocess))


def spoil(*paths):
    """Replace files' content, but not their size and time of change: decoding them now fails."""
    for path in map(Path, paths):
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def file_of(root, suffix=".pixels"):
    (file,) = (root.parent / ".cache").glob(f"[!.]*{suffix}")
    return file


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_images_and_labels_each_decoded_once_wherever_they_are(root, folder, tmp_path, workers):
    expected = decoded(folder)
    assert torch.equal(pixels(cached(folder, workers=workers)), expected)
    spoil(*folder.paths)
    for name in ("train", ".cache"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    images = cached(read_folder(tmp_path / "elsewhere" / "train"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for kind in (images, loaders.GPUImageDataset(images, device)):  # from the file, and from the device's memory
        batches = list(loaders.on_device(loaders.loader(kind, 4), device))
        assert torch.equal(torch.cat([pixels for pixels, _ in batches]).cpu(), expected)
        assert torch.cat([labels for _, labels in batches]).tolist() == folder.labels
        assert torch.equal(loaders.images_of(kind, [3, 1]), expected[[3, 1]])
    assert isinstance(images, loaders.CachedImageDataset)
    assert images.__getitems__([0, 1])[0].is_contiguous(memory_format=torch.channels_last)


def test_what_is_new_or_has_changed_is_decoded_and_nothing_else(root, folder):
    cached(folder)
    Image.new("RGB", (30, 30), "red").save(root / "cat" / "0.png")
    Image.new("RGB", (30, 30), "blue").save(root / "cat" / "new.png")
    (root / "dog" / "3.png").unlink()
    folder = read_folder(root)
    expected = decoded(folder)
    spoil(*(path for path in folder.paths if Path(path).name not in ("0.png", "new.png")))
    (root / "dog" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes())
    expected[folder.paths.index(str(root / "dog" / "0.png"))] = expected[0]
    assert torch.equal(pixels(cached(folder)), expected)


def test_parts_prepared_alike_share_a_file_and_other_preprocessing_has_another(root, folder):
    val = read_folder(make_images(root.with_name("val"), {"cat": 2, "dog": 2}, seed=1))
    for path in map(Path, (*folder.paths, *val.paths)):  # of the same names, sizes and times
        path.write_bytes(path.read_bytes().ljust(10_000, b"\0"))
        os.utime(path, ns=(0, 0))
    for part in (*split_validation(folder, 0.3), val):
        assert torch.equal(pixels(cached(part)), decoded(part))
    assert file_of(root).stat().st_size == (15 + 4) * 3 * 24**2
    everything = decoded(folder)
    cached(folder, Preprocess(24, "pad"))
    spoil(*folder.paths)
    assert torch.equal(pixels(cached(folder)), everything)  # another share is no reason to decode again
    for other in (Preprocess(24, "squash"), Preprocess(24, "pad", mean=(0.2,) * 3)):  # bars of another colour
        with pytest.raises(ImageError):
            cached(folder, other)


@pytest.mark.parametrize("suffix", [".pixels", ".rows"])
@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "gone"])
def test_damaged_files_are_noticed_and_mended(root, folder, suffix, damage):
    cached(folder)
    file = file_of(root, suffix)
    content = file.read_bytes()
    file.write_bytes({"cut": content[: len(content) // 2 + 1], "garbage": bytes(range(256))}.get(damage, b""))
    if damage == "gone":
        file.unlink()
    expected = decoded(folder)
    assert torch.equal(pixels(cached(folder)), expected)
    spoil(*folder.paths)
    assert torch.equal(pixels(cached(folder)), expected)


@pytest.mark.skipif(os.name == "nt", reason="Windows does not cut files that are in use")
def test_a_file_that_is_cut_while_in_use_is_an_error(root, folder):
    images = cached(folder)
    os.truncate(file_of(root), 5000)
    with pytest.raises(UserError, match=r"\.pixels was cut short while in use"):
        pixels(images)
    assert torch.equal(pixels(cached(folder)), decoded(folder))


def test_a_damaged_image_is_named_and_those_before_it_are_kept(root, folder):
    content = (root / "dog" / "4.png").read_bytes()
    spoil(root / "dog" / "4.png")
    with pytest.raises(ImageError, match=r"4\.png is not an image .*Take it out"):
        cached(folder, LARGE, workers=1)
    assert file_of(root).stat().st_size == 10 * 3 * 1024**2
    (root / "dog" / "4.png").write_bytes(content)
    expected = decoded(folder, LARGE)
    spoil(*folder.paths[:10])
    assert torch.equal(pixels(cached(folder, LARGE)), expected)


FILL = """
import sys; from pathlib import Path; from tests.test_cache import LARGE, cached, read_folder
cached(read_folder(Path(sys.argv[1])), LARGE, workers=2)
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
def test_a_fill_that_was_killed_is_redone(root, folder):
    cached(folder.subset(range(3)), LARGE)
    slow, size = root / "dog" / "5.png", (3 + 10) * 3 * 1024**2
    content = slow.read_bytes()
    slow.unlink()
    os.mkfifo(slow)  # the last one, which takes forever to decode
    filling = subprocess.Popen([sys.executable, "-c", FILL, root], cwd=REPOSITORY, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while file_of(root).stat().st_size < size and time.monotonic() < deadline:
        time.sleep(0.05)
    assert file_of(root).stat().st_size == size
    filling.kill()
    filling.wait()
    os.close(os.open(slow, os.O_RDWR))  # lets go of a worker that waits for the image, and so still has the lock
    slow.unlink()
    slow.write_bytes(content)
    some = folder.subset([14, 1, 13, 0, 12, 4, 3, 11])
    assert torch.equal(pixels(cached(some, LARGE)), decoded(some, LARGE))


def test_another_process_that_fills_it_is_waited_for(root, folder, capsys):
    cached(folder.subset([0]))
    with ThreadPoolExecutor(1) as pool:
        with file_lock(file_of(root), ""):
            filling = pool.submit(cached, folder)
            time.sleep(1)
            assert not filling.done()
        assert torch.equal(pixels(filling.result()), decoded(folder))
    assert "is being written by another process. Waiting for it." in capsys.readouterr().out


def test_a_disk_that_fills_up_turns_it_off_and_gets_its_room_back(root, folder, capsys):
    cached(folder.subset([0, 1]), LARGE)
    with file_size_limit(25_000_000):
        assert type(cached(folder, LARGE)) is loaders.ImageDataset
    assert ".cache is not used (the disk is full): images are opened again" in capsys.readouterr().out
    assert file_of(root).stat().st_size == 2 * 3 * 1024**2
    assert torch.equal(pixels(cached(folder, LARGE)), decoded(folder, LARGE))  # there is room again


def test_without_room_or_permission_it_is_not_used(root, folder, capsys):
    assert type(cached(folder.subset([0] * 200_000), Preprocess(4096))) is loaders.ImageDataset
    said = capsys.readouterr().out
    assert ".cache is not used (it needs 10,066,330 MB more" in said and "MB are free" in said
    shutil.rmtree(root.parent / ".cache")
    (root.parent / ".cache").write_text("a file in its place")
    assert torch.equal(pixels(cached(folder)), decoded(folder))
    assert ".cache is not used" in capsys.readouterr().out


def test_a_cache_does_not_grow_with_every_change_and_those_unused_for_long_are_deleted(root, folder):
    for _ in range(5):
        for path in folder.paths:
            os.utime(path)
        cached(folder)
    assert file_of(root).stat().st_size <= 2 * 15 * 3 * 24**2
    cached(folder, Preprocess(20))
    place = make_folder(root.parent / ".cache", {"train.files": b"", "someone elses": b""})  # one of an earlier version
    for age, left in ((cache.MAX_UNUSED_S - 100, 5), (cache.MAX_UNUSED_S + 100, 2)):
        for file in place.iterdir():
            os.utime(file, (time.time() - age,) * 2)
        cached(folder)
        names = {file.name for file in place.glob("[!.]*")} - {"someone elses"}
        assert len(names) == left and (place / "someone elses").exists()
