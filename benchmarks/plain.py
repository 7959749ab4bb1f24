"""The loop that most tutorials show: ImageFolder, PIL, float32, Adam, everything on the main process.

    python -m benchmarks.plain train DATA --size 224 --batch-size 32 --seconds 20
    python -m benchmarks.plain evaluate DATA --size 224 --batch-size 32 --weights FILE

Prints one line of JSON. It imports nothing of the project but the network.
"""

import argparse
import json
import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from resnet import resnet18

WARM_UP_STEPS = 5


def main() -> None:
    """Train for some seconds, or evaluate once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("train", "evaluate"))
    parser.add_argument("data")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--weights")
    options = parser.parse_args()

    half = (0.5, 0.5, 0.5)
    transform = transforms.Compose(
        [transforms.Resize((options.size, options.size)), transforms.ToTensor(), transforms.Normalize(half, half)]
    )
    loader = DataLoader(ImageFolder(options.data, transform), options.batch_size, shuffle=options.what == "train")
    network = resnet18(num_classes=2)

    if options.what == "train":
        optimizer, loss_function = torch.optim.Adam(network.parameters(), lr=1e-4), nn.CrossEntropyLoss()
        marks = [time.perf_counter()]
        while (
            marks[-1] - marks[min(WARM_UP_STEPS, len(marks) - 1)] < options.seconds or len(marks) <= 2 * WARM_UP_STEPS
        ):
            for x, labels in loader:
                optimizer.zero_grad()
                loss = loss_function(network(x), labels)
                loss.backward()
                optimizer.step()
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
        return

    if options.weights:
        network.load_state_dict(torch.load(options.weights, weights_only=True)["state_dict"])
    network.eval()
    correct, count, start = 0, 0, time.perf_counter()
    with torch.no_grad():
        for x, labels in loader:
            correct += (network(x).argmax(1) == labels).sum().item()
            count += len(labels)
    seconds = time.perf_counter() - start
    print(json.dumps({"images_per_second": count / seconds, "accuracy": correct / count}))


if __name__ == "__main__":
    main()
