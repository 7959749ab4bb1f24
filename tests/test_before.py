"""Files that an earlier version wrote: today's code reads them, or says what to do. Listed in before/README.md."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
import predict
from classifier import checkpoint
from classifier.cli import UserError
from classifier.data.image_folder import read_folder
from tests.conftest import REPOSITORY
from webui import feedback
from webui.i18n import Translator
from webui.models import Models
from webui.page import build
from webui.review import Review
from webui.site import Site

BEFORE = REPOSITORY / "tests" / "before"
REMOVED = {"early_lr", "patience", "unfreeze_after", "find_lr"}  # the last is tools/find_lr.py today
CPU = ("--device", "cpu", "--workers", "0")


@pytest.fixture
def train(run, tmp_path):
    """`run` of conftest.py, in a folder with a copy of the files."""
    shutil.copytree(BEFORE, tmp_path, dirs_exist_ok=True)
    return run


def heading(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file))


def tags(folder: Path) -> list[dict]:
    """Return TensorBoard's tags of a run, by kind, of its two parts."""
    found = [EventAccumulator(str(folder / part)).Reload().Tags() for part in ("train", "val")]
    return [{kind: names and sorted(names) for kind, names in part.items() if kind != "graph"} for part in found]


def test_weights_can_be_trained_further_but_the_run_is_not_resumed(train):
    saved = checkpoint.load(Path("module/run.pth"))
    assert saved.classes == ["across", "down"] and saved.settings["lr"] == 0.03 and len(saved.scores["history"]) == 4
    with pytest.raises(UserError, match=r"another version.*--weights module.run\.last\.pth"):
        train("--resume", "module/run.last.pth", "--epochs", 8)
    train("--weights", "module/run.last.pth", "--data", "dataset", "--val", 0.25, "--name", "new", "--epochs", 1)
    assert saved.settings.keys() - checkpoint.load(Path("module/new.pth")).settings.keys() <= REMOVED
    old, new = sorted(Path("logs/tiny").iterdir())
    assert tags(old) == tags(new)


def test_reports_have_the_same_keys_and_columns(train):
    evaluate.main(["module/run.pth", *CPU])
    old, new = sorted(Path("logs/evaluate/run").iterdir())
    before, now = (json.loads((folder / "report.json").read_text(encoding="utf-8")) for folder in (old, new))
    assert before.keys() <= now.keys() and before["per_class"][0].keys() == now["per_class"][0].keys()
    assert all(heading(old / name) == heading(new / name) for name in ("predictions.csv", "suspects.csv"))
    with pytest.raises(UserError, match=r"it is from an earlier version.*evaluate it on test images"):
        evaluate.main(["module/run.pth", "--part", "val", *CPU])


def test_a_table_of_predictions_without_a_record_of_files_is_made_anew_in_its_form(train, capsys):
    before = Path("predictions.csv").read_text(encoding="utf-8-sig").splitlines()
    predict.main(["dataset/test", "--weights", "module/run.pth", *CPU])
    now = Path("predictions.csv").read_text(encoding="utf-8-sig").splitlines()
    assert now[0] == before[0] and [row.split(",")[:2] for row in now] == [row.split(",")[:2] for row in before]
    assert "12 rows" in capsys.readouterr().out


def test_decisions_are_followed_and_label_issues_reviewed(train):
    folder = read_folder(Path("dataset/train"))
    assert folder.corrected == "corrections.csv: 1 relabelled, 1 left out" and len(folder) == 47
    review = Review(Models(Path("module"), device="cpu").get("run"), Path("logs"))
    review.find_next()
    assert (review.total, review.done, review.last.file) == (1, 1, "train/across/3.jpg")
    assert review.record(vars(review.last) | {"action": "undone"}, Translator()) == ""
    review.find_next()
    assert (review.done, review.issue.label) == (0, "across")


def test_feedback_goes_on_in_the_same_table(train):
    rows = Path("logs/feedback.csv").read_bytes()
    feedback.record(Path("logs"), Path("dataset/test/down/3.jpg"), "run", "across", 0.6, "down")
    added = Path("logs/feedback.csv").read_bytes().removeprefix(rows).decode().strip().split(",")
    assert tuple(heading(Path("logs/feedback.csv"))) == feedback.COLUMNS
    assert added[1:3] == ["run", "across"] and added[-1] in rows.decode()


def test_programs_call_the_page_by_the_same_names(train):
    endpoints = build(Site(Models(Path("module")), Path("logs"), "en", shared=False), False).get_api_info()
    found = endpoints["named_endpoints"].items()
    names = {name: [each["parameter_name"] for each in endpoint["parameters"]] for name, endpoint in found}
    assert names == json.loads(Path("api.json").read_text())
