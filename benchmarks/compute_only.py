"""Time training steps without any images: one batch of noise, over and over, in the number format of train.py.

    python -m benchmarks.compute_only --size 224 --batch-size 32 --seconds 20

Prints one line of JSON.
"""

import torch
import torch.nn.functional as F

from benchmarks import Meter, loop_parser
from classifier.device import select_compute
from resnet import resnet18


def main() -> None:
    """Train for some seconds on one batch of noise."""
    parser = loop_parser(__doc__)
    parser.add_argument("--format", default="", help='"float32", "bfloat16 channels-last"; train.py\'s by default')
    options = parser.parse_args()
    compute = select_compute("auto", "auto", options.format)
    network = resnet18(num_classes=2).to(compute.device, memory_format=compute.memory_format).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    x = torch.randn(options.batch_size, 3, options.size, options.size, device=compute.device)
    x = x.contiguous(memory_format=compute.memory_format)
    labels = torch.randint(0, 2, (options.batch_size,), device=compute.device)
    meter = Meter(options)
    while not meter.done:
        with compute.autocast():
            logits = network(x)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        meter.step()


if __name__ == "__main__":
    main()
