"""EfficientNet-Lite0 by hand.

    python -m zoo efficientnet_lite0

The smallest network of Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019
(https://arxiv.org/abs/1905.11946), in the "Lite" form that Google published for phones in 2020. Its ImageNet weights
are small enough to come with a package, so it is the network to begin with where images are few.

It is made of inverted residuals (Sandler et al., "MobileNetV2", 2018, https://arxiv.org/abs/1801.04381). ResNet's
bottleneck squeezes the channels for its costly 3 x 3 convolution; here the block expands them sixfold instead, since
its 3 x 3 or 5 x 5 convolution is depthwise and costs little: one kernel for each channel, which sees no other. So a
k x k convolution of C channels into C takes k * k * C multiply-adds at each place instead of k * k * C * C; mixing the
channels is left to the 1 x 1 convolutions around it. The shortcut joins the narrow ends, and no ReLU follows there: in
few channels it would lose what it sets to zero.

"Lite" leaves out what small processors and 8-bit numbers are bad at. There is no squeeze-and-excitation, which weights
the channels by their means over the image; and ReLU6, min(max(x, 0), 6), takes the place of swish, so that the range of
every map is known.

Parameter names equal those of `tf_efficientnet_lite0` in timm, so a state_dict passes both ways.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Network

STAGES = (
    # kernel, stride, expansion, channels, blocks                   of a 224 x 224 image:  (N,  32, 112, 112)
    (3, 1, 1, 16, 1),  #                                                                   (N,  16, 112, 112)
    (3, 2, 6, 24, 2),  #                                                                   (N,  24,  56,  56)
    (5, 2, 6, 40, 2),  #                                                                   (N,  40,  28,  28)
    (3, 2, 6, 80, 3),  #                                                                   (N,  80,  14,  14)
    (5, 1, 6, 112, 3),  #                                                                  (N, 112,  14,  14)
    (5, 2, 6, 192, 4),  #                                                                  (N, 192,   7,   7)
    (3, 1, 6, 320, 1),  #                                                                  (N, 320,   7,   7)
)
EPSILON = 1e-3  # of batch norm, as in TensorFlow
DROPOUT = 0.2


def pad_same(x: Tensor, kernel_size: int) -> Tensor:
    """Pad for a convolution of stride 2 as TensorFlow's "same" does: an odd row or column goes to the end, not evenly.

    (N, C, H, W) -> (N, C, H + k - 2 or, for an odd H, k - 1, likewise W); the convolution then gives ceil(H / 2) rows.
    """
    height, width = (kernel_size - 2 + side % 2 for side in (x.shape[2], x.shape[3]))
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


def convolution(in_channels: int, channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution whose stride 1 keeps height and width; for stride 2 `pad_same` pads."""
    padding = kernel_size // 2 if stride == 1 else 0
    return nn.Conv2d(in_channels, channels, kernel_size, stride, padding, groups=groups, bias=False)


class DepthwiseSeparable(nn.Module):
    """A depthwise convolution, then a 1 x 1 convolution of all channels: the first stage. (N, C, H, W), C may change"""

    def __init__(self, in_channels: int, channels: int, kernel_size: int):
        super().__init__()
        self.conv_dw = convolution(in_channels, in_channels, kernel_size, groups=in_channels)
        self.bn1 = nn.BatchNorm2d(in_channels, EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self.conv_pw = convolution(in_channels, channels)
        self.bn2 = nn.BatchNorm2d(channels, EPSILON)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.bn2(self.conv_pw(self.relu(self.bn1(self.conv_dw(x)))))


class InvertedResidual(nn.Module):
    """Expand by a 1 x 1 convolution, filter each channel by itself, project back; a shortcut where the shape stays.

    (N, in_channels, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int, stride: int, expansion: int):
        super().__init__()
        inner = expansion * in_channels
        self.conv_pw = convolution(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner, EPSILON)
        self.conv_dw = convolution(inner, inner, kernel_size, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner, EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        self.conv_pwl = convolution(inner, channels)  # "l": linear, as no ReLU follows
        self.bn3 = nn.BatchNorm2d(channels, EPSILON)
        self.stride, self.kernel_size, self.has_shortcut = stride, kernel_size, (in_channels, 1) == (channels, stride)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        shortcut = x
        x = self.relu(self.bn1(self.conv_pw(x)))
        x = pad_same(x, self.kernel_size) if self.stride == 2 else x
        x = self.relu(self.bn2(self.conv_dw(x)))
        x = self.bn3(self.conv_pwl(x))
        return x + shortcut if self.has_shortcut else x


class EfficientNetLite0(Network):
    """A stem, seven stages, a 1 x 1 convolution to 1,280 channels, one linear layer. (N, 3, H, W) -> (N, num_classes)

    Batch norm and weights are initialised as in the paper's code, for a depthwise convolution by its own k * k inputs.
    """

    smallest = 1  # pixel: padding leaves no map empty

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        self.conv_stem = convolution(3, 32, kernel_size=3, stride=2)
        self.bn1 = nn.BatchNorm2d(32, EPSILON)
        self.relu = nn.ReLU6(inplace=True)
        stages, before = [], 32
        for kernel_size, stride, expansion, channels, count in STAGES:
            blocks = []
            for i in range(count):
                if expansion == 1:
                    blocks.append(DepthwiseSeparable(before, channels, kernel_size))
                else:
                    blocks.append(InvertedResidual(before, channels, kernel_size, 1 if i else stride, expansion))
                before = channels
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head = convolution(before, 1280)
        self.bn2 = nn.BatchNorm2d(1280, EPSILON)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(1280, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                outputs = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / outputs))
        nn.init.zeros_(self.classifier.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last feature map, after its ReLU6: (N, 3, H, W) -> (N, 1280, H/32, W/32), rounded up."""
        x = self.relu(self.bn1(self.conv_stem(pad_same(x, 3))))
        return self.relu(self.bn2(self.conv_head(self.blocks(x))))

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits: (N, 1280, h, w) -> (N, num_classes)."""
        return self.classifier(self.dropout(torch.flatten(self.avgpool(features), 1)))


efficientnet_lite0 = EfficientNetLite0  # 4.7 million parameters with 1000 classes
