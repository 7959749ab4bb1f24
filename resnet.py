"""ResNet-18/34/50/101/152 by hand.

    python resnet.py                            the layers of ResNet-18, for a 224 x 224 image
    python resnet.py resnet34 --size 128

The network of He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", 2015
(https://arxiv.org/abs/1512.03385). Its idea: a stack of layers need not learn the whole mapping H(x); it learns what
to add to its input, F(x) = H(x) - x, and a shortcut carries x past it:

        x ----> conv -> bn -> relu -> conv -> bn ---(+)--> relu
        |                                            |
        +--------------- shortcut -------------------+

A block that has nothing to add only needs weights near zero, and the gradient reaches early layers through the
shortcuts undiminished. That is what made 34, 50 and 152 layers trainable where plain stacks of them got worse.

Parameter names equal torchvision's, so a state_dict passes both ways. As there, and unlike in the paper, a
Bottleneck strides in its 3 x 3 convolution ("ResNet v1.5"), which is a little more accurate.
"""

import torch
from torch import Tensor, nn

# Convolutions have no bias: batch norm follows each one and subtracts the mean of every channel, and with it any
# constant the convolution had added. Batch norm's own bias takes its place.


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution with padding 1, so that stride 1 keeps height and width and stride 2 halves them."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1 x 1 convolution: a linear map of the channels, the same at every place."""
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; ResNet-18 and -34 are made of these.

    (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)
    """

    expansion = 1  # the block's output channels / channels

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))  # no ReLU yet: what the block adds may be negative
        return self.relu(x + shortcut)


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1: the channels are squeezed to a quarter for the costly 3 x 3; ResNet-50, -101, -152.

    (N, in_channels, H, W) -> (N, 4 channels, H / stride, W / stride)
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int = 1, downsample: nn.Module | None = None):
        super().__init__()
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, channels * self.expansion)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        return self.relu(x + shortcut)


class ResNet(nn.Module):
    """A ResNet: a stem, four stages of blocks, and a classifier on top.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        blocks: how many of them in each of the four stages, for instance `[2, 2, 2, 2]`.
        num_classes: how many logits.
        include_top: False leaves out pooling and classifier; `forward` then returns the last feature map.

    Shapes: (N, 3, H, W) -> (N, num_classes), or (N, C, H/32, W/32) without the top, with C = 512 * block.expansion.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: list[int],
        num_classes: int = 1000,
        include_top: bool = True,
    ):
        super().__init__()
        self.include_top = include_top

        # shapes for a 224 x 224 image                                             (N,   3, 224, 224)
        self.conv1 = nn.Conv2d(3, 64, kernel_size=7, stride=2, padding=3, bias=False)  # (N,  64, 112, 112)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)  #               (N,  64,  56,  56)
        self.layer1 = _stage(block, 64, 64, blocks[0], stride=1)  #                      (N,  64e, 56,  56)
        self.layer2 = _stage(block, 64 * block.expansion, 128, blocks[1], stride=2)  #   (N, 128e, 28,  28)
        self.layer3 = _stage(block, 128 * block.expansion, 256, blocks[2], stride=2)  #  (N, 256e, 14,  14)
        self.layer4 = _stage(block, 256 * block.expansion, 512, blocks[3], stride=2)  #  (N, 512e,  7,   7)
        #                                                                                e = block.expansion
        if include_top:
            self.avgpool = nn.AdaptiveAvgPool2d(1)  # any size of map -> 1 x 1, so any size of image will do
            self.fc = nn.Linear(512 * block.expansion, num_classes)

        # Kaiming initialisation (https://arxiv.org/abs/1502.01852): a ReLU sets half of its inputs to zero and so
        # halves their mean square; weights of variance 2 / fan make up for it. With fan-out it is the gradient that
        # keeps its size on the way back through the layers.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, C, H/32, W/32): the last feature map, after its ReLU, so never negative."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, features: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, num_classes): the mean over all places, then one linear layer."""
        return self.fc(torch.flatten(self.avgpool(features), 1))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        features = self.forward_features(x)
        return self.forward_head(features) if self.include_top else features


def _stage(block: type, in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    """One stage: `blocks` blocks, of which the first may halve the map and change the number of channels.

    There the input no longer has the shape of what is to be added to it, so this one shortcut gets a 1 x 1
    convolution (and batch norm) that brings it to that shape. All other shortcuts pass the input on as it is.
    """
    out_channels = channels * block.expansion
    downsample = None
    if stride != 1 or in_channels != out_channels:
        downsample = nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))
    first = block(in_channels, channels, stride, downsample)
    return nn.Sequential(first, *(block(out_channels, channels) for _ in range(blocks - 1)))


# The number counts the layers with weights: ResNet-18 has the stem's convolution, 2 in each of 8 blocks, and the
# linear layer. The 1 x 1 convolutions of the shortcuts are not counted.


def resnet18(num_classes: int = 1000, include_top: bool = True) -> ResNet:
    """ResNet-18: 11.7 million parameters with 1000 classes."""
    return ResNet(BasicBlock, [2, 2, 2, 2], num_classes, include_top)


def resnet34(num_classes: int = 1000, include_top: bool = True) -> ResNet:
    """ResNet-34: 21.8 million parameters with 1000 classes."""
    return ResNet(BasicBlock, [3, 4, 6, 3], num_classes, include_top)


def resnet50(num_classes: int = 1000, include_top: bool = True) -> ResNet:
    """ResNet-50: 25.6 million parameters with 1000 classes."""
    return ResNet(Bottleneck, [3, 4, 6, 3], num_classes, include_top)


def resnet101(num_classes: int = 1000, include_top: bool = True) -> ResNet:
    """ResNet-101: 44.5 million parameters with 1000 classes."""
    return ResNet(Bottleneck, [3, 4, 23, 3], num_classes, include_top)


def resnet152(num_classes: int = 1000, include_top: bool = True) -> ResNet:
    """ResNet-152: 60.2 million parameters with 1000 classes."""
    return ResNet(Bottleneck, [3, 8, 36, 3], num_classes, include_top)


if __name__ == "__main__":
    from zoo.table import main

    main()
