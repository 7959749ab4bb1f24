"""DenseNet-121/169/201 by hand.

    python -m zoo densenet121

The networks of Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", 2016
(https://arxiv.org/abs/1608.06993). Where a ResNet adds a block's output to its input, a DenseNet concatenates them.
Every layer of a block sees the feature maps of all layers before it and contributes 32 of its own, so that features
are reused and the gradient reaches each layer directly: ResNet-50's accuracy with a third of its parameters.

Batch norm and ReLU come before each convolution, since each layer scales the shared feature maps in its own way.
"""

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from zoo import Network

GROWTH_RATE = 32  # channels that each layer adds
STEM_CHANNELS = 64


class DenseLayer(nn.Module):
    """1 x 1 to 4 * GROWTH_RATE channels, then 3 x 3 to GROWTH_RATE. (N, in_channels, H, W) -> (N, GROWTH_RATE, H, W)"""

    def __init__(self, in_channels: int):
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(in_channels, 4 * GROWTH_RATE, kernel_size=1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * GROWTH_RATE)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * GROWTH_RATE, GROWTH_RATE, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.conv2(self.relu2(self.norm2(self.conv1(self.relu1(self.norm1(x))))))


class DenseBlock(nn.Sequential):
    """Layers that each see the maps of all before them. (N, C, H, W) -> (N, C + layers * GROWTH_RATE, H, W)"""

    def __init__(self, layers: int, in_channels: int):
        names = (f"denselayer{i + 1}" for i in range(layers))
        super().__init__(OrderedDict((name, DenseLayer(in_channels + i * GROWTH_RATE)) for i, name in enumerate(names)))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        for layer in self:
            x = torch.cat([x, layer(x)], dim=1)
        return x


def transition(in_channels: int) -> nn.Sequential:
    """Halve channels, height and width between two blocks."""
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(in_channels),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(in_channels, in_channels // 2, kernel_size=1, bias=False),
            pool=nn.AvgPool2d(kernel_size=2, stride=2),
        )
    )


class DenseNet(Network):
    """A stem and four dense blocks of so many layers. (N, 3, H, W) -> (N, num_classes)"""

    smallest = 29  # pixels: the stem divides the side by four, three transitions halve it, rounding down

    def __init__(self, blocks: tuple[int, int, int, int], num_classes: int = 1000):
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(3, STEM_CHANNELS, kernel_size=7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(STEM_CHANNELS),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),  # (N, 64, 56, 56) for a 224 x 224 image
        )
        channels = STEM_CHANNELS
        for number, count in enumerate(blocks, 1):
            layers[f"denseblock{number}"] = DenseBlock(count, channels)
            channels += count * GROWTH_RATE
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
        """Return the last feature map, after its ReLU: (N, 3, H, W) -> (N, C, H/32, W/32)."""
        return self.relu(super().forward_features(x))


# 8.0, 14.1 and 20.0 million parameters with 1000 classes
densenet121 = partial(DenseNet, (6, 12, 24, 16))
densenet169 = partial(DenseNet, (6, 12, 32, 32))
densenet201 = partial(DenseNet, (6, 12, 48, 32))
