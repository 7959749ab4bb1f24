"""timm's own loader, network, optimizer and step, with what makes it fast here: bfloat16, channels-last, workers.

Crops, flips and changes of colour are those of train.py's default recipe, as are loss and average of weights.

    python -m benchmarks.timm_tuned DATA --size 224 --batch-size 32 --seconds 20 --workers 2

Prints one line of JSON.
"""

import argparse
import json
import time

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

WARM_UP_STEPS = 5


def main() -> None:
    """Train for some seconds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    device = torch.device("cpu")
    loader = create_loader(
        create_dataset("", root=options.data), (3, options.size, options.size), options.batch_size, is_training=True,
        scale=(0.65, 1), hflip=0.5, color_jitter=0.3, re_prob=0.0, interpolation="bilinear",
        num_workers=options.workers, use_prefetcher=False, device=device, persistent_workers=True,
    )  # fmt: skip
    network = timm.create_model("resnet18", num_classes=2).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(network, opt="adamw", lr=1e-3, weight_decay=0.05)
    loss_function, average = LabelSmoothingCrossEntropy(0.1), ModelEmaV3(network, decay=0.998)
    network.train()
    marks = [time.perf_counter()]
    while len(marks) <= 2 * WARM_UP_STEPS or marks[-1] - marks[WARM_UP_STEPS] < options.seconds:
        for x, labels in loader:
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_function(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(network)
            loss.item()
            marks.append(time.perf_counter())
            if len(marks) > 2 * WARM_UP_STEPS and marks[-1] - marks[WARM_UP_STEPS] > options.seconds:
                break
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
