"""VGG-11/13/16/19 by hand, with and without batch norm.

    python -m zoo vgg16

The networks of Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014
(https://arxiv.org/abs/1409.1556). They consist of 3 x 3 convolutions only. Two in a row see 5 x 5 pixels and three see
7 x 7, with fewer weights than one large kernel (27 C^2 instead of 49 C^2) and a ReLU after each, so that depth is all
that is left to choose. Each time the map is halved, the channels double, up to 512.

The deep ones did not train from random weights; the authors initialised them with the first layers of a trained
VGG-11. Batch norm, a year later, made that unnecessary: train the `_bn` networks from scratch.
"""

from functools import partial

from torch import nn

from zoo import Network

# channels of each convolution, in five stages; after each stage the map is halved
STAGES = {
    11: ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    13: ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)),
    16: ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
    19: ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,) * 4),
}


class VGG(Network):
    """Five stages of 3 x 3 convolutions, each followed by a pooling, then three linear layers.

    `layers` counts convolutions and linear layers. (N, 3, H, W) -> (N, num_classes).
    """

    smallest = 32  # pixels: the map is halved five times

    def __init__(self, layers: int, batch_norm: bool, num_classes: int = 1000):
        super().__init__()
        modules: list[nn.Module] = []
        in_channels = 3
        for stage in STAGES[layers]:
            for channels in stage:
                modules.append(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1))
                if batch_norm:
                    modules.append(nn.BatchNorm2d(channels))
                modules.append(nn.ReLU(inplace=True))
                in_channels = channels
            modules.append(nn.MaxPool2d(kernel_size=2, stride=2))
        self.features = nn.Sequential(*modules)  # (N, 3, 224, 224) -> (N, 512, 7, 7)
        self.avgpool = nn.AdaptiveAvgPool2d(7)  # any size of map -> 7 x 7, which the linear layers need
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)


# 133 to 144 million parameters with 1000 classes, 124 million of them in the linear layers
vgg11, vgg13, vgg16, vgg19 = (partial(VGG, layers, False) for layers in STAGES)
vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = (partial(VGG, layers, True) for layers in STAGES)
