"""Killed at any moment, prepare.py leaves nothing half-done."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import prepare
from classifier.preparation import outputs
from tests.conftest import REPOSITORY, run_code, run_script
from tests.raw_images import cats_and_dogs, make_folder, make_zip, tree

IS_LINUX = Path("/proc/self/task").is_dir()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Large enough to be caught at work, and for two processes."""
    return make_zip(tmp_path_factory.mktemp("source") / "pets.zip", cats_and_dogs(300))


def start(source, output, code=None):
    command = ["-c", code] if code else [REPOSITORY / "prepare.py"]
    return subprocess.Popen(
        [sys.executable, *command, source, "--output", output], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
    )


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def workers(process):
    """Its processes that decode; another one looks after shared resources."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not IS_LINUX, reason="finds the workers through /proc")
def test_killed_while_checking(source, tmp_path):
    process = start(source, tmp_path / "out")
    wait_until(lambda: any((tmp_path / "out").glob(".preparing-*/scratch/9*")), process)
    pids = workers(process)
    process.kill()
    process.wait()
    process.stderr.close()
    assert not outputs.occupied(tmp_path / "out", prepare.RESULTS)
    for output in ("out", "undisturbed"):
        done = run_script("prepare.py", source, "--output", output, cwd=tmp_path)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert done.stdout.splitlines()[-1].startswith("Next: python train.py") and "\r" not in done.stdout
    assert tree(tmp_path / "out") == tree(tmp_path / "undisturbed")
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids)), "the workers outlive their parent"


@pytest.mark.parametrize("killed", ["worker", "Ctrl-C"])
@pytest.mark.skipif(not IS_LINUX or len(os.sched_getaffinity(0)) < 2, reason="needs /proc and two processors")
def test_ended_from_outside(killed, source, tmp_path):
    process = start(source, tmp_path / "out")
    wait_until(lambda: any((tmp_path / "out").glob(".preparing-*/scratch/9*")), process)
    if killed == "worker":
        os.kill(workers(process)[0], signal.SIGKILL)
    else:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    if killed == "worker":
        assert process.returncode == 2 and errors.startswith("error: A process that decodes images was killed")
    else:
        assert process.returncode == 130 and errors.strip() == "stopped"
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


def test_killed_at_each_of_the_last_steps(tmp_path, monkeypatch, capsys):
    """Before the step that counts there is nothing; after it the next run completes the rest."""
    source = make_zip(tmp_path / "pets.zip", cats_and_dogs(10))
    monkeypatch.delattr(os, "sync", raising=False)  # waits for everything that the whole machine is writing

    def call(source, output):
        monkeypatch.setattr(sys, "argv", ["prepare.py", str(source), "--output", str(output)])
        prepare.main()
        return tree(output)

    whole = call(source, make_folder(tmp_path / "whole", {"README.md": b""}))
    started = [
        (n, start(source, make_folder(tmp_path / str(n), {"README.md": b""}), KILLED_AT.format(n=n)))
        for n in range(len(prepare.RESULTS) + 1)
    ]
    for n, process in started:
        process.communicate()
        output = tmp_path / str(n)
        assert process.returncode == 9
        assert (output / ".prepared").is_dir() == (n > 0)
        assert outputs.occupied(output, prepare.RESULTS) == list(prepare.RESULTS[: max(0, n - 1)])
        if n == 2:  # another source: the finished rest is completed first, then the other source is refused
            with pytest.raises(prepare.UserError, match=r"made from pets\.zip"):
                call(make_zip(tmp_path / "other.zip", cats_and_dogs(10, first=50)), output)
            assert {path.name for path in output.iterdir()} == {"README.md", *prepare.RESULTS}
        assert call(source, output) == whole and not list(output.glob(".p*"))


def test_workers_do_not_load_torch():
    assert run_code("import sys, prepare; sys.exit('torch' in sys.modules)").returncode == 0
