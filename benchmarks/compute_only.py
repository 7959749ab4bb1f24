"""Measure a training step without any images: one batch of noise, over and over, in the number format of train.py.

    python -m benchmarks.compute_only --size 224 --batch-size 32 --seconds 20

Prints one line of JSON.
"""

import argparse
import json
import time

import torch
import torch.nn.functional as F

from classifier.device import select_compute
from resnet import resnet18

WARM_UP_STEPS = 5


def main() -> None:
    """Train for some seconds on one batch of noise."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--format", default="", help='"float32", "bfloat16 channels-last"; what train.py takes without')
    options = parser.parse_args()

    network = resnet18(num_classes=2)
    compute = select_compute("auto", "auto", options.format)
    network = network.to(compute.device, memory_format=compute.memory_format).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    x = torch.randn(options.batch_size, 3, options.size, options.size, device=compute.device)
    x = x.contiguous(memory_format=compute.memory_format)
    labels = torch.randint(0, 2, (options.batch_size,), device=compute.device)
    marks = [time.perf_counter()]
    while len(marks) <= 2 * WARM_UP_STEPS or marks[-1] - marks[WARM_UP_STEPS] < options.seconds:
        with compute.autocast():
            logits = network(x)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        marks.append(time.perf_counter())
    print(
        json.dumps(
            {
                "images_per_second": options.batch_size
                * (len(marks) - 1 - WARM_UP_STEPS)
                / (marks[-1] - marks[WARM_UP_STEPS])
            }
        )
    )


if __name__ == "__main__":
    main()
