"""What is particular to the ResNets; tests/test_zoo.py compares all networks with torchvision's."""

import pytest
import torch

from resnet import BasicBlock, ResNet, resnet18, resnet50
from zoo.table import layer_table, render


@pytest.mark.parametrize(("build", "channels"), [(resnet18, 512), (resnet50, 2048)])
def test_without_the_top_the_last_map_comes_out(build, channels):
    network = build(include_top=False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 96)).shape == (2, channels, 2, 3)
    assert not any(key.startswith("fc") for key in network.state_dict())


def test_a_network_of_ones_own():
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_first_weights_are_kaimings_with_fan_out():
    torch.manual_seed(0)
    weight = resnet18().layer3[0].conv1.weight  # 256 out, 3 x 3
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_table_shows_stages_and_receptive_fields():
    rows = {row.name: row for row in layer_table(resnet18(), 224)}
    stages = ["conv1", "maxpool", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    assert [rows[name].shape[1] for name in stages] == [112, 56, 56, 28, 14, 7]
    # by hand: conv1 7, maxpool 7 + 2 * 2 = 11, then two blocks of two 3 x 3 convolutions with 4 pixels between values
    assert [rows[name].receptive_field for name in stages[:3]] == [7, 11, 11 + 4 * 2 * 4]
    assert rows["layer4.1"].receptive_field == 435  # known for ResNet-18
    assert "11,689,512" in render("resnet18", list(rows.values()), 224)
    assert "1,814,073,344" in render("resnet18", list(rows.values()), 224)


def test_receptive_field_is_what_the_gradient_sees():
    network = resnet18(include_top=False).eval()
    x = torch.randn(1, 3, 224, 224, requires_grad=True)
    features = network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))
    features[0, :, 28, 28].sum().backward()
    assert (x.grad.abs().sum(dim=(0, 1)).sum(dim=0) > 0).sum().item() == 43
