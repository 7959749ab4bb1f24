"""Compare the three ways of `--resize` on images of many shapes, from scratch and from the project's weights.

    python -m benchmarks.resize_modes DATA --size 96 --epochs 10 --batch-size 32 --val 0.15

DATA holds train/<class> and test/<class>; train.py gets the rest. benchmarks/resize_modes.json keeps which test images
each of five seeds gets right, so it can be stopped and continued.
"""

import itertools
import json
import shutil
import sys
from pathlib import Path

import torch

from benchmarks.__main__ import HERE, PROJECT, Bench, table
from classifier import checkpoint
from classifier.data import image_folder, loaders
from classifier.device import select_compute
from classifier.evaluation.comparison import mcnemar
from classifier.inference.predictor import build_predictor

STARTS = {"from scratch": (), "fine-tuned": ("--weights", PROJECT / "module" / "catdog-resnet18.pth")}
MODES, SEEDS = ("squash", "crop", "pad"), range(5)


def main(data: str, *flags: str) -> None:
    """Make the runs that are missing; print the table after each."""
    path, bench, plan = HERE / "resize_modes.json", Bench(Path(data)), list(itertools.product(STARTS, MODES))
    runs = json.loads(path.read_text()) if path.exists() else {}  # name -> 1 or 0 for each test image
    for seed, (start, mode) in itertools.product(SEEDS, plan):
        if (name := f"{start} {' '.join(flags)}, {mode}, {seed}") not in runs:
            bench.train(bench.folder, *flags, "--data", bench.images, "--resize", mode, "--seed", seed, *STARTS[start])
            runs[name] = correct(bench.folder / "module" / "bench.pth", bench.images / "test")
            path.write_text(json.dumps(runs, indent=1) + "\n")
        lines = [row(runs, f"{start} {' '.join(flags)}", mode) for start, mode in plan]
        print(table([("", "accuracy of each seed, %", "only this right : only squash right", "p"), *lines]), flush=True)
    shutil.rmtree(bench.folder)


def correct(weights: Path, test: Path) -> str:
    """Return 1 for each test image that the network gets right, otherwise 0."""
    network, folder = checkpoint.load(weights), image_folder.read_folder(test)
    predict = build_predictor(network, select_compute("cpu", "auto"))
    batches = loaders.loader(loaders.ImageDataset(folder, network.preprocess, 2), 64)
    answers = torch.cat([predict(pixels).logits.argmax(1) for pixels, _ in batches])
    return "".join(str(int(right)) for right in answers == torch.tensor(folder.labels))


def row(runs: dict[str, str], run: str, mode: str, modes: tuple = MODES, all_seeds: range = SEEDS) -> tuple:
    """Return the accuracy of the seeds that all modes have, and McNemar's test of all answers against the first."""
    seeds = [seed for seed in all_seeds if all(f"{run}, {each}, {seed}" in runs for each in modes)]
    right = ("".join(runs[f"{run}, {each}, {seed}"] for seed in seeds) for each in (mode, modes[0]))
    here, squash, p = mcnemar(*(torch.tensor([digit == "1" for digit in text]).bool() for text in right))
    scores = (100 * runs[name].count("1") / len(runs[name]) for name in (f"{run}, {mode}, {seed}" for seed in seeds))
    return f"{run}, {mode}", ", ".join(f"{score:.1f}" for score in scores), f"{here} : {squash}", f"{p:.2g}"


if __name__ == "__main__":
    main(*sys.argv[1:])
