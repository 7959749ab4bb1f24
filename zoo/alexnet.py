"""AlexNet by hand.

    python -m zoo alexnet

The network of Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural Networks",
2012, in the one-tower form of Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014
(https://arxiv.org/abs/1404.5997). It combined ReLU instead of tanh, so that gradients do not vanish; dropout, so that
the large linear layers do not memorise the images; and training on GPUs. Of its 61 million parameters, 59 million are
in the linear layers; of its multiply-adds, nine tenths are in the convolutions.
"""

from torch import nn

from zoo import Network


class AlexNet(Network):
    """Five convolutions and three linear layers. (N, 3, H, W) -> (N, num_classes)."""

    smallest = 63  # pixels: the last pooling needs a 3 x 3 map

    def __init__(self, num_classes: int = 1000):
        super().__init__()
        # shapes for a 224 x 224 image                               (N,   3, 224, 224)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, kernel_size=11, stride=4, padding=2),  #  (N,  64,  55,  55)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  #                  (N,  64,  27,  27)
            nn.Conv2d(64, 192, kernel_size=5, padding=2),  #           (N, 192,  27,  27)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  #                  (N, 192,  13,  13)
            nn.Conv2d(192, 384, kernel_size=3, padding=1),  #          (N, 384,  13,  13)
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),  #          (N, 256,  13,  13)
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),  #          (N, 256,  13,  13)
            nn.ReLU(inplace=True),
            nn.MaxPool2d(kernel_size=3, stride=2),  #                  (N, 256,   6,   6)
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)  # any size of map -> 6 x 6, which the linear layers need
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Linear(4096, num_classes),
        )


alexnet = AlexNet  # 61.1 million parameters with 1000 classes
