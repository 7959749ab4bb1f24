"""Images a second of a network in onnxruntime, beside the project's own way to answer: benchmarks/export.md.

    pip install -r requirements-export.txt
    python -m benchmarks.export IMAGES --weights module/catdog-resnet18.pth

IMAGES is a folder with JPEGs somewhere in it; those of its most frequent width and height are used, since a batch is
of one size. Everything answers the same images in turns, so that other work on the machine falls on all of it, and
only ratios are worth reading: each is the median of the rounds. Some minutes. CPU only.
"""

import argparse
import itertools
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

import export
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.data.images import load_image
from classifier.device import device_name, select_compute, set_up
from classifier.inference.predictor import build_predictor

HERE = Path(__file__).resolve().parent
BATCHES = (1, 32)
COLUMNS = list(itertools.product(("from decoded images", "from files"), BATCHES))
FORMATS = ["float32 channels-last", "bfloat16 channels-last"]
BASE = f"PyTorch, {FORMATS[0]}"

Way = Callable[[list[Image.Image]], np.ndarray]  # decoded images -> probabilities


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("images", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("module") / checkpoints.SHIPPED)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement")
    options = parser.parse_args()

    set_up(torch.device("cpu"))
    checkpoint = checkpoints.load(options.weights)
    files, size = some_of_one_size(options.images, max(BATCHES))
    side = checkpoint.preprocess.size
    text = f"# {checkpoint.model} at {side} x {side}, answering images of {size[0]} x {size[1]}\n\n"
    text += (
        f"Images a second as multiples of `{BASE}`: medians of {options.rounds} rounds in turns, in brackets the "
        "lowest and the\nhighest. Resizing is included everywhere, decoding in the last two columns.\n\n"
    )
    for title, threads, clock in (
        ("One thread, in seconds of the processor, which other work hardly changes", 1, time.process_time),
        ("All cores, in seconds of the clock, which other work changes", os.cpu_count() or 1, time.perf_counter),
    ):
        torch.set_num_threads(threads)
        ways = all_ways(checkpoint, threads)
        rates: dict[tuple, list[float]] = {}
        for turn in range(options.rounds):
            for source, batch in COLUMNS:
                some = files[:batch]
                inputs = some if source == "from files" else [load_image(file, side) for file in some]
                for name in list(ways)[:: 1 if turn % 2 else -1]:
                    rate = images_a_second(ways[name], inputs, side, options.seconds, clock)
                    rates.setdefault((name, source, batch), []).append(rate)
            print(f"{title}: round {turn + 1} of {options.rounds}", flush=True)
        text += f"{title}:\n\n{table(list(ways), rates)}\n"
    text += (
        f"{device_name(torch.device('cpu'))}, {platform.system()}; PyTorch {torch.__version__}, onnxruntime "
        f"{onnxruntime.__version__}; {date.today()}.\n\n"
        "    python -m benchmarks.export IMAGES\n"
    )
    (HERE / "export.md").write_text(text, encoding="utf-8")
    print(text)


def all_ways(checkpoint: Checkpoint, threads: int) -> dict[str, Way]:
    """Each way to answer, by name."""
    ways = {}
    for name in FORMATS:
        answer = build_predictor(checkpoint, select_compute("cpu", "auto", name))
        ways[f"PyTorch, {name}"] = own(checkpoint, answer)
    export.need_packages()
    numbers = {"onnxruntime": 1} if threads == 1 else {"onnxruntime": 0, "onnxruntime, 2 threads": 2}  # 0: its default
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        file.write_bytes(export.onnx_bytes(checkpoint, {}))
        for name, number in numbers.items():
            settings = onnxruntime.SessionOptions()
            settings.intra_op_num_threads = number
            ways[name] = theirs(onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"]))
    return ways


def own(checkpoint: Checkpoint, answer: Callable) -> Way:
    """The project's own."""
    pixels = checkpoint.preprocess.pixels
    return lambda images: answer(torch.stack([pixels(image) for image in images])).probabilities.numpy()


def theirs(session: onnxruntime.InferenceSession) -> Way:
    """onnxruntime's."""
    return lambda images: session.run(None, {"picture": np.stack([np.asarray(image) for image in images])})[0]


def some_of_one_size(folder: Path, count: int) -> tuple[list[bytes], tuple[int, int]]:
    """`count` files of the most frequent size among the first thousand, and that size (width, height)."""
    sizes = {}
    for path in itertools.islice(sorted(folder.rglob("*.jpg")), 1000):
        with Image.open(path) as image:
            sizes[path] = image.size
    size = Counter(sizes.values()).most_common(1)[0][0]
    paths = [path for path, found in sizes.items() if found == size]
    return [path.read_bytes() for path in itertools.islice(itertools.cycle(paths), count)], size


def images_a_second(way: Way, inputs: list, side: int, seconds: float, clock: Callable[[], float]) -> float:
    """Files are decoded first, as a program would."""

    def step() -> None:
        way([load_image(item, side) if isinstance(item, bytes) else item for item in inputs])

    step()  # the first one also sets things up
    start, steps = clock(), 0
    while steps < 2 or clock() - start < seconds:
        step()
        steps += 1
    return steps * len(inputs) / (clock() - start)


def table(names: list[str], rates: dict[tuple, list[float]]) -> str:
    """Markdown, one line for each way."""
    lines = ["| | " + " | ".join(f"{source}, {batch} at a time" for source, batch in COLUMNS) + " |"]
    lines.append("| --- |" + " --- |" * len(COLUMNS))
    for name in names:
        cells = []
        for column in COLUMNS:
            ratios = [rate / base for rate, base in zip(rates[(name, *column)], rates[(BASE, *column)], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {name} | " + " | ".join(cells if name != BASE else ["1"] * len(COLUMNS)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
