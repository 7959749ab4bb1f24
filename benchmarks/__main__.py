"""All speed figures of the README, side by side in one run.

    make bench                                          with the images in dataset/, some 30 minutes
    python -m benchmarks DATA --rounds 3 --seconds 20
    python -m benchmarks DATA --parts soon              one of five; the other figures stay

DATA holds train/cat, train/dog, test/cat and test/dog. The scripts are run as people run them, one at a time and in
turns, so that other work on the machine falls on all of them; ratios are those of the medians. Results go to
benchmarks/speed.md, speed.json and growth.png. Runs on Linux and macOS.
"""

import argparse
import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import checkpoint
from classifier.data import image_folder
from classifier.device import device_name

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
WARM = 5  # steps that are not counted
GROWTH = {"images": (1000, 5000, 22000), "sizes": (64, 128, 160, 224)}
PUBLISHED = 0.886  # the best epoch of the recipe that most tutorials show, its third one over 23,000 images
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # what a processor without bfloat16 would do


PARTS = ("training", "evaluation", "first_epoch", "growth", "soon")


class Bench:
    """Runs scripts in a folder that holds some of the images as dataset/."""

    def __init__(self, images: Path, seconds: float):
        self.images, self.seconds = images, seconds
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))

    def take(self, train: int, test: int) -> Path:
        """dataset/ with the first images of each class, as links; a folder of its own, so with caches of its own."""
        root = self.folder / f"{train}"
        for part, count in (("train", train), ("test", test)):
            for name in image_folder.class_names(self.images / part):
                target = root / "dataset" / part / name
                if target.exists():
                    continue
                target.mkdir(parents=True)
                for path in sorted((self.images / part / name).iterdir())[: count // 2]:
                    (target / path.name).symlink_to(path.resolve())
        return root

    def run(self, *command: object, cwd: Path, **environment: str) -> dict:
        """The JSON that a script prints, and the most memory it held, in megabytes."""
        process = start(*command, cwd=cwd, **environment)
        lines = process.stdout.read().splitlines()
        memory = wait(process)
        if not lines:
            sys.exit(f"{' '.join(map(str, command))} failed:\n{(cwd / 'errors.txt').read_text()}")
        return json.loads(lines[-1]) | {"memory": memory}

    def train(self, cwd: Path, *options: object, **environment: str) -> dict:
        """train.py, stopped by Ctrl-C after some seconds of steps; images/s from what it recorded of each step."""
        shutil.rmtree(cwd / "logs" / "resnet18", ignore_errors=True)
        shutil.rmtree(cwd / "module", ignore_errors=True)
        process = start(
            PROJECT / "train.py", "--epochs", 1000, "--warmup", 0, "--name", "bench", *options, cwd=cwd, **environment
        )
        for line in process.stdout:
            if line.startswith("on "):
                break
        end = time.monotonic() + 10 + self.seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        memory = wait(process)
        if not (cwd / "module" / f"bench{checkpoint.LAST}").exists():
            sys.exit(f"train.py failed:\n{(cwd / 'errors.txt').read_text()}")
        (records,) = (cwd / "logs" / "resnet18").glob("*/train")
        steps = EventAccumulator(str(records), {"scalars": 0}).Reload().Scalars("step/loss")
        size = int(options[options.index("--batch-size") + 1])
        count = sum(len(list(path.iterdir())) for path in (cwd / "dataset" / "train").iterdir())
        per_epoch = int(count * 0.9) // size
        times = [
            after.wall_time - before.wall_time
            for before, after in zip(steps[WARM:], steps[WARM + 1 :], strict=False)
            if before.step % per_epoch > 1  # between epochs there is validation
        ]
        return {"images_per_second": size * len(times) / sum(times), "memory": memory}


def start(*command: object, cwd: Path, **environment: str) -> subprocess.Popen:
    """A Python process in `cwd` that can import the project."""
    words = [sys.executable, *map(str, command)]
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "utf-8"} | environment
    with (cwd / "errors.txt").open("w") as errors:
        return subprocess.Popen(words, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=errors)


def wait(process: subprocess.Popen) -> float:
    """Its largest resident memory in megabytes, once it has ended."""
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def median(runs: list[dict]) -> float:
    """Images/s."""
    return statistics.median(run["images_per_second"] for run in runs)


def throughput(bench: Bench, rounds: int) -> dict:
    """Training at 224 pixels, batch 32: the four in turns."""
    root = bench.take(5000, 1000)
    shape = ("--size", 224, "--batch-size", 32)
    seconds = (*shape, "--seconds", bench.seconds)
    results: dict[str, list[dict]] = {
        "plain": [],
        "timm": [],
        "train.py": [],
        "compute": [],
        "avx2 plain": [],
        "avx2": [],
    }
    for turn in range(rounds):
        results["plain"].append(bench.run("-m", "benchmarks.plain", "train", "dataset/train", *seconds, cwd=root))
        results["timm"].append(bench.run("-m", "benchmarks.timm_tuned", "dataset/train", *seconds, cwd=root))
        results["train.py"].append(bench.train(root, *shape, "--grow-from", 1))
        results["compute"].append(bench.run("-m", "benchmarks.compute_only", *seconds, cwd=root))
        if turn < 2:
            plain = ("-m", "benchmarks.plain", "train", "dataset/train", *seconds)
            results["avx2 plain"].append(bench.run(*plain, cwd=root, **AVX2))
            results["avx2"].append(bench.train(root, *shape, "--grow-from", 1, **AVX2))
        print(
            {name: [round(run["images_per_second"], 1) for run in runs] for name, runs in results.items()}, flush=True
        )
    return {name: median(runs) for name, runs in results.items()}


def evaluation(bench: Bench, rounds: int) -> dict:
    """1,000 test images at 224 pixels, from files to answers."""
    root = bench.take(5000, 1000)
    shutil.rmtree(root / "module", ignore_errors=True)
    brief = ("--epochs", 1, "--size", 224, "--recipe", "classic", "--precision", "auto", "--batch-size", 32)
    few = bench.take(200, 0)
    start(PROJECT / "train.py", *brief, "--data", few / "dataset", "--name", "bench", cwd=root).communicate()
    weights, runs = root / "module" / "bench.pth", {"plain": [], "evaluate.py": []}
    for _ in range(rounds):
        plain = ("-m", "benchmarks.plain", "evaluate", "dataset/test", "--weights", weights)
        runs["plain"].append(bench.run(*plain, cwd=root))
        start(PROJECT / "evaluate.py", weights, "--data", "dataset/test", cwd=root).communicate()
        report = max((root / "logs" / "evaluate").glob("*/*/report.json"), key=lambda path: path.stat().st_mtime_ns)
        written = json.loads(report.read_text())
        runs["evaluate.py"].append({"images_per_second": written["count"] / written["seconds"]})
    print(runs, flush=True)
    return {name: median(values) for name, values in runs.items()}


def first_epoch(bench: Bench) -> dict:
    """Seconds of an epoch at 224 pixels, and of the whole run without and with a cache from before."""
    root = bench.take(2000, 0)
    seconds = {}
    for name in ("first", "cold", "warm"):  # the first one also tries which format is fastest
        if name == "cold":
            shutil.rmtree(root / "dataset" / ".cache")
        begun = time.monotonic()
        options = ("--epochs", 1, "--size", 224, "--batch-size", 32, "--name", name)
        start(PROJECT / "train.py", *options, cwd=root).communicate()
        seconds[name] = time.monotonic() - begun
    seconds["epoch"] = 60 * checkpoint.load(root / "module" / "warm.pth").scores["history"][0]["minutes"]
    print(seconds, flush=True)
    return seconds


def soon(bench: Bench) -> dict:
    """Minutes of train.py's steps to the published recipe's best accuracy, if it gets there, and to their end.

    Also those of the whole command, which validates and saves besides.
    """
    root = bench.take(10**6, 0)
    begun = time.monotonic()
    start(PROJECT / "train.py", "--recipe", "quick", "--name", "soon", cwd=root).communicate()
    command = (time.monotonic() - begun) / 60
    history = checkpoint.load(root / "module" / "soon.pth").scores["history"]
    reached = [entry for entry in history if entry["val"]["accuracy"] >= PUBLISHED]
    accuracy = max(entry["val"]["accuracy"] for entry in history)
    found = {"minutes": reached[0]["minutes"] if reached else None, "best": accuracy}
    found |= {"all": history[-1]["minutes"], "command": command}
    print(found, flush=True)
    return found


def growth(bench: Bench) -> list[dict]:
    """Images/s and memory of train.py by number of images and by their size."""
    rows = []
    for images in GROWTH["images"]:
        root = bench.take(images, 0)
        for size in GROWTH["sizes"]:
            found = bench.train(root, "--size", size, "--grow-from", 1, "--batch-size", 64)
            count = sum(len(list(path.iterdir())) for path in (root / "dataset" / "train").iterdir())
            rows.append({"images": count, "size": size} | found)
            print(rows[-1], flush=True)
        shutil.rmtree(root / "dataset" / ".cache")
    return rows


def plot(rows: list[dict]) -> None:
    """growth.png."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for size in GROWTH["sizes"]:
        some = [row for row in rows if row["size"] == size]
        x = [row["images"] for row in some]
        left.plot(x, [row["images_per_second"] for row in some], marker="o", label=f"{size} px")
        right.plot(x, [row["memory"] / 1000 for row in some], marker="o", label=f"{size} px")
    for axis, title in ((left, "images/s"), (right, "memory, GB")):
        counts = sorted({row["images"] for row in rows})
        axis.set(title=title, xlabel="images", ylim=(0, None), xlim=(0, None))
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    left.legend(frameon=False)
    figure.savefig(HERE / "growth.png", dpi=110)


def table(rows: list[tuple]) -> str:
    """Rows, the first of them the headings, in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def report(results: dict) -> str:
    """speed.md."""
    train, judge, epoch = results["training"], results["evaluation"], results["first_epoch"]
    more, fast = epoch["cold"] - epoch["warm"], results["soon"]
    plain = 3 * 23000 / train["plain"] / 60  # minutes
    times = f"{plain / fast['minutes']:.1f}" if fast["minutes"] else "not reached"
    bars = [
        ("bar", "at least", "measured", "images/s"),
        ("train.py against the plain loop", "3.2", f"{train['train.py'] / train['plain']:.2f}",
         f"{train['train.py']:.1f} / {train['plain']:.1f}"),
        ("the same without bfloat16 and AVX-512", "1.0", f"{train['avx2'] / train['avx2 plain']:.2f}",
         f"{train['avx2']:.1f} / {train['avx2 plain']:.1f}"),
        ("train.py against timm, tuned", "1.1", f"{train['train.py'] / train['timm']:.2f}",
         f"{train['train.py']:.1f} / {train['timm']:.1f}"),
        ("train.py's share of the compute-only rate", "95%", f"{train['train.py'] / train['compute']:.1%}",
         f"{train['train.py']:.1f} / {train['compute']:.1f}"),
        ("evaluate.py against the plain loop", "5", f"{judge['evaluate.py'] / judge['plain']:.2f}",
         f"{judge['evaluate.py']:.0f} / {judge['plain']:.0f}"),
        (f"minutes to {PUBLISHED:.1%}, --recipe quick, against the plain loop's", "8", times,
         f"{fast['minutes'] or math.nan:.1f} / {plain:.0f} min"),
        ("first epoch, cold cache against warm", "at most +25%", f"{more / epoch['epoch']:+.0%}",
         f"{more:.0f} s more than {epoch['epoch']:.0f} s"),
    ]  # fmt: skip
    grown = [("images", "size", "images/s", "memory, MB")]
    for row in results["growth"]:
        grown.append((f"{row['images']:,}", row["size"], f"{row['images_per_second']:.0f}", f"{row['memory']:,.0f}"))
    return (
        f"# Speed\n\nWritten by `make bench` on {results['date']}: {results['device']}, PyTorch {results['torch']}. "
        "ResNet-18, 224 pixels, batch 32, but evaluate.py in its own batches of 64; ratios of medians of runs in "
        "turns, the last two rows of one run. Plain loop and timm open their images in every epoch, as they do; "
        "train.py reads those that its cache has kept since the first.\n\n"
        + table(bars)
        + f"\n\nMinutes to {PUBLISHED:.1%} are those of the training steps alone, for both: --recipe quick, 64 to 96 "
        f"pixels, batch 64, over all images; the plain loop at its rate above, three epochs of 23,000. The whole "
        f"command took {fast['command']:.1f} minutes, {fast['all']:.1f} of them in steps."
        + "\n\nThe bars 3.2 and 5 are meant for a processor with AMX, which multiplies bfloat16 several times as fast."
        + "\n\n## Cost as work grows\n\ntrain.py, batch 64, default recipe at a fixed size.\n\n"
        + table(grown)
        + "\n\n![images/s and memory](growth.png)\n"
    )


def main() -> None:
    """Run what is asked for, write all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("dataset"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as they were measured"
    )
    options = parser.parse_args()
    if len(image_folder.class_names(options.data / "train")) != 2 or not (options.data / "test").is_dir():
        sys.exit(f"{options.data} needs train/ and test/ with photographs of two classes: python prepare.py --download")
    bench = Bench(options.data.resolve(), options.seconds)
    path = HERE / "speed.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {
        "date": date.today().isoformat(),
        "device": device_name(torch.device("cpu")),
        "torch": torch.__version__,
    }
    try:
        for part in options.parts:
            results[part] = {
                "training": lambda: throughput(bench, options.rounds),
                "evaluation": lambda: evaluation(bench, options.rounds),
                "first_epoch": lambda: first_epoch(bench),
                "growth": lambda: growth(bench),
                "soon": lambda: soon(bench),
            }[part]()
            path.write_text(json.dumps(results, indent=2) + "\n")
    finally:
        shutil.rmtree(bench.folder)
    (HERE / "speed.md").write_text(report(results))
    plot(results["growth"])
    print(report(results))


if __name__ == "__main__":
    main()
