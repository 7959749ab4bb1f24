"""Where and how precisely: chosen with a reason, refused with one."""

import pytest
import torch

from classifier import device
from classifier.cli import UserError


def test_says_why():
    text = str(device.choose("cpu", "fp32"))
    assert text.endswith("(as asked), float32 (as asked)")
    assert "threads" in text


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_where_the_processor_computes_it(monkeypatch, native):
    told = {"avx512_bf16": native, "cpu_name": "Some CPU"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    compute = device.choose("cpu")
    assert compute.dtype == (torch.bfloat16 if native else torch.float32)
    assert "Some CPU" in str(compute)
    assert ("natively" in compute.why_dtype) == native


def test_older_pytorch_is_asked_another_way(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert device.choose("cpu").dtype == torch.bfloat16


def test_autocast_computes_in_the_chosen_format():
    x = torch.ones(2, 2)
    for precision, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with device.choose("cpu", precision).autocast():
            assert (x @ x).dtype == expected


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=rf"--device {name} cannot be used.*Here there are: cpu"):
        device.choose(name)
