"""Training only: a batch of pictures, each a little different every time it is shown.

A whole batch is changed at once on the device it lies on. The random numbers come from one generator, so the same
seed shows the same pictures again.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augment:
    """Random crop and flip, brightness and contrast.

    The crop is the one of Szegedy et al., "Going Deeper with Convolutions", 2014: a share of the area and an aspect
    ratio are drawn, and what lies inside is scaled to the full square.

    Attributes:
        size: side of the result in pixels.
        area: smallest share of the picture's area that a crop keeps; the largest is all of it.
        ratio: a crop's width / height lies between 1 / ratio and ratio.
        flip: whether half of the pictures are mirrored left to right.
        color: brightness and contrast are multiplied by something between 1 - color and 1 + color.
    """

    size: int
    area: float = 0.35
    ratio: float = 4 / 3
    flip: bool = True
    color: float = 0.3

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, 3, size, size) float32 in 0..255. `generator` is a CPU generator."""
        n = len(pixels)

        def uniform(low: float, high: float) -> Tensor:  # (N,), drawn on the CPU so that every device gets the same
            return torch.rand(n, generator=generator) * (high - low) + low

        area, stretch = uniform(self.area, 1), uniform(-math.log(self.ratio), math.log(self.ratio)).div(2).exp()
        width, height = (area.sqrt() * stretch).clamp(max=1), (area.sqrt() / stretch).clamp(max=1)
        left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)
        mirror = torch.where(uniform(0, 1) < 0.5, -width, width) if self.flip else width
        zero = torch.zeros(n)
        # (N, 2, 3): where in the picture, whose corners are (-1, -1) and (1, 1), each point of the result is taken from
        theta = torch.stack([mirror, zero, left, zero, height, top], dim=1).view(n, 2, 3)
        brightness, contrast = uniform(1 - self.color, 1 + self.color), uniform(1 - self.color, 1 + self.color)

        theta, brightness, contrast = (values.to(pixels.device) for values in (theta, brightness, contrast))
        grid = F.affine_grid(theta, [n, 3, self.size, self.size], align_corners=False)  # (N, size, size, 2)
        last = 1 - 1 / torch.tensor([pixels.shape[3], pixels.shape[2]], device=pixels.device)
        grid = grid.clamp(-last, last)  # to the outermost pixels: padding_mode="border", which not every device has
        pixels = F.grid_sample(pixels.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        pixels = pixels * brightness.view(n, 1, 1, 1)
        mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
        return ((pixels - mean) * contrast.view(n, 1, 1, 1) + mean).clamp(0, 255)
