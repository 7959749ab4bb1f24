"""What each piece of the default recipe brings: one changed at a time, at equal cost, with three seeds.

    python -m benchmarks.ablation DATA --epochs 10 --seeds 3 --images 10000

Images end at 64 pixels instead of 160, so that all 39 runs take an hour and a half on two cores. Every run has the
same number of steps, but for those with another image size, which get as many epochs as cost the same. Each run has
one core to itself, so as many go on side by side as there are cores. Results are added to benchmarks/ablation.json
after each, so it can be stopped and started again, and benchmarks/ablation.md is written from them.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import torch

import train
from benchmarks.__main__ import HERE, Bench, table
from classifier import checkpoint
from classifier.data.transforms import Augment

# name -> flags of train.py, values of Augment, share of the epochs that cost as much as the default recipe's
VARIANTS = {
    "default recipe": ({}, {}, 1.0),
    "images of one size": ({"grow-from": 1}, {}, 0.6),
    "no augmentation": ({"augment": "off"}, {}, 1.0),
    "no crops": ({"crop": 1}, {}, 1.0),
    "crops of at least 35% instead of 65%": ({"crop": 0.35}, {}, 1.0),
    "no flips": ({}, {"flip": False}, 1.0),
    "no change of colours": ({}, {"color": 0.0}, 1.0),
    "a part covered in a quarter of the images": ({"erasing": 0.25}, {}, 1.0),
    "no average of weights": ({"ema": 0}, {}, 1.0),
    "no label smoothing": ({"label-smoothing": 0}, {}, 1.0),
    "no weight decay": ({"weight-decay": 0}, {}, 1.0),
    "no warm-up": ({"warmup": 0}, {}, 1.0),
    "a learning rate that does not fall": ({"schedule": "constant"}, {}, 1.0),
}
VAL = 0.2
SIZE = 64


def main() -> None:
    """Make the runs that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10000)
    options = parser.parse_args()
    path = HERE / "ablation.json"
    plan = {"epochs": options.epochs, "images": options.images}
    runs = json.loads(path.read_text()) if path.exists() else plan | {"runs": {}}
    if {key: runs[key] for key in plan} != plan:
        sys.exit(f"{path} is of {runs['images']} images and {runs['epochs']} epochs. Move it away to start anew.")
    with tempfile.TemporaryDirectory(prefix="ablation-") as folder:
        os.chdir(folder)
        root = Bench(options.data.resolve(), 0).take(options.images, 2000)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(os.cpu_count(), context, torch.set_num_threads, (1,)) as pool:
            coming = {
                pool.submit(one, name, seed, options.epochs, root): (name, seed)
                for seed in range(options.seeds)
                for name in VARIANTS
                if str(seed) not in runs["runs"].get(name, {})
            }
            for done in as_completed(coming):
                name, seed = coming[done]
                runs["runs"].setdefault(name, {})[str(seed)] = done.result()
                path.write_text(json.dumps(runs, indent=2) + "\n")
                (HERE / "ablation.md").write_text(report(runs))
                print(f"{name}, seed {seed}: {done.result()}", flush=True)
        os.chdir(HERE)


def one(name: str, seed: int, epochs: int, root: Path) -> float:
    """Validation accuracy at the end of a run."""
    flags, augment, share = VARIANTS[name]
    flags = {"seed": seed, "val": VAL, "name": "run", "epochs": max(1, round(epochs * share)), "size": SIZE} | flags
    flags |= {"data": root / "dataset"}
    sys.argv = ["train.py", *(word for key, value in flags.items() for word in (f"--{key}", str(value)))]
    train.Augment = partial(Augment, **augment)
    with tempfile.TemporaryDirectory(prefix="run-", dir=root) as folder:
        os.chdir(folder)
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            train.main()
        last = checkpoint.load(Path("module/run.pth")).scores["history"][-1]
        os.chdir(root)
    return last["val"]["accuracy"]


def difference(pairs: list[float]) -> str:
    """+1.2 ± 0.4: mean and standard error."""
    error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
    return f"{statistics.mean(pairs):+.1f} ± {error:.1f}"


def report(runs: dict) -> str:
    """ablation.md."""
    base = runs["runs"].get("default recipe", {})
    rows = [("", "accuracy, %", "difference", "of each seed")]
    for name in (name for name in VARIANTS if name in runs["runs"]):
        made = dict(sorted(runs["runs"][name].items()))
        values = [100 * accuracy for accuracy in made.values()]
        pairs = [100 * (accuracy - base[seed]) for seed, accuracy in made.items() if seed in base]
        rows.append((
            name, f"{statistics.mean(values):.1f}", difference(pairs) if pairs and name != "default recipe" else "",
            ", ".join(f"{value:.1f}" for value in values),
        ))  # fmt: skip
    return (
        "# Ablation\n\n"
        f"Written by `python -m benchmarks.ablation DATA --epochs {runs['epochs']} --images {runs['images']}`: "
        f"ResNet-18 from scratch on four fifths of {runs['images']:,} photographs of cats and dogs, {SIZE} pixels in "
        "the end, scored on the other fifth; one piece of the recipe changed at a time, at equal cost. "
        "The difference is the mean over pairs of equal seeds, with its standard error.\n\n" + table(rows) + "\n"
    )


if __name__ == "__main__":
    main()
