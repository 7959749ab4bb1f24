"""Images to batches: in which order, that everyone sees the same pixels, and what training changes of them."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.data import image_folder, loaders
from classifier.data.images import ImageError
from classifier.data.transforms import Augment, Preprocess, resize_batch
from tests.conftest import make_images

CPU = torch.device("cpu")


def order(*values, epoch=0, start=0, **options):
    sampler = loaders.ResumableSampler(*values, **options)
    sampler.epoch, sampler.start = epoch, start
    found = list(sampler)
    assert len(sampler) == len(found)
    return found


def test_order_depends_on_seed_and_epoch_and_can_go_on_in_the_middle():
    first = order(10, 1, 3)
    assert sorted(itertools.chain(*first)) == list(range(10)) and [len(batch) for batch in first] == [3, 3, 4]
    assert first == order(10, 1, 3) and first not in (order(10, 2, 3), order(10, 1, 3, epoch=1))
    assert order(10, 1, 3, start=1) == first[1:] and order(10, 1, 3, start=3) == []


@pytest.mark.parametrize(("count", "accumulate", "epoch"), [(1, 3, 0), (2, 1, 0), (3, 1, 0), (2, 2, 1)])
def test_all_processes_together_get_what_one_alone_would(count, accumulate, epoch):
    shares = [order(50, 1, 7, accumulate, rank, count, epoch=epoch, start=2) for rank in range(count)]
    for step, batch in enumerate(order(50, 1, 7, epoch=epoch)[2:]):
        parts = [part for share in shares for part in share[step * accumulate :][:accumulate]]
        assert [*itertools.chain(*parts)] == batch and max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_comes_once_and_an_unreadable_one_is_named(tmp_path, workers):
    folder = image_folder.read_folder(make_images(tmp_path, {"猫": 20, "dog two": 10}))
    batches = loaders.loader(loaders.ImageDataset(folder, Preprocess(16)), 8, workers)
    pixels, labels = zip(*loaders.on_device(batches, CPU), strict=True)
    assert [len(batch) for batch in labels] == [8, 8, 8, 6]
    assert torch.cat(labels).tolist() == folder.labels
    assert torch.equal(torch.cat(pixels), torch.stack([Preprocess(16).read(path) for path in folder.paths]))
    bad = tmp_path / "猫" / "3.png"
    bad.write_bytes(b"nothing")
    with pytest.raises(ImageError, match="not an image") as caught:
        list(loaders.on_device(batches, CPU))
    assert str(bad) in str(caught.value)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_sends_a_batch_is_told_like_one_that_dies_otherwise(error):
    def batches():
        yield torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1)
        raise error

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(loaders.on_device(batches(), CPU))


def of_noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("shape", "filled"), [((301, 97), (31, 10)), ((45, 203), (7, 31)), ((77, 77), (31, 31)), ((5000, 3), (31, 1))]
)
def test_pad_is_a_plain_resize_between_bars_that_become_zero(shape, filled):
    preprocess, (width, height) = Preprocess(31, "pad"), filled
    pixels = preprocess.pixels(of_noise(*shape))
    left, top = (31 - width) // 2, (31 - height) // 2
    content = np.asarray(of_noise(*shape).resize(filled, Image.Resampling.BILINEAR))
    expected = np.tile(np.array([124, 116, 104], np.uint8), (31, 31, 1))  # ImageNet's mean colour
    expected[top : top + height, left : left + width] = content
    assert np.array_equal(pixels.permute(1, 2, 0), expected)
    bars = torch.ones(31, 31, dtype=torch.bool)
    bars[top : top + height, left : left + width] = False
    assert bars.sum() == 31 * 31 - width * height
    assert (preprocess.normalize(pixels)[:, bars].abs() < 0.01).all()
    grey = Preprocess(31, "pad", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (grey.pixels(of_noise(*shape))[:, bars] == 128).all()


def test_crop_and_squash_are_one_call_of_pillow():
    for width, height in ((301, 97), (45, 203), (77, 77)):
        image, side = of_noise(width, height), min(width, height)
        middle = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)
        for resize, box in (("crop", middle), ("squash", (0, 0, width, height))):
            plain = image.resize((31, 31), Image.Resampling.BILINEAR, box=box)
            assert np.array_equal(Preprocess(31, resize).pixels(image).permute(1, 2, 0), plain)


def test_normalization_by_hand_and_back():
    preprocess = Preprocess(2, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    x = preprocess.normalize(torch.tensor([255, 0, 51], dtype=torch.uint8).view(3, 1, 1))
    assert x.flatten().tolist() == pytest.approx([1.0, -1.0, 0.2])
    assert preprocess.denormalize(x).flatten().tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    for impossible in ({"size": 0}, {"resize": "stretch"}, {"std": [0, 1, 1]}, {"mean": [0.5]}):
        with pytest.raises(ValueError, match=r"preprocessing|mean and std"):
            Preprocess.from_dict(preprocess.to_dict() | impossible)


def only(**values) -> Augment:
    """An augmentation that does nothing but what is given."""
    return Augment(**{"min_area": 1, "ratio": 1, "flip": False, "color": 0} | values)


def augmented(augment, pixels, size, seed=0):
    return augment(pixels, size, torch.Generator().manual_seed(seed))


def test_augmentation_is_drawn_from_its_generator_alone():
    pixels = torch.randint(0, 256, (4, 3, 24, 24), dtype=torch.uint8)
    first = augmented(Augment(), pixels, 32)
    assert torch.equal(first, augmented(Augment(), pixels, 32))
    assert not torch.equal(first, augmented(Augment(), pixels, 32, seed=1))
    assert first.shape == (4, 3, 32, 32) and 0 <= first.min() <= first.max() <= 255
    assert (augmented(only(), pixels, 24) - pixels).abs().max() < 0.05  # nothing to do: as it went in


@pytest.mark.parametrize("smallest", [0.35, 0.65, 0.9])
def test_crops_keep_the_promised_share_of_the_area(smallest):
    ramp = torch.linspace(0, 255, 40).to(torch.uint8).expand(40, 40)
    pixels = torch.stack([ramp, ramp.T, torch.zeros(40, 40)]).repeat(200, 1, 1, 1)  # red tells x, green tells y
    out = augmented(Augment(min_area=smallest, color=0), pixels, 32)
    width = (out[:, 0, 0, -1] - out[:, 0, 0, 0]).abs() / 255 * 32 / 31 * 39 / 40
    height = (out[:, 1, -1, 0] - out[:, 1, 0, 0]).abs() / 255 * 32 / 31 * 39 / 40
    area = width * height
    assert smallest - 0.01 < area.min() < smallest + 0.1  # small crops do occur
    assert area.max() < 1.01
    assert 0.35 < (out[:, 0, 0, -1] < out[:, 0, 0, 0]).float().mean() < 0.65  # mirrored


def test_colours_change_within_bounds():
    grey = torch.full((300, 3, 8, 8), 100, dtype=torch.uint8)
    means = augmented(only(color=0.3), grey, 8).mean(dim=(1, 2, 3))
    assert 69 < means.min() < 75  # brightness alone: grey of one value has neither contrast nor saturation
    assert 125 < means.max() < 131
    halves = torch.cat([torch.full((300, 3, 8, 4), 80), torch.full((300, 3, 8, 4), 120)], dim=3).to(torch.uint8)
    out = augmented(only(color=0.3), halves, 8)
    contrast = (out[:, 0, 0, 7] - out[:, 0, 0, 0]) / out.mean(dim=(1, 2, 3)) / 0.4
    assert 0.69 < contrast.min() < 0.75 and 1.25 < contrast.max() < 1.31
    red = torch.tensor([140, 80, 80], dtype=torch.uint8).view(1, 3, 1, 1).expand(300, 3, 8, 8)
    out = augmented(only(color=0.3), red, 8)
    saturation = (out[:, 0] - out[:, 1]).mean(dim=(1, 2)) / out.mean(dim=(1, 2, 3)) / 0.6
    assert 0.45 < saturation.min() < 0.6 and 1.5 < saturation.max() < 1.75  # contrast multiplies it once more


def test_a_part_of_some_images_is_covered():
    covered = augmented(only(erasing=0.25), torch.zeros(400, 3, 32, 32, dtype=torch.uint8), 32)[:, 0] == 127.5
    share = covered.float().mean(dim=(1, 2))
    assert 0.18 < (share > 0).float().mean() < 0.32
    assert 0.01 < share[share > 0].min() < 0.05 and 0.28 < share.max() < 0.40
    one = covered[share.argmax()]
    assert torch.equal(one, one.any(1)[:, None] & one.any(0)[None])  # a rectangle


def test_scaling_does_not_alias():
    stripes = (torch.arange(64) % 2 * 255).to(torch.uint8).expand(1, 3, 64, 64)
    small = resize_batch(stripes, 20)
    assert small.shape == (1, 3, 20, 20) and small.dtype == torch.uint8
    assert (small.float() - 127.5).abs().max() < 40  # neither black nor white is left of stripes of one pixel
    assert resize_batch(stripes, 64) is stripes
