"""The hand-written networks agree with torchvision's."""

import pytest
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from resnet import BasicBlock, ResNet, resnet18, resnet50
from zoo import MODELS
from zoo.table import layer_table, render


@pytest.mark.parametrize("name", MODELS)
def test_same_weights_give_torchvisions_logits(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=10).eval()
    for module in theirs.modules():  # as after training: statistics that are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    ours = MODELS[name](num_classes=10).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected, found = theirs(x), ours(x)
    assert expected.abs().max() > 0.01
    assert (expected - found).abs().max() <= 1e-5
    theirs.load_state_dict(ours.state_dict())  # and back


@pytest.mark.parametrize("name", MODELS)
def test_as_many_parameters_as_torchvision(name):
    with torch.device("meta"):
        theirs, ours = getattr(torchvision.models, name)(), MODELS[name]()
    assert {key: value.shape for key, value in theirs.state_dict().items()} == {
        key: value.shape for key, value in ours.state_dict().items()
    }
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_one_training_step_has_torchvisions_gradients(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(num_classes=3)
    ours = MODELS[name](num_classes=3)
    ours.load_state_dict(theirs.state_dict())
    x, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 0])
    for network in (theirs, ours):
        torch.nn.functional.cross_entropy(network.train()(x), labels).backward()
    expected = {key: p.grad for key, p in theirs.named_parameters()}
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[key], rtol=1e-4, atol=1e-5)
    for key, buffer in ours.named_buffers():  # batch norm has learned the same statistics
        torch.testing.assert_close(buffer, theirs.get_buffer(key))


@pytest.mark.parametrize(("build", "channels"), [(resnet18, 512), (resnet50, 2048)])
def test_without_the_top_the_last_map_comes_out(build, channels):
    network = build(include_top=False).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 96)).shape == (2, channels, 2, 3)
    assert not any(key.startswith("fc") for key in network.state_dict())


def test_features_and_head_make_the_whole():
    network = resnet18(num_classes=5).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = network.forward_features(x)
        assert features.shape == (2, 512, 2, 2)
        assert features.min() >= 0  # after its activation
        assert torch.equal(network.forward_head(features), network(x))


def test_a_network_of_ones_own():
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=2)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 2)


def test_first_weights_are_kaimings_with_fan_out():
    torch.manual_seed(0)
    weight = resnet18().layer3[0].conv1.weight  # 256 out, 3 x 3
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)


def test_table_counts_what_pytorch_counts():
    network = resnet50(num_classes=10).eval()
    rows = layer_table(network, 96)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 96, 96))
    assert 2 * sum(row.multiply_adds for row in rows) == counter.get_total_flops()
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in network.parameters())


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
