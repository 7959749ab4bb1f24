"""Compare the hand-written networks: trained on the same images for the same time, evaluated on the same test images.

    python -m benchmarks.networks DATASET --minutes 6           each of the seven below for six minutes
    python -m benchmarks.networks DATASET --models resnet18 vgg16_bn --minutes 30

Each network's speed is measured in a short run first, and it gets as many epochs as the minutes allow. The weights are
in OUTPUT/module, so a run that was stopped continues with the next network. evaluate.py compares them; its table goes
to benchmarks/networks.md, and the whole report is in OUTPUT/logs/evaluate/comparison.
"""

import argparse
import json
import shutil
from pathlib import Path

from benchmarks.__main__ import HERE, PROJECT, Bench, run, table
from classifier import checkpoint
from classifier.data import image_folder

NETWORKS = ("resnet18", "resnet34", "resnet50", "vgg16_bn", "googlenet", "densenet121", "alexnet")
TRIAL_IMAGES, TRIAL_EPOCHS = 1280, 6  # as many epochs as --recipe quick has: speed depends on the growing size


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
    bench = Bench(root)
    try:
        trial = bench.take(TRIAL_IMAGES, 0)
        images = sum(image_folder.read_folder(root / "train").counts().values())
        for name in options.models:
            if (output / "module" / f"{name}.pth").exists():
                continue
            history = bench.train(trial, "--model", name, "--recipe", "quick", "--epochs", TRIAL_EPOCHS)
            epoch = history[-1]["minutes"] / TRIAL_EPOCHS * images / TRIAL_IMAGES
            epochs = max(1, round(options.minutes / epoch))
            print(f"{name}: {epochs} epochs", flush=True)
            settings = ("--model", name, "--recipe", "quick", "--data", root, "--epochs", epochs, "--name", name)
            run(PROJECT / "train.py", *settings, cwd=output)
    finally:
        shutil.rmtree(bench.folder)
    weights = [output / "module" / f"{name}.pth" for name in options.models]
    print(run(PROJECT / "evaluate.py", *weights, "--data", root / "test", cwd=output))
    newest = max((output / "logs" / "evaluate" / "comparison").glob("*/report.json"))
    text = report(json.loads(newest.read_text(encoding="utf-8")), weights, options.minutes)
    (HERE / "networks.md").write_text(text, encoding="utf-8")


def report(found: dict, weights: list[Path], minutes: float) -> str:
    """Return networks.md."""
    rows = [("network", "epochs", "minutes", "accuracy", "95% interval", "parameters", "multiply-adds", "ms for one")]
    for name, scores in sorted(found["networks"].items(), key=lambda item: -item[1]["accuracy"]):
        history = checkpoint.load(next(path for path in weights if path.stem == name)).scores["history"]
        low, high = scores["interval"]
        rows.append((
            name, len(history), f"{history[-1]['minutes']:.1f}",
            f"{scores['accuracy']:.2%}", f"{low:.1%} to {high:.1%}",
            f"{scores['parameters'] / 1e6:.1f} M", f"{scores['multiply_adds'] / 1e9:.2f} G",
            f"{scores['milliseconds_for_one']:.1f}",
        ))  # fmt: skip
    first = next(iter(found["networks"].values()))
    lines = "\n".join(f"- {verdict['words']}" for verdict in found["verdicts"])
    return (
        f"# Networks\n\nWritten by `python -m benchmarks.networks DATASET --minutes {minutes:g}`: each from scratch "
        f"with --recipe quick for about {minutes:g} minutes, then {first['count']:,} test images at "
        f"{first['preprocess']['size']} pixels; {first['device']}.\n\n{table(rows)}\n\n{lines}\n"
    )


if __name__ == "__main__":
    main()
