"""train.py: what a run prints and leaves behind, stopping and resuming, and errors before the first batch."""

import os
import shutil
import signal
import subprocess
import sys
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from classifier import checkpoint
from classifier.cli import UserError
from classifier.evaluation import metrics
from classifier.training import optim
from classifier.training.config import RECIPES, TrainConfig, batch_size_for, parse_config
from tests.conftest import ENVIRONMENT, REPOSITORY, TINY, make_images, run_script, same
from tests.raw_images import make_folder

LAST = Path("module/run.last.pth")


@pytest.fixture(scope="module")
def finished(bars, tmp_path_factory):
    """A finished run of ResNet-18 as a process: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("finished")
    flags = ("--size", 32, "--batch-size", 18, "--workers", 0, "--name", "run", "--epochs", 2, "--data", bars)
    done = run_script("train.py", *flags, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def stopped(run, *arguments: object, after: int) -> None:
    """Train until SIGTERM comes in this step; it is finished and saved."""
    with pytest.raises(SystemExit) as ended:
        run(*arguments, fault="SIGTERM", at=after)
    assert ended.value.code == 128 + signal.SIGTERM


def test_prints_what_a_person_needs_and_leaves_weights_that_describe_themselves(finished, bars):
    folder, done = finished
    said = ("across: 36 training images, 4 for validation", "epoch 2/2   train loss", "float")  # which number format
    commands = ("python evaluate.py module/run.pth", "python app.py module/run.pth", "tensorboard --logdir logs")
    assert all(words in done.stdout for words in (*said, *commands)), done.stdout
    assert "\r" not in done.stdout + done.stderr  # no progress bars in a file
    best, last = (checkpoint.load(folder / "module" / name) for name in ("run.pth", "run.last.pth"))
    assert (best.model, best.classes, best.preprocess.size) == ("resnet18", ["across", "down"], 32)
    data = {"root": str(bars), "kind": "images", "train": 72, "val": 8}
    assert best.data == data | {key: best.data[key] for key in ("fingerprint", "val_fingerprint")} == last.data
    history = best.scores["history"]
    assert [entry["epoch"] for entry in history] == [1, 2] and history == last.resume["history"]
    chosen = metrics.best_epoch(history)
    assert best.scores["val"] == chosen["val"] | {"epoch": chosen["epoch"], "count": 8}
    assert best.settings["epochs"] == 2 and best.settings["name"] == "run"
    dtypes = [best.state_dict[key].dtype for key in ("conv1.weight", "bn1.running_var")]
    assert dtypes == [torch.float16, torch.float32]
    assert not best.resume and last.resume["step"] == 8 and last.resume["done"]
    (run,) = (folder / "logs" / "resnet18").iterdir()
    assert run.name.endswith("-run") and EventAccumulator(str(run / "train")).Reload().Tags()["graph"]


def test_ten_runs_in_ten_folders_beside_other_work_give_the_same_weights(run, tmp_path, monkeypatch):
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        for number in range(10):
            (tmp_path / str(number)).mkdir()
            monkeypatch.chdir(tmp_path / str(number))
            run("--epochs", 1, "--mix", "both")
    finally:
        for other in others:
            other.kill()
            other.wait()
    first, *rest = (checkpoint.load(tmp_path / str(number) / LAST) for number in range(10))
    assert all(same(first.state_dict, other.state_dict) for other in rest)
    assert all(same(first.resume["network"], other.resume["network"]) for other in rest)
    run("--epochs", 1, "--mix", "both", "--seed", 1, "--name", "other")
    assert not same(first.state_dict, checkpoint.load(Path("module/other.last.pth")).state_dict)


def test_the_format_is_the_machines_and_a_resumed_run_keeps_it(run, monkeypatch):
    for limit, precision, expected in (("AVX2", "auto", "float32"), ("", "fp16", "float16")):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)  # of the other machine
        stopped(run, "--epochs", 1, "--precision", precision, "--name", expected, after=3)
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
        last = Path(f"module/{expected}.last.pth")
        saved = checkpoint.load(last).resume
        assert saved["format"] == f"{expected} channels-last" and (precision == "auto" or saved["scaler"]["scale"] > 1)
        run("--resume", last)  # here, where another format may be the machine's own
        done = checkpoint.load(last)
        assert done.resume["format"] == f"{expected} channels-last" and done.resume["done"]
        assert all(value.isfinite().all() for value in done.state_dict.values())


def test_steps_are_equally_large_and_few_images_make_small_ones_unless_asked(run, capsys):
    batches = []
    run("--epochs", 1, "--batch-size", 64, fault=lambda x: batches.append(len(x)))
    assert batches == [36, 36] and "1 epoch of 2 steps of 36 images" in capsys.readouterr().out
    batches.clear()
    run("--epochs", 1, "--batch-size", 17, "--accumulate", 3, "--name", "parts", fault=lambda x: batches.append(len(x)))
    said = capsys.readouterr().out
    assert "1 epoch of 5 steps of up to 15 images" in said and batches == [*[4, 5, 5] * 2, 5, 5, 5, 4, 5, 5, 5, 5, 5]
    stopped(run, "--epochs", 1, "--batch-size", 0, "--name", "few", after=3)
    said = capsys.readouterr().out
    assert "1 epoch of 9 steps of 8 images" in said and "--batch-size 8, chosen for 72 images" in said
    run("--epochs", 1, "--batch-size", 0, "--name", "few", "--resume", "auto")
    assert "resuming after step 3 of 9" in capsys.readouterr().out
    assert [batch_size_for(images, TrainConfig()) for images in (20, 255, 256, 1023, 10**6)] == [8, 8, 16, 32, 64]


def test_stopped_at_any_step_and_resumed_nothing_differs(run, bars, tmp_path):
    bars = shutil.copytree(bars, tmp_path / "uneven", ignore=shutil.ignore_patterns(".cache"))
    (bars / "train" / "down" / "39.png").unlink()
    uneven = ("--epochs", 2, "--data", bars)  # steps of 17 or 18 images
    run(*uneven, "--name", "whole")
    stopped(run, *uneven, after=1)
    assert checkpoint.load(LAST).state_dict["bn1.running_mean"].any()  # not those of fresh weights
    for after in (1, 2, 3, 1):  # in the first epoch, its last step, the second, its last step
        stopped(run, "--resume", LAST, after=after)
    assert checkpoint.load(LAST).resume["step"] == 8 and len(checkpoint.load(LAST).resume["history"]) == 1
    run("--resume", LAST)
    for name in ("{}.pth", "{}.last.pth"):
        whole, parts = (checkpoint.load(Path("module", name.format(run))) for run in ("whole", "run"))
        assert same(whole.state_dict, parts.state_dict) and whole.temperature == parts.temperature
    assert same(whole.resume["optimizer"], parts.resume["optimizer"])
    for there, here in zip(whole.resume["history"], parts.resume["history"], strict=True):
        assert (there["val"], there["train"]) == (here["val"], here["train"])


def test_ctrl_c_in_a_terminal_and_a_finished_run(bars, tmp_path):
    command = [sys.executable, "-m", "tests.tiny", tmp_path, "none", 0, "--data", bars, *TINY, "--epochs", 2000]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen([*map(str, command)], cwd=REPOSITORY, env=ENVIRONMENT, **pipes) as process:
        while "epoch    1/2000 " not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT and "a second signal stops at once" in err
    assert "python train.py --resume module/run.last.pth" in out.replace("\\", "/")


def test_resume_auto_resumes_begins_or_has_nothing_to_do(run, capsys):
    auto = ("--epochs", 2, "--resume", "auto")
    stopped(run, *auto, after=2)  # there is nothing to resume, so it begins
    before = checkpoint.load(LAST)
    del before.settings["freeze_bn"]  # as the version before has written it
    checkpoint.save(before, LAST)
    run(*auto, "--workers", 1)
    said = capsys.readouterr().out
    assert "resuming after step 2 of 8" in said and "epoch 2/2" in said
    with pytest.raises(SystemExit) as ended:
        run(*auto)
    assert not ended.value.code and "Nothing is left to do" in capsys.readouterr().out
    with pytest.raises(UserError, match="would be overwritten"):  # other settings
        run(*auto, "--lr", 1)
    with pytest.raises(UserError, match="has finished its 2 epochs"):
        run("--resume", LAST)


def test_resume_auto_takes_the_newest_unfinished_run_with_these_settings(run, capsys):
    run("--epochs", 1, "--name", "finished", "--lr", 1e-3)
    for seconds, (name, lr) in enumerate((("older", 1e-3), ("newer", 1e-3), ("another", 1e-4))):
        stopped(run, "--epochs", 1, "--name", name, "--lr", lr, after=1)
        os.utime(f"module/{name}.last.pth", (seconds, seconds))
    Path("module/none.last.pth").write_bytes(b"PK\x03\x04 and no more")
    run("--epochs", 1, "--lr", 1e-3, "--resume", "auto", "--name", "")
    done = [checkpoint.load(Path(f"module/{name}.last.pth")).resume["done"] for name in ("older", "newer", "another")]
    assert done == [False, True, False] and "skips module" in capsys.readouterr().out


def test_moved_or_copied_folders_resume_and_others_do_not(run, bars, tmp_path, monkeypatch):
    run("--epochs", 2, "--name", "whole")
    stopped(run, "--epochs", 2, after=3)
    copied = shutil.copytree(bars, tmp_path / "copied", ignore=shutil.ignore_patterns(".cache"))
    (tmp_path / "elsewhere").mkdir()
    Path("module").rename(tmp_path / "elsewhere" / "module")
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.copy(LAST, "module/copy.last.pth")
    run("--resume", LAST, "--data", copied)
    run("--resume", "module/copy.last.pth", "--data", copied)  # a run of its own
    whole, *others = (checkpoint.load(Path(f"module/{name}.last.pth")) for name in ("whole", "run", "copy"))
    assert all(same(whole.state_dict, other.state_dict) for other in others)
    assert others[0].resume["logs"] != others[1].resume["logs"]
    shutil.copytree(copied / "test", copied / "val")
    run("--data", copied, "--epochs", 1, "--batch-size", 1, "--name", "val")
    shutil.copy(copied / "train/down/0.png", copied / "val/down/0.png")
    with pytest.raises(UserError, match="copied has changed since"):
        run("--resume", "module/val.last.pth", "--epochs", 2)
    shutil.rmtree(copied / "val")
    next((copied / "train" / "down").iterdir()).unlink()
    for flags in (("--resume", LAST, "--epochs", 3), ("--resume", "auto", "--epochs", 2, "--data", copied)):
        with pytest.raises(UserError, match=r"copied has changed since .*: 1 image fewer than then.*--weights module"):
            run(*flags)
    shutil.rmtree(copied)
    with pytest.raises(UserError, match=r"train does not exist.*--data DIR"):
        run("--resume", LAST, "--epochs", 3)


def test_a_state_that_is_damaged_or_another_versions_is_refused(run):
    run("--epochs", 1)
    saved = checkpoint.load(LAST)
    for message, change in (
        (r"another version.*--weights module.run\.last\.pth", {"step": "3"}),
        ("another version", {"network": {"conv1.weight": torch.zeros(1)}}),
        ("another version", {"totals": [0.0, 0, 0, 0.0]}),  # that of an earlier version
        ("is damaged .*state_dict", {"network": OrderedDict({"conv1.weight": torch.zeros(1)})}),
        ("is damaged .*parameter group", {"optimizer": {"state": {}, "param_groups": []}}),
    ):
        checkpoint.save(replace(saved, resume=saved.resume | change), LAST)
        with pytest.raises(UserError, match=message):
            run("--resume", LAST, "--epochs", 2)


def test_errors_before_the_first_batch(finished, bars, run, monkeypatch):
    monkeypatch.chdir(finished[0])
    for arguments, message in (
        (["--accumulate", "10"], r"in batches of 18 cannot be .* x 10 \(--accumulate\).*Use --batch-size 24 or"),
        (["--accumulate", "40"], "72 training images in batches of 18 cannot be .* Use fewer micro-batches"),
        (["--epochs", "0"], "--epochs is 0; expected 1 to"),
        (["--fold", "20"], "--fold is 20, but with --val 0.1 there are 10 folds"),
        (["--name", "run.last"], "run can"),
        (["--name", "a:b"], "a_b can"),
        (["--device", "cuda:9"], "--device cuda:9 cannot be used"),
        (["--resume", "module/none.last.pth"], "does not exist"),
        (["--resume", "module/run.pth"], "cannot be resumed"),
        (["--resume", "module/run.last.pth", "--lr", "0.5", "--epochs", "9"], "lr 0.002 -> 0.5.*--weights module"),
        (["--name", "run"], "would be overwritten"),
    ):
        with pytest.raises(UserError, match=message):
            run("--model", "resnet18", "--name", "other", *arguments)


def test_images_in_the_wrong_place_and_test_images_of_further_classes(tmp_path, run):
    make_images(tmp_path / "pets" / "train", {"cat": 4, "dog": 4})
    make_images(tmp_path / "pets" / "test", {"Cat": 1, "dog": 1})
    with pytest.raises(UserError, match=r"has classes that .* Cat"):
        run("--data", "pets")
    for place in ("cat/1.jpg", "train/cat.0.jpg", "1.jpg"):
        make_folder(tmp_path / "dataset", {place: b""})
        with pytest.raises(UserError, match=r"images in (cat|train|1.jpg), but they belong in dataset/train/<class>/"):
            run("--data", "dataset")
        shutil.rmtree("dataset")


def test_a_wrong_command_line_ends_with_status_2_before_anything_is_begun(tmp_path):
    for arguments, named in ((("--epoch", 3), "--epochs"), (("--resume",), "--resume")):
        done = run_script("train.py", *arguments, cwd=tmp_path)
        assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_recipe_gives_the_values_that_flags_leave_open():
    for arguments, expected in (
        ("", {"lr": 2e-3, "crop": 0.65}),
        ("--recipe long --crop 0.4", {"epochs": 44, "crop": 0.4, "cover": 0.25}),
        ("--model alexnet --lr 1e-5", {"lr": 1e-5}),
        ("--model vgg16_bn", {"lr": 3e-4}),
        # classic is the published one
        ("--recipe classic --model vgg16", {"lr": 1e-4, "weight_decay": 0, "batch_size": 32, "epochs": 10, "ema": 0}),
        ("--recipe classic", {"size": 224, "resize": "squash", "normalize": "half", "augment": "off"}),
        ("--recipe classic", {"label_smoothing": 0, "precision": "fp32"}),
    ):
        assert expected.items() <= vars(parse_config("", arguments.split())).items()


def test_learning_rate_rises_and_falls_the_average_keeps_up_images_grow_and_only_kernels_and_matrices_are_decayed():
    rates = [optim.lr_at(step, 100, replace(TrainConfig(), lr=1.0, warmup=0.1)) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[55] == pytest.approx(0.5) and rates[-1] < 0.001
    assert [optim.lr_at(step, 100, RECIPES["classic"]) for step in (0, 50, 99)] == [1e-4] * 3
    assert [optim.ema_decay_at(step, TrainConfig()) for step in (0, 9, 10**6)] == [0.1, 10 / 19, 0.998]
    cfg = replace(TrainConfig(), epochs=11, size=160, grow_from=0.4)
    assert [optim.image_size_at(epoch, cfg) for epoch in range(0, 11, 2)] == [64, 80, 96, 128, 144, 160]
    for fixed in ({"grow_from": 1.0}, {"epochs": 1}):
        assert optim.image_size_at(0, replace(cfg, **fixed)) == 160
    assert optim.image_size_at(0, replace(cfg, size=32)) == 32  # smaller ones would vanish in the network
    groups = optim.param_groups(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), 0.1)
    found = [[group["weight_decay"], *(p.ndim for p in group["params"])] for group in groups]
    assert found == [[0.1, 4], [0, 1, 1, 1]]
