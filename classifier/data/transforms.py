"""Image to tensor: `Preprocess` for every image, `Augment` and `TrainingInput` for training.

`Preprocess` travels inside the .pth, so a network always sees images as it did in training.
"""

import math
import os
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

RESIZES = ("crop", "squash", "pad")
MIXES = {"off": (), "mixup": ("MixUp",), "cutmix": ("CutMix",), "both": ("MixUp", "CutMix")}  # names in v2
MAX_SIZE = 4096  # pixels
CROP_MARGIN = 1.25  # side of the images that crops are cut from / side of the result, which is then about as sharp

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes the network's input.

    Attributes:
        size: side of the square in pixels.
        resize: "crop" takes the largest square from the centre; "squash" takes the whole image and ignores the
            proportions; "pad" keeps them, and fills the rest of the square with the mean colour, which becomes 0.
        mean, std: of each channel in 0..1; a value v becomes (v - mean) / std.
        interpolation: "bilinear", antialiased; there is no other yet.
    """

    size: int = 224
    resize: str = "crop"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self):
        if self.resize not in RESIZES or self.interpolation != "bilinear" or not 1 <= self.size <= MAX_SIZE:
            raise ValueError(f"unknown preprocessing: {self}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std need three values each, those of std above 0: {self}")

    def read(self, source: str | os.PathLike | bytes) -> Tensor:
        """An image file's path, or its bytes -> (3, size, size) uint8. Raises ImageError."""
        from classifier.data.images import load_image  # decoders, which whoever loads a .pth does without

        return self.pixels(load_image(source, self.size))

    def pixels(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, size, size) uint8."""
        if self.resize == "pad":
            content = image.resize(self.filled(*image.size), Image.Resampling.BILINEAR)
            square = Image.new("RGB", (self.size, self.size), self.bar_color)
            square.paste(content, ((self.size - content.width) // 2, (self.size - content.height) // 2))
        else:
            square = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=self.box(*image.size))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W), uint8 or float in 0..255 -> float32 of the same shape, on the same device."""
        mean, std = self._mean_std(pixels)
        return (pixels.float() / 255 - mean) / std

    def denormalize(self, x: Tensor) -> Tensor:
        """Undo `normalize`, for display: (..., 3, H, W) as the network sees it -> 0..1."""
        mean, std = self._mean_std(x)
        return (x * std + mean).clamp(0, 1)

    def _mean_std(self, like: Tensor) -> list[Tensor]:
        return [torch.tensor(values, device=like.device).view(3, 1, 1) for values in (self.mean, self.std)]

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return what the square covers, in the image's pixels: left, top, right, bottom. Bars lie outside of it."""
        if self.resize == "squash":
            return 0, 0, width, height
        side = max(width, height) if self.resize == "pad" else min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def filled(self, width: int, height: int) -> tuple[int, int]:
        """Return the columns and rows of the square that "pad" gives to an image; the rest are bars."""
        longest = torch.sym_max(width, height)  # symbolic, as the sizes are while a network is exported
        return tuple(torch.sym_max(1, (2 * self.size * side + longest) // (2 * longest)) for side in (width, height))

    @property
    def bar_color(self) -> tuple[int, int, int]:
        """The colour of the bars: `mean` in 0..255."""
        return tuple(round(255 * min(max(value, 0.0), 1.0)) for value in self.mean)

    def to_dict(self) -> dict:
        """Return plain values, as the .pth keeps them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> "Preprocess":
        """Undo `to_dict`. Raises ValueError or TypeError for other values."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


NORMALIZATIONS = {"imagenet": Preprocess(), "half": Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))}


# ---- training: each image is a little different every time


def resize_batch(pixels: Tensor, side: int) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3, side, side), antialiased; uint8 on the CPU, float32 elsewhere."""
    if pixels.shape[-1] == side:
        return pixels
    if pixels.device.type != "cpu":  # other devices resize floating-point numbers only
        pixels = pixels.float()
    return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Augment:
    """Random resized crop, flip, colour jitter and random erasing of a whole batch, on the device it lies on.

    The crop is that of Szegedy et al., "Going Deeper with Convolutions", 2014: a share of the area and an aspect ratio
    are drawn, and what lies inside is resized to the full square.

    Attributes:
        min_area: smallest share of the image's area that a crop keeps; the largest is all of it.
        ratio: a crop's width / height lies between 1 / ratio and ratio, and nearer to 1 where it would not fit.
        flip: whether half of the images are mirrored left to right.
        color: brightness, contrast and saturation are multiplied by a factor between 1 - color and 1 + color.
        erasing: share of the images of which a rectangle, a fiftieth to a third of the area, becomes grey, as in Zhong
            et al., "Random Erasing Data Augmentation", 2017: so that no single detail is relied on.
    """

    min_area: float = 0.65
    ratio: float = 4 / 3
    flip: bool = True
    color: float = 0.3
    erasing: float = 0.0

    def __call__(
        self, pixels: Tensor, size: int, generator: torch.Generator, first: int = 0, batch_size: int | None = None
    ) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, 3, size, size) float32 in 0..255.

        All random numbers come from `generator`, on the CPU, and so are the same for every device. Of images that are a
        part of a larger batch, `first` is the index of the first one in it, and `batch_size` its size: they are changed
        as they would be if the whole batch were there.
        """
        n = len(pixels)

        def rand(*shape: int) -> Tensor:  # (..., N) in 0..1
            return torch.rand(*shape, batch_size or n, generator=generator)[..., first : first + n]

        def uniform(low: float, high: float) -> Tensor:  # (N,)
            return rand() * (high - low) + low

        area, stretch = uniform(self.min_area, 1), uniform(-math.log(self.ratio), math.log(self.ratio)).div(2).exp()
        side = area.sqrt()
        stretch = stretch.clamp(side, 1 / side)  # so that it lies within the image
        width, height = side * stretch, side / stretch
        left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)  # of its centre; the edges are at -1, 1
        mirror = torch.where(uniform(0, 1) < 0.5, -width, width) if self.flip else width
        brightness, contrast, saturation = (uniform(1 - self.color, 1 + self.color).view(n, 1, 1) for _ in range(3))
        area, stretch = uniform(0.02, 0.33), uniform(-math.log(3), math.log(3)).div(2).exp()
        area = torch.where(uniform(0, 1) < self.erasing, area, 0)
        sides = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch]).clamp(max=1)  # (2, N): height and width
        corners = rand(2) * (1 - sides)  # of the erased part

        # where in the image each column and each row of the result is taken from, (N, size)
        at = (torch.arange(size) + 0.5) / size
        last = 1 - 1 / torch.tensor([pixels.shape[3], pixels.shape[2]])  # the outermost pixels
        x = (mirror[:, None] * (2 * at - 1) + left[:, None]).clamp(-last[0], last[0])
        y = (height[:, None] * (2 * at - 1) + top[:, None]).clamp(-last[1], last[1])
        erased = (corners[..., None] <= at) & (at < (corners + sides)[..., None])  # (2, N, size): rows, columns
        # saturation s: p + (s - 1)(p - grey of the pixel); contrast: (p - mean) c + mean; brightness: p b
        color = torch.eye(3) * saturation + torch.ones(3, 3) / 3 * (1 - saturation)  # (N, 3, 3)
        color, offset = brightness * contrast * color, brightness * (1 - contrast)

        x, y, erased, color, offset = (values.to(pixels.device) for values in (x, y, erased, color, offset))
        grid = torch.stack([x[:, None, :].expand(n, size, size), y[:, :, None].expand(n, size, size)], dim=3)
        pixels = F.grid_sample(pixels.contiguous().float(), grid, mode="bilinear", align_corners=False)
        mean = pixels.mean(dim=(1, 2, 3)).view(n, 1, 1)
        pixels = torch.baddbmm(offset * mean, color, pixels.view(n, 3, -1)).clamp_(0, 255).view(n, 3, size, size)
        if self.erasing:
            pixels.masked_fill_(erased[0][:, None, :, None] & erased[1][:, None, None, :], 127.5)
        return pixels


@dataclass
class TrainingInput:
    """Turn decoded images into what the network learns from: augmented, normalized, mixed."""

    augment: Augment | None
    mix: str  # a key of MIXES
    classes: int
    preprocess: Preprocess
    memory_format: torch.memory_format

    def __post_init__(self):
        from torchvision.transforms import v2  # slow to import, and whoever loads a .pth needs this file

        mixes = [getattr(v2, name)(num_classes=self.classes) for name in MIXES[self.mix]]
        self._mixer = v2.RandomChoice(mixes) if mixes else v2.Identity()

    def __call__(
        self, pixels: Tensor, labels: Tensor, side: int, seed: int, first: int, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) uint8, (N,) -> (N, 3, side, side), and (N,) or, of mixed images, probabilities (N, classes).

        All random numbers of the step, dropout's too, follow from `seed` and from `first`, the index of the first of
        these images in the step's batch, so there is no state to save.
        """
        torch.manual_seed(seed + (first << 40))
        if self.augment:
            generator = torch.Generator().manual_seed(seed)
            pixels = resize_batch(pixels, round(side * CROP_MARGIN))
            pixels = self.augment(pixels, side, generator, first, batch_size)
        x = self.preprocess.normalize(resize_batch(pixels, side)).contiguous(memory_format=self.memory_format)
        return self._mixer(x, labels)
