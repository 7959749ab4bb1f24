"""Training only: a batch of images, each a little different every time it is shown.

A whole batch is changed at once on the device it lies on. The random numbers come from one generator, so the same
seed shows the same images again.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from classifier.data.transforms import Preprocess

MIXES = {"off": (), "mixup": (v2.MixUp,), "cutmix": (v2.CutMix,), "both": (v2.MixUp, v2.CutMix)}
MARGIN = 1.25  # a crop has about the size of what comes of it if it is cut from images this much larger


def scaled(pixels: Tensor, side: int) -> Tensor:
    """(N, 3, S, S) uint8 -> (N, 3, side, side), antialiased; uint8 on the CPU, float32 elsewhere."""
    if pixels.shape[-1] == side:
        return pixels
    if pixels.device.type != "cpu":  # other devices scale floating-point numbers only
        pixels = pixels.float()
    return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)


@dataclass(frozen=True)
class Augment:
    """Random crop and flip; brightness, contrast and saturation; a covered part.

    The crop is the one of Szegedy et al., "Going Deeper with Convolutions", 2014: a share of the area and an aspect
    ratio are drawn, and what lies inside is scaled to the full square.

    Attributes:
        area: smallest share of the image's area that a crop keeps; the largest is all of it.
        ratio: a crop's width / height lies between 1 / ratio and ratio, and nearer to 1 where it would not fit.
        flip: whether half of the images are mirrored left to right.
        color: brightness, contrast and saturation are multiplied by something between 1 - color and 1 + color.
        cover: share of the images of which a rectangle, a fiftieth to a third of the area, becomes grey, as in Zhong
            et al., "Random Erasing Data Augmentation", 2017: so that no single detail is relied on.
    """

    area: float = 0.65
    ratio: float = 4 / 3
    flip: bool = True
    color: float = 0.3
    cover: float = 0.0

    def __call__(
        self, pixels: Tensor, size: int, generator: torch.Generator, place: int = 0, batch: int | None = None
    ) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, 3, size, size) float32 in 0..255. `generator` is a CPU generator.

        Where the images are a part of a batch, those from `place` on of `batch`, the same becomes of them as if the
        whole batch were there.
        """
        n = len(pixels)

        def rand(*shape: int) -> Tensor:  # (..., N) in 0..1, drawn on the CPU so that every device gets the same
            return torch.rand(*shape, batch or n, generator=generator)[..., place : place + n]

        def uniform(low: float, high: float) -> Tensor:  # (N,)
            return rand() * (high - low) + low

        area, stretch = uniform(self.area, 1), uniform(-math.log(self.ratio), math.log(self.ratio)).div(2).exp()
        side = area.sqrt()
        stretch = stretch.clamp(side, 1 / side)  # so that it lies within the image
        width, height = side * stretch, side / stretch
        left, top = uniform(-1, 1) * (1 - width), uniform(-1, 1) * (1 - height)  # of its centre; the edges are at -1, 1
        mirror = torch.where(uniform(0, 1) < 0.5, -width, width) if self.flip else width
        brightness, contrast, saturation = (uniform(1 - self.color, 1 + self.color).view(n, 1, 1) for _ in range(3))
        area, stretch = uniform(0.02, 0.33), uniform(-math.log(3), math.log(3)).div(2).exp()
        area = torch.where(uniform(0, 1) < self.cover, area, 0)
        sides = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch]).clamp(max=1)  # (2, N): height and width
        corners = rand(2) * (1 - sides)  # of the covered part

        # where in the image each column and each row of the result is taken from, (N, size)
        at = (torch.arange(size) + 0.5) / size
        last = 1 - 1 / torch.tensor([pixels.shape[3], pixels.shape[2]])  # the outermost pixels
        x = (mirror[:, None] * (2 * at - 1) + left[:, None]).clamp(-last[0], last[0])
        y = (height[:, None] * (2 * at - 1) + top[:, None]).clamp(-last[1], last[1])
        hidden = (corners[..., None] <= at) & (at < (corners + sides)[..., None])  # (2, N, size): rows, columns
        # saturation s: p + (s - 1)(p - grey of the pixel); contrast: (p - mean) c + mean; brightness: p b
        color = torch.eye(3) * saturation + torch.ones(3, 3) / 3 * (1 - saturation)  # (N, 3, 3)
        color, offset = brightness * contrast * color, brightness * (1 - contrast)

        x, y, hidden, color, offset = (values.to(pixels.device) for values in (x, y, hidden, color, offset))
        grid = torch.stack([x[:, None, :].expand(n, size, size), y[:, :, None].expand(n, size, size)], dim=3)
        pixels = F.grid_sample(pixels.contiguous().float(), grid, mode="bilinear", align_corners=False)
        mean = pixels.mean(dim=(1, 2, 3)).view(n, 1, 1)
        pixels = torch.baddbmm(offset * mean, color, pixels.view(n, 3, -1)).clamp_(0, 255).view(n, 3, size, size)
        if self.cover:
            pixels.masked_fill_(hidden[0][:, None, :, None] & hidden[1][:, None, None, :], 127.5)
        return pixels


class TrainingInput:
    """Images from the cache to what the network learns from.

    Args:
        augment: what changes them, or None.
        mix: a name in MIXES.
        classes: their number.
        preprocess: normalises them.
        memory_format: of the result.
    """

    def __init__(
        self,
        augment: Augment | None,
        mix: str,
        classes: int,
        preprocess: Preprocess,
        memory_format: torch.memory_format,
    ):
        kinds = [mixing(num_classes=classes) for mixing in MIXES[mix]]
        self.augment, self.preprocess, self.memory_format = augment, preprocess, memory_format
        self.mix = v2.RandomChoice(kinds) if kinds else None
        self.constant = not augment and not kinds  # each image looks the same in every epoch

    def __call__(
        self, pixels: Tensor, labels: Tensor, side: int, seed: int, place: int, batch: int
    ) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) uint8, (N,) -> (N, 3, side, side), (N,) or, of mixed images, shares (N, classes).

        Features (N, C) stay as they are. All random numbers of the step, dropout's too, come from `seed` and from the
        `place` that the first of these images has in the step's `batch` of images, so there is no state to save.
        """
        torch.manual_seed(seed + (place << 40))
        if pixels.ndim == 2:
            return pixels, labels
        if self.augment:
            generator = torch.Generator().manual_seed(seed)
            pixels = self.augment(scaled(pixels, round(side * MARGIN)), side, generator, place, batch)
        x = self.preprocess.normalize(scaled(pixels, side)).contiguous(memory_format=self.memory_format)
        return self.mix(x, labels) if self.mix else (x, labels)
