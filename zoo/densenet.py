"""DenseNet-121/169/201 by hand.

    python -m zoo densenet121

The networks of Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", 2016
(https://arxiv.org/abs/1608.06993). Their idea: where a ResNet adds what a block has found to its input, a DenseNet
lays it beside it. Every layer of a block sees the maps of all layers before it and adds a few (32) of its own, so
nothing has to be learned twice and the gradient reaches each layer directly. ResNet-50's accuracy with a third of its
parameters.

Batch norm and ReLU come before each convolution, since every reader of the same maps scales them in its own way.

Parameter names equal torchvision's.
"""

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from zoo.sizes import check_size

GROWTH = 32  # maps that each layer adds
FIRST = 64  # maps of the stem


class DenseLayer(nn.Module):
    """1 x 1 to 4 * GROWTH channels, then 3 x 3 to GROWTH. (N, in_channels, H, W) -> (N, GROWTH, H, W)"""

    def __init__(self, in_channels: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, 4 * GROWTH, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * GROWTH, GROWTH, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(x))))))


class DenseBlock(nn.Sequential):
    """`layers` layers, each of which sees all maps so far. (N, C, H, W) -> (N, C + layers * GROWTH, H, W)"""

    def __init__(self, layers: int, in_channels: int):
        names = (f"denselayer{i + 1}" for i in range(layers))
        super().__init__(OrderedDict((name, DenseLayer(in_channels + i * GROWTH)) for i, name in enumerate(names)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        for layer in self:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def transition(in_channels: int) -> nn.Sequential:
    """Between blocks: half as many maps, of half the side."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(in_channels, in_channels // 2, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(kernel_size=2, stride=2),
        )
    )


class DenseNet(nn.Module):
    """A stem and four dense blocks.

    Args:
        blocks: how many layers in each of the four, for instance (6, 12, 24, 16).
        num_classes: how many logits.

    Shapes: (N, 3, H, W) -> (N, num_classes).
    """

    smallest = 29  # pixels: the stem quarters the map, the transitions halve it three times, rounding down

    def __init__(self, blocks: tuple[int, int, int, int], num_classes: int = 1000):
        super().__init__()
        self.register_forward_pre_hook(check_size)
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, FIRST, kernel_size=7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(FIRST),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),  # (N, 64, 56, 56) for a 224 x 224 image
        )
        channels = FIRST
        for number, count in enumerate(blocks, 1):
            layers[f"denseblock{number}"] = DenseBlock(count, channels)
            channels += count * GROWTH
            if number < len(blocks):
                layers[f"transition{number}"] = transition(channels)  # 28, 14, 7 pixels wide
                channels //= 2
        layers["norm5"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/32, W/32): the last map, after its ReLU."""
        return self.relu(self.features(x))

    def forward_head(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, num_classes)."""
        return self.classifier(torch.flatten(self.avgpool(features), 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.forward_head(self.forward_features(x))


# 8.0, 14.1 and 20.0 million parameters with 1000 classes
densenet121 = partial(DenseNet, (6, 12, 24, 16))
densenet169 = partial(DenseNet, (6, 12, 32, 32))
densenet201 = partial(DenseNet, (6, 12, 48, 32))
