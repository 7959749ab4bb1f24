"""Compare onnxruntime with the project's own inference, in images per second: benchmarks/export.md.

    pip install -r requirements-export.txt
    python -m benchmarks.export IMAGES --weights module/catdog-resnet18.pth

IMAGES is a folder with JPEGs somewhere in it; those of its most frequent width and height are used, since a batch has
one size. All take turns on the same images, so that other work on the machine affects all of them, and only ratios are
worth reading: each is the median of the rounds. Some minutes. CPU only.
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
from benchmarks.__main__ import HERE, table
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.data.images import load_image
from classifier.device import device_name, select_compute
from classifier.inference.predictor import build_predictor

BATCHES = (1, 32)
COLUMNS = list(itertools.product(("from decoded images", "from files"), BATCHES))
BASE = "PyTorch, float32 channels-last"

Predict = Callable[[list[Image.Image]], np.ndarray]  # decoded images -> probabilities


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--weights", type=Path, default=Path("module") / checkpoints.SHIPPED[-1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each measurement")
    options = parser.parse_args()
    checkpoint = checkpoints.load(options.weights)
    files, size = files_of_one_size(options.images, max(BATCHES))
    side = checkpoint.preprocess.size
    text = (
        f"# {checkpoint.model} at {side} x {side}, images of {size[0]} x {size[1]}\n\n"
        f"Images per second as multiples of `{BASE}`: medians of {options.rounds} rounds in turns, in brackets the "
        "lowest and the highest. Resizing is included everywhere, decoding in the last two columns.\n\n"
    )
    for title, threads, clock in (
        ("One thread, in seconds of processor time, which other work hardly changes", 1, time.process_time),
        ("All cores, in seconds of wall-clock time, which other work changes", os.cpu_count() or 1, time.perf_counter),
    ):
        torch.set_num_threads(threads)
        predictors = build(checkpoint, threads)
        rates: dict[tuple, list[float]] = {}
        for turn in range(options.rounds):
            for source, batch in COLUMNS:
                some = files[:batch]
                inputs = some if source == "from files" else [load_image(file, side) for file in some]
                for name in list(predictors)[:: 1 if turn % 2 else -1]:
                    rate = images_per_second(predictors[name], inputs, side, options.seconds, clock)
                    rates.setdefault((name, source, batch), []).append(rate)
            print(f"{title}: round {turn + 1} of {options.rounds}", flush=True)
        rows = [("", *(f"{source}, batch of {batch}" for source, batch in COLUMNS))]
        for name in predictors:
            pairs = (zip(rates[(name, *column)], rates[(BASE, *column)], strict=True) for column in COLUMNS)
            ratios = [[rate / base for rate, base in pair] for pair in pairs]
            rows.append((name, *(f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})" for r in ratios)))
        text += f"{title}:\n\n{table(rows)}\n\n"
    text += (
        f"{device_name(torch.device('cpu'))}, {platform.system()}; PyTorch {torch.__version__}, onnxruntime "
        f"{onnxruntime.__version__}; {date.today()}.\n\n    python -m benchmarks.export IMAGES\n"
    )
    (HERE / "export.md").write_text(text, encoding="utf-8")
    print(text)


def build(checkpoint: Checkpoint, threads: int) -> dict[str, Predict]:
    """Return each way to predict, by name."""
    predictors: dict[str, Predict] = {}
    pixels = checkpoint.preprocess.pixels
    for precision in ("fp32", "bf16"):
        compute = select_compute("cpu", precision)
        predict = build_predictor(checkpoint, compute)
        predictors[f"PyTorch, {compute.format}"] = lambda images, predict=predict: predict(
            torch.stack([pixels(image) for image in images])
        ).probabilities.numpy()
    export.need_packages()
    from classifier.inference import onnx_graph  # needs them

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.onnx")
        file.write_bytes(onnx_graph.onnx_bytes(onnx_graph.network_model(checkpoint), checkpoint))
        for name, count in {"onnxruntime": 1 if threads == 1 else 0, "onnxruntime, 2 threads": 2}.items():
            if threads > 1 or count < 2:  # 0: onnxruntime's default
                settings = onnxruntime.SessionOptions()
                settings.intra_op_num_threads = count
                session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
                predictors[name] = lambda images, session=session: session.run(
                    None, {session.get_inputs()[0].name: np.stack([np.asarray(image) for image in images])}
                )[0]
    return predictors


def files_of_one_size(folder: Path, count: int) -> tuple[list[bytes], tuple[int, int]]:
    """Return `count` files of the most frequent size among the first thousand, and that size (width, height)."""
    sizes = {}
    for path in itertools.islice(sorted(folder.rglob("*.jpg")), 1000):
        with Image.open(path) as image:
            sizes[path] = image.size
    size = Counter(sizes.values()).most_common(1)[0][0]
    paths = [path for path, found in sizes.items() if found == size]
    return [path.read_bytes() for path in itertools.islice(itertools.cycle(paths), count)], size


def images_per_second(predict: Predict, inputs: list, side: int, seconds: float, clock: Callable[[], float]) -> float:
    """Return the speed on these images; files are decoded first, as a program would."""

    def step() -> None:
        predict([load_image(item, side) if isinstance(item, bytes) else item for item in inputs])

    step()  # the first one also sets things up
    start, steps = clock(), 0
    while steps < 2 or clock() - start < seconds:
        step()
        steps += 1
    return steps * len(inputs) / (clock() - start)


if __name__ == "__main__":
    main()
