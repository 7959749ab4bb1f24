"""Decoded images in an array file: the same as newly decoded ones, whatever happens to the files."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from classifier.data import cache, loaders
from classifier.data.image_folder import read_folder, split_validation
from classifier.data.images import ImageError
from classifier.data.transforms import Preprocess
from classifier.files import file_lock, lock_of
from tests.conftest import ENVIRONMENT, REPOSITORY, make_images

SMALL, LARGE = Preprocess(24), Preprocess(1024)  # of the large ones, five at a time are written
CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path):
    return make_images(tmp_path / "train", {"cat": 9, "dog": 6})


def cached(folder, preprocess=SMALL, workers=0, device=CPU):
    return loaders.cached_dataset(folder, preprocess, folder.root.parent / ".cache", device, workers)


def pixels(images):
    return torch.cat([pixels for pixels, _ in loaders.on_device(loaders.loader(images, 4), CPU)])


def decoded(folder, preprocess=SMALL):
    return pixels(loaders.ImageDataset(folder, preprocess))


def spoil(path):
    """Replace a file's content, but not its size and time of change: decoding it now fails."""
    stat = Path(path).stat()
    Path(path).write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def file_of(root, suffix=".pixels"):
    (file,) = (root.parent / ".cache").glob(f"[!.]*{suffix}")
    return file


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_images_and_labels_each_decoded_once(root, workers):
    folder = read_folder(root)
    expected = decoded(folder)
    assert torch.equal(pixels(cached(folder, workers=workers)), expected)
    for path in folder.paths:
        spoil(path)
    images = cached(read_folder(root))
    assert isinstance(images, loaders.CachedImageDataset) and torch.equal(pixels(images), expected)
    batches = list(loaders.on_device(loaders.loader(images, 4), CPU))
    assert torch.cat([labels for _, labels in batches]).tolist() == folder.labels
    assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(loaders.images_of(images, [3, 1]), expected[[3, 1]])


def test_the_data_may_move(root, tmp_path):
    before = pixels(cached(read_folder(root)))
    for path in read_folder(root).paths:
        spoil(path)
    for name in ("train", ".cache"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    assert torch.equal(pixels(cached(read_folder(tmp_path / "elsewhere" / "train"))), before)


def test_what_is_new_or_has_changed_is_decoded_and_nothing_else(root):
    cached(read_folder(root))
    Image.new("RGB", (30, 30), "red").save(root / "cat" / "0.png")
    Image.new("RGB", (30, 30), "blue").save(root / "cat" / "new.png")
    (root / "dog" / "3.png").unlink()
    folder = read_folder(root)
    expected = decoded(folder)
    for path in folder.paths:
        if Path(path).name not in ("0.png", "new.png"):
            spoil(path)
    (root / "dog" / "0.png").write_bytes((root / "cat" / "0.png").read_bytes())
    expected[folder.paths.index(str(root / "dog" / "0.png"))] = expected[0]
    assert torch.equal(pixels(cached(read_folder(root))), expected)


def test_the_file_does_not_grow_with_every_change(root):
    for _ in range(5):
        for path in read_folder(root).paths:
            os.utime(path)
        cached(read_folder(root))
    assert file_of(root).stat().st_size <= 2 * 15 * 3 * 24**2


def test_parts_prepared_alike_share_a_file_and_other_preprocessing_has_another(root):
    folder = read_folder(root)
    parts = split_validation(folder, 0.3)
    for part in parts:
        assert torch.equal(pixels(cached(part)), decoded(part))
    assert file_of(root).stat().st_size == 15 * 3 * 24**2
    everything = decoded(folder)
    for path in folder.paths:
        spoil(path)
    assert torch.equal(pixels(cached(folder)), everything)  # another share is no reason to decode again
    with pytest.raises(ImageError):
        cached(folder, Preprocess(24, "squash"))


def test_train_and_val_folders_with_equal_names_differ(root):
    make_images(root.with_name("val"), {"cat": 2, "dog": 2}, seed=1)
    for part in (root, root.with_name("val")):
        for path in read_folder(part).paths:
            os.utime(path, ns=(0, 0))
        assert torch.equal(pixels(cached(read_folder(part))), decoded(read_folder(part)))


@pytest.mark.parametrize(
    ("suffix", "damage"),
    [*((suffix, how) for suffix in (".pixels", ".rows") for how in ("cut", "empty", "gone")), (".rows", "garbage")],
)
def test_damaged_files_are_noticed_and_mended(root, suffix, damage):
    folder = read_folder(root)
    cached(folder)
    file = file_of(root, suffix)
    content = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes({"cut": content[: len(content) // 2 + 1], "garbage": bytes(range(256))}.get(damage, b""))
    expected = decoded(folder)
    assert torch.equal(pixels(cached(folder)), expected)
    for path in folder.paths:
        spoil(path)
    assert torch.equal(pixels(cached(folder)), expected)


def test_a_damaged_image_is_named_and_those_before_it_are_kept(root):
    folder = read_folder(root)
    content = (root / "dog" / "4.png").read_bytes()
    spoil(root / "dog" / "4.png")
    with pytest.raises(ImageError, match=r"4\.png is not an image .*Take it out"):
        cached(folder, LARGE, workers=1)
    assert file_of(root).stat().st_size == 10 * 3 * 1024**2
    (root / "dog" / "4.png").write_bytes(content)
    folder = read_folder(root)
    expected = decoded(folder, LARGE)
    for path in folder.paths[:10]:
        spoil(path)
    assert torch.equal(pixels(cached(folder, LARGE)), expected)


FILL = """
import sys
from pathlib import Path
import torch
from classifier.data import image_folder, loaders
from classifier.data.transforms import Preprocess
folder = image_folder.read_folder(Path(sys.argv[1]))
loaders.cached_dataset(folder, Preprocess(1024), folder.root.parent / ".cache", torch.device("cpu"), int(sys.argv[2]))
"""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_fill_that_was_killed_is_redone(root, workers):
    folder = read_folder(root)
    cached(folder.subset(range(3)), LARGE)
    slow = root / "dog" / "5.png"
    content = slow.read_bytes()
    slow.unlink()
    os.mkfifo(slow)  # the last one, which takes forever to decode
    filling = subprocess.Popen([sys.executable, "-c", FILL, root, str(workers)], cwd=REPOSITORY, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while file_of(root).stat().st_size < (3 + 10) * 3 * 1024**2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert file_of(root).stat().st_size == (3 + 10) * 3 * 1024**2
    filling.send_signal(signal.SIGKILL)
    filling.wait()
    writer = os.open(slow, os.O_RDWR)  # lets go of a worker that waits for the image, and so still has the lock
    os.close(writer)
    slow.unlink()
    slow.write_bytes(content)
    folder = read_folder(root).subset([14, 1, 13, 0, 12, 4, 3, 11])
    assert torch.equal(pixels(cached(folder, LARGE)), decoded(folder, LARGE))


def test_another_process_that_fills_it_is_waited_for(root, capsys):
    folder = read_folder(root)
    cached(folder.subset([0]))
    inside, began = threading.Event(), time.monotonic()

    def other():
        with file_lock(lock_of(file_of(root)), ""):
            inside.set()
            time.sleep(1)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait()
    assert torch.equal(pixels(cached(folder)), decoded(folder)) and time.monotonic() - began > 1
    thread.join()
    assert "is being written by another process. Waiting for it." in capsys.readouterr().out


def test_a_disk_that_fills_up_turns_it_off_and_gets_its_room_back(root, capsys):
    resource = pytest.importorskip("resource")
    folder = read_folder(root)
    cached(folder.subset([0, 1]), LARGE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25_000_000, before[1]))  # writes beyond it fail
    try:
        images = cached(folder, LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert type(images) is loaders.ImageDataset
    assert ".cache is not used (the disk is full): images are opened again" in capsys.readouterr().out
    assert file_of(root).stat().st_size == 2 * 3 * 1024**2
    assert torch.equal(pixels(cached(folder, LARGE)), decoded(folder, LARGE))  # there is room again


def test_a_disk_without_room_for_it_turns_it_off(root, capsys):
    folder = read_folder(root).subset([0] * 200_000)
    images = cached(folder, Preprocess(4096))
    assert type(images) is loaders.ImageDataset and len(images) == 200_000
    said = capsys.readouterr().out
    assert ".cache is not used (it needs 10,066,330 MB more" in said and "MB are free" in said


def test_a_folder_that_cannot_be_written_to_turns_it_off(root, capsys):
    (root.parent / ".cache").write_text("a file in its place")
    folder = read_folder(root)
    assert torch.equal(pixels(cached(folder)), decoded(folder))
    assert ".cache is not used" in capsys.readouterr().out


def test_caches_unused_for_long_are_deleted(root):
    folder = read_folder(root)
    cached(folder, Preprocess(20))
    place = root.parent / ".cache"
    (place / "train.files").touch()  # of an earlier version
    (place / "someone elses").touch()
    for age, left in ((cache.MAX_UNUSED_S - 100, 5), (cache.MAX_UNUSED_S + 100, 2)):
        for file in place.iterdir():
            os.utime(file, (time.time() - age,) * 2)
        cached(folder)
        names = {file.name for file in place.glob("[!.]*")} - {"someone elses"}
        assert len(names) == left and (place / "someone elses").exists()


def test_in_the_devices_memory_it_is_the_same(root):
    folder = read_folder(root)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resident = loaders.GPUImageDataset(cached(folder), device)
    batches = list(loaders.on_device(loaders.loader(resident, 4), device))
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]).cpu(), decoded(folder))
    assert torch.cat([labels for _, labels in batches]).tolist() == folder.labels
    assert torch.equal(loaders.images_of(resident, [3, 1]), decoded(folder)[[3, 1]])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_images_are_in_its_memory_if_they_fit(root):
    folder = read_folder(root)
    assert type(cached(folder, device=torch.device("cuda"))) is loaders.GPUImageDataset
    many = read_folder(root).subset([0] * (torch.cuda.mem_get_info()[0] // (3 * 24**2) // 3))
    assert type(cached(many, device=torch.device("cuda"))) is loaders.CachedImageDataset
