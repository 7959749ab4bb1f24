"""Measure whether class activation maps show what a prediction rests on: what they point at is blurred.

    python -m benchmarks.heatmap module/catdog-resnet18.pth --data dataset

Of each image a fifth of the area is blurred: where the map is strongest, or at random places of the same coarseness.
The better a map, the further the probability of the class falls (the deletion test of Petsiuk et al., "RISE", 2018,
with blur in place of black, which is unlike any photograph). The log odds of a class fall also where its probability
is near 0 or 1 before and after.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from benchmarks.__main__ import table
from classifier import checkpoint as checkpoints
from classifier.data import image_folder, loaders
from classifier.device import select_compute
from classifier.inference import calibration
from classifier.inference.cam import cam_predictor

BLURRED_AREA = 0.2  # share of the image
BLUR_STD = 1 / 12  # share of the side


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("dataset"))
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    weights = checkpoints.load(options.weights)
    folder = calibration.balanced_subset(image_folder.read_folder(options.data / "test"), options.images)
    compute = select_compute("cpu", "fp32")
    predict = cam_predictor(weights, compute)

    falls: dict[tuple[str, str], list[Tensor]] = {}
    torch.manual_seed(0)
    batches = loaders.loader(loaders.ImageDataset(folder, weights.preprocess), 25)
    for images, _ in loaders.on_device(batches, compute.device):
        before, maps = predict(images)
        for rank, which in enumerate(("best class", "second")):
            chosen = before.logits.topk(2).indices[:, rank : rank + 1]
            for name, values in (("class activation map", maps), ("random", torch.randn_like(maps))):
                after, _ = predict(blurred(images, values[torch.arange(len(values)), chosen[:, 0]]))
                found = [part.probabilities.gather(1, chosen)[:, 0] for part in (before, after)]
                odds = [probabilities.logit(1e-6) for probabilities in found]
                falls.setdefault((which, name), []).append(torch.stack([found[0] - found[1], odds[0] - odds[1]]))
    rows = [("class", "map", "probability falls by", "log odds fall by")]
    for (which, name), parts in falls.items():
        values = torch.cat(parts, 1)
        error = values.std(1) / values.shape[1] ** 0.5
        rows.append((which, name, *(f"{mean:.3f} ± {e:.3f}" for mean, e in zip(values.mean(1), error, strict=True))))
    print(f"{weights.model}, {len(folder.paths)} images; mean ± standard error\n\n{table(rows)}")


def blurred(images: Tensor, values: Tensor) -> Tensor:
    """Return images (N, 3, S, S) uint8, blurred where the map (N, h, w) is strongest."""
    side = images.shape[-1]
    fine = F.interpolate(values[:, None], (side, side), mode="bicubic")
    bound = fine.flatten(1).quantile(1 - BLURRED_AREA, dim=1).view(-1, 1, 1, 1)
    std = BLUR_STD * side
    return torch.where(fine > bound, gaussian_blur(images, 2 * round(2 * std) + 1, std), images)


if __name__ == "__main__":
    main()
