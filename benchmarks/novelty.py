"""Measure how well out-of-distribution images are recognised: benchmarks/novelty.md.

    python -m benchmarks.novelty module/catdog-resnet18.pth --known dataset --other flowers=FOLDER bees=FOLDER

The known images are those of dataset/test; the scores are fitted on dataset/train, of which the same validation
images are set aside as when the weights were trained. Of each class and set the same images are taken every time.

Images of another collection also differ in how they were made, and a blurred flower is easily told from a sharp cat
by the blur. So the sharpness alone is a score of the table as well, and each comparison is made a second time with the
sharper of the two sets made as blurred as the other one.
"""

import argparse
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor

from benchmarks.__main__ import HERE, table
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.data import image_folder, loaders
from classifier.data.image_folder import ImageFolder
from classifier.device import Compute, select_compute
from classifier.inference import calibration
from classifier.inference.calibration import KNOWN_SHARE
from classifier.inference.predictor import ood_score, with_features

BATCH = 64
SHARES = [*(x / 100 for x in range(10, 100, 5)), 1.0]  # of the side, to which images are shrunk
FINE = 0.2  # cycles per pixel, above which a detail is fine


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("--known", type=Path, required=True, help="dataset with train/ and test/ of the classes")
    parser.add_argument("--other", nargs="+", required=True, metavar="NAME=FOLDER", help="images of something else")
    parser.add_argument("--images", type=int, default=1000, help="of each set, at most")
    options = parser.parse_args()
    weights = checkpoints.load(options.weights)
    compute = select_compute("auto", "auto")
    training, validation = image_folder.train_and_val(options.known, weights.settings["val"])
    answer = with_features(weights.network(), compute)

    sets = {"validation": validation, "known": image_folder.read_folder(options.known / "test")}
    for entry in options.other:
        name, _, root = entry.partition("=")
        sets[name] = OneClass(Path(root))
        if not len(sets[name]):
            sys.exit(f"{entry}: no images there; expected NAME=FOLDER")
    some = {name: calibration.balanced_subset(part, options.images) for name, part in sets.items()}
    pixels = {name: pixels_of(part, weights) for name, part in some.items()}
    weights.ood_stats = calibration.fit_ood(weights, compute, training, validation)
    learned = calibration.balanced_subset(training)
    last = features(pixels_of(learned, weights), weights, answer, compute)[1][-1]
    far = distance_to_means(last, torch.tensor(list(learned.labels)))

    def scores(some: Tensor) -> dict[str, Tensor]:
        found = scores_of(*features(some, weights, answer, compute), weights, far)
        return found | {"sharpness alone": -sharpness(some)}

    rows = {name: scores(pixels[name]) for name in ("validation", "known")}
    bounds = {name: values.quantile(KNOWN_SHARE) for name, values in rows["validation"].items()}
    bounds["this project's"] = torch.tensor(weights.ood_stats["threshold"])
    lines, notes = [("", "score", "AUROC", "not noticed", "AUROC, equally sharp")], []
    for name in list(sets)[2:]:
        found = scores(pixels[name])
        share, blurred = equally_sharp(pixels["known"], pixels[name])
        pair = {"known": pixels["known"], "other": pixels[name]}
        pair[blurred] = shrunk(pair[blurred], share)
        equal = [scores(part) for part in pair.values()]
        for score, bound in bounds.items():
            missed = (found[score] <= bound).double().mean()
            aurocs = auroc(rows["known"][score], found[score]), auroc(equal[0][score], equal[1][score])
            lines.append((name, score, aurocs[0], f"{missed:.0%}", aurocs[1]))
        who = "test images" if blurred == "known" else name
        flagged = (equal[0]["this project's"] > bounds["this project's"]).double().mean()
        notes.append(
            f"- {name}, {len(pixels[name]):,} images; equally sharp: {who} shrunk to {share:.0%} of the side and back"
            + f", when {flagged:.0%} of the test images are out of distribution" * (blurred == "known")
        )
    kept = [f"{score} {(values > bounds[score]).double().mean():.1%}" for score, values in rows["known"].items()]
    notes.append(
        f"\nOf {len(pixels['known']):,} test images of the classes, {1 - KNOWN_SHARE:.0%} should exceed the threshold: "
        f"{', '.join(kept)}."
    )
    text = report(options.weights, weights, lines, notes)
    (HERE / "novelty.md").write_text(text, encoding="utf-8")
    print(text)


def report(path: Path, weights: Checkpoint, lines: list[tuple], notes: list[str]) -> str:
    """Return novelty.md."""
    return (
        f"# Out-of-distribution images\n\nWritten by `python -m benchmarks.novelty {path.as_posix()} --known DATASET "
        f"--other NAME=FOLDER ...` on {date.today()}: {weights.model}, {', '.join(weights.classes)}, fitted on at "
        f"most {calibration.MAX_OOD_IMAGES:,} training and as many validation images. AUROC: how often an image of "
        "something else scores higher than a test image of the classes; 0.5 is chance. Not noticed: the share below "
        f"the threshold that keeps {KNOWN_SHARE:.0%} of the validation images.\n\n"
        f"{table(lines)}\n\n" + "\n".join(notes) + "\n\n"
        "An AUROC that sharpness alone reaches as well says nothing about what the images show; the last column does.\n"
    )


class OneClass(ImageFolder):
    """The images of a folder without classes."""

    def find_classes(self, directory: Path) -> tuple[list[str], dict[str, int]]:
        """Return one class, the folder itself."""
        return ["."], {".": 0}


def pixels_of(folder: ImageFolder, weights: Checkpoint) -> Tensor:
    """(N, 3, S, S) uint8."""
    batches = loaders.loader(loaders.ImageDataset(folder, weights.preprocess, threads=2), BATCH)
    return torch.cat([pixels for pixels, _ in loaders.on_device(batches, torch.device("cpu"))])


def features(pixels: Tensor, weights: Checkpoint, answer: Callable, compute: Compute) -> tuple[Tensor, list[Tensor]]:
    """Logits and features, as novelty.features_of gives them, of pixels (N, 3, S, S) uint8."""
    batches = ((part.to(compute.device), part) for part in pixels.split(BATCH))
    return calibration.infer_features(answer, batches, weights.preprocess)


def distance_to_means(learned: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """How far features (N, D) are from the nearest class's mean: Mahalanobis's distance, of Lee et al., 2018.

    Args:
        learned: the features of training images, (M, D).
        labels: their classes, (M,).
    """
    means = torch.stack([learned[labels == label].mean(0) for label in labels.unique()])
    inverse = torch.from_numpy(LedoitWolf(assume_centered=True).fit((learned - means[labels]).numpy()).precision_)

    def distance(found: Tensor) -> Tensor:
        away = found[:, None] - means  # (N, classes, D)
        return ((away @ inverse.to(away.dtype)) * away).sum(2).amin(1)

    return distance


def scores_of(
    logits: Tensor, features: list[Tensor], weights: Checkpoint, far: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Of N images, each (N,): the larger, the more unlike."""
    return {
        "this project's": ood_score(weights.ood_stats, features),
        "distance to class means": far(features[-1]),
        "max softmax": -logits.softmax(1).amax(1),  # Hendrycks and Gimpel, 2017
        "energy": -logits.logsumexp(1),  # Liu et al., 2020
    }


def sharpness(pixels: Tensor) -> Tensor:
    """(N,): the logarithm of the share of fine details in the brightness's variance."""
    side = pixels.shape[-1]
    window = torch.hann_window(side, periodic=False)
    away = torch.fft.fftfreq(side).square()
    fine = (away[:, None] + away[None]).sqrt() > FINE
    found = []
    for part in pixels.split(BATCH):
        grey = part.float().mean(1)
        grey = (grey - grey.mean((1, 2), keepdim=True)) * window[:, None] * window
        power = torch.fft.fft2(grey).abs().square()
        found.append((power[:, fine].sum(1) / (power.sum((1, 2)) + 1e-9) + 1e-9).log10())
    return torch.cat(found)


def shrunk(pixels: Tensor, share: float) -> Tensor:
    """The same images, shrunk to a share of their side and enlarged again."""
    side = pixels.shape[-1]
    size = {"mode": "bilinear", "antialias": True}
    parts = (F.interpolate(part.float(), round(share * side), **size) for part in pixels.split(BATCH))
    return torch.cat([F.interpolate(part, side, **size).round().to(torch.uint8) for part in parts])


def equally_sharp(known: Tensor, other: Tensor) -> tuple[float, str]:
    """To which share the sharper set has to be shrunk, and which one that is: "known" or "other"."""
    medians = [sharpness(part).median() for part in (known, other)]
    blurred = "known" if medians[0] > medians[1] else "other"
    sharper = (known if blurred == "known" else other)[:: max(1, len(known) // 200)]
    differences = [(sharpness(shrunk(sharper, share)).median() - min(medians)).abs().item() for share in SHARES]
    return SHARES[differences.index(min(differences))], blurred


def auroc(known: Tensor, other: Tensor) -> str:
    """Return how often a value of `other` is larger than one of `known`; equal ones count half."""
    truth = [0] * len(known) + [1] * len(other)
    return f"{roc_auc_score(truth, torch.cat([known, other]).double()):.3f}"


if __name__ == "__main__":
    main()
