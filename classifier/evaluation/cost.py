"""What a network costs: parameters, multiply-adds, megabytes, and milliseconds for one image."""

import time
from collections.abc import Callable

import numpy as np
import torch

from classifier.checkpoint import Checkpoint
from zoo.table import layer_table

WARM_UP, TIMED = 5, 30  # batches of one image


def costs(checkpoint: Checkpoint, predict: Callable[[torch.Tensor], object], device: torch.device) -> dict:
    """Return parameters and multiply-adds for one image, megabytes of the file, and the milliseconds for one image.

    These are the median and the 95th percentile, warm, from the pixels on the CPU to the prediction on the CPU.
    `predict` takes (1, 3, S, S) uint8 on `device`, where the network computes.
    """
    network, side = checkpoint.network(), checkpoint.preprocess.size
    try:
        rows = layer_table(network, side)
    except Exception:  # a network of one's own that torch.fx cannot trace
        rows = []
    image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    clock = [time.perf_counter()]
    for _ in range(WARM_UP + TIMED):
        predict(image.to(device))
        clock.append(time.perf_counter())
    median, p95 = np.percentile(1000 * np.diff(clock)[WARM_UP:], [50, 95]).tolist()
    return {
        "parameters": sum(row.parameters for row in rows) or sum(p.numel() for p in network.parameters()),
        "multiply_adds": sum(row.multiply_adds for row in rows) or None,
        "megabytes": checkpoint.path.stat().st_size / 1e6 if checkpoint.path else None,
        "milliseconds_for_one": median,
        "milliseconds_for_one_p95": p95,
    }
