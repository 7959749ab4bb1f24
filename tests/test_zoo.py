"""The hand-written networks agree with torchvision's (one with timm's), offer the same faces, and show their layers."""

import subprocess
import sys

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resnet import BasicBlock, ResNet, resnet50
from tests.conftest import ENVIRONMENT, REPOSITORY
from zoo import MODELS
from zoo.table import layer_table

ONE_OF_EACH = ["resnet18", "resnet50", "alexnet", "vgg11", "vgg11_bn", "googlenet", "densenet121", "efficientnet_lite0"]


def filled(network: nn.Module) -> nn.Module:
    """A network built on "meta", with weights as large as a ReLU network needs them, and statistics as after training.

    That is several times faster than each network's own initialisation; the large ones have 140 million weights.
    """
    torch.manual_seed(0)
    network.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in [*network.named_parameters(), *network.named_buffers()]:
            if value.ndim > 1:
                nn.init.kaiming_uniform_(value, nonlinearity="relu")
            elif name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point():
                value.uniform_(-0.1, 0.1)
            else:
                value.zero_()
    return network


def pair(name: str, classes: int) -> tuple[nn.Module, nn.Module]:
    """The reference and ours with the same weights, without dropout, which would differ by chance."""
    options = {"aux_logits": True, "init_weights": False} if name == "googlenet" else {}
    build = timm.models.tf_efficientnet_lite0 if name == "efficientnet_lite0" else getattr(torchvision.models, name, 0)
    with torch.device("meta"):
        theirs = build(num_classes=classes, **options)
        ours = MODELS[name](num_classes=classes)
    theirs = filled(theirs)
    ours.load_state_dict({key: value.clone() for key, value in theirs.state_dict().items()}, assign=True)
    for module in (*theirs.modules(), *ours.modules()):
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return theirs, ours


@pytest.mark.parametrize("name", MODELS)
def test_same_weights_give_the_same_logits(name):
    theirs, ours = pair(name, 10)
    x = torch.randn(2, 3, 65, 96)
    with torch.inference_mode():
        expected, found = theirs.eval()(x), ours.eval()(x)
        assert (size := expected.abs().max()) > 0.01
        assert (expected - found).abs().max() <= 1e-5 * max(1.0, size)
        features = ours.forward_features(x)
        assert features.ndim == 4 and features.min() >= 0  # the last map, after its activation
        assert torch.equal(ours.forward_head(features), found)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_one_training_step_has_the_same_gradients(name):
    theirs, ours = pair(name, 3)
    x, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    for network in (theirs, ours):
        outputs = network.train()(x)
        if name == "googlenet":
            assert [value.shape for value in outputs] == [(4, 3)] * 3
            outputs = outputs[0] + 0.3 * outputs[1] + 0.1 * outputs[2]
        torch.nn.functional.cross_entropy(outputs, labels).backward()
    expected = {key: p.grad for key, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        size = expected[key].abs().max().item()
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-3, atol=1e-4 * size + 1e-6, msg=key)
    for key, buffer in ours.named_buffers():  # batch norm has learned the same statistics
        torch.testing.assert_close(buffer, theirs.get_buffer(key))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_fresh_weights_neither_fade_nor_explode_small_images_are_refused_and_the_table_counts_like_pytorch(name):
    torch.manual_seed(0)
    network = MODELS[name](num_classes=10).eval()
    smallest = getattr(network, "smallest", 1)
    assert smallest <= 64
    with torch.inference_mode():
        for size in (96, 64, smallest):
            assert 1e-6 < network(torch.randn(2, 3, size, size)).std() < 100
        if smallest > 1:
            with pytest.raises(ValueError, match=f"at least {smallest} x {smallest} pixels; these have 96 x"):
                network(torch.zeros(1, 3, smallest - 1, 96))
    rows = layer_table(network, 96)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 96, 96))
    assert 2 * sum(row.multiply_adds for row in rows) == counter.get_total_flops()
    used = [p.numel() for key, p in network.named_parameters() if not key.startswith("aux")]
    assert sum(row.parameters for row in rows) == sum(used)


def test_a_resnet_without_its_top_and_one_of_ones_own():
    network = resnet50(include_top=False).eval()
    assert network(torch.zeros(2, 3, 64, 96)).shape == (2, 2048, 2, 3) and not hasattr(network, "fc")
    assert ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2)(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_receptive_fields_by_hand_and_the_command_line():
    rows = {row.name: row.receptive_field for row in layer_table(MODELS["vgg16"](), 224)}
    # thirteen 3 x 3 convolutions and five poolings: 1 + 2 * (2 + 2 * 2 + 3 * 4 + 3 * 8 + 3 * 16) + 1 + 2 + 4 + 8 + 16
    assert rows["features.30"] == rows["avgpool"] == 212  # 7 x 7 pooled to 7 x 7
    assert rows["classifier.0"] == 212 + 6 * 32  # a linear layer sees all of them
    for model, size, status, said in (("vgg16", "64", 0, "138,357,544"), ("alexnet", "62", 2, "at least 63 pixels")):
        command = [sys.executable, "-m", "zoo", model, "--size", size]
        done = subprocess.run(command, cwd=REPOSITORY, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == status and said in done.stdout + done.stderr and "Traceback" not in done.stderr
