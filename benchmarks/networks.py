"""Hand-written networks side by side: trained on the same images for the same time, judged on the same ones.

    python -m benchmarks.networks DATASET --minutes 6           each of the seven below for six minutes
    python -m benchmarks.networks DATASET --models resnet18 vgg16_bn --minutes 30

Each network's speed is measured in a short run first, and it gets as many epochs as the minutes allow. The weights stay
in OUTPUT/module, so a run that was stopped goes on with the next network. evaluate.py compares them; its table goes to
benchmarks/networks.md, and the whole report lies in OUTPUT/logs/evaluate/comparison.
"""

import argparse
import json
import shutil
import statistics
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.__main__ import HERE, PROJECT, Bench, start, table
from classifier import checkpoint
from classifier.data import image_folder
from classifier.training.config import RECIPES, Settings
from classifier.training.schedules import size_of_epoch

NETWORKS = ("resnet18", "resnet34", "resnet50", "vgg16_bn", "googlenet", "densenet121", "alexnet")
TRIAL = 1280  # images


def seconds_of_epoch(name: str, trial: Path, images: int) -> float:
    """How long one epoch takes on average, by one at the first size and one at the last."""
    sizes = [size_of_epoch(epoch, replace(RECIPES["quick"], epochs=10)) for epoch in range(10)]
    rates = {}
    for size in (sizes[0], sizes[-1]):
        run = f"trial-{name}-{size}"
        options = ("--model", name, "--size", size, "--grow-from", 1, "--epochs", 1, "--name", run)
        start(PROJECT / "train.py", *options, cwd=trial).communicate()
        rates[size] = checkpoint.load(trial / "module" / f"{run}.pth").scores["history"][0]["images_per_second"]
        for path in (trial / "module").glob(f"{run}*"):
            path.unlink()
    first, last = (1 / rates[size] for size in (sizes[0], sizes[-1]))
    shares = [(size**2 - sizes[0] ** 2) / (sizes[-1] ** 2 - sizes[0] ** 2) for size in sizes]
    return images * statistics.mean(first + share * (last - first) for share in shares)


def main() -> None:
    """Train those that are missing, then compare all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="holds train/<class>/* and test/<class>/*")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--models", nargs="+", default=NETWORKS)
    parser.add_argument("--output", type=Path, default=Path("networks"))
    options = parser.parse_args()
    output, root = options.output.resolve(), options.data.resolve()
    output.mkdir(parents=True, exist_ok=True)
    bench = Bench(root, 0)
    try:
        trial = bench.take(TRIAL, 0)
        images = round(len(image_folder.read_folder(root / "train")) * (1 - Settings.val))
        for name in options.models:
            if (output / "module" / f"{name}.pth").exists():
                continue
            epochs = max(1, round(60 * options.minutes / seconds_of_epoch(name, trial, images)))
            print(f"{name}: {epochs} epochs", flush=True)
            command = ("--model", name, "--recipe", "quick", "--data", root, "--epochs", epochs, "--name", name)
            process = start(PROJECT / "train.py", *command, cwd=output)
            process.communicate()
            if process.returncode:
                sys.exit(f"{name} failed:\n{(output / 'errors.txt').read_text()}")
    finally:
        shutil.rmtree(bench.folder)
    weights = [output / "module" / f"{name}.pth" for name in options.models]
    process = start(PROJECT / "evaluate.py", *weights, "--data", root / "test", cwd=output)
    print(process.communicate()[0])
    newest = max((output / "logs" / "evaluate" / "comparison").glob("*/report.json"))
    write(json.loads(newest.read_text(encoding="utf-8")), weights, options.minutes)


def write(found: dict, weights: list[Path], minutes: float) -> None:
    """networks.md."""
    rows = [("network", "epochs", "minutes", "accuracy", "95% interval", "parameters", "multiply-adds", "ms for one")]
    for name, report in sorted(found["networks"].items(), key=lambda item: -item[1]["accuracy"]):
        history = checkpoint.load(next(path for path in weights if path.stem == name)).scores["history"]
        low, high = report["interval"]
        rows.append((
            name, len(history), f"{history[-1]['minutes']:.1f}",
            f"{report['accuracy']:.2%}", f"{low:.1%} to {high:.1%}",
            f"{report['parameters'] / 1e6:.1f} M", f"{report['multiply_adds'] / 1e9:.2f} G",
            f"{report['milliseconds_for_one']:.1f}",
        ))  # fmt: skip
    any_report = next(iter(found["networks"].values()))
    sizes = [size_of_epoch(epoch, RECIPES["quick"]) for epoch in (0, RECIPES["quick"].epochs - 1)]
    lines = [f"- {verdict['words']}" for verdict in found["verdicts"]]
    (HERE / "networks.md").write_text(
        f"# Networks\n\nWritten by `python -m benchmarks.networks DATASET --minutes {minutes:g}`: each from scratch "
        f"for about {minutes:g} minutes, {sizes[0]} to {sizes[1]} pixels, then {any_report['count']:,} test images "
        f"at {any_report['preprocess']['size']} pixels; "
        f"{any_report['device']}.\n\n" + table(rows) + "\n\n" + "\n".join(lines) + "\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
