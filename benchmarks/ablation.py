"""What each piece of the default recipe brings: left out alone, at equal time, with three seeds.

    python -m benchmarks.ablation DATA --epochs 10 --seeds 3 --pictures 10000

Pictures end at 64 pixels instead of 160, so that all 36 runs take two hours on two cores. Every run has the same number
of steps, but for those with another picture size, which get as many epochs as cost the same. Results are added to
benchmarks/ablation.json after each run, so it can be stopped and started again, and benchmarks/ablation.md is written
from them.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import train
from benchmarks.__main__ import HERE, Bench, table
from classifier import checkpoint
from classifier.augment import Augment

# name -> flags of train.py, values of Augment, share of the epochs that cost as much as the default recipe's
VARIANTS = {
    "default recipe": ({}, {}, 1.0),
    "pictures of one size": ({"grow-from": 1}, {}, 0.6),
    "whole pictures not enlarged afterwards": ({"enlarge": 1}, {}, 1.0),
    "no augmentation": ({"augment": "off"}, {}, 1.0),
    "no crops": ({}, {"area": 1.0, "ratio": 1.0}, 1.0),
    "no flips": ({}, {"flip": False}, 1.0),
    "no change of colours": ({}, {"color": 0.0}, 1.0),
    "a part covered in a quarter of the pictures": ({"cover": 0.25}, {}, 1.0),
    "no average of weights": ({"ema": 0}, {}, 1.0),
    "no label smoothing": ({"label-smoothing": 0}, {}, 1.0),
    "no weight decay": ({"weight-decay": 0}, {}, 1.0),
    "no warm-up": ({"warmup": 0}, {}, 1.0),
}
VAL = 0.2
SIZE = 64


def main() -> None:
    """Make the runs that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=10000)
    options = parser.parse_args()
    path = HERE / "ablation.json"
    plan = {"epochs": options.epochs, "pictures": options.pictures}
    runs = json.loads(path.read_text()) if path.exists() else plan | {"accuracy": {}, "minutes": {}}
    if {key: runs[key] for key in plan} != plan:
        sys.exit(f"{path} is of {runs['pictures']} pictures and {runs['epochs']} epochs. Move it away to start anew.")
    os.chdir(tempfile.mkdtemp(prefix="ablation-"))
    root = Bench(options.data.resolve(), 0).take(options.pictures, 2000)
    for seed in range(options.seeds):
        for name in VARIANTS:
            if len(runs["accuracy"].setdefault(name, [])) <= seed:
                accuracy, minutes = one(name, seed, options.epochs, root)
                runs["accuracy"][name].append(accuracy)
                runs["minutes"].setdefault(name, []).append(minutes)
                path.write_text(json.dumps(runs, indent=2) + "\n")
                (HERE / "ablation.md").write_text(report(runs))
                print(f"{name}, seed {seed}: {accuracy:.2%} in {minutes:.1f} min", flush=True)


def one(name: str, seed: int, epochs: int, root: Path) -> tuple[float, float]:
    """Validation accuracy at the end of a run, and its minutes."""
    flags, augment, share = VARIANTS[name]
    train.Augment = partial(Augment, **augment)
    flags = {
        "epochs": max(1, round(epochs * share)),
        "seed": seed,
        "val": VAL,
        "size": SIZE,
        "name": f"{seed}-{len(name)}",
    } | flags
    flags |= {"data": root / "dataset"}
    sys.argv = ["train.py", *(word for key, value in flags.items() for word in (f"--{key}", str(value)))]
    for old in Path("module").glob("*.pth"):
        old.unlink()
    train.main()
    history = checkpoint.load(Path("module") / f"{flags['name']}.pth").scores["history"]
    return history[-1]["val"]["accuracy"], history[-1]["minutes"]


def difference(pairs: list[float]) -> str:
    """+1.2 ± 0.4: mean and standard error."""
    error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
    return f"{statistics.mean(pairs):+.1f} ± {error:.1f}"


def report(runs: dict) -> str:
    """ablation.md."""
    base = runs["accuracy"]["default recipe"]
    rows = [("", "accuracy, %", "difference", "of each seed", "minutes")]
    for name, values in runs["accuracy"].items():
        pairs = [100 * (a - b) for a, b in zip(values, base, strict=False)]
        rows.append((
            name, f"{100 * statistics.mean(values):.1f}",
            "" if name == "default recipe" else difference(pairs),
            ", ".join(f"{100 * value:.1f}" for value in values), f"{statistics.median(runs['minutes'][name]):.1f}",
        ))  # fmt: skip
    return (
        "# Ablation\n\n"
        f"Written by `python -m benchmarks.ablation DATA --epochs {runs['epochs']} --pictures {runs['pictures']}`: "
        f"ResNet-18 from scratch on four fifths of {runs['pictures']:,} photographs of cats and dogs, {SIZE} pixels in "
        "the end, scored on the other fifth; one piece of the recipe changed at a time, at equal cost. "
        "The difference is the mean over pairs of equal seeds, with its standard error.\n\n" + table(rows) + "\n"
    )


if __name__ == "__main__":
    main()
