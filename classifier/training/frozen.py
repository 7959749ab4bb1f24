"""--freeze: only the last layer learns. Without augmentation, from features that are computed once."""

import copy
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from classifier import distributed
from classifier.cli import UserError, plural
from classifier.data.image_folder import ImageFolder
from classifier.data.loaders import ImageDataset, loader, on_device
from classifier.data.transforms import NORMALIZATIONS, Preprocess
from classifier.device import Compute, select_compute
from classifier.evaluation import metrics
from classifier.inference.predictor import optimize_for_inference
from classifier.training import pretrained
from classifier.training.config import IMAGENET, LARGEST_BATCH, TrainConfig, parse_config, peek
from classifier.training.datasets import Loaders
from classifier.training.run import check_image_size
from zoo import MODELS

# The inverse of the L2 penalty, scikit-learn's C, to choose from. Small ones first: each fit begins at the one before.
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
MAX_ITERATIONS = 1000  # of L-BFGS


def last_layer(model: nn.Module) -> nn.Linear:
    """Return the linear layer that computes the logits."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def freeze(model: nn.Module) -> None:
    """Let only the last layer learn."""
    model.requires_grad_(False)
    last_layer(model).requires_grad_(True)


def fit_last_layer(
    model: nn.Module, ema: nn.Module, data: Loaders, compute: Compute, class_weights: Tensor | None
) -> tuple[float, float, int, float]:
    """Compute the features of all images once and fit the last layer of `model` and `ema` to them, in place.

    Returns the sum of losses, the correct predictions and the number of training images in all processes, and seconds.
    """
    start = time.perf_counter()
    parts = (features(model, batches, data.preprocess, compute) for batches in (data.train_once, data.val))
    (x, labels), validation = parts
    if len(labels.unique()) < last_layer(model).out_features:  # of few shards, of which an epoch omits images
        raise UserError("The features computed lack a whole class. Use folders or fewer shards, or leave out --freeze.")
    layer, strength = distributed.run_on_main_and_broadcast(lambda: fit_best(x, labels, *validation, class_weights))
    for network in (model, ema):
        last_layer(network).load_state_dict(layer.state_dict())
    print(f"last layer fitted to the features of {plural(len(x), 'image')}, C {strength:g}", flush=True)
    logits = layer(x)
    correct = round(metrics.accuracy(logits, labels) * len(x))
    return metrics.loss(logits, labels) * len(x), correct, len(x), time.perf_counter() - start


def features(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], preprocess: Preprocess, compute: Compute
) -> tuple[Tensor, Tensor]:
    """Return the input of the last layer (N, D) float32, and the labels (N,), of all processes' images, on the CPU."""
    trunk = copy.deepcopy(model)
    head = last_layer(trunk)
    trunk.set_submodule(next(name for name, module in trunk.named_modules() if module is head), nn.Identity())
    bar = tqdm(batches, desc="features", unit="batch", leave=False, disable=distributed.DISABLE_TQDM)
    own = metrics.infer(optimize_for_inference(trunk, compute), on_device(bar, compute.device), preprocess)
    parts = distributed.all_gather_object(own)
    x, labels = map(torch.cat, zip(*parts, strict=True))
    places = [torch.arange(len(part)) * len(parts) + rank for rank, (_, part) in enumerate(parts)]
    order = torch.cat(places).argsort()  # that of a single process
    return x[order], labels[order]


def fit_best(
    x: Tensor, labels: Tensor, val_x: Tensor, val_labels: Tensor, class_weights: Tensor | None = None
) -> tuple[nn.Linear, float]:
    """Return the last layer with the smallest loss on validation images, fitted to features (N, D); and its C."""
    layers = zip(fit(x, labels, STRENGTHS, class_weights), STRENGTHS, strict=True)
    return min(layers, key=lambda fitted: metrics.loss(fitted[0](val_x), val_labels))


def fit(x: Tensor, labels: Tensor, strengths: Iterable[float], class_weights: Tensor | None = None) -> list[nn.Linear]:
    """Return a linear layer for each C: multinomial logistic regression on features (N, D), with an L2 penalty.

    Each class from 0 on needs an image. Features are divided by their standard deviation, so that C means about the
    same for every network.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression  # not at the top: takes a second to import

    scale = x.std().clamp_min(1e-6)
    weights = None if class_weights is None else class_weights.cpu()[labels].numpy()
    regression, layers = LogisticRegression(max_iter=MAX_ITERATIONS, warm_start=True), []
    for regression.C in strengths:
        with warnings.catch_warnings():  # with little penalty, classes that can be told apart have no optimum
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings("ignore", "The number of unique classes")  # two images of each are allowed
            regression.fit((x / scale).numpy(), labels.numpy(), weights)
        weight, bias = (torch.from_numpy(values).float() for values in (regression.coef_, regression.intercept_))
        if len(weight) == 1:  # of two classes scikit-learn gives the difference
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        layer = nn.Linear(x.shape[1], len(weight)).requires_grad_(False)
        layer.load_state_dict({"weight": weight / scale, "bias": bias})
        layers.append(layer)
    return layers


# ---- for tools/: questions that features answer in seconds


def parse(description: str, argv: Sequence[str]) -> TrainConfig:
    """Return the command line of train.py with --freeze, and without --weights with ImageNet's EfficientNet-Lite0."""
    network = () if peek(argv).weights else ("--model", "efficientnet_lite0", "--weights", IMAGENET)
    cfg = parse_config(description, [*network, "--freeze", *argv])
    if cfg.teacher:
        raise UserError("Here the last layer is fitted to the labels. Leave out --teacher.")
    return cfg


def features_of(cfg: TrainConfig, folders: Sequence[ImageFolder]) -> list[tuple[Tensor, Tensor]]:
    """Return the features (N, D) of the images of each folder, and their labels (N,). Raises ImageError."""
    compute, classes = select_compute(cfg.device, cfg.precision), folders[0].classes
    model = MODELS[cfg.model](num_classes=len(classes))
    check_image_size(model, cfg)
    known = pretrained.load(model, cfg, classes).preprocess
    model = model.to(compute.device, memory_format=compute.memory_format)
    preprocess = replace(NORMALIZATIONS.get(cfg.normalize, known), size=cfg.size, resize=cfg.resize)
    datasets = (ImageDataset(folder, preprocess) for folder in folders)
    return [features(model, loader(images, LARGEST_BATCH, cfg.workers), preprocess, compute) for images in datasets]
