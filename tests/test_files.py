"""What every script uses: files are written whole or not at all, locks, the end of a script, texts."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from classifier.cli import UserError, plural, print_table, shorten, text_width
from classifier.files import atomic_write, file_lock, remove_leftovers
from tests.conftest import ENVIRONMENT, REPOSITORY, run_code

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


def test_several_threads_write_the_same_file(tmp_path):
    path, begun = tmp_path / "file", threading.Barrier(8)

    def write(number):
        with atomic_write(path) as file:
            begun.wait()
            file.write(bytes([number]) * 100_000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(set(path.read_bytes())) == 1 and path.stat().st_size == 100_000
    assert list(tmp_path.iterdir()) == [path]


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


def test_an_error_of_the_program_keeps_its_traceback():
    """What users can mend has a message: the tests of each script."""
    done = run_code("from classifier import cli; cli.run(lambda: 1 / 0)")
    assert done.returncode == 1 and "Traceback" in done.stderr and "error: " not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_reader_that_has_seen_enough_is_no_error():
    code = "from classifier import cli; cli.run(lambda: print('x' * 100_000))"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.wait(60) == 1 and not process.stderr.read()


def test_text(capsys):
    assert text_width("猫 cat") == 6 and shorten("猫猫猫", 5) == "猫猫…" and shorten("cat", 3) == "cat"
    assert [plural(count, "image") for count in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert plural(2, "class", "classes") == "2 classes"
    print_table([("class", "images"), ("猫", 12), ("a dog", 3)])
    assert capsys.readouterr().out == "class  images\n猫         12\na dog       3\n"
