"""train.py in several processes: the same training as in one; a process that dies, a signal, two hosts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from classifier import checkpoint, distributed
from classifier.cli import UserError
from classifier.data import loaders
from classifier.training import checks
from tests.conftest import ENVIRONMENT, REPOSITORY, run_script
from tests.test_torchrun import torchrun
from tests.test_train import call, stop_after

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="PyTorch for Windows comes without what torchrun needs")

CPU = ("--device", "cpu", "--precision", "fp32", "--workers", 0)
# with a larger rate, Adam makes steps of differences in the last digits
QUICK = ("--size", 32, "--batch-size", 16, "--epochs", 2, "--lr", 1e-5, "--warmup", 0, *CPU)
# train.py, whose second process is killed at its sixth step, unless torchrun has started it again
DYING = f"""
import os, signal, sys
sys.path.insert(0, {str(REPOSITORY)!r})
import train
from classifier import cli

update, steps = train.update_ema, []

def dying(*arguments):
    steps.append(1)
    if len(steps) == 6 and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)
    update(*arguments)

train.update_ema = dying
cli.run(train.main)
"""


def state(folder: Path) -> checkpoint.Checkpoint:
    return checkpoint.load(folder / "module" / "run.last.pth")


def curve(folder: Path) -> list[tuple[int, float]]:
    """The loss of each step, as TensorBoard shows it."""
    (run,) = (folder / "logs" / "resnet18").iterdir()
    return [(event.step, event.value) for event in EventAccumulator(str(run / "train")).Reload().Scalars("step/loss")]


@pytest.fixture(scope="module")
def one(bars, tmp_path_factory):
    """A run in one process."""
    folder = tmp_path_factory.mktemp("one")
    done = run_script("train.py", "--data", bars, "--name", "run", *QUICK, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def same_run(found: Path, expected: Path) -> None:
    """The same losses and accuracies, but for what adding in another order changes."""
    losses = curve(found)
    assert [step for step, _ in losses] == [step for step, _ in curve(expected)]
    assert [loss for _, loss in losses] == pytest.approx([loss for _, loss in curve(expected)], rel=2e-3)
    for there, here in zip(state(expected).resume["history"], state(found).resume["history"], strict=True):
        assert here["train"]["loss"] == pytest.approx(there["train"]["loss"], rel=1e-3)
        assert here["val"]["loss"] == pytest.approx(there["val"]["loss"], rel=1e-3)
    for key, value in state(expected).state_dict.items():
        torch.testing.assert_close(state(found).state_dict[key], value, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.parametrize(("processes", "batch_norm"), [(2, ()), (4, ("--sync-bn",))])
def test_the_same_training_as_in_one_process(one, bars, tmp_path, processes, batch_norm):
    command = ("--data", bars, "--name", "run", *QUICK, *batch_norm)
    done = torchrun(processes, "train.py", *command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"in each step {processes} x 1 (--accumulate) times {16 // processes} images" in done.stdout
    assert done.stdout.count("epoch 2/2") == 1  # one voice
    if batch_norm:
        same_run(tmp_path, one)
    else:  # each process normalises by its own images: a training like it, not the same
        assert curve(tmp_path)[0][1] != curve(one)[0][1]
        assert state(tmp_path).resume["history"][0]["val"]["loss"] == pytest.approx(
            state(one).resume["history"][0]["val"]["loss"], rel=0.1
        )
    assert all(value.isfinite().all() for value in checkpoint.load(tmp_path / "module" / "run.pth").state_dict.values())


def test_without_batch_norm_shares_and_parts_change_nothing(one, bars, tmp_path):
    """A last layer alone learns; its gradient is the mean over parts and processes."""
    command = ("--weights", one / "module" / "run.pth", "--freeze", "--data", bars, "--name", "run", *QUICK)
    folders = {name: tmp_path / name for name in ("one", "parts", "both")}
    for folder in folders.values():
        folder.mkdir()
    done = [
        run_script("train.py", *command, cwd=folders["one"]),
        run_script("train.py", *command, "--accumulate", 4, cwd=folders["parts"]),
        torchrun(2, "train.py", *command, "--accumulate", 2, cwd=folders["both"]),
    ]
    assert [run.returncode for run in done] == [0, 0, 0], done
    same_run(folders["parts"], folders["one"])
    same_run(folders["both"], folders["one"])
    assert "in each step 2 x 2 (--accumulate) times 4 images" in done[2].stdout


def test_a_killed_process_costs_no_more_than_the_last_save(bars, tmp_path):
    exact = ("--precision", "bf16")  # of float32 there are two kinds, of which each run takes the faster one
    command = ("--data", bars, "--name", "run", *QUICK, *exact, "--save-every", 0, "--resume", "auto")
    (tmp_path / "dying.py").write_text(DYING, encoding="utf-8")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    done = torchrun(2, "train.py", *command, cwd=whole)
    assert done.returncode == 0, done.stderr
    done = torchrun(2, tmp_path / "dying.py", *command, cwd=killed, restarts=1)
    assert done.returncode == 0, done.stderr
    assert "going on after step 5 of 8" in done.stdout or "going on after step 6 of 8" in done.stdout
    for key, value in state(whole).state_dict.items():
        assert torch.equal(value, state(killed).state_dict[key]), key
    assert curve(killed) == curve(whole)


def test_a_signal_stops_all_after_the_same_step(bars, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [str(REPOSITORY / "train.py"), "--data", bars, "--name", "run", *QUICK, "--epochs", 500]
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
    assert f"stopped after step {resume['step']} of" in out
    assert resume["step"] >= 4


def test_each_image_once_in_every_epoch(monkeypatch):
    """What the processes take of a step are parts of what one process takes."""
    chances = None
    for epoch, start in ((0, 0), (1, 0), (1, 16)):
        orders = []
        for rank in (None, 0, 1, 2, 3):
            monkeypatch.setattr(distributed, "WORLD_SIZE", 1 if rank is None else 4)
            monkeypatch.setattr(distributed, "RANK", rank or 0)
            order = loaders.ResumableSampler(60, 3, chances, 8)
            order.epoch, order.start = epoch, start
            orders.append(list(order))
        whole, *shares = orders
        assert len(whole) == len(set(whole)) == (56 - start)
        steps = [
            [place for share in shares for place in share[step * 2 : step * 2 + 2]] for step in range((56 - start) // 8)
        ]
        assert [place for step in steps for place in step] == whole


def test_machines_with_other_images_are_told_apart(monkeypatch):
    checks.check_same("these")
    monkeypatch.setattr(distributed, "all_gather_object", lambda value: [value, "others"])
    with pytest.raises(UserError, match="do not see the same images"):
        checks.check_same("these")


def test_restarted_by_torchrun_it_goes_on_unasked(bars, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "stop_on_signal", list)
    command = ("--data", bars, "--name", "run", *QUICK)
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_after(patch, 1)
        call(patch, tmp_path, *command)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    call(monkeypatch, tmp_path, *command)
    assert "going on after step 2 of 8" in capsys.readouterr().out


def test_what_cannot_be_shared_out_is_told_before_the_work(bars, tmp_path):
    done = torchrun(2, "train.py", "--data", bars, *QUICK, "--batch-size", 15, cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("error: --batch-size 15 cannot be shared out evenly") == 1
    assert "Use --batch-size 16." in done.stderr and "Traceback" not in done.stderr.split("torch/distributed")[0]
    assert not (tmp_path / "module").exists()


def hosts(*commands: str) -> bool:
    """Run `ip` commands; whether all of them worked."""
    return all(subprocess.run(["ip", *command.split()], capture_output=True).returncode == 0 for command in commands)


@pytest.fixture
def two_hosts():
    """Two network namespaces with a cable between them: (their names, the first one's address)."""
    names = [f"classifier-{os.getpid()}-{i}" for i in range(2)]
    ends = [f"c{os.getpid() % 10_000_000}{i}" for i in "ab"]
    made = shutil.which("ip") and hosts(
        *[f"netns add {name}" for name in names],
        f"link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}",
        *[f"-n {name} addr add 10.77.0.{i + 1}/24 dev {ends[i]}" for i, name in enumerate(names)],
        *[f"-n {name} link set {ends[i]} up" for i, name in enumerate(names)],
        *[f"-n {name} link set lo up" for name in names],
    )
    try:
        if not made:
            pytest.skip("this machine allows no network namespaces")
        yield names, ends, "10.77.0.1"
    finally:
        for name in names:
            hosts(f"netns del {name}")


def on_both(two_hosts, tmp_path, script, *arguments, restarts=0, **variables):
    """What torchrun prints on each host."""
    names, ends, address = two_hosts
    started = []
    for i, name in enumerate(names):
        command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", "--nnodes=2"]
        command += [f"--node-rank={i}", f"--master-addr={address}", "--master-port=29577", "--nproc-per-node=1"]
        command += [f"--max-restarts={restarts}", script, *arguments]
        environment = ENVIRONMENT | {"GLOO_SOCKET_IFNAME": ends[i]} | variables
        folder = tmp_path / str(i)  # hosts share no disk but for the images
        folder.mkdir()
        started.append(
            subprocess.Popen(
                list(map(str, command)), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True,
            )
        )  # fmt: skip
        time.sleep(0.1)
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], said
    return said


def test_two_hosts(one, bars, tmp_path, two_hosts):
    command = ("--data", bars, "--name", "run", *QUICK, "--sync-bn")
    said = on_both(two_hosts, tmp_path, REPOSITORY / "train.py", *command)
    assert "epoch 2/2" in said[0] and "epoch 2/2" not in said[1]
    same_run(tmp_path / "0", one)
    assert not list((tmp_path / "1").glob("module/*.pth"))


def test_a_process_killed_on_the_other_host_costs_no_more_than_the_last_save(bars, tmp_path, two_hosts):
    (tmp_path / "dying.py").write_text(DYING, encoding="utf-8")
    command = ("--data", bars, "--name", "run", *QUICK, "--save-every", 0)
    apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # a new store for each attempt, without dead addresses
    said = on_both(two_hosts, tmp_path, tmp_path / "dying.py", *command, restarts=5, **apart)
    assert "going on after step 5 of 8" in said[0] or "going on after step 6 of 8" in said[0], said
    assert len(curve(tmp_path / "0")) == 8
