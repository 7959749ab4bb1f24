"""Images to batches: that everyone sees the same pixels, and what training changes of them."""

import numpy as np
import pytest
import torch
from PIL import Image

from classifier.data import loaders
from classifier.data.transforms import Augment, Preprocess


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError()])
def test_a_worker_that_dies_while_it_sends_a_batch_is_told_like_one_that_dies_otherwise(error):
    def batches():
        yield torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1)
        raise error

    with pytest.raises(RuntimeError, match="DataLoader worker"):
        list(loaders.on_device(batches(), torch.device("cpu")))


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
    halves = torch.cat([torch.full((300, 3, 8, 4), 80), torch.full((300, 3, 8, 4), 120)], dim=3).to(torch.uint8)
    out = augmented(only(color=0.3), halves, 8)
    means = out.mean(dim=(1, 2, 3))
    assert 69 < means.min() < 75 and 125 < means.max() < 131  # brightness
    contrast = (out[:, 0, 0, 7] - out[:, 0, 0, 0]) / means / 0.4
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
