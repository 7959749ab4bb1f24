"""Feedback: a row each, whoever else writes at the same time, and nothing of an image but its hash."""

import csv
import hashlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from classifier.cli import UserError
from tests.conftest import file_size_limit
from webui import feedback
from webui.i18n import Translator

UPLOAD = Path(__file__)  # any file will do


def rows(logs):
    with (logs / "feedback.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_says_when_which_what_and_of_which_image(tmp_path):
    before = datetime.now().astimezone().replace(microsecond=0)
    logs = tmp_path / "logs"
    feedback.record(logs, UPLOAD, "catdog", "cat", 0.987654, "cat")
    feedback.record(logs, UPLOAD, "catdog", "neither", 0.25, "=狗")  # no value is a formula
    first, second = rows(logs)
    assert before <= datetime.fromisoformat(first.pop("time")) <= datetime.now().astimezone()
    digest = hashlib.sha256(UPLOAD.read_bytes()).hexdigest()
    assert first == {"weights": "catdog", "answer": "cat", "confidence": "0.9877", "truth": "cat", "sha256": digest}
    assert (second["answer"], second["truth"]) == ("neither", "'=狗")
    content = (logs / "feedback.csv").read_bytes()
    assert content.startswith(b"\xef\xbb\xbftime,") and content.count(b"\xef\xbb\xbf") == 1
    assert UPLOAD.stem.encode() not in content and not list(logs.rglob("*.py"))


def test_threads_lose_nothing_and_write_one_heading(tmp_path):
    with ThreadPoolExecutor(8) as pool:  # of processes: tests/test_files.py
        list(pool.map(lambda i: feedback.record(tmp_path, UPLOAD, f"thread{i}", "cat", 0.5, "cat"), range(40)))
    assert sorted(row["weights"] for row in rows(tmp_path)) == sorted(f"thread{i}" for i in range(40))


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    with file_size_limit(5), pytest.raises(UserError) as caught:
        feedback.record(tmp_path, UPLOAD, "catdog", "cat", 0.5, "cat")
    sentence = Translator().error(caught.value)
    assert sentence.startswith("The feedback could not be saved (") and str(tmp_path) not in sentence
