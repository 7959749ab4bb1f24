"""What do shortcuts, augmentation, weight decay, dropout and a falling learning rate do? Small trainings to measure it.

`python -m docs.figures` runs them; how-it-works.md gives the results.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classifier.data.transforms import Augment, Preprocess, resize_batch
from docs.drawings import CLASSES, draw
from resnet import BasicBlock, ResNet

SIZE = 48  # pixels of the images
SEEDS = range(3)
normalize = Preprocess().normalize


def drawings(split: str, count: int, side: int) -> tuple[Tensor, Tensor]:
    """`count` drawings, cats and dogs in turn -> (count, 3, side, side) uint8, (count,) labels."""
    preprocess = Preprocess(size=side)
    images = [preprocess.pixels(draw(split, CLASSES[i % 2], i // 2)) for i in range(count)]
    return torch.stack(images), torch.arange(count) % 2


# ---- shortcuts


class PlainBlock(BasicBlock):
    """A BasicBlock's layers without its shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))


BLOCKS = {"plain": PlainBlock, "residual": BasicBlock}
STARTS = ("batch norm", "no batch norm, Kaiming", "no batch norm, PyTorch's default")
STEPS, RATES = 50, (0.003, 0.01)


def thirty_four_layers(block: type[BasicBlock], start: str, seed: int) -> ResNet:
    """ResNet-34 of these blocks, with or without batch norm, with resnet.py's first weights or PyTorch's."""
    torch.manual_seed(seed)
    network = ResNet(block, [3, 4, 6, 3], len(CLASSES))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and start.endswith("default"):
            module.reset_parameters()
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d) and start != "batch norm":
                setattr(module, name, nn.Identity())
    return network


def gradients(network: ResNet, x: Tensor, labels: Tensor) -> list[float]:
    """Norm of the gradient / norm of the weights, for the 33 convolutions of the main path."""
    F.cross_entropy(network(x), labels).backward()
    named = network.named_modules()
    layers = [module for name, module in named if isinstance(module, nn.Conv2d) and "downsample" not in name]
    return [(layer.weight.grad.norm() / layer.weight.norm()).item() for layer in layers]


def losses(block: type[BasicBlock], rate: float, seed: int, x: Tensor, labels: Tensor) -> list[float]:
    """Training loss of the first steps, with batch norm: SGD with momentum 0.9, random batches of 32."""
    network = thirty_four_layers(block, STARTS[0], seed)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9)
    found = []
    for _ in range(STEPS):
        batch = torch.randperm(len(x))[:32]
        loss = F.cross_entropy(network(x[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


# ---- augmentation, weight decay, dropout, a falling learning rate

OPTIONS = {
    "none of them": {},
    "augmentation": {"augment": Augment(min_area=0.5, color=0.2)},
    "weight decay": {"weight_decay": 0.01},
    "dropout": {"dropout": 0.5},
    "falling learning rate": {"falling": True},
}
OPTIONS["all four"] = {key: value for options in OPTIONS.values() for key, value in options.items()}
EPOCHS, BATCH, RATE, WRONG = 20, 32, 0.03, 8  # every WRONG-th training label is wrong


def train_small(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    seed: int,
    augment: Augment | None = None,
    weight_decay: float = 0.0,
    dropout: float = 0.0,
    falling: bool = False,
    epochs: int = EPOCHS,
) -> dict:
    """Train ten layers with SGD on a few drawings, some of which have the wrong label.

    Args:
        train: (N, 3, S, S) uint8 with S = CROP_MARGIN * SIZE, (N,) labels; test: (M, 3, SIZE, SIZE) and (M,).
        seed: decides first weights, order and augmentation.
        augment, weight_decay, dropout, falling: what is tried. Dropout comes before the linear layer; a falling
            learning rate follows half a cosine to 0.
        epochs: how often every image is shown.

    Returns:
        "accuracies": on the test part after every epoch; "loss": cross-entropy there at the end; "by heart": the
        share of the wrong labels that the network gives at the end.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = ResNet(BasicBlock, [1, 1, 1, 1], len(CLASSES))
    network.fc = nn.Sequential(nn.Dropout(dropout), network.fc)
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, weight_decay=weight_decay)
    pixels, truth = train
    wrong = torch.arange(len(truth)) // 2 % WRONG == 0
    labels = torch.where(wrong, 1 - truth, truth)
    seen, unseen = normalize(resize_batch(pixels, SIZE)), normalize(test[0])
    steps, step, accuracies = epochs * math.ceil(len(labels) / BATCH), 0, []
    for _ in range(epochs):
        network.train()
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / steps)) / 2 if falling else RATE
            x = normalize(augment(pixels[batch], SIZE, generator)) if augment else seen[batch]
            optimizer.zero_grad()
            F.cross_entropy(network(x), labels[batch]).backward()
            optimizer.step()
            step += 1
        network.eval()
        with torch.no_grad():
            logits = network(unseen)
        accuracies.append((logits.argmax(1) == test[1]).float().mean().item())
    with torch.no_grad():
        by_heart = (network(seen[wrong]).argmax(1) == labels[wrong]).float().mean().item()
    return {"accuracies": accuracies, "loss": F.cross_entropy(logits, test[1]).item(), "by heart": by_heart}
