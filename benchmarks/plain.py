"""Time the loop that most tutorials show: ImageFolder, PIL, float32, Adam, everything in the main process.

    python -m benchmarks.plain train DATA --size 224 --batch-size 32 --seconds 20
    python -m benchmarks.plain evaluate DATA --size 224 --batch-size 32 --weights FILE

Prints one line of JSON. It imports nothing of the project but the network.
"""

import json
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks import Meter, loop_parser
from resnet import resnet18


def main() -> None:
    """Train for some seconds, or evaluate once."""
    parser = loop_parser(__doc__)
    parser.add_argument("what", choices=("train", "evaluate"))
    parser.add_argument("data")
    parser.add_argument("--weights")
    options = parser.parse_args()
    half = (0.5, 0.5, 0.5)
    resize = transforms.Resize((options.size, options.size))
    transform = transforms.Compose([resize, transforms.ToTensor(), transforms.Normalize(half, half)])
    loader = DataLoader(ImageFolder(options.data, transform), options.batch_size, shuffle=options.what == "train")
    network = resnet18(num_classes=2)

    if options.what == "train":
        optimizer, loss_function, meter = (
            torch.optim.Adam(network.parameters(), lr=1e-4),
            nn.CrossEntropyLoss(),
            Meter(options),
        )
        while not meter.done:
            for x, labels in loader:
                optimizer.zero_grad()
                loss = loss_function(network(x), labels)
                loss.backward()
                optimizer.step()
                loss.item()
                if meter.step():
                    break
        return

    if options.weights:
        network.load_state_dict(torch.load(options.weights, weights_only=True)["state_dict"])
    network.eval()
    correct, count, start = 0, 0, time.perf_counter()
    with torch.no_grad():
        for x, labels in loader:
            correct += (network(x).argmax(1) == labels).sum().item()
            count += len(labels)
    print(json.dumps({"images_per_second": count / (time.perf_counter() - start), "accuracy": correct / count}))


if __name__ == "__main__":
    main()
