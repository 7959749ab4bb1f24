"""What every script uses: files are written whole or not at all, locks, the end of a script."""

import os
import signal
import subprocess
import sys
import time

import pytest

from classifier.cli import UserError, run
from classifier.files import atomic_write, file_lock, remove_leftovers
from tests.conftest import ENVIRONMENT, REPOSITORY

# holds a lock, prints a line, and waits
HOLDER = """
import pathlib, sys, time
from classifier.files import file_lock
with file_lock(pathlib.Path(sys.argv[1]), "locked", 0):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "new" / "table.csv"
    for text in ("old", "new\n猫"):
        with atomic_write(path, "w", encoding="utf-8") as file:
            file.write(text)
            assert not path.exists() if text == "old" else path.read_text() == "old"
    assert path.read_text(encoding="utf-8") == "new\n猫"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "new\n猫" and list(path.parent.iterdir()) == [path]


def test_what_killed_processes_leave_behind_is_removed(tmp_path):
    kept = [tmp_path / name for name in ("a[1].pth", ".a1.pth.7.7.tmp", ".a[1].pth.lock", "a[1].pth.tmp")]
    for path in (*kept, tmp_path / ".a[1].pth.7.7.tmp"):
        path.touch()
    remove_leftovers(tmp_path / "a[1].pth")
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_lock_is_held_by_one_process_until_it_ends_however_it_ends(tmp_path):
    path = tmp_path / "table.csv"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, cwd=REPOSITORY, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        begun = time.monotonic()
        with pytest.raises(UserError, match="busy"), file_lock(path, "busy", timeout=0.2):
            pass
        assert time.monotonic() - begun < 5
        os.kill(holder.pid, signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        with file_lock(path, "busy", timeout=10):
            pass
    with file_lock(path, "busy", timeout=0):
        pass


def test_an_error_of_the_program_keeps_its_traceback_and_one_of_a_disk_is_a_message(tmp_path, capsys):
    """What users can mend has a message: the tests of each script."""
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)
    with pytest.raises(SystemExit, match="2"):
        run((tmp_path / "none").read_bytes)
    assert capsys.readouterr().err.startswith("error: [Errno 2] No such file")
