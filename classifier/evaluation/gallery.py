"""Images to look at in a report: those in each cell of the confusion matrix, and a map of all by their features."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from classifier.inference.predictor import Prediction

MAX_POINTS, MAX_IN_PROJECTOR = 2000, 500  # images on the map, and in TensorBoard's projector
SIDE, QUALITY = 72, 70  # of a thumbnail: pixels, WebP's quality
MAX_THUMBNAILS = 3_000_000  # characters of all in the page, to which figures add about 1 MB
ITERATIONS = 500  # of t-SNE: 4 s for 2,000 images


class Gallery(NamedTuple):
    """M of all N images: every n-th, at most MAX_POINTS, and some that are classified wrong."""

    indices: Tensor  # (M,) int64
    features: Tensor  # (M, D) float32: the input of the network's last layer
    thumbnails: Tensor  # (M, 3, SIDE, SIDE) uint8: what the network sees


def choose(indices: Tensor, n: int, pixels: Tensor, prediction: Prediction, labels: Tensor, room: int) -> Gallery:
    """Return the images of a batch that belong in the gallery; wrong ones as far as there is room."""
    wrong = prediction.logits.argmax(1) != labels.cpu()
    kept = (indices % -(-n // MAX_POINTS) == 0) | (wrong & (wrong.cumsum(0) <= room))
    small = [torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)]
    for i in kept.nonzero().flatten().tolist():  # one by one: a copy of all their pixels would take as long again
        small.append(F.interpolate(pixels[i : i + 1].cpu(), (SIDE, SIDE), mode="bilinear", antialias=True))
    return Gallery(indices[kept], prediction.features[kept], torch.cat(small))


def flat_map(features: Tensor) -> Tensor:
    """Return positions (M, 2) float64 from 0 to 1, alike features (M, D) close together; -1 for few or equal ones.

    By t-SNE (van der Maaten & Hinton 2008) of the 50 principal components.
    """
    if len(features) < 5 or not features.var(0).any():
        return torch.full((len(features), 2), -1.0, dtype=torch.float64)
    from sklearn.decomposition import PCA  # not at the top: scikit-learn takes a second
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # more threads wait for each other
        x = PCA(min(50, *features.shape), random_state=0).fit_transform(features.double().numpy())
        x = TSNE(perplexity=min(30, (len(x) - 1) / 3), max_iter=ITERATIONS, random_state=0).fit_transform(x)
    x = torch.from_numpy(x).double()
    return (x - x.amin(0)) / (x.amax(0) - x.amin(0)).clamp_min(1e-9)


def page_rows(gallery: Gallery, paths: Sequence[str], labels: Tensor, probabilities: Tensor) -> list[list]:
    """Return [path, label, prediction, confidence, x, y, thumbnail] of each image, the most confident first.

    `paths`, labels (N,) and probabilities (N, classes) are of all images; x and y are -1 off the map. Thumbnails go to
    wrong predictions first, then to others until the page is full.
    """
    is_mapped = gallery.indices % -(-len(paths) // MAX_POINTS) == 0
    places = torch.full((len(is_mapped), 2), -1.0, dtype=torch.float64)
    places[is_mapped] = flat_map(gallery.features[is_mapped])
    confidences, answers = probabilities[gallery.indices].double().max(1)
    cells = torch.stack([labels[gallery.indices], answers], 1).tolist()
    numbers = torch.cat([confidences[:, None], places], 1).round(decimals=4).tolist()
    order = confidences.argsort(descending=True, stable=True).tolist()
    thumbnails, room = {}, MAX_THUMBNAILS
    for i in sorted(order, key=lambda i: cells[i][0] == cells[i][1]):
        file = io.BytesIO()
        Image.fromarray(gallery.thumbnails[i].permute(1, 2, 0).numpy()).save(file, "WEBP", quality=QUALITY)
        url = "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
        if (room := room - len(url)) < 0:
            break
        thumbnails[i] = url
    return [[paths[gallery.indices[i]], *cells[i], *numbers[i], thumbnails.get(i, "")] for i in order]


def write_projector(gallery: Gallery, names: Sequence[tuple[str, str]], folder: Path) -> None:
    """Write features and thumbnails for TensorBoard's projector, with (label, prediction) of all N images."""
    from torch.utils.tensorboard import SummaryWriter  # not at the top: it takes a second

    some = slice(None, None, -(-len(gallery.indices) // MAX_IN_PROJECTOR))
    names, images = [names[i] for i in gallery.indices[some]], gallery.thumbnails[some] / 255
    with SummaryWriter(folder) as writer:
        writer.add_embedding(gallery.features[some], names, images, metadata_header=["label", "prediction"])
