"""Do heat maps show what an answer rests on? What they point at is blurred, and the answer asked for again.

    python -m benchmarks.heatmap module/catdog-resnet18.pth --data dataset

Of each image a fifth of the area is blurred: where the map is strongest, or at random places of the same coarseness.
The better a map, the further the probability of the class falls (the deletion test of Petsiuk et al., "RISE", 2018,
with blur in place of black, which is unlike any photograph). The log odds of a class fall also where its probability
is near 0 or 1 before and after.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

from benchmarks.__main__ import table
from classifier import checkpoint as checkpoints
from classifier.data import image_folder, loaders
from classifier.device import Compute
from classifier.inference import calibration
from classifier.inference.cam import cam_predictor
from classifier.inference.predictor import with_feature_maps

CPU = Compute(torch.device("cpu"), torch.float32, torch.channels_last, "", "")
AREA = 0.2  # that is blurred
BLUR = 1 / 12  # standard deviation, of the side


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("dataset"))
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    weights = checkpoints.load(options.weights)
    folder = calibration.balanced_subset(image_folder.read_folder(options.data / "test"), options.images)
    look, plain = cam_predictor(weights, CPU), plain_maps(weights)

    falls: dict[tuple[str, str], list[Tensor]] = {}
    torch.manual_seed(0)
    batches = loaders.loader(loaders.ImageDataset(folder, weights.preprocess), 25)
    for pixels, _ in loaders.on_device(batches, CPU.device):
        answers, maps = look(pixels)
        ways = {"less the mean of the classes": maps, "plain": plain(pixels), "random": torch.randn_like(maps)}
        for rank, which in enumerate(("best class", "second")):
            chosen = answers.logits.topk(2).indices[:, rank]
            for way, values in ways.items():
                values = values[torch.arange(len(values)), chosen]
                after, _ = look(blurred(pixels, values))
                found = [of_class(part.probabilities, chosen) for part in (answers, after)]
                probability = found[0] - found[1]
                odds = found[0].logit(1e-6) - found[1].logit(1e-6)
                falls.setdefault((which, way), []).append(torch.stack([probability, odds]))
    lines = [("class", "map", "probability falls by", "log odds fall by")]
    for (which, way), parts in falls.items():
        values = torch.cat(parts, 1)
        error = values.std(1) / values.shape[1] ** 0.5
        lines.append((which, way, *(f"{mean:.3f} +- {e:.3f}" for mean, e in zip(values.mean(1), error, strict=True))))
    print(f"{weights.model}, {len(folder.paths)} images; mean +- standard error\n\n{table(lines)}")


def plain_maps(weights: checkpoints.Checkpoint) -> Callable[[Tensor], Tensor]:
    """Class activation maps as in the paper, without the mean of the classes taken off."""
    network = weights.network()
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    see = with_feature_maps(network, CPU)
    return lambda pixels: torch.einsum(
        "kc,nchw->nkhw", linear.weight.detach(), see(weights.preprocess.normalize(pixels))[2].detach()
    )


def of_class(values: Tensor, chosen: Tensor) -> Tensor:
    """(N, classes), (N,) -> (N,)"""
    return values.gather(1, chosen[:, None])[:, 0]


def blurred(pixels: Tensor, values: Tensor) -> Tensor:
    """(N, 3, S, S) uint8, blurred where the map (N, h, w) is strongest."""
    side = pixels.shape[-1]
    fine = F.interpolate(values[:, None], (side, side), mode="bicubic")
    bound = fine.flatten(1).quantile(1 - AREA, dim=1).view(-1, 1, 1, 1)
    sigma = BLUR * side
    soft = gaussian_blur(pixels, 2 * round(2 * sigma) + 1, sigma)
    return torch.where(fine > bound, soft, pixels)


if __name__ == "__main__":
    main()
