"""tools/find_lr.py: where the loss falls fastest."""

import math

import pytest
import torch

from tests.conftest import run_script
from tools.find_lr import find_lr


def test_it_finds_where_a_known_loss_falls_fastest():
    weight = torch.tensor(10.0, requires_grad=True)

    def step(rate):  # gradient descent on w^2 falls for rates below 1, fastest at 0.5
        loss = weight**2
        (gradient,) = torch.autograd.grad(loss, weight)
        weight.data -= rate * gradient
        return loss.item()

    rates, losses, best = find_lr(step)
    assert rates == sorted(rates) and len(rates) == len(losses) and 1e-3 < best < 1


@pytest.mark.parametrize("losses", [[0.5] * 200, [0.5, math.inf], [0.5, 0.6, 40], [math.nan]])
def test_where_no_rate_helps_it_suggests_none(losses):
    upcoming = iter(losses)
    assert find_lr(lambda rate: next(upcoming))[2] is None


def test_as_a_script(bars, tmp_path):
    flags = ("--data", bars, "--size", 32, "--batch-size", 16, "--workers", 0, "--device", "cpu")
    done = run_script("tools/find_lr.py", *flags, cwd=tmp_path)
    assert done.returncode == 0 and "smoothed loss" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1].startswith(("python train.py --lr ", "no suggestion")) and not list(
        tmp_path.iterdir()
    )
