"""Images to batches: that everyone sees the same pixels, and what training changes of them."""

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


def test_pad_keeps_the_proportions_between_bars_that_become_zero():
    """Where the pixels are taken from: tests/test_export.py, whose graph resizes by itself."""
    for mean in ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5)):
        preprocess = Preprocess(31, "pad", mean=mean)
        for shape, columns, rows in ((301, 97), 31, 10), ((45, 203), 7, 31), ((77, 77), 31, 31), ((5000, 3), 31, 1):
            x = preprocess.normalize(preprocess.pixels(Image.new("RGB", shape, "white")))
            assert (x.abs() < 0.01).all(0).sum() == 31 * 31 - columns * rows and (x[:, 15, 15] > 2).all()


def augmented(pixels, size, **values):
    """The images after an augmentation that does nothing but what is given."""
    augment = Augment(**{"min_area": 1, "ratio": 1, "flip": False, "color": 0} | values)
    return augment(pixels, size, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("smallest", [0.35, 0.65, 0.9])
def test_crops_keep_the_promised_share_of_the_area(smallest):
    ramp = torch.linspace(0, 255, 40).to(torch.uint8).expand(40, 40)
    pixels = torch.stack([ramp, ramp.T, torch.zeros(40, 40)]).repeat(200, 1, 1, 1)  # red tells x, green tells y
    out = augmented(pixels, 32, min_area=smallest, ratio=Augment().ratio, flip=True)
    width, height = out[:, 0, 0, -1] - out[:, 0, 0, 0], out[:, 1, -1, 0] - out[:, 1, 0, 0]
    area = (width * height).abs() * (32 / 31 * 39 / 40 / 255) ** 2
    assert smallest - 0.01 < area.min() < smallest + 0.1 and area.max() < 1.01  # small crops do occur
    assert 0.35 < (out[:, 0, 0, -1] < out[:, 0, 0, 0]).float().mean() < 0.65  # mirrored


def test_colours_change_within_bounds():
    halves = torch.cat([torch.full((300, 3, 8, 4), 80), torch.full((300, 3, 8, 4), 120)], dim=3).to(torch.uint8)
    out = augmented(halves, 8, color=0.3)
    means = out.mean(dim=(1, 2, 3))
    assert 69 < means.min() < 75 and 125 < means.max() < 131  # brightness
    contrast = (out[:, 0, 0, 7] - out[:, 0, 0, 0]) / means / 0.4
    assert 0.69 < contrast.min() < 0.75 and 1.25 < contrast.max() < 1.31
    red = torch.tensor([140, 80, 80], dtype=torch.uint8).view(1, 3, 1, 1).expand(300, 3, 8, 8)
    out = augmented(red, 8, color=0.3)
    saturation = (out[:, 0] - out[:, 1]).mean(dim=(1, 2)) / out.mean(dim=(1, 2, 3)) / 0.6
    assert 0.45 < saturation.min() < 0.6 and 1.5 < saturation.max() < 1.75  # contrast multiplies it once more


def test_a_part_of_some_images_is_covered():
    covered = augmented(torch.zeros(400, 3, 32, 32, dtype=torch.uint8), 32, erasing=0.25)[:, 0] == 127.5
    share = covered.float().mean(dim=(1, 2))
    assert 0.18 < (share > 0).float().mean() < 0.32
    assert 0.01 < share[share > 0].min() < 0.05 and 0.28 < share.max() < 0.40
    one = covered[share.argmax()]
    assert torch.equal(one, one.any(1)[:, None] & one.any(0)[None])  # a rectangle
