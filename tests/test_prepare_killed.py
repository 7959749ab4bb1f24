"""Killed at any moment, prepare.py leaves nothing half-done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from classifier.cli import UserError
from classifier.preparation import outputs
from tests.conftest import REPOSITORY, run_script
from tests.raw_images import cats_and_dogs, make_folder, make_zip, run_prepare, tree


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Large enough to be caught at work."""
    return make_zip(tmp_path_factory.mktemp("source") / "pets.zip", cats_and_dogs(300))


def start(source, output, code=None):
    command = ["-c", code] if code else [REPOSITORY / "prepare.py"]
    return subprocess.Popen(
        [sys.executable, *command, source, "--output", output], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )


def at_work(source, output):
    """A process that has begun to check."""
    process = start(source, output)
    deadline = time.monotonic() + 60
    while not any(output.glob(".preparing-*/scratch/9*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    return process


def test_killed_while_checking(source, tmp_path):
    process = at_work(source, tmp_path / "out")
    process.kill()
    process.communicate(timeout=60)  # its workers have ended too, or they would hold its pipe
    assert not set(outputs.RESULTS) & {path.name for path in (tmp_path / "out").iterdir()}
    for output in ("out", "undisturbed"):
        done = run_script("prepare.py", source, "--output", output, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert done.stdout.splitlines()[-1].startswith("Next: python train.py") and "\r" not in done.stdout
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")


def worker_of(process):
    """The number of a process that decodes for this one."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())


@pytest.mark.skipif(sys.platform != "linux" or os.cpu_count() == 1, reason="finds a worker through /proc")
@pytest.mark.parametrize(
    ("kill", "status", "message"),
    [
        (lambda process: process.send_signal(signal.SIGINT), 130, "stopped"),
        (lambda process: os.kill(worker_of(process), signal.SIGKILL), 2, "error: A process that decodes images was"),
    ],
    ids=["Ctrl-C", "worker"],
)
def test_stopped_while_checking(kill, status, message, source, tmp_path):
    process = at_work(source, tmp_path / "out")
    kill(process)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status and errors.strip().startswith(message) and errors.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


KILLED_AT = """
import os, sys
from pathlib import Path
import prepare
rename, left = Path.rename, [{n}]
def counted(self, target):
    if ".preparing-" not in str(target):  # the last step and the moves after it
        left[0] -= 1
        if left[0] < 0:
            os._exit(9)
    return rename(self, target)
Path.rename = counted
del os.sync
prepare.main()
"""


def test_killed_at_each_of_the_last_steps(tmp_path):
    """Before the step that counts there is nothing; after it the next run completes the rest."""
    parts = [cats_and_dogs(4, 50 * i, f"{part}/{{label}}/{{i}}.jpg") for i, part in enumerate(("train", "val", "test"))]
    source = make_zip(tmp_path / "pets.zip", parts[0] | parts[1] | parts[2])

    def call(source, output):
        run_prepare(source, "--output", output)
        return tree(output)

    results = [name for name in outputs.RESULTS if name != "groups.csv"]  # only with --group-by
    whole = call(source, make_folder(tmp_path / "whole", {"README.md": b""}))
    folders = [make_folder(tmp_path / str(n), {"README.md": b""}) for n in range(len(results) + 1)]
    started = [start(source, output, KILLED_AT.format(n=n)) for n, output in enumerate(folders)]
    for n, (output, process) in enumerate(zip(folders, started, strict=True)):
        process.communicate()
        assert process.returncode == 9
        assert (output / ".prepared").is_dir() == (n > 0)
        assert [name for name in results if (output / name).exists()] == results[: max(0, n - 1)]
        if n == 2:  # another source: the finished rest is completed first, then the other source is refused
            with pytest.raises(UserError, match=r"made from pets\.zip"):
                call(make_zip(tmp_path / "other.zip", cats_and_dogs(10, first=50)), output)
            assert {path.name for path in output.iterdir()} == {"README.md", *results}
        assert call(source, output) == whole and not list(output.glob(".p*"))
