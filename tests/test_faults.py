"""Faults in the middle of a run: each is caused here, and ends in one message with what was there before still there.

docs/promises.md lists them, and which test shows each.
"""

import errno
import gc
import multiprocessing
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from classifier import checkpoint, cli
from classifier.cli import UserError
from classifier.data import archives
from classifier.files import file_lock
from classifier.prediction import sources as unlabelled
from classifier.preparation import sources
from classifier.training import run_state, runs, stopping
from classifier.training.tensorboard import Records, new_folder
from tests.conftest import ENVIRONMENT, REPOSITORY, make_images
from tests.killed_runs import Tiny
from zoo import MODELS

SETTINGS = ("--model", "tiny", "--size", 32, "--batch-size", 16, "--workers", 0, "--precision", "bf16", "--name", "run")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that trains the tiny network on some images in a folder of its own."""
    make_images(tmp_path / "dataset" / "train", {"across": 40, "down": 40})
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    monkeypatch.setattr(train, "stop_on_signal", list)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, settings: tuple = SETTINGS) -> None:
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, settings), *map(str, arguments)])
        train.main()

    return call


def at_step(monkeypatch, number: int, happens) -> None:
    """Let something happen at the end of the run's step of this number, once."""
    update, made = train.update_ema, []

    def count(*arguments):
        update(*arguments)
        made.append(1)
        if len(made) == number:
            happens()

    monkeypatch.setattr(train, "update_ema", count)


def told(run, capsys, *arguments) -> str:
    """What is said by a run that ends with status 2, which is no traceback."""
    with pytest.raises(SystemExit) as ended:
        cli.run(lambda: run(*arguments))
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out + said.err


def test_garbage_is_looked_for_again_once_all_is_imported():
    found = []
    gc.disable()
    try:
        cli.run(lambda: found.append((gc.isenabled(), gc.get_freeze_count() > 0)))
        assert (found, gc.isenabled(), gc.get_freeze_count()) == ([(True, True)], True, 0)
    finally:
        gc.enable()


def last() -> checkpoint.Checkpoint:
    saved = checkpoint.load(Path("module/run.last.pth"))
    run_state.check(saved)
    return saved


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def points(tag: str, part: str = "train") -> list[int]:
    events = EventAccumulator(str(Path(last().resume["logs"]) / part), {"scalars": 0}).Reload()
    return [event.step for event in events.Scalars(tag)]


def test_each_promise_names_tests_that_exist():
    pages = [(REPOSITORY / "docs" / name).read_text(encoding="utf-8") for name in ("promises.md", "promises.zh-CN.md")]
    rows = [re.findall(r"^\|.*\|$", page, re.MULTILINE) for page in pages]
    named = [
        [re.findall(r"\((\.\./tests/\w+\.py)\)|`(test_\w+)`", row.split("|")[3]) for row in table] for table in rows
    ]
    assert named[0] == named[1] and len(named[0]) > 20
    content = ""
    for row in filter(None, named[0]):
        for file, test in row:
            content = (REPOSITORY / "docs" / file).read_text(encoding="utf-8") if file else content
            assert file or f"def {test}(" in content, test


# ------------------------------------------------------------------------------------------------- what is computed


def test_the_same_seed_twice_gives_the_same_weights_bit_for_bit(run):
    for name in ("a", "b"):
        run("--epochs", 2, "--mix", "both", settings=(*SETTINGS[:-1], name))
    first, second = (checkpoint.load(Path(f"module/{name}.last.pth")) for name in ("a", "b"))
    assert equal(first.state_dict, second.state_dict)
    assert equal(first.resume["network"], second.resume["network"])
    run("--epochs", 2, "--mix", "both", "--seed", 1, settings=(*SETTINGS[:-1], "c"))
    assert not equal(first.state_dict, checkpoint.load(Path("module/c.last.pth")).state_dict)


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_save(run, monkeypatch, capsys, value):
    bad = []
    monkeypatch.setattr(
        Tiny, "forward_head", lambda self, x: self.fc(x.mean((2, 3))) * (float(value) if bad and self.training else 1)
    )
    at_step(monkeypatch, 5, lambda: bad.append(1))
    said = told(run, capsys, "--epochs", 3, "--save-every", 0)
    assert "The loss became" in said and "in step 6" in said and "--lr" in said
    assert last().resume["step"] == 5
    assert checkpoint.finite(last().state_dict) and checkpoint.finite(last().resume["network"])
    bad.clear()
    run(settings=("--resume", "module/run.last.pth"))
    assert points("step/loss") == list(range(1, 13))


# -------------------------------------------------------------------------------------------------------- the disk


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_disk_that_is_full_for_one_save_costs_that_save_only(run, monkeypatch, capsys, where):
    saves, save, fsync = [], torch.save, os.fsync

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def counted(content, file):
        saves.append(1)
        if len(saves) == 4 and where == "write":
            file.write(b"half")
            full()
        save(content, file)

    def synced(descriptor):
        # a .pth, not the curves
        if len(saves) == 4 and where == "fsync" and os.fstat(descriptor).st_size and saves.count(0) == 0:
            saves.append(0)
            full()
        fsync(descriptor)

    monkeypatch.setattr(torch, "save", counted)
    if where == "fsync":
        monkeypatch.setattr(checkpoint.os, "fsync", synced)
    run("--epochs", 2, "--save-every", 0)
    said = capsys.readouterr().out
    assert "not saved" in said and "No space left" in said and "best: epoch" in said
    assert last().resume["step"] == 8 and last().resume["done"]
    assert sorted(path.name for path in Path("module").iterdir()) == ["run.last.pth", "run.pth"]


def test_curves_whose_folder_vanishes_end_the_run_with_a_message(run, monkeypatch, capsys):
    at_step(monkeypatch, 3, lambda: shutil.rmtree("logs"))
    said = told(run, capsys, "--epochs", 2, "--save-every", 0)
    assert "No such file or directory" in said and "to go on: python train.py --resume" in said
    assert last().resume["step"] >= 2


def test_a_disk_that_stays_full_leaves_the_last_save(run, monkeypatch, capsys):
    full = []
    save = torch.save

    def checked(content, file):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file)

    monkeypatch.setattr(torch, "save", checked)
    at_step(monkeypatch, 3, lambda: full.append(1))
    said = told(run, capsys, "--epochs", 2, "--save-every", 0)
    assert "could not be written" in said and "No space left" in said
    assert last().resume["step"] == 2
    full.clear()
    run(settings=("--resume", "module/run.last.pth"))
    assert points("step/loss") == list(range(1, 9))


@pytest.mark.skipif(sys.platform != "linux", reason="a small disk is mounted")
def test_a_real_full_disk(tmp_path, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "none", small], capture_output=True).returncode:
        pytest.skip("only the superuser mounts a disk")
    try:
        monkeypatch.setitem(MODELS, "tiny", Tiny)
        weights = checkpoint.Checkpoint("tiny", ["a", "b"], checkpoint.TUTORIAL, Tiny(2).state_dict())
        checkpoint.save(weights, small / "run.pth")
        before = (small / "run.pth").read_bytes()
        weights.resume = {"large": torch.rand(100_000)}
        with pytest.raises(checkpoint.CheckpointError, match=r"could not be written.*[Ss]pace"):
            checkpoint.save(weights, small / "run.pth")
        assert [file.name for file in small.iterdir()] == ["run.pth"]
        assert (small / "run.pth").read_bytes() == before
        records = Records(small / "logs")
        with pytest.raises(OSError, match="No space left"):
            for step in range(100_000):
                records.step(step, 1.0, 0.5, 0.1)
            records.flush()
        records.close()  # says so, and does not raise
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def test_a_folder_for_weights_that_cannot_be_written_to_is_told_before_the_work(run, tmp_path, capsys):
    module = tmp_path / "module"
    module.mkdir()
    (module / "mine.pth").write_bytes(b"mine")
    with read_only(module):
        begun = time.monotonic()
        said = told(run, capsys)
        assert "module cannot be written to" in said and "epoch" not in said
        assert time.monotonic() - begun < 60
    assert [file.name for file in module.iterdir()] == ["mine.pth"]
    assert not (tmp_path / "logs").exists()


@contextmanager
def read_only(folder: Path):
    """For the superuser, to whom no permission matters, by mounting it over itself."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this system's permissions are of another kind")
    if os.geteuid():
        folder.chmod(0o555)
        yield
        folder.chmod(0o755)
        return
    bound = subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode == 0
    try:
        if not bound or subprocess.run(["mount", "-o", "remount,ro,bind", folder], capture_output=True).returncode:
            pytest.skip("the superuser may write everywhere, and mounts nothing here")
        yield
    finally:
        if bound:
            subprocess.run(["umount", "-l", folder], check=True)


# ---------------------------------------------------------------------------------------------------- the images


@pytest.mark.parametrize("fault", ["folder", "picture"])
def test_images_that_vanish_or_become_unreadable_are_named_and_the_run_can_go_on(run, monkeypatch, capsys, fault):
    images, aside = Path("dataset/train"), Path("aside")

    def happens() -> None:
        shutil.copytree(images, aside)
        if fault == "folder":
            shutil.rmtree(images)
        else:
            for file in images.glob("*/*.png"):
                file.write_bytes(b"nothing")

    at_step(monkeypatch, 5, happens)
    said = told(run, capsys, "--epochs", 3, "--no-cache")
    assert (".png cannot be read" if fault == "folder" else ".png is not an image") in said
    assert "python train.py --resume module" in said
    assert 5 <= last().resume["step"] <= 8
    shutil.rmtree(images, ignore_errors=True)
    aside.rename(images)
    run(settings=("--resume", "module/run.last.pth"))
    assert points("step/loss") == list(range(1, 13))


def test_with_the_cache_training_needs_its_images_no_more(run, monkeypatch, capsys):
    """Only at the end it does, to learn what is unlike all of them."""
    at_step(monkeypatch, 5, lambda: Path("dataset/train").rename("aside"))
    said = told(run, capsys, "--epochs", 3)
    assert "epoch 3/3" in said and ".png cannot be read" in said and "--resume module" in said
    assert last().resume["step"] == 12 and not last().resume["done"]
    assert checkpoint.load(Path("module/run.pth")).scores["val"]["count"] == 8
    Path("aside").rename("dataset/train")
    run(settings=("--resume", "module/run.last.pth"))
    assert last().resume["done"]
    assert points("step/loss") == list(range(1, 13))


@pytest.mark.parametrize("damage", ["bytes", "cut", "version"])
def test_a_damaged_cache_changes_nothing(run, monkeypatch, damage):
    run("--epochs", 1)
    whole = last().state_dict
    for file in Path("dataset/.cache").glob("*.pixels" if damage == "bytes" else "*"):
        content = bytearray(file.read_bytes())
        content[:: max(1, len(content) // 50)] = bytes(len(content[:: max(1, len(content) // 50)]))
        file.write_bytes(content if damage == "bytes" else content[:100])
        if damage == "version":
            file.rename(file.with_name(file.name.replace("-", "-0")))
    run("--epochs", 1, settings=(*SETTINGS[:-1], "again"))
    assert equal(whole, checkpoint.load(Path("module/again.last.pth")).state_dict)


# ------------------------------------------------------------------------------------------------------- processes


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_worker_is_told_and_the_steps_are_kept(run, monkeypatch, capsys):
    def kill() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    at_step(monkeypatch, 3, kill)
    said = told(run, capsys, "--epochs", 40, "--no-cache", "--workers", 1)
    assert "DataLoader worker" in said and "fewer --workers" in said and "--resume module" in said
    assert last().resume["step"] >= 3
    assert points("step/loss") == list(range(1, last().resume["step"] + 1))


@contextmanager
def elsewhere(lock: Path):
    """Another process that has the lock for the time being."""
    code = (
        "import sys, pathlib\nfrom classifier.files import file_lock\n"
        "with file_lock(pathlib.Path(sys.argv[1]), ''): print('here', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(lock.absolute())]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, env=ENVIRONMENT, **pipes) as other:
        assert other.stdout.readline() == "here\n"
        yield other
        other.kill()


def test_a_second_run_in_the_same_place_is_refused_before_the_work(run, capsys):
    run("--epochs", 1)
    before = {file.name: file.read_bytes() for file in Path("module").iterdir()}
    capsys.readouterr()
    with elsewhere(Path("module/.run.lock")) as other:
        for arguments in (("--resume", "module/run.last.pth", "--epochs", 2), SETTINGS):
            said = told(lambda *_, arguments=arguments: run(settings=arguments), capsys)
            assert "Another" in said and "run.last.pth" in said and "epoch" not in said
        assert {name: Path("module", name).read_bytes() for name in before} == before
        other.kill()
        other.wait()
        assert Path("module/.run.lock").exists()  # a killed one leaves it
        run(settings=("--resume", "module/run.last.pth", "--epochs", 2))
    assert len(last().resume["history"]) == 2
    assert not Path("module/.run.lock").exists()


def test_only_one_has_a_lock(tmp_path):
    lock = tmp_path / "new" / ".run.lock"
    with elsewhere(lock), pytest.raises(UserError, match="taken"), file_lock(lock, "it is taken"):
        pass
    with file_lock(lock, "it is taken"):  # of the one that was killed only the file is left
        assert lock.exists()
    assert not lock.exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"), file_lock(tmp_path / "file" / ".run.lock", ""):
        pass


def test_runs_of_the_same_second_have_log_folders_of_their_own(tmp_path):
    made = [new_folder(tmp_path / "logs" / "tiny" / "20300101-000000").name for _ in range(3)]
    assert made == ["20300101-000000", "20300101-000000-2", "20300101-000000-3"]


@pytest.mark.parametrize("jump", [365 * 86_400, -365 * 86_400])
def test_a_clock_that_jumps_changes_nothing(run, monkeypatch, jump):
    run("--epochs", 2, settings=(*SETTINGS[:-1], "calm"))
    real, shift = time.time, [0]
    monkeypatch.setattr(time, "time", lambda: real() + shift[0])
    at_step(monkeypatch, 3, lambda: shift.append(shift.pop() + jump))

    received: list[int] = []
    monkeypatch.setattr(train, "stop_on_signal", lambda: received)
    at_step(monkeypatch, 6, lambda: received.append(signal.SIGTERM))
    with pytest.raises(SystemExit):
        run("--epochs", 2, "--save-every", 0)
    received.clear()
    run(settings=("--resume", "module/run.last.pth"))
    assert equal(checkpoint.load(Path("module/calm.last.pth")).state_dict, last().state_dict)
    assert points("step/loss") == list(range(1, 9))
    assert points("epoch/loss") == points("epoch/loss", "val") == [1, 2]
    assert all(0 <= entry["minutes"] < 5 for entry in last().resume["history"])


# ---------------------------------------------------------------------------------------------------------- memory

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB.\nMore lines."
CPU = "[enforce fail at alloc_cpu.cpp:115] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU)], ids=["gpu", "cpu"])
def test_too_little_memory_says_what_would_fit_and_goes_on_so(run, monkeypatch, capsys, error):
    forward = Tiny.forward

    def small(self, x):
        if self.training and len(x) > 4:
            raise error
        return forward(self, x)

    monkeypatch.setattr(Tiny, "forward", small)
    said = told(run, capsys, "--epochs", 1)
    assert str(error).split("\n")[0] in said and "More lines" not in said
    assert "smaller --batch-size" in said and "--resume module" in said
    run(settings=("--resume", "module/run.last.pth", "--accumulate", 4))
    assert points("step/loss") == [1, 2, 3, 4]


def test_a_step_that_fails_in_its_middle_is_as_if_it_had_not_begun(run, monkeypatch):
    """After its forward pass, which has moved batch norm's means, and before its weights have."""
    run("--epochs", 2, settings=(*SETTINGS[:-1], "calm"))
    loss, calls = train.training_loss, []

    def short(*arguments):
        calls.append(1)
        if len(calls) == 6:
            raise torch.OutOfMemoryError(CUDA)
        return loss(*arguments)

    monkeypatch.setattr(train, "training_loss", short)
    with pytest.raises(UserError, match="out of memory"):
        run("--epochs", 2)
    assert last().resume["step"] == 5
    run(settings=("--resume", "module/run.last.pth"))
    assert equal(checkpoint.load(Path("module/calm.last.pth")).state_dict, last().state_dict)


def test_a_step_whose_weights_are_being_changed_is_not_saved(run, monkeypatch, capsys):
    run("--epochs", 2, settings=(*SETTINGS[:-1], "calm"))

    def killed() -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    update = train.update_ema
    at_step(monkeypatch, 6, killed)
    monkeypatch.setattr(runs, "SHARE", 1e9)  # saved at the end of the epoch, however long that takes
    said = told(run, capsys, "--epochs", 2)
    assert "while weights were being changed" in said and "fewer --workers" in said
    assert "What was saved before is still there" in said and "--resume module" in said
    assert last().resume["step"] == 4
    monkeypatch.setattr(train, "update_ema", update)
    run(settings=("--resume", "module/run.last.pth"))
    assert equal(checkpoint.load(Path("module/calm.last.pth")).state_dict, last().state_dict)
    assert points("step/loss") == list(range(1, 9))


def test_what_cannot_be_saved_either_is_told_with_what_is_left(tmp_path):
    def full() -> None:
        raise checkpoint.CheckpointError("run.last.pth could not be written")

    path = tmp_path / "run.last.pth"
    for exists, words in ((False, "Nothing could be saved"), (True, "What was saved before is still there")):
        if exists:
            path.write_bytes(b"")
        with (
            pytest.raises(UserError) as caught,
            stopping.saving_on_failure(full, path, lambda: None),
        ):
            raise OSError(errno.EIO, "Input/output error")
        assert "Input/output error" in str(caught.value) and words in str(caught.value)
        assert ("--resume" in str(caught.value)) == exists


# ------------------------------------------------------------------------------------------------- strangers' zips

JPEG = b"\xff\xd8\xff\xe0 not really"


def zip_of(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("x/1.jpg", "x/2.jpg", "y/1.jpg"):
            archive.writestr(name, JPEG)
    return path


def test_a_null_character_in_a_name_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip")
    path.write_bytes(path.read_bytes().replace(b"x/2.jpg", b"x/\0.jpg"))
    with pytest.raises(UserError, match="points outside the zip"):
        sources.read_source(path, tmp_path)
    with pytest.raises(UserError, match="points outside the zip"):
        unlabelled.check([str(path)])


@pytest.mark.parametrize("declared", [0xFFFF, 10_000_000])
def test_a_zip_that_declares_more_members_than_it_has(tmp_path, declared):
    """In the usual end of a zip, and in the one for large zips, which can say ten million."""
    path = zip_of(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x05\x06")
    size, offset = struct.unpack_from("<LL", content, at + 12)
    struct.pack_into("<HH", content, at + 8, 0xFFFF, 0xFFFF)
    if declared > 0xFFFF:
        record = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, declared, declared, size, offset)
        locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, at, 1)
        content[at:at] = record + locator
    path.write_bytes(content)
    begun = time.process_time()
    try:
        assert len(sources.read_source(path, tmp_path).images) == 3
    except UserError as error:
        assert "damaged" in str(error)
    finally:
        archives.open_zip.cache_clear()
    assert time.process_time() - begun < 5
