"""What a network costs: parameters, multiply-adds, megabytes, and milliseconds for one image."""

import statistics
import time
from collections.abc import Callable

import torch

from classifier.checkpoint import Checkpoint
from zoo.table import layer_table

WARM_UP, TIMED = 5, 50  # batches of one image before the clock runs and while it runs
MAX_SECONDS = 5.0  # of the timed ones; a slow network runs fewer


def cost(checkpoint: Checkpoint) -> dict:
    """Return parameters and multiply-adds of one image, as the network predicts, and the megabytes of its file."""
    network = checkpoint.network()
    try:
        rows = layer_table(network, checkpoint.preprocess.size)
    except Exception:  # a network of one's own that torch.fx cannot trace
        rows = []
    return {
        "parameters": sum(row.parameters for row in rows) or sum(p.numel() for p in network.parameters()),
        "multiply_adds": sum(row.multiply_adds for row in rows) or None,
        "megabytes": checkpoint.path.stat().st_size / 1e6 if checkpoint.path else None,
    }


def latency(predict: Callable[[torch.Tensor], object], device: torch.device, size: int) -> dict:
    """Return the milliseconds from the pixels of one image to its prediction, warm: median and 95th percentile.

    Args:
        predict: takes (1, 3, size, size) uint8 on `device`, and has its result on the CPU when it returns.
        device: where the network computes; copying the pixels there counts.
        size: side in pixels.
    """
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    times: list[float] = []
    for run in range(WARM_UP + TIMED):
        start = time.perf_counter()
        predict(image.to(device))
        if run >= WARM_UP:
            times.append(time.perf_counter() - start)
        if sum(times) > MAX_SECONDS and len(times) > 2:
            break
    return {
        "milliseconds_for_one": 1000 * statistics.median(times),
        "milliseconds_for_one_p95": 1000 * statistics.quantiles(times, n=20, method="inclusive")[-1],
    }
