"""Killed at any moment, prepare.py leaves nothing half-done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import prepare
from classifier.cli import UserError
from classifier.preparation import staging
from tests.raw_images import cats_and_dogs, make_folder, make_zip, tree

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    monkeypatch.delattr(os, "sync", raising=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Large enough to be caught at work, and for two processes."""
    return make_zip(tmp_path_factory.mktemp("source") / "pets.zip", cats_and_dogs(300))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, source):
    """What an undisturbed run makes of it."""
    output = tmp_path_factory.mktemp("whole")
    prepare.prepare(source, output, 0.1)
    return tree(output)


def start(source, output, code=None):
    command = ["-c", code] if code else [ROOT / "prepare.py"]
    return subprocess.Popen(
        [sys.executable, *command, source, "--output", output], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def children(process):
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def finish(source, output):
    """The next run: the lock is free, the rests go or are completed, then the work is done or known to be done."""
    with staging.file_lock(output):
        staging.recover(output, prepare.RESULTS)
        prepare.prepare(source, output, 0.1)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_killed_while_checking(source, whole, tmp_path):
    output = tmp_path / "out"
    process = start(source, output)
    wait_until(lambda: any(output.glob(".preparing-*/scratch/9*")), process)
    workers = children(process) if Path("/proc").is_dir() else []
    process.kill()
    process.wait()
    process.stderr.close()
    assert not staging.occupied(output, prepare.RESULTS) and list(output.glob(".preparing-*"))
    finish(source, output)
    assert tree(output) == whole
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, workers)), "the workers outlive their parent"


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
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs(10))
    prepare.prepare(source, make_folder(tmp_path / "whole", {"README.md": b""}), 0.1)
    whole = tree(tmp_path / "whole")
    steps = range(len(prepare.RESULTS) + 1)
    started = [
        (n, start(source, make_folder(tmp_path / str(n), {"README.md": b""}), KILLED_AT.format(n=n))) for n in steps
    ]
    for n, process in started:
        process.communicate()
        output = tmp_path / str(n)
        assert process.returncode == 9
        assert (output / ".prepared").is_dir() == (n > 0)
        assert staging.occupied(output, prepare.RESULTS) == list(prepare.RESULTS[: max(0, n - 1)])
        finish(source, output)
        assert tree(output) == whole and not list(output.glob(".p*"))


def test_another_source_after_the_step_that_counts(tmp_path):
    """The finished rest is completed first, then the other source is refused."""
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs(10))
    other = make_zip(tmp_path / "other.zip", cats_and_dogs(10, first=50))
    output = make_folder(tmp_path / "out", {"README.md": b""})
    start(source, output, KILLED_AT.format(n=2)).communicate()
    with pytest.raises(UserError, match=r"made from pets\.zip"):
        finish(other, output)
    assert {path.name for path in output.iterdir()} == {"README.md", *prepare.RESULTS}


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers through /proc")
@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else True, reason="one processor"
)
def test_a_killed_worker_ends_in_a_message(source, tmp_path):
    output = tmp_path / "out"
    process = start(source, output)
    wait_until(lambda: any(output.glob(".preparing-*/scratch/9*")), process)
    for pid in children(process):  # the last one is a worker; the first looks after shared resources
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            break
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2 and errors.startswith("error: a process that decodes images was ended")
    assert not output.exists()


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent otherwise there")
def test_ctrl_c(source, tmp_path):
    output = tmp_path / "out"
    process = start(source, output)
    wait_until(lambda: any(output.glob(".preparing-*/scratch/*")), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and errors.strip() == "stopped"
    assert not output.exists()


def test_workers_do_not_load_torch():
    code = "import sys, prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
