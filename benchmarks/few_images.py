"""Compare training from scratch, a frozen network from ImageNet and fine-tuning it, on few images.

    python -m benchmarks.few_images DATA                     all of DATA/train
    python -m benchmarks.few_images DATA --per-class 100     three draws of so many

DATA holds train/<class> and test/<class>. benchmarks/few_images.json keeps which test images each of three seeds gets
right, so it can be stopped and continued; the table is printed.
"""

import argparse
import json
import random
import shutil
import time
from pathlib import Path

from benchmarks.__main__ import HERE, Bench, run, table
from benchmarks.resize_modes import correct, row
from classifier.data import image_folder

FROZEN = ("--model", "efficientnet_lite0", "--weights", "imagenet", "--freeze")
RUNS = {  # what is trained, in this order: the last begins with the weights of the one before
    "from scratch": (),
    "frozen": FROZEN,
    "fine-tuned": ("--weights", "module/frozen.pth", "--epochs", 5),
}
SEEDS = range(3)


def main() -> None:
    """Make the runs that are missing; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--per-class", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", choices=RUNS, default=[*RUNS])
    options = parser.parse_args()
    path, bench = HERE / "few_images.json", Bench(options.data)
    runs = json.loads(path.read_text()) if path.exists() else {}
    name = f"{options.data.name}, {options.per_class or 'all'} per class"
    for seed in SEEDS:
        data = draw(bench, options.per_class, seed)
        missing = {kind for kind in options.kinds if f"{name}, {kind}, {seed}" not in runs}
        if "fine-tuned" in missing:
            missing.add("frozen")  # whose weights may be gone
        for kind in (kind for kind in RUNS if kind in missing):
            weights, start = data / "module" / f"{kind.split()[0]}.pth", time.monotonic()
            run_name = ("--name", weights.stem, "--data", data, "--seed", seed, *RUNS[kind])
            run(HERE.parent / "train.py", *run_name, cwd=data)
            runs[f"{name}, {kind}, {seed}"] = correct(weights, options.data / "test")
            right = runs[f"{name}, {kind}, {seed}"]
            seconds = time.monotonic() - start
            print(f"{name}, {kind}, {seed}: {right.count('1') / len(right):.2%}, {seconds:.0f} s", flush=True)
            path.write_text(json.dumps(runs, indent=1) + "\n")
    shutil.rmtree(bench.folder)
    rows = [row(runs, name, kind, (*options.kinds,), SEEDS) for kind in options.kinds]
    print(table([("", "accuracy of each seed, %", "only this right : only scratch right", "p"), *rows]))


def draw(bench: Bench, per_class: int, seed: int) -> Path:
    """Return a folder whose train/ has so many images of each class, drawn by the seed; 0: all. Links, and no test/."""
    root = bench.folder / str(seed)
    for label in image_folder.class_names(bench.images / "train"):
        files = sorted((bench.images / "train" / label).iterdir())
        random.Random(seed).shuffle(files)
        (root / "train" / label).mkdir(parents=True, exist_ok=True)
        for file in files[: per_class or None]:
            if not (root / "train" / label / file.name).exists():
                (root / "train" / label / file.name).symlink_to(file.resolve())
    return root


if __name__ == "__main__":
    main()
