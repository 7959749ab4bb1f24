"""train.py: a whole run as a process, what it leaves behind, stopping and going on, and its errors."""

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from classifier import checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Augment
from classifier.evaluation import metrics
from classifier.training import checks, optim, schedules
from classifier.training.config import RECIPES, Settings
from tests.conftest import ENVIRONMENT, REPOSITORY, make_images, run_script

# the last of them is replaced in some tests
QUICK = ("--size", 32, "--batch-size", 16, "--workers", 0, "--name", "run", "--precision", "bf16")


@pytest.fixture(scope="module")
def finished(bars, tmp_path_factory):
    """A finished run: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("finished")
    done = run_script("train.py", "--data", bars, "--epochs", 3, *QUICK, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_prints_what_a_person_needs(finished):
    _, done = finished
    assert "36 images to train with, 4 to choose the best epoch with" in done.stdout
    assert "epoch 3/3   train loss" in done.stdout
    assert "float" in done.stdout  # which precision, and why
    for command in ("python evaluate.py module/run.pth", "python app.py module/run.pth", "tensorboard --logdir logs"):
        assert command in done.stdout
    assert "\r" not in done.stdout + done.stderr  # no progress bars in a file
    assert "Traceback" not in done.stderr


def test_leaves_weights_that_describe_themselves(finished, bars):
    folder, _ = finished
    best = checkpoint.load(folder / "module" / "run.pth")
    assert (best.model, best.classes) == ("resnet18", ["across", "down"])
    assert best.preprocess.size == 32
    assert best.data == {
        "root": str(bars),
        "kind": "images",
        "train": 72,
        "val": 8,
        "fingerprint": best.data["fingerprint"],
    }
    history = best.scores["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    chosen = metrics.best_epoch(history)
    assert best.scores["val"] == chosen["val"] | {"epoch": chosen["epoch"], "count": 8}
    assert best.settings["epochs"] == 3
    assert best.state_dict["conv1.weight"].dtype == torch.float16
    assert best.state_dict["bn1.running_var"].dtype == torch.float32
    assert best.network()(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert not best.resume
    assert checkpoint.load(folder / "module" / "run.last.pth").resume["step"] == 12
    assert checkpoint.newest(folder / "module").name == "run.pth"


def test_tensorboard_has_train_and_val_on_the_same_charts(finished):
    folder, _ = finished
    (run,) = (folder / "logs" / "resnet18").iterdir()
    events = {part: EventAccumulator(str(run / part)).Reload() for part in ("train", "val")}
    for tag in ("step/loss", "step/accuracy", "epoch/loss", "epoch/accuracy"):
        assert tag in events["train"].Tags()["scalars"]
        assert tag in events["val"].Tags()["scalars"]
    assert [event.step for event in events["train"].Scalars("step/loss")] == list(range(1, 13))
    assert [event.step for event in events["val"].Scalars("epoch/accuracy")] == [1, 2, 3]
    assert events["train"].Tags()["graph"]
    assert events["train"].Tags()["images"] == ["pictures/augmented"]
    assert events["val"].Tags()["images"] == ["pictures/predictions"]
    assert "settings/text_summary" in events["train"].Tags()["tensors"]


def test_stopped_anywhere_and_resumed_it_ends_with_the_same_weights(bars, tmp_path):
    steps = ("--data", bars, "--epochs", 8, *QUICK)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    assert run_script("train.py", *steps, cwd=whole).returncode == 0

    process = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), *map(str, steps)],
        cwd=parts, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    while not process.stdout.readline().startswith("epoch 1/8 "):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, err
    assert "python train.py --resume module/run.last.pth" in out.replace("\\", "/")
    assert checkpoint.load(parts / "module" / "run.last.pth").resume["step"] < 32

    done = run_script("train.py", "--resume", "module/run.last.pth", cwd=parts)
    assert done.returncode == 0, done.stderr
    for name in ("run.pth", "run.last.pth"):
        expected, found = (checkpoint.load(folder / "module" / name) for folder in (whole, parts))
        assert expected.state_dict.keys() == found.state_dict.keys()
        assert all(torch.equal(value, found.state_dict[key]) for key, value in expected.state_dict.items())

    again = run_script("train.py", "--resume", "module/run.last.pth", cwd=parts)
    assert (again.returncode, "has finished its 8 epochs" in again.stderr) == (2, True)
    longer = run_script("train.py", "--resume", "module/run.last.pth", "--epochs", 9, cwd=parts)
    assert longer.returncode == 0, longer.stderr
    assert "epoch 9/9" in longer.stdout


def call(monkeypatch, folder: Path, *arguments: object) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    train.main()


def stop_after(monkeypatch, steps: int) -> None:
    """Let the next run receive a signal when it has made so many steps; it makes one more."""
    received, made, update = [] if steps else [signal.SIGTERM], [], train.update_ema

    def count(*arguments):
        update(*arguments)
        made.append(1)
        if len(made) == steps:
            received.append(signal.SIGTERM)

    monkeypatch.setattr(train, "update_ema", count)
    monkeypatch.setattr(train, "stop_on_signal", lambda: received)


def test_stopped_at_any_step_and_resumed_nothing_differs(bars, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    arguments = ("--data", bars, "--epochs", 2, *QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_signal", list)
        call(patch, whole, *arguments)
    for stop in (1, 1, 1, 0):  # in the first epoch; in its last step; in the second; there again; then to the end
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            stop_after(patch, stop)
            call(patch, parts, *arguments)
        assert ended.value.code == 128 + signal.SIGTERM
        arguments = ("--resume", "module/run.last.pth")
    assert len(checkpoint.load(parts / "module" / "run.last.pth").resume["history"]) == 1
    with monkeypatch.context() as patch:
        patch.setattr(train, "stop_on_signal", list)
        call(patch, parts, *arguments)
    for name in ("run.pth", "run.last.pth"):
        expected, found = (checkpoint.load(folder / "module" / name) for folder in (whole, parts))
        assert all(torch.equal(value, found.state_dict[key]) for key, value in expected.state_dict.items())
    for there, here in zip(expected.resume["history"], found.resume["history"], strict=True):
        assert there["val"] == here["val"]
        assert there["train"]["loss"] == pytest.approx(here["train"]["loss"])
        assert there["train"]["accuracy"] == here["train"]["accuracy"]


def weights_of(folder: Path, name: str = "run.last.pth") -> dict[str, torch.Tensor]:
    return checkpoint.load(folder / "module" / name).state_dict


def test_the_cache_changes_speed_and_nothing_else(finished, bars, tmp_path, monkeypatch):
    folder, _ = finished
    made = {path.name.split("-")[0] for path in (bars / ".cache").glob("*.pixels")}
    assert {"40", "32"} <= made  # pixels wide: to train and to validate with
    monkeypatch.setattr(train, "stop_on_signal", list)
    call(monkeypatch, tmp_path, "--data", bars, "--epochs", 3, *QUICK, "--no-cache", "--workers", 2)
    expected, found = weights_of(folder), weights_of(tmp_path)
    for key, value in expected.items():
        torch.testing.assert_close(value, found[key], msg=key)


def test_half_precision_scales_its_gradients_and_goes_on_with_the_scale(bars, tmp_path, monkeypatch):
    arguments = ("--data", bars, "--epochs", 2, *QUICK[:-1], "fp16")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_after(patch, 3)
        call(patch, tmp_path, *arguments)
    saved = checkpoint.load(tmp_path / "module" / "run.last.pth")
    assert saved.resume["scaler"]["scale"] > 1
    assert saved.resume["format"] == "float16" or saved.resume["format"] == "float16 channels-last"
    monkeypatch.setattr(train, "stop_on_signal", list)
    call(monkeypatch, tmp_path, "--resume", "module/run.last.pth")
    assert all(value.isfinite().all() for value in weights_of(tmp_path).values())


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [
        (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"), UserError, "--batch-size 8"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), UserError, "fewer --workers"),
        (OSError(5, "Input/output error"), UserError, "Input/output error"),
        (RuntimeError("a mistake in the code"), RuntimeError, "a mistake in the code"),
    ],
)
def test_what_fails_in_the_middle_is_told_after_saving(bars, tmp_path, monkeypatch, capsys, error, raised, said):
    loss, made = train.training_loss, []

    def fail(*arguments):
        made.append(1)
        if len(made) == 4:
            raise error
        return loss(*arguments)

    monkeypatch.setattr(train, "training_loss", fail)
    monkeypatch.setattr(train, "stop_on_signal", list)
    with pytest.raises(raised, match=said) as caught:
        call(monkeypatch, tmp_path, "--data", bars, "--epochs", 2, *QUICK)
    told = str(caught.value) + capsys.readouterr().err
    assert "python train.py --resume module/run.last.pth" in told.replace("\\", "/")
    assert checkpoint.load(tmp_path / "module" / "run.last.pth").resume["step"] == 3


def test_resume_auto_goes_on_begins_or_has_nothing_to_do(bars, tmp_path, monkeypatch, capsys):
    auto = ("--data", bars, "--epochs", 2, *QUICK, "--resume", "auto")
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_after(patch, 1)
        call(patch, tmp_path, *auto)  # there is nothing to go on with, so it begins
    monkeypatch.setattr(train, "stop_on_signal", list)
    call(monkeypatch, tmp_path, *auto, "--workers", 1)
    told = capsys.readouterr().out
    assert "going on after step 2 of 8; changed: workers 0 -> 1" in told and "epoch 2/2" in told
    with pytest.raises(SystemExit) as ended:
        call(monkeypatch, tmp_path, *auto)
    assert not ended.value.code and "Nothing is left to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="would be overwritten"):  # of other settings
        call(monkeypatch, tmp_path, *auto, "--lr", 1)
    call(monkeypatch, tmp_path, "--resume", "module/run.last.pth", "--epochs", 3)  # a finished one goes further
    assert "epoch 3/3" in capsys.readouterr().out


def test_resume_auto_reads_only_the_run_that_it_goes_on_with(bars, tmp_path, monkeypatch, capsys):
    command = ("--data", bars, "--epochs", 1, *QUICK[:-4], "--precision", "fp32", "--name")
    for name in ("stopped", "other", "done"):
        with monkeypatch.context() as patch, contextlib.suppress(SystemExit):
            stop_after(patch, 99 if name == "done" else 1)
            call(patch, tmp_path, *command, name, *(("--lr", 1e-4) if name == "other" else ()))
    (tmp_path / "module" / "none.last.pth").write_bytes(b"PK\x03\x04 and no more")
    read, real = [], checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda path: read.append(path.name) or real(path))
    settings = checkpoint.load(tmp_path / "module" / "stopped.last.pth").settings
    read.clear()
    saved = train.runs.unfinished(tmp_path / "module", Settings(**settings | {"name": "", "resume": "auto"}))
    assert saved.path.name == "stopped.last.pth" and read == ["none.last.pth", "stopped.last.pth"]
    assert "leaves it out: " in capsys.readouterr().out


@pytest.mark.parametrize("resume", ["module/run.last.pth", "auto"])
def test_a_state_that_another_train_wrote_meanwhile_is_not_gone_on_with(bars, tmp_path, monkeypatch, resume):
    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        stop_after(patch, 1)
        call(patch, tmp_path, "--data", bars, "--epochs", 2, *QUICK)
    last, newer, real = tmp_path / "module" / "run.last.pth", [], train.runs.reserved

    def reserved(*arguments):  # when the lock is asked for, the state has been read, and the other one has just ended
        state = checkpoint.load(last)
        checkpoint.save(replace(state, resume=state.resume | {"step": 7}), last)
        newer.append(last.read_bytes())
        return real(*arguments)

    monkeypatch.setattr(train.runs, "reserved", reserved)
    with pytest.raises(UserError, match=r"run\.last\.pth was written by another train\.py .*same command again"):
        call(
            monkeypatch,
            tmp_path,
            *(("--data", bars, "--epochs", 2, *QUICK) if resume == "auto" else ()),
            "--resume",
            resume,
        )
    assert newer == [last.read_bytes()]


def test_an_older_versions_run_is_not_gone_on_with(finished, tmp_path, monkeypatch):
    folder, _ = finished
    old = checkpoint.load(folder / "module" / "run.last.pth")
    del old.resume["scaler"]
    checkpoint.save(old, tmp_path / "old.last.pth")
    with pytest.raises(UserError, match="older version"):
        call(monkeypatch, folder, "--resume", tmp_path / "old.last.pth", "--epochs", 4)


def test_a_run_goes_on_only_with_the_same_images_and_in_its_place(finished, bars, tmp_path, monkeypatch):
    folder, _ = finished
    last = folder / "module" / "run.last.pth"
    again = ("--resume", last, "--epochs", 4, "--data")
    with pytest.raises(UserError, match=r"has to be run\.last\.pth"):  # a copy must not write over the run it is from
        shutil.copy(last, tmp_path / "copy.last.pth")
        call(monkeypatch, folder, "--resume", tmp_path / "copy.last.pth", "--epochs", 4)
    shutil.copytree(bars, tmp_path / "moved")
    (tmp_path / "moved" / "train" / "down").rename(tmp_path / "moved" / "train" / "above")
    shutil.rmtree(tmp_path / "moved" / "test")
    with pytest.raises(UserError, match="learned from other images or classes"):
        call(monkeypatch, folder, *again, tmp_path / "moved")
    (tmp_path / "moved" / "train" / "above").rename(tmp_path / "moved" / "train" / "down")
    next((tmp_path / "moved" / "train" / "down").iterdir()).unlink()
    with pytest.raises(UserError, match="learned from other images or classes"):
        call(monkeypatch, folder, *again, tmp_path / "moved")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "100"], "--batch-size is 100, but there are 72 images"),
        (["--epochs", "0"], "--epochs is 0; allowed is 1 to"),
        (["--val", "1.5"], "--val is 1.5; allowed"),
        (["--name", "a/b"], "a/b cannot be the name"),
        (["--device", "cuda:9"], "--device cuda:9 cannot be used"),
        (["--resume", "module/none.last.pth"], "does not exist"),
        (["--resume", "module/run.pth"], "cannot be resumed"),
        (["--resume", "module/run.last.pth", "--lr", "0.5", "--epochs", "9"], "lr 0.002 -> 0.5"),
        (["--name", "run"], "would be overwritten"),
        (["--name", "run.last"], "run can"),
        (["--name", "a:b"], "a_b can"),
    ],
)
def test_errors_before_the_first_batch(finished, bars, monkeypatch, arguments, message):
    folder, _ = finished
    data = () if "--resume" in arguments else ("--data", bars)
    with pytest.raises(UserError, match=message):
        call(monkeypatch, folder, *data, *arguments)


def test_classes_have_to_be_those_of_the_test_images(tmp_path, monkeypatch):
    make_images(tmp_path / "pets" / "train", {"cat": 4, "dog": 4})
    make_images(tmp_path / "pets" / "test", {"Cat": 1, "dog": 1})
    with pytest.raises(UserError, match=r"has the classes cat, dog, but .* has Cat, dog"):
        call(monkeypatch, tmp_path, "--data", "pets")


def test_images_in_the_wrong_place_are_found(tmp_path, monkeypatch):
    make_images(tmp_path / "dataset", {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=r"images in cat, dog, but they belong in dataset.train/<class>/"):
        call(monkeypatch, tmp_path)


def test_kaggles_flat_folder_is_not_taken_for_none(tmp_path, monkeypatch):
    (tmp_path / "dataset" / "train").mkdir(parents=True)
    (tmp_path / "dataset" / "train" / "cat.0.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"images in train, but they belong in dataset.train/<class>/"):
        call(monkeypatch, tmp_path)


def test_a_disk_too_small_is_found_before_the_work(bars, tmp_path, monkeypatch):
    usage = checks.shutil.disk_usage(tmp_path)._replace(free=50_000_000)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UserError, match="need 447 MB in module, but 50 MB are free"):
        call(monkeypatch, tmp_path, "--data", bars)


def test_a_wrong_command_line_is_explained_and_ends_with_status_2(tmp_path):
    started = time.monotonic()
    misspelt = run_script("train.py", "--epoch", 3, cwd=tmp_path)
    assert misspelt.returncode == 2
    assert "--epochs" in misspelt.stderr
    unknown = run_script("train.py", "--model", "resnet19", cwd=tmp_path)
    assert unknown.returncode == 2
    assert "resnet18" in unknown.stderr
    for done in (misspelt, unknown):
        assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 120
    assert list(tmp_path.iterdir()) == []  # nothing was begun


def test_unreadable_image_ends_with_its_name(tmp_path):
    root = make_images(tmp_path / "pets" / "train", {"cat": 8, "dog": 8})
    (root / "cat" / "3.png").write_bytes(b"nothing")
    done = run_script("train.py", "--data", "pets", "--batch-size", 4, "--size", 32, "--epochs", 1, cwd=tmp_path)
    assert done.returncode == 2
    assert "3.png" in done.stderr
    assert "is not an image" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_classic_recipe_is_the_published_one():
    classic = RECIPES["classic"]
    assert (classic.size, classic.resize, classic.normalize) == (224, "squash", "half")
    assert (classic.lr, classic.weight_decay, classic.batch_size, classic.epochs) == (1e-4, 0, 32, 10)
    assert (classic.augment, classic.ema, classic.label_smoothing, classic.precision) == ("off", 0, 0, "fp32")
    assert [schedules.learning_rate(step, 100, classic) for step in (0, 50, 99)] == [1e-4] * 3


def test_crops_keep_as_much_as_is_said(monkeypatch, bars, tmp_path):
    areas = []
    monkeypatch.setattr(train, "Augment", lambda **values: areas.append(values["min_area"]) or Augment(**values))
    for arguments in ((), ("--crop", 0.9), ("--recipe", "long")):
        call(monkeypatch, tmp_path, "--data", bars, *QUICK, "--epochs", 1, "--name", f"run{len(areas)}", *arguments)
    assert areas == [0.65, 0.9, 0.35]


def test_learning_rate_rises_and_falls():
    settings = replace(Settings(), lr=1.0, warmup=0.1)
    rates = [schedules.learning_rate(step, 100, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001


def test_images_grow_evenly():
    settings = replace(Settings(), epochs=11, size=160, grow_from=0.4)
    sizes = [schedules.size_of_epoch(epoch, settings) for epoch in range(11)]
    assert (sizes[0], sizes[-1]) == (64, 160)
    assert sizes == sorted(sizes)
    assert {size % 16 for size in sizes} == {0}
    assert len(set(sizes)) == 7
    assert [schedules.size_of_epoch(epoch, replace(settings, grow_from=1.0, size=50)) for epoch in (0, 10)] == [50, 50]
    assert schedules.size_of_epoch(0, replace(settings, epochs=1)) == 160
    assert schedules.size_of_epoch(0, replace(settings, size=32)) == 32  # smaller ones would vanish in the network


def test_average_follows_the_weights():
    network, average = torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(5.0)
    network.num_batches_tracked += 7
    optim.update_ema(average, network, 0.9, step=10**6)
    assert average.weight.tolist() == pytest.approx([0.9 * 1 + 0.1 * 3] * 2)
    assert average.num_batches_tracked == 7
    assert average.running_mean.tolist() == pytest.approx([0.1 * 5] * 2)
    optim.update_ema(average, network, 0.0, step=10**6)  # no average: the weights themselves
    assert average.weight.tolist() == [3.0, 3.0]


def test_only_kernels_and_matrices_are_decayed():
    decayed, not_decayed = optim.parameter_groups(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), 0.1
    )
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in not_decayed["params"]] == [1, 1, 1]
    assert (decayed["weight_decay"], not_decayed["weight_decay"]) == (0.1, 0)
