"""Compare a .pth and its .onnx, in float32 and in 8 bits: `python -m benchmarks.laptop`.

ResNet-18 at 224 pixels, batches of 32, from pixels to predictions, decoding excluded. Each way has a process of its
own with one thread, and they take turns. Counted is processor time, which other work on the machine hardly changes.
PyTorch can be held to AVX2, as most laptops have it; onnxruntime cannot, and uses AVX-512 and VNNI where there are any.
Four minutes. CPU only.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

import export
from classifier import checkpoint as checkpoints
from classifier.inference import onnx_file
from classifier.inference.predictor import build_predictor

SIDE, BATCH, BATCHES, ROUNDS = 224, 32, 2, 9
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
WAYS = {  # name -> file, precision, environment
    ".pth, float32, AVX2": ("x.pth", "fp32", AVX2),
    ".onnx, float32": ("x.onnx", "auto", {}),
    ".onnx, 8 bits": ("x-int8.onnx", "auto", {}),
    ".pth, bfloat16": ("x.pth", "bf16", {}),
}


def main() -> None:
    """Print the milliseconds per image of each way, and how many times as fast as the first it is."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        workers = {}
        for name, (file, precision, environment) in WAYS.items():
            command = [sys.executable, "-m", "benchmarks.laptop", str(Path(folder, file)), precision]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            workers[name] = subprocess.Popen(command, env=os.environ | environment, **pipes)
        times = {name: [] for name in WAYS}
        for turn in range(ROUNDS + 1):
            for name, worker in workers.items():
                print("go", file=worker.stdin, flush=True)
                milliseconds = float(worker.stdout.readline())
                times[name] += [milliseconds] * (turn > 0)  # the first one warms up
        for worker in workers.values():
            worker.communicate()
    base = times[next(iter(WAYS))]
    for name, found in times.items():
        ratios = [one / other for one, other in zip(base, found, strict=True)]
        print(
            f"{name:22} {statistics.median(found):6.1f} ms per image   {statistics.median(ratios):.2f}x "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def write(folder: Path) -> None:
    """Write the project's weights as x.pth, x.onnx and x-int8.onnx; what the images show does not change the speed."""
    export.need_packages()
    from classifier.inference import onnx_graph  # needs them

    checkpoint = checkpoints.load(Path("module", checkpoints.SHIPPED[-1]))
    checkpoint = replace(checkpoint, preprocess=replace(checkpoint.preprocess, size=SIDE), path=folder / "x.pth")
    checkpoints.save(checkpoint, checkpoint.path)
    model = onnx_graph.network_model(checkpoint)
    small = onnx_graph.quantized(model, [torch.randint(0, 256, (BATCH, 3, SIDE, SIDE))])
    (folder / "x.onnx").write_bytes(onnx_graph.onnx_bytes(model, checkpoint))
    (folder / "x-int8.onnx").write_bytes(onnx_graph.onnx_bytes(small, checkpoint, "int8"))


def work(file: str, precision: str) -> None:
    """Print the milliseconds per image of a round for each line of the input."""
    torch.set_num_threads(1)
    checkpoint = onnx_file.load(Path(file))
    predict = build_predictor(checkpoint, onnx_file.select_compute(checkpoint, "cpu", precision))
    pixels = torch.randint(0, 256, (BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    for _ in sys.stdin:
        start = time.process_time()
        for _ in range(BATCHES):
            predict(pixels)
        print(1000 * (time.process_time() - start) / (BATCH * BATCHES), flush=True)


if __name__ == "__main__":
    work(*sys.argv[1:]) if len(sys.argv) > 1 else main()
