"""What a run resumes from: whole, or refused."""

import copy
from collections import OrderedDict

import pytest
import torch
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.data.transforms import Preprocess
from classifier.training import run_state
from zoo import MODELS


@pytest.fixture
def tiny(monkeypatch):
    """A network small enough to be saved a hundred times."""

    def build(num_classes=1000):
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, num_classes)))

    monkeypatch.setitem(MODELS, "tiny", build)
    torch.manual_seed(0)
    return build(num_classes=3)


@pytest.fixture
def original(tiny):
    return Checkpoint("tiny", ["a", "b", "c"], Preprocess(size=96), tiny.state_dict())


def whole_state(tiny):
    entry = {"epoch": 1, "minutes": 0.1, "size": 32, "images_per_second": 9.0}
    entry |= {part: {"loss": 0.5, "accuracy": 0.5} for part in ("train", "val")}
    state = {"name": "run", "logs": "logs/tiny/1", "format": "float32", "step": 3, "totals": [0.5, 1, 2, 0.1]}
    optimizer = torch.optim.AdamW(tiny.parameters())
    weights = {"network": tiny.state_dict(), "optimizer": optimizer.state_dict(), "scaler": {}}
    return state | weights | {"minutes": 0.1, "history": [entry], "done": False}


def test_a_whole_state_is_gone_on_with(original, tiny, tmp_path):
    original.resume = whole_state(tiny)
    checkpoints.save(original, tmp_path / "run.last.pth")
    run_state.check(checkpoints.load(tmp_path / "run.last.pth"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../../elsewhere"}, "its name has to be"),
        ({"name": "other"}, "its name has to be other.last.pth"),
        ({"name": 3}, "name is a int"),
        ({"step": "3"}, "step is a str"),
        ({"totals": [1, 2, 3]}, "four numbers"),
        ({"totals": ["a"] * 4}, "four numbers"),
        ({"history": [{}]}, "epoch"),
        ({"history": [1]}, "int"),
        ({"network": {}}, "other shapes"),
        ({"optimizer": []}, "optimizer is a list"),
    ],
)
def test_a_state_that_is_none_is_refused(original, tiny, tmp_path, change, words):
    original.resume = whole_state(tiny) | change
    checkpoints.save(original, tmp_path / "run.last.pth")
    with pytest.raises(CheckpointError, match=words):
        run_state.check(checkpoints.load(tmp_path / "run.last.pth"))


def test_another_networks_optimizer_is_refused(tiny):
    optimizer = torch.optim.AdamW(tiny.parameters())
    state = optimizer.state_dict()
    state["state"] = {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(7), "exp_avg_sq": torch.ones(7)}}
    with pytest.raises(CheckpointError, match="does not fit"):
        run_state.restore(optimizer, state)
    with pytest.raises(CheckpointError, match="does not fit"):
        run_state.restore(optimizer, {"state": {}, "param_groups": []})


def test_adams_means_lie_in_memory_as_their_parameters_do():
    def network():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 4, 3)

    x = torch.randn(2, 3, 8, 8)

    def step(conv, optimizer):
        optimizer.zero_grad()
        conv(x).square().mean().backward()
        optimizer.step()

    first = network()
    adam = torch.optim.AdamW(first.parameters(), fused=True)
    step(first, adam)
    second = network()
    second.load_state_dict(first.state_dict())
    second = second.to(memory_format=torch.channels_last)
    again = torch.optim.AdamW(second.parameters(), fused=True)
    run_state.restore(again, copy.deepcopy(adam.state_dict()))
    assert again.state[second.weight]["exp_avg"].stride() == second.weight.stride()
    assert torch.equal(again.state[second.weight]["exp_avg"], adam.state[first.weight]["exp_avg"])
    step(first, adam)
    step(second, again)
    torch.testing.assert_close(second.weight, first.weight)
