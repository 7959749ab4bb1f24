"""tools/: a learning rate, a learning curve, cross-validation."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from classifier import checkpoint
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from tests.conftest import TINY, run_script
from tests.test_evaluate import rows
from tests.tiny import Tiny
from tools import cross_validate, find_lr, learning_curve
from webui.review import label_issues
from zoo import MODELS


@pytest.fixture
def trunk(tmp_path):
    """Flags for a frozen network with random weights, which tells the bars apart by chance of its many features."""
    torch.manual_seed(0)
    saved = Checkpoint("resnet18", ["a", "b", "c"], Preprocess(32), MODELS["resnet18"](num_classes=3).state_dict())
    checkpoint.save(saved, tmp_path / "trunk.pth")
    return "--weights", str(tmp_path / "trunk.pth"), "--size", "32", "--workers", "0", "--device", "cpu"


def test_find_lr_suggests_a_rate_and_leaves_nothing(bars, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    find_lr.main([*map(str, ("--data", bars, *TINY))])
    printed = capsys.readouterr().out
    assert "smoothed loss" in printed
    said, _, rate = printed.splitlines()[-1].partition("python train.py --lr ")
    assert "a tenth of the rate" in said and 1e-5 < float(rate) < 0.1
    assert not list(tmp_path.iterdir())


# ---- learning curve


def test_an_extrapolation_holds_what_comes_and_does_not_promise_more():
    sizes, future = [5, 10, 20, 50, 100], [200, 400]
    for a, b, c in ((0.015, 0.15, 0.7), (0, 0.4, 0.3), (0.2, 0, 1)):
        random = np.random.default_rng(0)
        rates = a + b * np.array(sizes, float) ** -c
        wrong = random.random((len(sizes), 8, 2000)) < rates[:, None, None]
        expected, low, high = learning_curve.extrapolate(sizes, wrong, future)
        truth = 1 - (a + b * np.array(future, float) ** -c)
        assert (low <= truth).all() and (truth <= high).all() and (low <= expected).all() and (expected <= high).all()
        assert (high - low < 0.05).all()


def test_a_learning_curve_of_a_folder(bars, trunk, tmp_path):
    done = run_script("tools/learning_curve.py", "--data", bars, *trunk, cwd=tmp_path)
    assert done.returncode == 0 and "accuracy on 24 test images of a frozen resnet18, 8 draws each" in done.stdout, done
    curve = rows(tmp_path / "logs/learning-curve/curve.csv")
    assert [int(row["images per class"]) for row in curve] == [3, 5, 10, 20, 36, 72, 144]
    assert all(0 <= float(row["from"]) <= float(row["accuracy"]) <= float(row["to"]) <= 1 for row in curve)
    assert "72 *" in done.stdout and (tmp_path / "logs/learning-curve/curve.png").is_file()
    data = shutil.copytree(bars, tmp_path / "few")
    for file in (data / "train").glob("*/?[0-9].png"):
        file.unlink()
    with pytest.raises(UserError, match="has 9 training images; a curve needs at least 15"):
        learning_curve.main(["--data", str(data), *trunk])


# ---- cross-validation


def test_each_image_is_predicted_once_and_a_wrong_label_found(bars, trunk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(bars, tmp_path / "data")
    (data / "train/across/0.png").rename(data / "train/down/wrong.png")
    shutil.copytree(data / "test", data / "val")  # has no part in it
    cross_validate.main(["--folds", "4", "--data", "data", "--freeze", *trunk])
    with pytest.raises(UserError, match="val holds the validation images"):  # whole trainings would choose by them
        cross_validate.main(["--folds", "4", "--data", "data", "--epochs", "1"])
    (report,) = (tmp_path / "logs/evaluate/cross-validation").iterdir()
    predicted = [Path(row["path"]).relative_to("data") for row in rows(report / "predictions.csv")]
    assert sorted(predicted) == sorted(path.relative_to(data) for path in (data / "train").glob("*/*.png"))
    assert "down/wrong.png" in (report / "suspects.csv").read_text(encoding="utf-8-sig")
    assert "predicts the fold that it has not learned from" in (report / "report.html").read_text(encoding="utf-8")
    known = Checkpoint("resnet18", ["across", "down"], Preprocess(32), {}, path=tmp_path / "any.pth")
    assert "train/down/wrong.png" in [issue.file for issue in label_issues(known, Path("logs"))[1]]
    known.classes = ["ant", "bee"]
    assert label_issues(known, Path("logs")) == (None, [])


def test_folds_of_whole_trainings(bars, tmp_path):
    flags = ("--data", bars, "--model", "resnet18", "--epochs", 1, "--size", 32, "--workers", 0, "--device", "cpu")
    done = run_script("tools/cross_validate.py", "--folds", 2, *flags, cwd=tmp_path)
    assert done.returncode == 0 and "fold 2/2" in done.stdout, done.stderr
    runs = [checkpoint.load(tmp_path / f"module/fold-{number}-of-2.pth") for number in (1, 2)]
    assert [(run.settings["fold"], run.data["val"]) for run in runs] == [(1, 40), (2, 40)]
    (report,) = (tmp_path / "logs/evaluate/cross-validation").iterdir()
    assert len(rows(report / "predictions.csv")) == 80


def test_folds_that_cannot_be_made(bars, trunk, tmp_path):
    data = shutil.copytree(bars, tmp_path / "data")
    with pytest.raises(UserError, match="needs --folds 3 or more"):
        cross_validate.main(["--folds", "2", "--data", str(data), "--freeze", *trunk])
    for file in [*(data / "train/down").iterdir()][2:]:
        file.unlink()
    with pytest.raises(UserError, match="down has too few different images for 3 folds"):
        cross_validate.main(["--folds", "3", "--data", str(data), "--freeze", *trunk])
