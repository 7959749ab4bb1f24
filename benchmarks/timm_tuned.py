"""Time timm's own loader, network, optimizer and step, with bfloat16, channels-last and workers to make it fast.

Crops, flips and colour jitter are those of train.py's default recipe, as are loss and average of weights.

    python -m benchmarks.timm_tuned DATA --size 224 --batch-size 32 --seconds 20 --workers 2

Prints one line of JSON.
"""

import timm
import torch
from timm.data import create_dataset, create_loader
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3

from benchmarks import Meter, loop_parser


def main() -> None:
    """Train for some seconds."""
    parser = loop_parser(__doc__)
    parser.add_argument("data")
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
    meter = Meter(options)
    while not meter.done:
        for x, labels in loader:
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_function(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.update(network)
            loss.item()
            if meter.step():
                break


if __name__ == "__main__":
    main()
