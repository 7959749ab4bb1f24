"""The number format is chosen by measurement, and remembered."""

import json

import pytest
import torch
from torch import nn

from classifier import precision
from resnet import resnet18


@pytest.fixture
def network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_the_fastest_of_the_trial_is_taken_and_said(network, monkeypatch):
    rates = {"float32": 10.0, "float32 channels-last": 30.0, "bfloat16 channels-last": 20.0}
    monkeypatch.setattr(precision, "_measure", lambda names, *_: {name: rates[name] for name in names})
    compute = precision.choose("cpu", "auto", network, 32)
    assert (compute.dtype, compute.memory_format) == (torch.float32, torch.channels_last)
    assert "30 images/s in a short trial; float32 10, bfloat16 channels-last 20" in str(compute)
    rates["bfloat16 channels-last"] = 40.0
    assert precision.choose("cpu", "auto", network, 32).dtype == torch.float32  # remembered
    assert precision.choose("cpu", "auto", network, 32, training=True).dtype == torch.bfloat16  # another question
    assert precision.choose("cpu", "auto", network, 48).dtype == torch.bfloat16
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")  # another machine, as far as speed is concerned
    assert precision.choose("cpu", "auto", network, 32).dtype == torch.bfloat16


def test_what_is_hardly_faster_is_not_taken(network, monkeypatch):
    rates = {"float32": 10.0, "float32 channels-last": 10.5, "bfloat16 channels-last": 10.9}
    monkeypatch.setattr(precision, "_measure", lambda names, *_: {name: rates[name] for name in names})
    assert precision.choose("cpu", "auto", network, 32).format == "float32"


def test_what_is_asked_for_is_done(network, monkeypatch):
    monkeypatch.setattr(precision, "_measure", lambda names, *_: dict.fromkeys(names, 1.0))
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        compute = precision.choose("cpu", name, network, 32)
        assert compute.dtype == dtype
        assert "as asked" in compute.why_format


def test_of_several_processes_the_first_one_decides(network, monkeypatch):
    monkeypatch.setattr(precision.distributed, "first_decides", lambda make: ("bfloat16 channels-last", "it says so"))
    monkeypatch.setattr(precision, "_measure", lambda *_: pytest.fail("tries for itself"))
    compute = precision.choose("cpu", "auto", network, 32)
    assert compute.format == "bfloat16 channels-last" and compute.why_format == "it says so"


def test_float32_on_a_gpu_says_how_it_multiplies(network, monkeypatch):
    monkeypatch.setattr(precision, "find_device", lambda name: (torch.device("cuda"), "as asked"))
    monkeypatch.setattr(precision, "set_up", lambda device: None)  # there need be no GPU
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    compute = precision.choose("cuda", "fp32", network, 32)
    assert compute.format == "float32 channels-last" and "TF32" in compute.why_format
    assert "TF32" not in precision.choose("cuda", "bf16", network, 32).why_format


@pytest.mark.parametrize("training", [True, False])
def test_the_trial_is_a_real_one(network, training):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    compute = precision.choose("cpu", "auto", network, 32, training)
    (rates,) = json.loads(precision.MEMORY.read_text()).values()
    assert set(rates) == {"float32", "float32 channels-last", "bfloat16 channels-last"}
    assert all(rate > 0 for rate in rates.values())
    assert max(rates.values()) <= precision.CLEARLY**2 * rates[compute.format]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("error", [RuntimeError("not implemented for 'BFloat16'"), TypeError("MPS has no BFloat16")])
def test_a_format_that_the_device_does_not_know_is_left_out(network, monkeypatch, error):
    real = precision._answer

    def without_bfloat16(network, compute, size):
        def fail():
            raise error

        return fail if compute.dtype == torch.bfloat16 else real(network, compute, size)

    monkeypatch.setattr(precision, "_answer", without_bfloat16)
    for _ in range(2):  # measured, then remembered
        compute = precision.choose("cpu", "auto", network, 32)
        assert compute.dtype == torch.float32
        assert "bfloat16" not in str(compute)


@pytest.mark.parametrize("content", ["", "[]", "no json", '{"a": 1}'])
def test_a_damaged_memory_is_measured_anew(network, content):
    precision.MEMORY.parent.mkdir()
    precision.MEMORY.write_text(content)
    assert precision.choose("cpu", "auto", network, 32).why_format
    assert json.loads(precision.MEMORY.read_text())


def test_training_compute_of_a_real_network_is_float32_outside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    compute = precision.choose("cpu", "bf16", resnet18(num_classes=2), 32, training=True)
    network = resnet18(num_classes=2).to(memory_format=compute.memory_format)
    with compute.autocast():
        assert network(torch.zeros(2, 3, 32, 32)).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
