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
    assert text.endswith("threads (as asked), bfloat16 channels-last (measured)")


def test_autocast_computes_in_the_chosen_format():
    x = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with compute(dtype).autocast():
            assert (x @ x).dtype == dtype


def test_the_fastest_that_is_there():
    found, why = device.find_device("auto")
    assert (found.type == "cpu") == (not torch.cuda.is_available() and not torch.backends.mps.is_available())
    assert why


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=rf"--device {name} cannot be used.*Here there are: cpu"):
        device.find_device(name)
