"""Image to tensor. `Preprocess` travels inside the .pth, so a network always sees images as it did in training."""

import os
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from classifier.data.images import load_image

INTERPOLATIONS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
RESIZES = ("crop", "squash")

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes what the network sees.

    Attributes:
        size: side of the square in pixels.
        resize: "crop" takes the largest square from the centre, "squash" ignores the proportions.
        mean, std: of each channel in 0..1; a value v becomes (v - mean) / std.
        interpolation: "bilinear" or "bicubic", both antialiased.
    """

    size: int = 224
    resize: str = "crop"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bilinear"

    def __post_init__(self):
        if self.resize not in RESIZES or self.interpolation not in INTERPOLATIONS or not 1 <= self.size <= 4096:
            raise ValueError(f"unknown preprocessing: {self}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean and std need three values each, std above 0: {self}")

    def read(self, source: str | os.PathLike | bytes) -> Tensor:
        """An image's file, or the bytes of one -> (3, size, size) uint8. Raises ImageError."""
        return self.pixels(load_image(source, self.size))

    def pixels(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, size, size) uint8."""
        square = image.resize((self.size, self.size), INTERPOLATIONS[self.interpolation], box=self.box(*image.size))
        return torch.from_numpy(np.array(square)).permute(2, 0, 1)

    def normalize(self, pixels: Tensor) -> Tensor:
        """(..., 3, H, W), uint8 or float in 0..255 -> float32 of the same shape, on the same device."""
        mean, std = self._mean_std(pixels)
        return (pixels.float() / 255 - mean) / std

    def denormalize(self, x: Tensor) -> Tensor:
        """The other way round: (..., 3, H, W) as the network sees it -> 0..1, for showing."""
        mean, std = self._mean_std(x)
        return (x * std + mean).clamp(0, 1)

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image -> (3, size, size) float32, what the network takes."""
        return self.normalize(self.pixels(image))

    def _mean_std(self, like: Tensor) -> list[Tensor]:
        return [torch.tensor(values, device=like.device).view(3, 1, 1) for values in (self.mean, self.std)]

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of the image that is kept: left, top, right, bottom."""
        if self.resize == "squash":
            return 0, 0, width, height
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def to_dict(self) -> dict:
        """Plain values, as the .pth keeps them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict) -> "Preprocess":
        """The other way round. Raises ValueError or TypeError for values that are none."""
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


NORMALIZATIONS = {"imagenet": Preprocess(), "half": Preprocess(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))}
