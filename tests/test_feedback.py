"""Feedback: a row each, whoever else writes at the same time, and no more of an image than was agreed to."""

import csv
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from tests.conftest import ENVIRONMENT, REPOSITORY
from webui import feedback

CLASSES = ["cat", "狗", "=1+1"]


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "uploads" / "my holiday.JPG"
    path.parent.mkdir()
    path.write_bytes(b"the bytes of an image")
    return path


@pytest.fixture
def note(tmp_path, upload):
    """Notes with what a test cares about, and gives the rows back."""

    def write(truth="right", answer="cat", confidence=0.5, **options):
        assert not feedback.note(tmp_path / "logs", upload, CLASSES, "catdog", answer, confidence, truth, **options)
        return rows(tmp_path / "logs")

    return write


def rows(logs):
    with (logs / "feedback.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_says_when_which_what_and_of_which_image(note, upload, tmp_path):
    before = datetime.now().astimezone().replace(microsecond=0)
    note("right", "cat", 0.987654)
    first, second = note("狗", "neither", 0.25)
    assert tuple(first) == feedback.COLUMNS
    assert before <= datetime.fromisoformat(first.pop("time")) <= datetime.now().astimezone()
    digest = hashlib.sha256(upload.read_bytes()).hexdigest()
    assert first == {"weights": "catdog", "answer": "cat", "confidence": "0.9877", "truth": "cat", "sha256": digest}
    assert (second["answer"], second["truth"]) == ("neither", "狗")
    content = (tmp_path / "logs" / "feedback.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbftime,") and content.count(b"\xef\xbb\xbf") == 1
    assert b"holiday" not in content
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["feedback.csv"]  # no image unasked


@pytest.mark.parametrize("truth", ["bird", "", "../cat", "Cat"])
def test_the_truth_has_to_be_a_class_or_neither(truth, note, upload, tmp_path):
    problem = feedback.note(tmp_path / "logs", upload, CLASSES, "catdog", "cat", 0.5, truth)
    assert problem == "The true class has to be one of those that the weights know, or neither."
    assert not (tmp_path / "logs").exists()
    assert note("neither")[0]["truth"] == "neither"


def test_a_class_may_be_called_right(tmp_path, upload):
    feedback.note(tmp_path, upload, ["left", "right"], "arrows", "left", 0.9, "right")
    assert rows(tmp_path)[0]["truth"] == "right"


def test_no_value_is_a_formula(note):
    assert note("=1+1", answer="=1+1")[0]["truth"] == "'=1+1"
    assert note("=1+1", answer="=1+1")[1]["answer"] == "'=1+1"


def test_a_row_that_was_cut_off_spoils_no_other(note, tmp_path):
    note()
    path = tmp_path / "logs" / "feedback.csv"
    path.write_bytes(path.read_bytes()[:-20])
    *_, last = note("狗")
    assert (len(rows(tmp_path / "logs")), last["truth"]) == (2, "狗")


def test_threads_and_processes_lose_nothing_and_write_one_heading(tmp_path, upload):
    code = (
        "import sys; from pathlib import Path; from webui.feedback import note\n"
        "logs, upload, name = map(Path, sys.argv[1:])\n"
        "sys.stdin.read()\n"  # all begin at once, when their input ends
        "for _ in range(40): note(logs, upload, ['cat'], name.name, 'cat', 0.5, 'right')"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(upload), f"process{i}"],
            cwd=REPOSITORY, env=ENVIRONMENT, stdin=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    for process in processes:
        process.stdin.close()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: feedback.note(tmp_path, upload, ["cat"], f"thread{i}", "cat", 0.5, "cat"), range(80)))
    assert [process.wait(60) for process in processes] == [0, 0]
    names = [row["weights"] for row in rows(tmp_path)]
    assert sorted(names) == sorted([f"thread{i}" for i in range(80)] + ["process0"] * 40 + ["process1"] * 40)
    assert (tmp_path / "feedback.csv").read_bytes().count(b"sha256") == 1


def test_images_are_kept_once_under_the_truth_where_that_is_asked_for(note, upload, tmp_path):
    for truth in ("cat", "cat", "neither"):
        note(truth, keep_image=True)
    digest = hashlib.sha256(upload.read_bytes()).hexdigest()
    kept = sorted(path.relative_to(tmp_path / "logs" / "feedback").as_posix()
                  for path in (tmp_path / "logs" / "feedback").rglob("*.*"))  # fmt: skip
    assert kept == [f"cat/{digest}.jpg", f"neither/{digest}.jpg"]
    assert (tmp_path / "logs" / "feedback" / kept[0]).read_bytes() == upload.read_bytes()


def test_endings_that_no_image_has_are_not_kept(note, upload, tmp_path):
    odd = upload.rename(upload.with_suffix(".php"))
    feedback.note(tmp_path, odd, CLASSES, "catdog", "cat", 0.5, "right", keep_image=True)
    assert [path.suffix for path in (tmp_path / "feedback" / "cat").iterdir()] == [""]


def test_what_cannot_be_written_or_read_is_one_sentence(upload, tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    arguments = (tmp_path / "logs", upload, CLASSES, "catdog", "cat", 0.5, "right")
    problem = feedback.note(*arguments)
    assert problem.startswith("The feedback could not be kept (") and "feedback.csv in logs" in problem
    assert str(tmp_path) not in problem
    upload.unlink()
    assert feedback.note(*arguments).startswith("The image is not here any more.")
