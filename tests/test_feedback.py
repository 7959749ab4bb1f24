"""Feedback: a row each, whoever else writes at the same time, and nothing of an image but its hash."""

import csv
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest

from classifier.cli import UserError
from webui import feedback
from webui.i18n import Translator


@pytest.fixture
def upload(tmp_path):
    path = tmp_path / "uploads" / "my holiday.JPG"
    path.parent.mkdir()
    path.write_bytes(b"the bytes of an image")
    return path


def record(logs, upload, truth="cat", answer="cat", confidence=0.5):
    """Record what a test cares about, and return the rows."""
    feedback.record(logs, upload, "catdog", answer, confidence, truth)
    with (logs / "feedback.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_says_when_which_what_and_of_which_image(upload, tmp_path):
    before = datetime.now().astimezone().replace(microsecond=0)
    record(tmp_path, upload, "cat", "cat", 0.987654)
    first, second = record(tmp_path, upload, "狗", "neither", 0.25)
    assert tuple(first) == ("time", "weights", "answer", "confidence", "truth", "sha256")
    assert before <= datetime.fromisoformat(first.pop("time")) <= datetime.now().astimezone()
    digest = hashlib.sha256(upload.read_bytes()).hexdigest()
    assert first == {"weights": "catdog", "answer": "cat", "confidence": "0.9877", "truth": "cat", "sha256": digest}
    assert (second["answer"], second["truth"]) == ("neither", "狗")
    assert record(tmp_path, upload, "=1+1")[2]["truth"] == "'=1+1"  # no value is a formula
    content = (tmp_path / "feedback.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbftime,") and content.count(b"\xef\xbb\xbf") == 1
    assert b"holiday" not in content and [path.name for path in tmp_path.rglob("*.JPG")] == ["my holiday.JPG"]


def test_threads_lose_nothing_and_write_one_heading(upload, tmp_path):
    with ThreadPoolExecutor(8) as pool:  # of processes: tests/test_files.py
        list(pool.map(lambda i: feedback.record(tmp_path, upload, f"thread{i}", "cat", 0.5, "cat"), range(80)))
    names = [row["weights"] for row in record(tmp_path, upload)[:-1]]
    assert sorted(names) == sorted(f"thread{i}" for i in range(80))
    assert (tmp_path / "feedback.csv").read_bytes().count(b"sha256") == 1


def test_what_cannot_be_written_or_read_is_one_sentence(upload, tmp_path):
    (tmp_path / "logs").write_text("a file where the folder should be")
    with pytest.raises(UserError) as caught:
        record(tmp_path / "logs", upload)
    sentence = Translator().error(caught.value)
    assert sentence.startswith("The feedback could not be saved (") and "Make room for feedback.csv" in sentence
    assert str(tmp_path) not in sentence
