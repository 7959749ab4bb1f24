"""One, two and four processes on this machine: benchmarks/scaling.md.

    python -m benchmarks.scaling DATA [--rounds 3]

DATA as for `python -m benchmarks`. Each process has one thread; the same work in one process with a thread for each
core is there to compare. Configurations run in turns, and medians count. Linux and macOS.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.__main__ import HERE, PROJECT, Bench, table
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
    root = Bench(options.data.resolve(), 0).take(options.images, options.images // 2)
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
    """Images/s of training, evaluation and prediction."""
    run(folder, count, threads, "train.py", "--data", dataset, "--name", "run", *TRAIN)
    saved = checkpoint.load(folder / "module" / "run.last.pth")
    images = dataset / "test"
    run(folder, count, threads, "evaluate.py", "module/run.pth", "--data", images, *ANSWER)
    (report,) = (folder / "logs" / "evaluate").glob("*/*/report.json")
    start = time.perf_counter()
    run(folder, count, threads, "predict.py", images, *ANSWER)
    seconds = time.perf_counter() - start
    rows = len((folder / "predictions.csv").read_text(encoding="utf-8-sig").splitlines()) - 1
    return {
        "training": saved.resume["history"][-1]["images_per_second"],
        "evaluation": 1000 / json.loads(report.read_text(encoding="utf-8"))["milliseconds_per_picture"],
        "prediction, from start to end": rows / seconds,
    }


def run(folder: Path, count: int, threads: int, script: str, *arguments: object) -> None:
    """One of the project's scripts, in so many processes."""
    command = [
        sys.executable,
        *["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"][: 4 * (count > 1)],
    ]
    done = subprocess.run(
        [*command, str(PROJECT / script), *map(str, arguments)], cwd=folder, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{script} failed:\n{done.stderr}")


if __name__ == "__main__":
    main()
