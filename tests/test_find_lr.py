"""tools/find_lr.py: a table of losses, and a rate at which they fall."""

from tests.conftest import run_script


def test_it_suggests_a_rate_and_leaves_nothing(bars, tmp_path):
    flags = ("--data", bars, "--size", 32, "--batch-size", 16, "--workers", 0, "--device", "cpu")
    done = run_script("tools/find_lr.py", *flags, cwd=tmp_path)
    assert done.returncode == 0 and "smoothed loss" in done.stdout, done.stderr
    said, _, rate = done.stdout.splitlines()[-1].partition("python train.py --lr ")
    assert "a tenth of the rate" in said and 1e-5 < float(rate) < 0.1
    assert not list(tmp_path.iterdir())
