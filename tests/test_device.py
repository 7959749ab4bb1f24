"""Which device: chosen with a reason, refused with one."""

import pytest
import torch

from classifier import device
from classifier.cli import UserError
from classifier.device import Compute


def compute(dtype: torch.dtype) -> Compute:
    return Compute(torch.device("cpu"), dtype, torch.channels_last, "as asked", "measured")


def test_says_why():
    text = str(compute(torch.bfloat16))
    assert text.endswith(" (as asked), bfloat16 channels-last (measured)")


def test_autocast_computes_in_the_chosen_format():
    x = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with compute(dtype).autocast():
            assert (x @ x).dtype == dtype


def test_the_fastest_that_is_there():
    found, why = device.select_device("auto")
    assert (found.type == "cpu") == (not torch.cuda.is_available() and not torch.backends.mps.is_available())
    assert why


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=rf"--device {name} cannot be used.*Here there are: cpu"):
        device.select_device(name)


@pytest.fixture
def machine(monkeypatch):
    """This is process 1 of three on a machine with so many GPUs."""

    def with_gpus(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(1))  # there are none to hold anything
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)

    monkeypatch.setattr(device, "LOCAL_WORLD_SIZE", 3)
    monkeypatch.setattr(device, "LOCAL_RANK", 1)
    return with_gpus


def test_each_process_has_a_gpu_of_its_own(machine):
    machine(4)
    assert device.select_device("auto") == (torch.device("cuda:1"), "the fastest here")
    assert device.select_device("cuda") == (torch.device("cuda:1"), "as asked")
    assert device.select_device("cpu") == (torch.device("cpu"), "as asked")
    with pytest.raises(UserError, match="--device cuda:2 is one GPU, but 3 processes"):
        device.select_device("cuda:2")


def test_more_processes_than_gpus(machine):
    machine(2)
    for name in ("auto", "cuda"):
        with pytest.raises(UserError, match=rf"--device {name}: 3 processes .*has 2.*--nproc-per-node=2.*-device cpu"):
            device.select_device(name)
    machine(0)
    assert device.select_device("auto")[0] == torch.device("cpu")


def test_several_processes_do_not_share_a_mac(machine, monkeypatch):
    machine(0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"3 processes .* has 1.*--device cpu"):
        device.select_device("auto")
