"""Measure the speed figures of docs/results.md, side by side in one run.

    make bench                                          with the images in dataset/, some 25 minutes
    python -m benchmarks DATA --rounds 3 --parts soon   one of four parts; the other figures stay
    python -m benchmarks DATA --before DIR --rounds 5   only this checkout against the one in DIR

DATA holds train/cat, train/dog, test/cat and test/dog. The scripts run as people run them, one at a time and in turns,
so that other work on the machine affects all of them; ratios are those of medians. Results go to benchmarks/speed.md
and speed.json. Runs on Linux and macOS.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from classifier import checkpoint
from classifier.data import image_folder
from classifier.device import device_name

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
PUBLISHED = 0.886  # best epoch of the recipe that most tutorials show, its third one over 23,000 images
PUBLISHED_IMAGES = 3 * 23_000
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # as on a processor without bfloat16
SHAPE = ("--size", 224, "--batch-size", 32)


class Bench:
    """Runs scripts in folders that hold some of the images as dataset/."""

    def __init__(self, images: Path):
        self.images = images.resolve()
        self.folder = Path(tempfile.mkdtemp(prefix="bench-"))

    def take(self, train: int, test: int, name: str = "") -> Path:
        """Return a folder of its own with the first images of each class in dataset/, as links."""
        root = self.folder / (name or str(train))
        for part, count in (("train", train), ("test", test)):
            for label in image_folder.class_names(self.images / part):
                target = root / "dataset" / part / label
                target.mkdir(parents=True, exist_ok=True)
                for path in sorted((self.images / part / label).iterdir())[: count // 2]:
                    if not (target / path.name).exists():
                        (target / path.name).symlink_to(path.resolve())
        return root

    def train(self, cwd: Path, *options: object, project: Path = PROJECT, **environment: str) -> list[dict]:
        """Run train.py from the start; return the history of its epochs."""
        for leftover in ("module", "logs"):
            shutil.rmtree(cwd / leftover, ignore_errors=True)
        run(project / "train.py", "--name", "bench", *options, cwd=cwd, **environment)
        return checkpoint.load(cwd / "module" / "bench.pth").scores["history"]

    def images_per_second(self, cwd: Path, project: Path = PROJECT, **environment: str) -> float:
        """Return the training speed at 224 pixels in the second epoch, when the cache is filled."""
        options = (*SHAPE, "--grow-from", 1, "--epochs", 2)
        return self.train(cwd, *options, project=project, **environment)[-1]["images_per_second"]

    def evaluated_per_second(self, cwd: Path, weights: Path, project: Path = PROJECT, **environment: str) -> float:
        """Return the speed of evaluate.py on dataset/test, from files to predictions."""
        run(project / "evaluate.py", weights, "--data", "dataset/test", cwd=cwd, **environment)
        report = max((cwd / "logs" / "evaluate").glob("*/*/report.json"), key=lambda path: path.stat().st_mtime_ns)
        written = json.loads(report.read_text(encoding="utf-8"))
        return written["count"] / written["seconds"]


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run Python in `cwd`, with this project or that of the script importable; return what it prints."""
    script = Path(str(command[0]))
    project = script.parent if script.suffix == ".py" else PROJECT
    environment = os.environ | {"PYTHONPATH": str(project), "PYTHONIOENCODING": "utf-8"} | environment
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stderr}")
    return done.stdout


def rate(*command: object, cwd: Path, **environment: str) -> float:
    """Return the images per second that a benchmark prints as JSON."""
    return json.loads(run("-m", *command, cwd=cwd, **environment).splitlines()[-1])["images_per_second"]


def in_turns(rounds: int, measurements: dict) -> dict[str, float]:
    """Return the median of each measurement; they take turns, in the opposite order every other round."""
    found: dict[str, list[float]] = {name: [] for name in measurements}
    for turn in range(rounds):
        for name in list(measurements)[:: -1 if turn % 2 else 1]:
            found[name].append(measurements[name]())
        print({name: [round(value, 1) for value in values] for name, values in found.items()}, flush=True)
    return {name: statistics.median(values) for name, values in found.items()}


def training(bench: Bench, options: argparse.Namespace) -> dict:
    """Measure training at 224 pixels, batch 32, against other loops."""
    root = bench.take(options.images, 0)
    seconds = (*SHAPE, "--seconds", options.seconds)
    plain = ("benchmarks.plain", "train", "dataset/train", *seconds)
    return in_turns(
        options.rounds,
        {
            "plain": lambda: rate(*plain, cwd=root),
            "timm": lambda: rate("benchmarks.timm_tuned", "dataset/train", *seconds, cwd=root),
            "train.py": lambda: bench.images_per_second(root),
            "compute": lambda: rate("benchmarks.compute_only", *seconds, cwd=root),
            "avx2 plain": lambda: rate(*plain, cwd=root, **AVX2),
            "avx2": lambda: bench.images_per_second(root, **AVX2),
        },
    )


def weights_of(bench: Bench, project: Path = PROJECT) -> Path:
    """Return the file of a network for 224 pixels that was trained for a moment, with a checkout's own train.py."""
    root = bench.take(200, 0, f"weights of {project.parent.name} {project.name}")
    bench.train(root, *SHAPE, "--recipe", "classic", "--precision", "auto", "--epochs", 1, project=project)
    return root / "module" / "bench.pth"


def evaluation(bench: Bench, options: argparse.Namespace) -> dict:
    """Measure evaluation of 1,000 test images at 224 pixels, from files to predictions."""
    root, weights = bench.take(0, 1000), weights_of(bench)
    plain = ("benchmarks.plain", "evaluate", "dataset/test", "--weights", weights)
    exact, small = weights.with_suffix(".onnx"), weights.with_name("bench-int8.onnx")
    run(PROJECT / "export.py", weights, cwd=root)
    run(PROJECT / "export.py", weights, "--int8", "--data", bench.images, cwd=root)
    return in_turns(
        options.rounds,
        {
            "plain": lambda: rate(*plain, cwd=root),
            "evaluate.py": lambda: bench.evaluated_per_second(root, weights),
            "avx2 plain": lambda: rate(*plain, cwd=root, **AVX2),
            "avx2": lambda: bench.evaluated_per_second(root, weights, **AVX2),
            "onnx": lambda: bench.evaluated_per_second(root, exact),
            "int8": lambda: bench.evaluated_per_second(root, small),
        },
    )


def first_epoch(bench: Bench, _options: argparse.Namespace) -> dict:
    """Measure seconds of an epoch at 224 pixels, and of the whole run without and with a cache."""
    root = bench.take(2000, 0, "first epoch")  # a folder without a cache
    seconds = {}
    for name in ("cold", "warm"):
        begun = time.monotonic()
        history = bench.train(root, *SHAPE, "--epochs", 1)
        seconds[name] = time.monotonic() - begun
    return seconds | {"epoch": 60 * history[0]["minutes"]}


def soon(bench: Bench, _options: argparse.Namespace) -> dict:
    """Measure minutes of --recipe quick on all images: to the published accuracy, in steps, and in all."""
    root = bench.take(10**6, 0)
    begun = time.monotonic()
    history = bench.train(root, "--recipe", "quick")
    reached = [entry["minutes"] for entry in history if entry["val"]["accuracy"] >= PUBLISHED]
    return {
        "minutes": reached[0] if reached else None,
        "best": max(entry["val"]["accuracy"] for entry in history),
        "all": history[-1]["minutes"],
        "command": (time.monotonic() - begun) / 60,
    }


PARTS = {"training": training, "evaluation": evaluation, "first_epoch": first_epoch, "soon": soon}


def compare(bench: Bench, before: Path, options: argparse.Namespace) -> str:
    """Return a table of training and evaluation speed of this checkout against another, rounds interleaved."""
    checkouts = {"before": before.resolve(), "after": PROJECT}
    weights = {name: weights_of(bench, project) for name, project in checkouts.items()}
    roots = {name: bench.take(options.images, 1000, name) for name in checkouts}  # each with a cache of its own
    tasks = {
        "training": lambda name: bench.images_per_second(roots[name], checkouts[name]),
        "evaluation": lambda name: bench.evaluated_per_second(roots[name], weights[name], checkouts[name]),
    }
    rows = [("images/s", "before", "after", "after / before: median (range) of rounds")]
    for task, measure in tasks.items():
        found: dict[str, list[float]] = {"before": [], "after": []}
        for turn in range(options.rounds):
            for name in list(found)[:: -1 if turn % 2 else 1]:
                found[name].append(measure(name))
            print(
                f"{task}, round {turn + 1}:", {name: round(rates[-1], 1) for name, rates in found.items()}, flush=True
            )
        ratios = [after / before for before, after in zip(*found.values(), strict=True)]
        medians = [f"{statistics.median(rates):.1f}" for rates in found.values()]
        rows.append((task, *medians, f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"))
    return table(rows)


def table(rows: list[tuple]) -> str:
    """Return rows, the first of them the headings, in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def ratios(rates: dict[str, float], *rows: tuple[str, str, str, str]) -> list[tuple]:
    """Return a row of the table for each (name, goal, one, other), but for rates that were not measured."""
    return [
        (name, goal, f"{rates[one] / rates[other]:.2f}", f"{rates[one]:.1f} / {rates[other]:.1f}")
        for name, goal, one, other in rows
        if one in rates
    ]


def report(results: dict) -> str:
    """Return speed.md."""
    train, judge, epoch, fast = (results[part] for part in PARTS)
    more, plain = epoch["cold"] - epoch["warm"], PUBLISHED_IMAGES / train["plain"] / 60
    bars = [
        ("", "goal", "measured", "images/s"),
        *ratios(
            train,
            ("train.py against the plain loop", "3.2", "train.py", "plain"),
            ("the same without bfloat16 and AVX-512", "1.0", "avx2", "avx2 plain"),
            ("train.py against timm, tuned", "1.1", "train.py", "timm"),
            ("train.py against the network's steps alone", "0.95", "train.py", "compute"),
        ),
        *ratios(
            judge,
            ("evaluate.py against the plain loop", "5", "evaluate.py", "plain"),
            ("the same without bfloat16 and AVX-512", "", "avx2", "avx2 plain"),
            ("evaluate.py with the .onnx file, against the plain loop without them", "2", "onnx", "avx2 plain"),
            ("with the .onnx file of 8 bits, likewise", "2", "int8", "avx2 plain"),
            ("with the .onnx file of 8 bits, against the plain loop with them", "5", "int8", "plain"),
        ),
        (f"minutes to {PUBLISHED:.1%}, --recipe quick, against the plain loop's", "8",
         f"{plain / fast['minutes']:.1f}" if fast["minutes"] else "not reached",
         f"{fast['minutes'] or math.nan:.1f} / {plain:.0f} min"),
        ("first epoch, cold cache against warm", "at most +25%", f"{more / epoch['epoch']:+.0%}",
         f"{more:.0f} s more than {epoch['epoch']:.0f} s"),
    ]  # fmt: skip
    machines = "".join(f"- {part.replace('_', ' ')}: {results[part]['machine']}\n" for part in PARTS)
    return (
        "# Speed\n\nWritten by `make bench`. ResNet-18, 224 pixels, batch 32 (evaluate.py: 64); ratios of medians of "
        "runs in turns, the last two rows of one run. The plain loop and timm decode their images in every epoch; "
        f"train.py reads them from its cache from the second on.\n\n{machines}\n{table(bars)}\n\n"
        f"Minutes to {PUBLISHED:.1%} are those of the training steps: --recipe quick over all images, and the plain "
        "loop at the rate above for three epochs of 23,000 images. The whole command took "
        f"{fast['command']:.1f} minutes, {fast['all']:.1f} of them in steps.\n\n"
        "The goals 3.2 and 5 are meant for a processor with AMX, which multiplies bfloat16 several times as fast.\n"
    )


def main() -> None:
    """Measure what is asked for, and write it down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="?", type=Path, default=Path("dataset"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of each run of the other loops")
    parser.add_argument("--images", type=int, default=1500, help="in an epoch of train.py")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="the other figures stay")
    parser.add_argument("--before", type=Path, help="compare with this checkout; writes no files")
    options = parser.parse_args()
    if not all((options.data / part).is_dir() for part in ("train", "test")):
        sys.exit(f"{options.data} needs train/ and test/ with photographs of two classes: python prepare.py --download")
    bench = Bench(options.data)
    path = HERE / "speed.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    machine = f"{device_name(torch.device('cpu'))}, PyTorch {torch.__version__}, {date.today()}"
    try:
        if options.before:
            print(compare(bench, options.before, options))
            return
        for part in options.parts:
            results[part] = PARTS[part](bench, options) | {"machine": machine}
            print(results[part], flush=True)
            path.write_text(json.dumps(results, indent=2) + "\n")
    finally:
        shutil.rmtree(bench.folder)
    if set(PARTS) <= set(results):
        (HERE / "speed.md").write_text(report(results))
        print(report(results))


if __name__ == "__main__":
    main()
