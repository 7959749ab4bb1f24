"""A network optimized for inference answers as the network does."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from classifier.device import Compute
from classifier.inference.predictor import fold_batch_norm, optimize_for_inference
from tests.test_zoo import filled
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.channels_last)


def built(name: str, classes: int = 3) -> nn.Module:
    """A network as after training."""
    with torch.device("meta"):
        network = MODELS[name](num_classes=classes)
    return filled(network).eval()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_no_batch_norm_is_left_and_the_logits_are_the_same(name, memory_format):
    network, x = built(name), torch.randn(2, 3, 64, 64)
    folded = fold_batch_norm(copy.deepcopy(network))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        for found in (folded, optimize_for_inference(network, replace(CPU, memory_format=memory_format))):
            close(found(x), network(x))


class Twice(nn.Module):
    """Uses a convolution twice."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class Depends(Twice):
    """Cannot be traced."""

    def forward(self, x):
        return self.bn(self.conv(x)) if x.sum() > 0 else x


@pytest.mark.parametrize("kind", [Twice, Depends])
def test_what_cannot_be_folded_stays_as_it_is(kind):
    network, x = filled(kind()).eval(), torch.ones(1, 3, 4, 4)
    assert torch.equal(fold_batch_norm(copy.deepcopy(network))(x), network(x))
    close(optimize_for_inference(network, CPU)(x), network(x).detach())


def test_bfloat16_comes_near_and_answers_in_float32():
    network, x = built("resnet18").train(), torch.randn(4, 3, 64, 64)
    exact, fast = (
        optimize_for_inference(network, replace(CPU, dtype=dtype))(x) for dtype in (torch.float32, torch.bfloat16)
    )
    assert fast.dtype == torch.float32
    assert (fast - exact).abs().max() < 0.05 * exact.abs().max()
    assert (fast != fast.bfloat16().float()).any()  # the last layer has not been rounded to 8 bits
    assert network.training  # and the network itself is as it was
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
