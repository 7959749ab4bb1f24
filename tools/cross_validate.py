"""Cross-validation: every training image is judged by a network that has not learned from it.

    python tools/cross_validate.py --folds 5                     features once, then a last layer for each fold
    python tools/cross_validate.py --folds 5 --recipe quick      a whole training for each fold: any flags of train.py

Without flags that say how to train, the network is EfficientNet-Lite0, frozen, with ImageNet's weights
(requirements-pretrained.txt). Images that belong together (duplicates.csv, groups.csv) stay in one fold. The report,
logs/evaluate/cross-validation/<time>/report.html, has all scores over all images, the prediction of each, and the label
issues of the whole set, which app.py --review goes through with any network of these classes. A fold of a whole
training that was interrupted is resumed by the same command.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the project, when this is started as a script

import torch
from torch import Tensor

from classifier import checkpoint, cli
from classifier.cli import UserError, plural
from classifier.data import image_folder, loaders
from classifier.data.image_folder import ImageFolder
from classifier.device import select_compute
from classifier.evaluation import metrics, report
from classifier.evaluation.report import EvalResult
from classifier.inference.calibration import fit_temperature
from classifier.inference.predictor import build_predictor
from classifier.training import frozen
from classifier.training.config import TrainConfig, parse_config

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
NAME = "cross-validation"


def main(argv: Sequence[str] | None = None) -> None:
    """Train and predict fold by fold; print the accuracies, write the report."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--folds", type=int, default=5)
    own, flags = parser.parse_known_args(argv)
    if not 2 <= own.folds <= 100:
        raise UserError(f"--folds is {own.folds}; expected 2 to 100.")
    given = {word.partition("=")[0] for word in flags}
    is_whole = "--freeze" not in given and bool(given & {"--recipe", "--model", "--weights", "--epochs"})
    cfg = parse_config(__doc__, flags) if is_whole else frozen.parse(__doc__, flags)
    if image_folder.is_shards(cfg.data):
        raise UserError("Cross-validation needs folders of images, not shards: --data DIR.")
    root = Path(cfg.data)
    images = image_folder.read_folder(root / "train")
    position = {path: i for i, path in enumerate(images.paths)}
    if is_whole:
        image_folder.train_and_val(root, 1 / own.folds, fold=2)  # refused where there is a val/, as train.py would do
    folds = []
    for number in range(1, own.folds + 1):
        _, held_out = image_folder.split_validation(images, 1 / own.folds, number)
        folds.append(torch.tensor([position[path] for path in held_out.paths]))

    predict = whole_trainings if is_whole else frozen_features
    labels, logits = torch.tensor(images.labels), torch.zeros(len(images), len(images.classes))
    accuracies = []
    for fold, scores in zip(folds, predict(cfg, flags, images, folds), strict=True):
        logits[fold] = scores
        accuracies.append(metrics.accuracy(scores, labels[fold]))
        print(f"fold {len(accuracies)}/{len(folds)}   {accuracies[-1]:.2%} of {plural(len(fold), 'image')}", flush=True)
    scores = {
        "weights": "",
        "model": cfg.model,
        "folder": images.root.as_posix(),
        "part": NAME,
        "learned_from": False,
        "assumed": "",
        "remarks": [f"Each of {own.folds} networks predicts the fold that it has not learned from."],
        "folds": accuracies,
        **metrics.score(logits, labels, images.classes),
        "neither": None,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": checkpoint.versions(),
    }
    page = report.write_report(EvalResult(NAME, scores, [], logits, labels), images, Path("logs", "evaluate", NAME))
    spread = torch.tensor(accuracies, dtype=torch.float64).std()
    low, high = scores["interval"]
    print(
        f"accuracy   {scores['accuracy']:.2%} on {plural(len(images), 'image')}, 95% interval {low:.2%} to {high:.2%}"
    )
    print(f"           standard deviation between folds {spread:.2%}")
    print(f"report     {page}")
    print("next       python app.py --review, with a network of these classes: goes through the label issues")


def frozen_features(
    cfg: TrainConfig, _flags: Sequence[str], images: ImageFolder, folds: list[Tensor]
) -> Iterator[Tensor]:
    """Yield calibrated logits of each fold, from a last layer fitted to all others; the next fold chooses its C."""
    ((x, labels),) = frozen.features_of(cfg, [images])
    if len(folds) < 3:
        raise UserError("A frozen network needs --folds 3 or more: one is predicted, one chooses the penalty.")
    for number, fold in enumerate(folds):
        validation = folds[(number + 1) % len(folds)]
        is_other = torch.ones(len(x), dtype=torch.bool)
        is_other[fold] = False
        everything = is_other.clone()
        is_other[validation] = False
        counts = labels[is_other].bincount(minlength=len(images.classes)).tolist()
        if rare := [name for name, count in zip(images.classes, counts, strict=True) if not count]:
            raise UserError(f"{images.root / rare[0]} has too few different images for {len(folds)} folds. Add images.")
        layer, strength = frozen.fit_best(x[is_other], labels[is_other], x[validation], labels[validation])
        temperature = fit_temperature(layer(x[validation]), labels[validation])
        (layer,) = frozen.fit(x[everything], labels[everything], [strength])
        yield layer(x[fold]) / temperature


def whole_trainings(
    cfg: TrainConfig, flags: Sequence[str], images: ImageFolder, folds: list[Tensor]
) -> Iterator[Tensor]:
    """Yield calibrated logits of each fold, from a run of train.py on all others. Raises UserError where one fails."""
    compute, name = select_compute(cfg.device, cfg.precision), cfg.name or "fold"
    for number, fold in enumerate(folds, 1):
        run = [*flags, "--name", f"{name}-{number}-of-{len(folds)}", "--val", 1 / len(folds), "--fold", number]
        command = [sys.executable, TRAIN, *run, "--resume", "auto"]
        if (status := subprocess.run([str(word) for word in command]).returncode) == 2:
            sys.exit(2)  # train.py has said why
        if status:
            raise UserError(f"train.py ended with status {status} in fold {number}. The same command resumes it.")
        trained = checkpoint.load(Path("module", f"{name}-{number}-of-{len(folds)}.pth"))
        dataset = loaders.ImageDataset(images.subset(fold.tolist()), trained.preprocess)
        batches = loaders.on_device(loaders.loader(dataset, 64, cfg.workers), compute.device)
        predict = build_predictor(trained, compute)
        yield torch.cat([predict(pixels).logits for pixels, _ in batches]) / trained.temperature


if __name__ == "__main__":
    cli.run(main)
