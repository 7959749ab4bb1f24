"""Measure what each piece of the default recipe brings: one changed at a time, at equal cost, with several seeds.

    python -m benchmarks.ablation DATA --epochs 10 --seeds 3 --images 10000 --size 64

At 64 pixels all 33 runs take 75 minutes on two cores. Runs with another image size get as many epochs as cost the
same. Each run has a core to itself. Results are added to benchmarks/ablation.json after each, so it can be stopped and
started again, and benchmarks/ablation.md is written from them.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.__main__ import HERE, Bench, table

# name -> flags of train.py, share of the epochs that cost as much as the default recipe's
VARIANTS = {
    "default recipe": ({}, 1.0),
    "images of one size": ({"grow-from": 1}, 0.6),
    "no augmentation": ({"augment": "off"}, 1.0),
    "no crops": ({"crop": 1}, 1.0),
    "crops of at least 35% instead of 65%": ({"crop": 0.35}, 1.0),
    "a part erased in a quarter of the images": ({"cover": 0.25}, 1.0),
    "no average of weights": ({"ema": 0}, 1.0),
    "no label smoothing": ({"label-smoothing": 0}, 1.0),
    "no weight decay": ({"weight-decay": 0}, 1.0),
    "no warm-up": ({"warmup": 0}, 1.0),
    "constant learning rate": ({"schedule": "constant"}, 1.0),
}


def main() -> None:
    """Make the runs that are missing, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    for name, value in (("epochs", 10), ("seeds", 3), ("images", 10_000), ("size", 64)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    path = HERE / "ablation.json"
    plan = {"epochs": options.epochs, "images": options.images, "size": options.size}
    runs = json.loads(path.read_text()) if path.exists() else plan | {"runs": {}}
    runs.setdefault("size", 64)
    if {key: runs[key] for key in plan} != plan:
        sys.exit(f"{path} holds other runs: {plan | {key: runs[key] for key in plan}}. Move it away to start over.")
    bench = Bench(options.data)
    root = bench.take(options.images, 0)

    def one(name: str, seed: int) -> float:
        flags, share = VARIANTS[name]
        flags = {"seed": seed, "val": 0.2, "size": options.size, "data": root / "dataset", "workers": 1} | flags
        flags["epochs"] = max(1, round(options.epochs * share))
        folder = bench.folder / f"{name} {seed}"
        folder.mkdir()
        words = (word for key, value in flags.items() for word in (f"--{key}", value))
        return bench.train(folder, *words, OMP_NUM_THREADS="1")[-1]["val"]["accuracy"]

    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            missing = [(name, seed) for seed in range(options.seeds) for name in VARIANTS]
            missing = [(name, seed) for name, seed in missing if str(seed) not in runs["runs"].get(name, {})]
            pending = {pool.submit(one, *run): run for run in missing}
            for done in as_completed(pending):
                name, seed = pending[done]
                runs["runs"].setdefault(name, {})[str(seed)] = done.result()
                path.write_text(json.dumps(runs, indent=2) + "\n")
                (HERE / "ablation.md").write_text(report(runs))
                print(f"{name}, seed {seed}: {done.result()}", flush=True)
    finally:
        shutil.rmtree(bench.folder)


def report(runs: dict) -> str:
    """Return ablation.md."""
    base = runs["runs"].get("default recipe", {})
    rows = [("", "accuracy, %", "difference", "of each seed")]
    for name, made in runs["runs"].items():
        values = [100 * made[seed] for seed in sorted(made)]
        pairs = [100 * (accuracy - base[seed]) for seed, accuracy in made.items() if seed in base]
        error = statistics.stdev(pairs) / len(pairs) ** 0.5 if len(pairs) > 1 else float("nan")
        difference = f"{statistics.mean(pairs):+.1f} ± {error:.1f}" if pairs and made is not base else ""
        listed = ", ".join(f"{value:.1f}" for value in values)
        rows.append((name, f"{statistics.mean(values):.1f}", difference, listed))
    return (
        f"# Ablation\n\nWritten by `python -m benchmarks.ablation DATA --epochs {runs['epochs']} --images "
        f"{runs['images']} --size {runs['size']}`: ResNet-18 from scratch on four fifths of {runs['images']:,} "
        "photographs of cats and dogs, scored on the other fifth; one piece of the recipe changed at a time, at equal "
        "cost. The difference is the mean over pairs of equal seeds, with its standard error.\n\n" + table(rows) + "\n"
    )


if __name__ == "__main__":
    main()
