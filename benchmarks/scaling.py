"""Measure one, two and four processes on this machine: benchmarks/scaling.md.

    python -m benchmarks.scaling DATA [--rounds 3]

DATA as for `python -m benchmarks`. Each process has one thread, but for one process with a thread per core to compare
with. Configurations take turns, and medians are reported. Linux and macOS.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.__main__ import HERE, PROJECT, Bench, run, table
from classifier import checkpoint
from classifier.device import device_name, torch

TRAIN = ("--epochs", 2, "--size", 64, "--grow-from", 1, "--batch-size", 64, "--workers", 1, "--precision", "bf16")
ANSWER = ("--precision", "bf16", "--workers", 1)


def main() -> None:
    """Run, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4000)
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    configurations = {f"1 process, {cores} threads": (1, cores)} | {
        f"{count} process{'es' * (count > 1)} of 1 thread": (count, 1) for count in (1, 2, 4)
    }
    rates: dict[str, dict[str, list[float]]] = {name: {} for name in configurations}
    root = Bench(options.data).take(options.images, options.images // 2)
    for _ in range(options.rounds):
        for name, (count, threads) in configurations.items():
            with tempfile.TemporaryDirectory() as folder:
                for task, rate in measure(Path(folder), root / "dataset", count, threads).items():
                    rates[name].setdefault(task, []).append(rate)
                    print(f"{name}, {task}: {rate:.0f} images/s", flush=True)
    tasks = list(rates[next(iter(rates))])
    rows = [("images/s", *tasks)]
    for name, found in rates.items():
        rows.append((name, *(f"{statistics.median(found[task]):,.0f}" for task in tasks)))
    (HERE / "scaling.md").write_text(
        f"# Several processes\n\nWritten by `python -m benchmarks.scaling DATA --rounds {options.rounds}` on "
        f"{device_name(torch.device('cpu')).split(',')[0]}, {cores} cores, no GPU: ResNet-18 in bfloat16, gloo over "
        f"loopback. Training at 64 pixels, batches of 64 in all, {options.images:,} images kept ready, epoch 2;"
        f" evaluate.py and predict.py with the weights of that run, {options.images // 2:,} images from files.\n\n"
        + table(rows) + "\n"
    )  # fmt: skip


def measure(folder: Path, dataset: Path, count: int, threads: int) -> dict[str, float]:
    """Return the images per second of training, evaluation and prediction."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []

    def start(script: str, *arguments: object) -> None:
        run(*launcher, PROJECT / script, *arguments, cwd=folder, OMP_NUM_THREADS=str(threads))

    start("train.py", "--data", dataset, "--name", "run", *TRAIN)
    saved = checkpoint.load(folder / "module" / "run.pth")
    start("evaluate.py", "module/run.pth", "--data", dataset / "test", *ANSWER)
    (report,) = (folder / "logs" / "evaluate").glob("*/*/report.json")
    begun = time.perf_counter()
    start("predict.py", dataset / "test", *ANSWER)
    seconds = time.perf_counter() - begun
    rows = len((folder / "predictions.csv").read_text(encoding="utf-8-sig").splitlines()) - 1
    return {
        "training": saved.scores["history"][-1]["images_per_second"],
        "evaluation": 1000 / json.loads(report.read_text(encoding="utf-8"))["milliseconds_per_picture"],
        "prediction, from start to end": rows / seconds,
    }


if __name__ == "__main__":
    main()
