"""GoogLeNet by hand.

    python -m zoo googlenet

The network of Szegedy et al., "Going Deeper with Convolutions", 2014 (https://arxiv.org/abs/1409.4842). The size of a
kernel is not chosen by hand but left to training: an Inception block applies 1 x 1, 3 x 3 and larger kernels and
pooling side by side and concatenates the results; 1 x 1 convolutions reduce the channels first, which keeps it cheap.
22 layers with a tenth of AlexNet's parameters.

Two auxiliary classifiers at intermediate layers bring gradient to the early layers in training; afterwards they are
not used.

torchvision's version, which this follows, departs from the paper: batch norm follows each convolution, the 5 x 5
kernels are 3 x 3 (a mistake that was kept for the sake of its trained weights), the last pooling of the fourth stage
is 2 x 2 instead of 3 x 3, and the auxiliary classifiers pool to 4 x 4 instead of with a 5 x 5 window.
"""

import torch
from torch import Tensor, nn

from zoo import Network


class Convolution(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int = 1, padding: int = 0):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel_size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=0.001)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.relu(self.bn(self.conv(x)))


class Inception(nn.Module):
    """Four branches side by side: 1 x 1, 3 x 3, 5 x 5 (in the paper), pooling. (N, in_channels, H, W) -> (N, C, H, W)

    C is the sum of the branches' channels. `three` and `five` are those after the reduction and of the output.
    """

    def __init__(self, in_channels: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int):
        super().__init__()
        self.branch1 = Convolution(in_channels, one, 1)
        self.branch2 = nn.Sequential(Convolution(in_channels, three[0], 1), Convolution(*three, 3, padding=1))
        self.branch3 = nn.Sequential(Convolution(in_channels, five[0], 1), Convolution(*five, 3, padding=1))
        self.branch4 = nn.Sequential(
            nn.MaxPool2d(kernel_size=3, stride=1, padding=1, ceil_mode=True), Convolution(in_channels, pool, 1)
        )

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


class Auxiliary(nn.Module):
    """A classifier at an intermediate layer, used in training only. (N, in_channels, H, W) -> (N, num_classes)"""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.conv = Convolution(in_channels, 128, 1)
        self.fc1 = nn.Linear(128 * 4 * 4, 1024)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.7)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = self.relu(self.fc1(torch.flatten(self.conv(self.pool(x)), 1)))
        return self.fc2(self.dropout(x))


class GoogLeNet(Network):
    """A stem and nine Inception blocks. (N, 3, H, W) -> (N, num_classes), in training also of both auxiliaries."""

    smallest = 15  # pixels: below it the fourth pooling has no input left

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        # shapes for a 224 x 224 image                                          (N,    3, 224, 224)
        self.conv1 = Convolution(3, 64, kernel_size=7, stride=2, padding=3)  #     (N,   64, 112, 112)
        self.maxpool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)  #               (N,   64,  56,  56)
        self.conv2 = Convolution(64, 64, kernel_size=1)
        self.conv3 = Convolution(64, 192, kernel_size=3, padding=1)  #             (N,  192,  56,  56)
        self.maxpool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)  #               (N,  192,  28,  28)
        self.inception3a = Inception(192, 64, (96, 128), (16, 32), 32)  #          (N,  256,  28,  28)
        self.inception3b = Inception(256, 128, (128, 192), (32, 96), 64)  #        (N,  480,  28,  28)
        self.maxpool3 = nn.MaxPool2d(3, stride=2, ceil_mode=True)  #               (N,  480,  14,  14)
        self.inception4a = Inception(480, 192, (96, 208), (16, 48), 64)  #         (N,  512,  14,  14)
        self.inception4b = Inception(512, 160, (112, 224), (24, 64), 64)  #        (N,  512,  14,  14)
        self.inception4c = Inception(512, 128, (128, 256), (24, 64), 64)  #        (N,  512,  14,  14)
        self.inception4d = Inception(512, 112, (144, 288), (32, 64), 64)  #        (N,  528,  14,  14)
        self.inception4e = Inception(528, 256, (160, 320), (32, 128), 128)  #      (N,  832,  14,  14)
        self.maxpool4 = nn.MaxPool2d(2, stride=2, ceil_mode=True)  #               (N,  832,   7,   7)
        self.inception5a = Inception(832, 256, (160, 320), (32, 128), 128)  #      (N,  832,   7,   7)
        self.inception5b = Inception(832, 384, (192, 384), (48, 128), 128)  #      (N, 1024,   7,   7)
        self.aux1 = Auxiliary(512, num_classes)
        self.aux2 = Auxiliary(528, num_classes)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, after its ReLUs: (N, 3, H, W) -> (N, 1024, H/32, W/32)."""
        return self._maps(x)[-1]

    def _maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maps for the two auxiliary classifiers, and the last one."""
        x = self.maxpool2(self.conv3(self.conv2(self.maxpool1(self.conv1(x)))))
        first = self.inception4a(self.maxpool3(self.inception3b(self.inception3a(x))))
        second = self.inception4d(self.inception4c(self.inception4b(first)))
        return first, second, self.inception5b(self.inception5a(self.maxpool4(self.inception4e(second))))

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits: (N, 1024, h, w) -> (N, num_classes)."""
        return self.fc(self.dropout(torch.flatten(self.avgpool(features), 1)))

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        if not self.training:
            return super().forward(x)
        first, second, features = self._maps(x)
        return self.forward_head(features), self.aux2(second), self.aux1(first)


googlenet = GoogLeNet  # 13.0 million parameters with 1000 classes, 6.6 without the auxiliary classifiers
