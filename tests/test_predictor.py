"""A network optimized for inference answers as the network does."""

import copy

import pytest
import torch
from torch import nn

from classifier.device import Compute
from classifier.inference.predictor import fold_batch_norm, optimize_for_inference, with_features
from zoo import MODELS


def compute(dtype=torch.float32, memory_format=torch.channels_last):
    return Compute(torch.device("cpu"), dtype, memory_format)


def trained(network: nn.Module) -> nn.Module:
    """With statistics and scales that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.weight, 0.5, 1.5), (module.bias, -0.2, 0.2), (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):  # fmt: skip
                values.data.copy_(torch.rand(values.shape, generator=generator) * (high - low) + low)
    return network.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_folding_changes_nothing_and_leaves_no_batch_norm(name):
    torch.manual_seed(0)
    network = trained(MODELS[name](num_classes=3))
    folded = fold_batch_norm(copy.deepcopy(network))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(x)
        torch.testing.assert_close(folded(x), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_a_convolution_that_is_used_twice_is_not_folded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    network = trained(Twice())
    x = torch.randn(1, 3, 4, 4)
    assert torch.equal(fold_batch_norm(copy.deepcopy(network))(x), network(x))


def test_a_network_that_cannot_be_traced_stays_as_it_is():
    class Depends(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.bn(x) if x.sum() > 0 else x

    network = trained(Depends())
    x = torch.ones(1, 3, 2, 2)
    assert torch.equal(optimize_for_inference(network, compute())(x), network(x))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_float32_gives_the_networks_logits(memory_format):
    network, x = trained(MODELS["resnet18"](num_classes=3)), torch.randn(2, 3, 64, 64)
    found = optimize_for_inference(network, compute(memory_format=memory_format))(x)
    torch.testing.assert_close(found, network(x).detach(), atol=1e-3, rtol=1e-3)


def test_bfloat16_comes_near_and_answers_in_float32():
    torch.manual_seed(0)
    network = trained(MODELS["resnet18"](num_classes=3)).train()
    x = torch.randn(4, 3, 64, 64)
    exact, fast = (optimize_for_inference(network, compute(dtype))(x) for dtype in (torch.float32, torch.bfloat16))
    assert fast.dtype == torch.float32
    assert (fast - exact).abs().max() < 0.05 * exact.abs().max()
    assert (fast != fast.bfloat16().float()).any()  # the last layer has not been rounded to 8 bits
    assert network.training  # and the network itself is as it was
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}


@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_the_last_map_is_what_the_head_takes_and_its_gradient_can_be_asked_for(name):
    torch.manual_seed(0)
    network = trained(MODELS[name](num_classes=3))
    x = torch.randn(2, 3, 64, 64)
    logits, features, last_map = with_features(network, compute())(x)
    expected = network.forward_features(x).detach().requires_grad_()
    torch.testing.assert_close(last_map, expected, rtol=1e-3, atol=1e-4 * expected.max().item())
    torch.testing.assert_close(network.forward_head(last_map), logits, rtol=1e-3, atol=1e-3)
    (wanted,) = torch.autograd.grad(network.forward_head(expected)[:, 0].sum(), expected)
    (found,) = torch.autograd.grad(logits[:, 0].sum(), last_map)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max().item())
    assert not any(values.requires_grad for values in features)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
