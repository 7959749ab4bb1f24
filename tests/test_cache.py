"""Images kept as bytes: the same as the opened ones, whatever happens to the files."""

import shutil

import pytest
import torch
from PIL import Image

from classifier.cli import UserError
from classifier.data import cache, image_folder, loaders
from classifier.data.images import ImageError
from classifier.data.transforms import Preprocess
from tests.conftest import make_images

SEEN = Preprocess(24)
CPU = torch.device("cpu")


def read(root):
    return image_folder.with_digests(image_folder.read_folder(root))


@pytest.fixture
def folder(tmp_path):
    make_images(tmp_path / "train", {"cat": 9, "dog": 6})
    return read(tmp_path / "train")


@pytest.fixture
def opened(monkeypatch):
    """The paths that have been opened."""
    paths, real = [], loaders.open_one

    def note(path, preprocess):
        paths.append(path)
        return real(path, preprocess)

    monkeypatch.setattr(loaders, "open_one", note)
    return paths


def ready(folder, preprocess=SEEN):
    """The folder's images from its cache, and all their pixels."""
    images = loaders.kept_ready(folder, folder, preprocess, folder.root.parent / ".cache", CPU, threads=2)
    batches = loaders.loader(images, 4)
    return images, torch.cat([pixels for pixels, _ in loaders.on_device(batches, CPU)])


def plain(folder, preprocess=SEEN):
    batches = loaders.loader(loaders.ImageDataset(folder, preprocess), 4)
    return torch.cat([pixels for pixels, _ in loaders.on_device(batches, CPU)])


def test_the_same_images_and_labels_each_opened_once(folder, opened):
    images, pixels = ready(folder)
    assert sorted(opened) == sorted(folder.paths)
    opened.clear()
    again, same = ready(folder)
    assert opened == []
    assert isinstance(again, loaders.CachedImageDataset)
    assert torch.equal(pixels, same)
    assert torch.equal(pixels, plain(folder))
    _, labels = zip(*loaders.on_device(loaders.loader(again, 4), CPU), strict=True)
    assert torch.cat(labels).tolist() == folder.labels
    assert torch.equal(images[7][0], pixels[7]) and images[7][1] == folder.labels[7]


def test_the_dataset_may_move(folder, opened, tmp_path):
    _, pixels = ready(folder)
    shutil.move(tmp_path / "train", tmp_path / "elsewhere" / "train")
    shutil.move(tmp_path / ".cache", tmp_path / "elsewhere" / ".cache")
    opened.clear()
    _, same = ready(read(tmp_path / "elsewhere" / "train"))
    assert torch.equal(pixels, same)
    assert opened == []


def test_what_changed_is_opened_again_and_nothing_else(folder, opened):
    ready(folder)
    new = folder.root / "cat" / "new.png"
    Image.new("RGB", (30, 30), "red").save(folder.root / "cat" / "0.png")
    Image.new("RGB", (30, 30), "blue").save(new)
    (folder.root / "dog" / "3.png").unlink()
    changed = read(folder.root)
    opened.clear()
    _, pixels = ready(changed)
    assert sorted(opened) == sorted([str(folder.root / "cat" / "0.png"), str(new)])
    assert torch.equal(pixels, plain(changed))
    size = (folder.root.parent / ".cache").glob("*.pixels").__next__().stat().st_size
    assert size == len(changed) * 3 * 24**2  # the place of the image that is gone was used again


def test_touching_a_file_or_renaming_it_opens_nothing_again(folder, opened):
    _, pixels = ready(folder)
    opened.clear()
    path = folder.root / "cat" / "0.png"
    path.touch()
    path.rename(folder.root / "cat" / "00.png")
    assert torch.equal(ready(read(folder.root))[1], pixels)
    assert opened == []


def test_training_and_validation_share_one_cache(folder, opened):
    parts = image_folder.split_validation(folder, 0.3)
    place = folder.root.parent / ".cache"
    some = [loaders.kept_ready(part, folder, SEEN, place, CPU, threads=1) for part in parts]
    assert sorted(opened) == sorted(folder.paths)
    for part, images in zip(parts, some, strict=True):
        assert torch.equal(loaders.pixels_of(images, list(range(len(part)))), plain(part))
    assert len(list(place.glob("*.pixels"))) == 1
    opened.clear()
    other = image_folder.split_validation(folder, 0.5)[1]  # another share is no reason to open them again
    assert torch.equal(ready(other)[1], plain(other))
    assert sorted(opened) == sorted(other.paths)  # by `plain` alone


def test_another_preprocessing_has_another_cache(folder):
    ready(folder)
    other = Preprocess(20, "squash")
    assert torch.equal(ready(folder, other)[1], plain(folder, other))
    assert torch.equal(ready(folder)[1], plain(folder))
    assert len(list((folder.root.parent / ".cache").glob("*.pixels"))) == 2


@pytest.mark.parametrize("name", ["pixels", "index"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "garbage"])
def test_damaged_files_are_mended(folder, opened, name, damage):
    _, pixels = ready(folder)
    (path,) = (folder.root.parent / ".cache").glob(f"*.{name}")
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    elif damage == "garbage":
        content[:] = bytes(i % 251 for i in range(len(content)))
    path.write_bytes({"cut": content[: len(content) // 2 + 1], "empty": b""}.get(damage, content))
    opened.clear()
    assert torch.equal(ready(folder)[1], pixels)
    assert opened
    opened.clear()
    assert torch.equal(ready(folder)[1], pixels)
    assert opened == []


def test_a_file_cut_while_it_is_read_is_noticed(folder):
    images, pixels = ready(folder)
    (path,) = (folder.root.parent / ".cache").glob("*.pixels")
    path.write_bytes(b"")
    assert torch.equal(images.cache.read(range(len(folder))), pixels)


def test_an_interrupted_build_goes_on_where_it_was(folder, opened, monkeypatch):
    monkeypatch.setattr(cache, "AT_ONCE", 2 * 24 * 24 * 3)
    real = cache.Cache._keep
    kept = []

    def stop(self, place, rows):
        if len(kept) == 7:
            raise KeyboardInterrupt
        kept.append(place)
        real(self, place, rows)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cache.Cache, "_keep", stop)
        ready(folder)
    opened.clear()
    assert torch.equal(ready(folder)[1], plain(folder))
    assert len([path for path in opened if path in folder.paths]) - len(folder) == 15 - 7  # `plain` opened all once


@pytest.fixture
def hurry(monkeypatch):
    """Nothing may hold up the run for long, and three images are opened before it is seen how long that takes."""
    monkeypatch.setattr(cache, "MANY", 3)
    monkeypatch.setattr(loaders, "PATIENCE", 0)
    monkeypatch.setattr(cache, "SPARSE", True)


def test_what_would_take_long_is_opened_when_it_is_needed(folder, opened, hurry, capsys):
    images = loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", CPU, threads=2)
    assert sorted(opened) == sorted(folder.paths[:3])
    assert "12 images are opened when they are first needed" in capsys.readouterr().out
    order = loaders.ResumableSampler(len(folder), seed=1)
    batches = list(loaders.on_device(loaders.loader(images, 4, order=order), CPU))
    assert sorted(opened) == sorted(folder.paths)
    opened.clear()
    again = list(loaders.on_device(loaders.loader(images, 4, order=order), CPU))
    assert opened == []
    expected = plain(folder)[list(order)]
    for found in (batches, again):
        assert torch.equal(torch.cat([pixels for pixels, _ in found]), expected)
    opened.clear()
    assert torch.equal(ready(folder)[1][list(order)], expected) and opened == []


def test_another_process_may_have_kept_it_meanwhile(folder, opened, hurry):
    one, other = (loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", CPU, 2) for _ in range(2))
    expected = plain(folder)
    opened.clear()
    halves = [list(range(9)), list(range(6, 15))]
    assert torch.equal(loaders.pixels_of(one, halves[0]), expected[halves[0]])
    assert torch.equal(loaders.pixels_of(other, halves[1]), expected[halves[1]])
    assert sorted(opened) == sorted(folder.paths[6:])  # of the first six, both had been opened before
    opened.clear()
    for images in (one, other):
        assert torch.equal(loaders.pixels_of(images, list(range(15))), expected)
    assert opened == []


def test_a_broken_image_that_is_opened_late_is_named(folder, hurry):
    bad = folder.root / "dog" / "5.png"
    bad.write_bytes(b"nothing")
    images = loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", CPU, threads=2)
    with pytest.raises(ImageError, match=r"5\.png is not an image"):
        list(loaders.on_device(loaders.loader(images, 4), CPU))
    assert len(images.cache.missing(range(15))) <= 3  # those before it were kept


@pytest.mark.parametrize(("free", "kept"), [(10**9, "GPUImageDataset"), (1000, "CachedImageDataset")])
def test_what_fits_into_a_gpus_memory_is_opened_before_however_long_it_takes(folder, hurry, monkeypatch, free, kept):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
    monkeypatch.setattr(loaders.GPUImageDataset, "__init__", lambda self, *others: None)  # there need be no GPU
    gpu = torch.device("cuda")  # only its name is looked at here
    images = loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", gpu, threads=2)
    assert type(images).__name__ == kept
    one = loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", CPU, threads=2)
    assert len(one.cache.missing(range(15))) == (0 if kept == "GPUImageDataset" else 15 - 3 - 3)


def test_a_disk_that_fills_up_later_is_told_once(folder, opened, hurry, monkeypatch, capsys):
    images = loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", CPU, threads=2)
    tries = []

    def full(self, place, rows):
        tries.append(place)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.Cache, "_keep", full)
    capsys.readouterr()
    for _ in range(2):
        batches = loaders.on_device(loaders.loader(images, 4), CPU)
        assert torch.equal(torch.cat([pixels for pixels, _ in batches]), plain(folder))
    said = capsys.readouterr().out
    assert said.count("takes no more images (No space left on device)") == 1 and ".cache" in said
    assert len(tries) == 1


def test_copies_do_not_move_the_others_between_processes(folder, opened, hurry):
    shutil.copy(folder.root / "dog" / "5.png", folder.root / "cat" / "copy.png")
    folder = read(folder.root)
    one = loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", CPU, 2)
    loaders.pixels_of(one, [15])  # the last, of which there is a copy
    other = loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", CPU, 2)
    assert one.cache.slots.tolist() == other.cache.slots.tolist()
    assert len(set(other.cache.slots.tolist())) == 15


def test_copies_of_a_image_share_their_pixels(folder, opened):
    shutil.copy(folder.root / "cat" / "3.png", folder.root / "cat" / "copy.png")
    images, pixels = ready(read(folder.root))
    assert len(opened) == 15
    assert torch.equal(pixels, plain(read(folder.root)))
    assert next((folder.root.parent / ".cache").glob("*.pixels")).stat().st_size == 15 * 3 * 24**2
    assert not len(images.cache.missing(range(16)))


def test_an_unreadable_image_is_named_before_the_first_batch(folder):
    bad = folder.root / "dog" / "2.png"
    bad.write_bytes(b"nothing")
    with pytest.raises(ImageError, match="not an image") as caught:
        ready(folder)
    assert str(bad) in str(caught.value)


def test_bytes_and_image_both_damaged_are_an_error(folder):
    images, _ = ready(folder)
    next((folder.root.parent / ".cache").glob("*.pixels")).write_bytes(b"")
    (folder.root / "cat" / "1.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"1\.png is not an image"):
        list(loaders.on_device(loaders.loader(images, 4), CPU))


def test_without_room_images_are_opened_each_time(folder, monkeypatch, capsys):
    usage = shutil.disk_usage(folder.root)._replace(free=100)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage)
    images, pixels = ready(folder)
    assert type(images) is loaders.ImageDataset
    assert torch.equal(pixels, plain(folder))
    said = capsys.readouterr().out
    assert ".cache is not used" in said and "0 MB are free" in said


@pytest.mark.parametrize("short", [False, True])
def test_a_disk_that_fills_up_turns_it_off(folder, monkeypatch, capsys, short):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if not short:
                raise OSError(28, "No space left on device")
            return self.file.write(content[: len(content) // 2])

    real = cache._open
    monkeypatch.setattr(cache, "_open", lambda path: Full(real(path)))
    images, pixels = ready(folder)
    assert type(images) is loaders.ImageDataset
    assert torch.equal(pixels, plain(folder))
    assert ("disk is full" if short else "No space left") in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_turns_it_off(folder, capsys):
    (folder.root.parent / ".cache").write_text("a file in its place")
    assert torch.equal(ready(folder)[1], plain(folder))
    assert "is not used" in capsys.readouterr().out


def test_caches_that_nobody_used_for_long_are_deleted(folder, monkeypatch):
    ready(folder, Preprocess(20))
    now = cache.time.time()
    monkeypatch.setattr(cache.time, "time", lambda: now + cache.UNUSED - 100)
    ready(folder)
    assert len(list((folder.root.parent / ".cache").iterdir())) == 4
    monkeypatch.setattr(cache.time, "time", lambda: now + cache.UNUSED + 100)
    ready(folder)
    assert len(list((folder.root.parent / ".cache").iterdir())) == 2


def test_in_the_devices_memory_it_is_the_same(folder):
    cached, pixels = ready(folder)
    resident = loaders.GPUImageDataset(folder, SEEN, cached.cache, cached.places, CPU)
    batches = list(loaders.on_device(loaders.loader(resident, 4), CPU))
    assert torch.equal(torch.cat([pixels for pixels, _ in batches]), pixels)
    assert torch.cat([labels for _, labels in batches]).tolist() == folder.labels
    assert torch.equal(resident[7][0], pixels[7]) and resident[7][1] == folder.labels[7]


@pytest.mark.parametrize(("free", "kind"), [(10**9, "resident"), (15 * 24 * 24 * 3 * 4, "cached")])
def test_on_a_gpu_what_fits_lies_in_its_memory(folder, monkeypatch, free, kind):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(loaders, "GPUImageDataset", lambda *arguments: "resident")
    monkeypatch.setattr(loaders, "CachedImageDataset", lambda *arguments: "cached")
    gpu = torch.device("cuda")  # only its name is looked at here
    assert loaders.kept_ready(folder, folder, SEEN, folder.root.parent / ".cache", gpu, threads=2) == kind
