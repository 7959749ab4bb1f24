"""Feedback: a row each, whoever else writes at the same time, and no more of an image than was agreed to."""

import csv
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from classifier.cli import UserError
from tests.conftest import ENVIRONMENT, REPOSITORY
from webui import feedback
from webui.i18n import Translator


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "uploads" / "my holiday.JPG"
    path.parent.mkdir()
    path.write_bytes(b"the bytes of an image")
    return path


@pytest.fixture
def record(tmp_path, upload):
    """Records what a test cares about, and returns the rows."""

    def write(truth="cat", answer="cat", confidence=0.5, **options):
        feedback.record(tmp_path / "logs", upload, "catdog", answer, confidence, truth, **options)
        return rows(tmp_path / "logs")

    return write


def rows(logs):
    with (logs / "feedback.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_says_when_which_what_and_of_which_image(record, upload, tmp_path):
    before = datetime.now().astimezone().replace(microsecond=0)
    record("cat", "cat", 0.987654)
    first, second = record("狗", "neither", 0.25)
    assert tuple(first) == ("time", "weights", "answer", "confidence", "truth", "sha256")
    assert before <= datetime.fromisoformat(first.pop("time")) <= datetime.now().astimezone()
    digest = hashlib.sha256(upload.read_bytes()).hexdigest()
    assert first == {"weights": "catdog", "answer": "cat", "confidence": "0.9877", "truth": "cat", "sha256": digest}
    assert (second["answer"], second["truth"]) == ("neither", "狗")
    assert record("=1+1")[2]["truth"] == "'=1+1"  # no value is a formula
    content = (tmp_path / "logs" / "feedback.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbftime,") and content.count(b"\xef\xbb\xbf") == 1
    assert b"holiday" not in content
    assert not (tmp_path / "logs" / "feedback").exists()  # no image unasked


def test_threads_and_processes_lose_nothing_and_write_one_heading(tmp_path, upload):
    code = (
        "import sys; from pathlib import Path; from webui.feedback import record\n"
        "logs, upload, name = map(Path, sys.argv[1:])\n"
        "sys.stdin.read()\n"  # all begin at once, when their input ends
        "for _ in range(40): record(logs, upload, name.name, 'cat', 0.5, 'cat')"
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
        list(pool.map(lambda i: feedback.record(tmp_path, upload, f"thread{i}", "cat", 0.5, "cat"), range(80)))
    assert [process.wait(60) for process in processes] == [0, 0]
    names = [row["weights"] for row in rows(tmp_path)]
    assert sorted(names) == sorted([f"thread{i}" for i in range(80)] + ["process0"] * 40 + ["process1"] * 40)
    assert (tmp_path / "feedback.csv").read_bytes().count(b"sha256") == 1


def test_images_are_kept_once_under_the_truth_where_that_is_asked_for(record, upload, tmp_path):
    for truth in ("cat", "cat", "neither"):
        record(truth, keep_image=True)
    digest = hashlib.sha256(upload.read_bytes()).hexdigest()
    folder = tmp_path / "logs" / "feedback"
    kept = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))
    assert kept == [f"cat/{digest}.jpg", f"neither/{digest}.jpg"]
    assert (folder / kept[0]).read_bytes() == upload.read_bytes()


def test_endings_that_no_image_has_are_not_kept(upload, tmp_path):
    odd = upload.rename(upload.with_suffix(".php"))
    feedback.record(tmp_path, odd, "catdog", "cat", 0.5, "cat", keep_image=True)
    assert [path.suffix for path in (tmp_path / "feedback" / "cat").iterdir()] == [""]


def test_what_cannot_be_written_or_read_is_one_sentence(record, upload, tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(UserError) as caught:
        record()
    sentence = Translator().error(caught.value)
    assert sentence.startswith("The feedback could not be saved (") and "Make room for feedback.csv" in sentence
    assert str(tmp_path) not in sentence
