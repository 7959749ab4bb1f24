"""train.py in several processes: the same training as in one; a process that dies, a signal, two hosts."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import checkpoint
from tests import tiny
from tests.conftest import ENVIRONMENT, REPOSITORY, TINY, make_images, same
from tests.test_torchrun import torchrun

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="PyTorch for Windows comes without what torchrun needs")

# in float32, and with a rate at which Adam makes no steps of differences in the last digits
QUICK = (*TINY, "--precision", "fp32", "--epochs", 2, "--lr", 1e-5, "--warmup", 0, "--save-every", 0)


def state(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(folder / "module" / "run.last.pth")


def curve(folder: Path) -> list[float]:
    """The loss of each step, as TensorBoard shows it."""
    events = EventAccumulator(str(folder / state(folder).resume["logs"] / "train")).Reload()
    return [event.value for event in events.Scalars("step/loss")]


@pytest.fixture(scope="module", autouse=True)
def _known():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny.MODELS, "tiny", tiny.Tiny)
        yield


def alone(folder: Path, *arguments: object) -> Path:
    """Run train.py with the tiny network in `folder`, in this process."""
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, tiny.own_signals():
        patch.chdir(folder)
        tiny.train.main([*map(str, arguments)])
    return folder


def together(folder: Path, *arguments: object, fault: str = "none", at: int = 0, **options) -> str:
    """Run it in two processes; the second one has the fault, once. Return what they print."""
    folder.mkdir(exist_ok=True)
    done = torchrun(2, "tests/tiny.py", folder, fault, at, *arguments, cwd=folder, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def runs(bars, tmp_path_factory):
    """A run in one process and the same in two: (folder, folder, what the second printed)."""
    one, two = alone(tmp_path_factory.mktemp("one"), "--data", bars, *QUICK), tmp_path_factory.mktemp("two")
    return one, two, together(two, "--data", bars, *QUICK)


def same_run(found: Path, expected: Path) -> None:
    """The same losses and accuracies, but for what adding in another order changes."""
    assert curve(found) == pytest.approx(curve(expected), rel=2e-3)
    for there, here in zip(state(expected).resume["history"], state(found).resume["history"], strict=True):
        for part in ("train", "val"):
            assert here[part]["loss"] == pytest.approx(there[part]["loss"], rel=1e-3)
    for key, value in state(expected).state_dict.items():
        torch.testing.assert_close(state(found).state_dict[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_two_processes_train_like_one(runs):
    one, two, said = runs
    assert "each step: 2 (processes) x 1 (--accumulate) x 9 images" in said and said.count("epoch 2/2") == 1
    assert curve(two) == pytest.approx(curve(one), rel=0.1)  # each process normalizes by its own images
    assert all(value.isfinite().all() for value in checkpoint.load(two / "module" / "run.pth").state_dict.values())


def test_without_batch_norm_processes_and_micro_batches_change_nothing(runs, bars, tmp_path):
    """Only the last layer learns; its gradient is the mean over micro-batches and processes. Or it is fitted."""
    fitted = ("--weights", runs[0] / "module" / "run.pth", "--freeze", "--data", bars, *QUICK)
    command = (*fitted, "--augment", "on")
    alone(tmp_path / "one", *command)
    same_run(alone(tmp_path / "parts", *command, "--accumulate", 4), tmp_path / "one")
    together(tmp_path / "both", *command, "--accumulate", 2)
    same_run(tmp_path / "both", tmp_path / "one")
    together(tmp_path / "fitted by two", *fitted)
    found, expected = state(tmp_path / "fitted by two"), state(alone(tmp_path / "fitted", *fitted))
    torch.testing.assert_close(found.state_dict["fc.weight"], expected.state_dict["fc.weight"], rtol=0.05, atol=1e-3)


def test_a_killed_process_costs_no_more_than_the_last_save(runs, bars, tmp_path):
    assert "resuming after step 5 of 8" in together(tmp_path, "--data", bars, *QUICK, fault="SIGKILL", at=6, restarts=1)
    assert same(state(runs[1]).state_dict, state(tmp_path).state_dict) and curve(tmp_path) == curve(runs[1])


def test_a_signal_stops_all_after_the_same_step(bars, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [REPOSITORY / "tests/tiny.py", tmp_path, "none", 0, "--data", bars, *QUICK, "--epochs", 500]
    pipe = subprocess.PIPE
    process = subprocess.Popen([*map(str, command)], cwd=tmp_path, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True)
    while "1/500 " not in process.stdout.readline():
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    for worker in children.read_text().split() if children.exists() else []:
        os.kill(int(worker), signal.SIGTERM)  # as a system does that ends a job: all get it, and these twice
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert out.count("python train.py --resume module/run.last.pth") == 1, err
    resume = state(tmp_path).resume
    assert f"stopped after step {resume['step']}, and saved" in out and resume["step"] >= 4


def on_two_hosts(tmp_path, fault, at, *arguments, restarts=0, status=0) -> list[str]:
    """What two torchruns print, which know each other by address only; each has a folder of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = []
    for i in range(2):
        (tmp_path / str(i)).mkdir(exist_ok=True)
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={i}"]
        command += ["--master-addr=127.0.0.1", f"--master-port={port}", f"--max-restarts={restarts}"]
        command += [REPOSITORY / "tests/tiny.py", tmp_path / str(i), fault, at, *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen([*map(str, command)], env=ENVIRONMENT, **pipes))
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [status, status], said
    return said


def test_hosts_with_other_images_are_told_apart(tmp_path):
    for folder in "01":
        make_images(tmp_path / folder / "images" / "train", {"across": 40, "down": 40 - int(folder)})
    said = on_two_hosts(tmp_path, "none", 0, "--data", "images", *QUICK, status=1)
    assert any("do not see the same images" in one for one in said)


def test_a_process_killed_on_the_other_host_costs_no_more_than_the_last_save(bars, tmp_path):
    said = on_two_hosts(tmp_path, "SIGKILL", 6, "--data", bars, *QUICK, restarts=3)
    assert "resuming after step 5 of 8" in said[0] or "resuming after step 6 of 8" in said[0], said
    assert len(curve(tmp_path / "0")) == 8
