"""Faults in the middle of a run: each ends in one message, with the last save still there to resume from.

docs/promises.md lists them, and which test shows each. Faults come from the network, the files, the disk or signals.
"""

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import checkpoint, cli
from classifier.files import file_lock
from tests.conftest import TINY, make_images, run_script, same
from tests.raw_images import tree

LAST = Path("module/run.last.pth")
RESUME = ("--resume", LAST)
needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")


def last() -> checkpoint.Checkpoint:
    return checkpoint.load(LAST)


def fails(run, capsys, *arguments, **options) -> str:
    """What a run prints that ends with status 2, which is no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: run(*arguments, **options))
    said = capsys.readouterr()
    assert ended.value.code == 2 and "Traceback" not in said.err
    return said.out + said.err


def steps() -> list[int]:
    """The steps whose loss TensorBoard shows; files of the same second are read in any order."""
    events = EventAccumulator(str(Path(last().resume["logs"]) / "train"), {"scalars": 0}).Reload()
    return sorted(event.step for event in events.Scalars("step/loss"))


@pytest.fixture
def calm(run, bars):
    """The state that a run of two epochs ends with when nothing happens."""
    run("--epochs", 2, "--name", "calm")
    return checkpoint.load(Path("module/calm.last.pth"))


def own_images(tmp_path) -> tuple:
    """Flags for images of this test's own, which it may damage."""
    return "--data", make_images(tmp_path / "own" / "train", {"across": 40, "down": 40}).parent


def test_a_fault_in_a_step_is_explained_and_the_last_save_resumes(run, calm, capsys):
    for fault, message in (
        ("nan", "The loss is nan in step 6. Try a smaller --lr"),
        ("memory", "larger --accumulate"),
        ("read error", "No such file or directory"),
    ):
        shutil.rmtree("module")
        shutil.rmtree("logs")
        said = fails(run, capsys, "--epochs", 2, "--save-every", 0, fault=fault, at=6)
        assert message in said and "python train.py --resume module/run.last.pth" in said.replace("\\", "/")
        assert last().resume["step"] == 5
        run(*RESUME)
        assert same(calm.state_dict, last().state_dict) and same(calm.resume["optimizer"], last().resume["optimizer"])
        assert steps() == list(range(1, 9))


def test_a_gpus_memory_and_a_bug(run, capsys):
    def full(_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a capacity of 8 GiB")

    said = fails(run, capsys, "--epochs", 1, fault=full, at=2)
    assert "Tried to allocate 2.00 GiB.\nResume with a larger --accumulate" in said
    with pytest.raises(RuntimeError):  # nobody's mistake but ours: with its traceback
        run(*RESUME, fault="bug", at=1)
    assert "--resume module" in capsys.readouterr().err


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: float):
    folder.mkdir()
    size = f"size={int(megabytes * 1024)}k"
    if sys.platform != "linux" or subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", folder]).returncode:
        pytest.skip("only Linux's superuser mounts a small disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_costs_saves_and_not_the_run(run, calm, tmp_path, capsys, lasting):
    """It is full from the third step on, for one step or for good."""
    filler, made = Path("module/filler"), itertools.count(1)

    def step(_) -> None:
        if (number := next(made)) == 3:
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while file.write(bytes(1 << 12)):
                    pass
        elif number == 4 and not lasting:
            filler.unlink()

    shutil.rmtree("module")
    with small_disk(tmp_path / "module", 1):
        if lasting:
            said = fails(run, capsys, "--epochs", 2, "--save-every", 0, fault=step)
            assert "No space left" in said and "--resume module" in said and last().resume["step"] == 2
            filler.unlink()
            run(*RESUME)
        else:
            run("--epochs", 2, "--save-every", 0, fault=step)
            assert "No space left" in (said := capsys.readouterr().out) and said.count("not saved: ") == 1
        assert same(calm.state_dict, last().state_dict)
        assert sorted(path.name for path in Path("module").glob("*.pth")) == ["run.last.pth", "run.pth"]


@pytest.mark.skipif(sys.platform != "linux", reason="no folder in which nobody may write")
def test_a_folder_for_weights_that_cannot_be_written_to_is_reported_before_the_work(run, tmp_path, capsys):
    Path("module").symlink_to("/sys")  # the superuser, too, makes no file there
    said = fails(run, capsys)
    assert "module cannot be written to" in said and "epoch" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["module"]


@pytest.mark.parametrize("fault", ["folder", "image"])
def test_images_that_vanish_or_become_unreadable_are_named_and_the_run_can_be_resumed(run, tmp_path, capsys, fault):
    images, aside = tmp_path / "own" / "train", tmp_path / "aside"

    def happens(_) -> None:
        if fault == "folder":
            images.rename(aside)
            return
        shutil.copytree(images, aside)
        for file in images.glob("*/*.png"):
            (tmp_path / "bad").write_bytes(b"nothing")
            (tmp_path / "bad").replace(file)  # at no moment is it missing or empty

    arguments = (*own_images(tmp_path), "--epochs", 3, "--no-cache", "--save-every", 0)
    said = fails(run, capsys, *arguments, fault=happens, at=5)
    assert (".png cannot be read" if fault == "folder" else ".png is not an image") in said
    assert "python train.py --resume module" in said and 4 <= last().resume["step"] <= 8
    shutil.rmtree(images, ignore_errors=True)
    aside.rename(images)
    run(*RESUME)
    assert steps() == list(range(1, 13))


def test_with_the_cache_training_needs_its_images_only_at_the_end(run, tmp_path, capsys):
    images, aside = tmp_path / "own" / "train", tmp_path / "aside"
    said = fails(run, capsys, *own_images(tmp_path), "--epochs", 3, fault=lambda x: images.rename(aside) and None, at=5)
    assert "epoch 3/3" in said and ".png cannot be read" in said and "--resume module" in said
    assert last().resume["step"] == 12 and not last().resume["done"]
    aside.rename(images)
    run(*RESUME)
    assert last().resume["done"] and checkpoint.load(Path("module/run.pth")).ood_stats is not None
    assert steps() == list(range(1, 13))


@needs_sigkill
def test_a_killed_worker_is_reported_and_the_last_save_resumes(run, capsys):
    def kill(_) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    arguments = ("--epochs", 40, "--no-cache", "--workers", 1, "--save-every", 0)
    said = fails(run, capsys, *arguments, fault=kill, at=3)
    assert "DataLoader worker" in said and "fewer --workers" in said and "--resume module" in said
    assert last().resume["step"] >= 2


@needs_sigkill
def test_killed_with_workers_it_resumes_at_once(calm, bars, tmp_path):
    """Its workers outlive it by moments, and hold its lock."""
    flags = ("--data", bars, *TINY, "--no-cache", "--workers", 2, "--epochs", 2, "--save-every", 0, "--resume", "auto")
    for fault, status in (("SIGKILL", -signal.SIGKILL), ("none", 0)):
        done = run_script("tests/tiny.py", tmp_path, fault, 6, *flags, cwd=tmp_path)
        assert done.returncode == status, done.stderr
    assert "resuming after step 5 of 8" in done.stdout and "step" in last().resume
    assert same(calm.state_dict, last().state_dict)


def test_a_second_run_in_the_same_place_is_refused_before_the_work(run, capsys, monkeypatch):
    monkeypatch.setattr(file_lock.__wrapped__, "__defaults__", (0.5,))  # seconds until it gives up
    run("--epochs", 1)
    before = tree(Path("module"))
    with file_lock(Path("module/run"), ""):
        said = fails(run, capsys, *RESUME, "--epochs", 2)
        assert "Another train.py is writing module/run.last.pth" in said and "epoch" not in said
        assert tree(Path("module")) == before
