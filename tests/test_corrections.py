"""corrections.csv: what stands, what is passed over, and that nothing is lost when several people write."""

import csv
import os
import subprocess
import sys
from collections import Counter

import pytest

from classifier.cli import UserError
from classifier.data import corrections
from classifier.data.corrections import KEEP, LEAVE_OUT, RELABEL, UNDONE, Correction, read, record
from tests.conftest import ENVIRONMENT, REPOSITORY

CLASSES = ["cat", "dog", "leave out", '猫,"x"']
A = Correction("train/cat/1.jpg", "aa", "cat", KEEP)


@pytest.fixture
def table(tmp_path):
    return tmp_path / "corrections.csv"


def decided(table):
    return {key: (row.decision, row.right) for key, row in read(table, CLASSES)[0].items()}


def rows(table):
    with table.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_last_row_of_a_file_counts_and_none_is_ever_removed(table):
    assert record(table, A, CLASSES)
    one = read(table, CLASSES)[0][("train/cat/1.jpg", "aa")]
    assert (one.label, one.decision, one.line) == ("cat", KEEP, 2) and one.time[:2] == "20"
    back = Correction(A.file, A.digest, "cat", UNDONE)
    assert record(table, back, CLASSES, replaces=2)
    assert decided(table) == {}
    assert record(table, Correction(A.file, A.digest, "cat", RELABEL, "dog", "Ann"), CLASSES)
    assert decided(table) == {("train/cat/1.jpg", "aa"): (RELABEL, "dog")}
    assert [row["decision"] for row in rows(table)] == [KEEP, UNDONE, RELABEL]
    assert rows(table)[2]["who"] == "Ann"
    assert table.read_bytes().startswith(b"\xef\xbb\xbffile,digest,label,decision,class,time,who\r\n")


def test_what_has_been_decided_meanwhile_stays(table):
    assert record(table, A, CLASSES)
    other = Correction(A.file, A.digest, "cat", RELABEL, "dog")
    before = table.read_bytes()
    assert not record(table, other, CLASSES)  # somebody was faster
    assert not record(table, other, CLASSES, replaces=7)  # takes back what does not stand
    assert table.read_bytes() == before
    assert record(table, Correction(A.file, "another content", "cat", LEAVE_OUT), CLASSES)
    assert len(decided(table)) == 2


def test_a_row_that_was_cut_off_anywhere_costs_only_itself(table):
    record(table, A, CLASSES)
    whole = len(table.read_bytes())
    record(table, Correction('train/cat/a, "b" 猫.jpg', "bb", "cat", RELABEL, CLASSES[3], "Ann"), CLASSES)
    both = table.read_bytes()
    after = Correction("train/dog/3.jpg", "cc", "dog", LEAVE_OUT)
    for end in range(whole, len(both)):
        table.write_bytes(both[:end])
        assert set(decided(table).values()) <= {(KEEP, ""), (RELABEL, CLASSES[3])}  # half a class is none
        assert record(table, after, CLASSES)
        standing, remarks = read(table, CLASSES)
        assert {("train/dog/3.jpg", "cc"), ("train/cat/1.jpg", "aa")} <= set(standing) and len(remarks) <= 1


def test_what_excel_makes_of_it_is_read_and_continued(table):
    table.write_text(
        "remark;decision;class;file;digest;time;label\r\n"
        ";keep;;train/cat/1.jpg;aa;2026-01-01 10:00;cat\r\n"
        ";;;;;;\r\n"
        "see;relabel;dog;train/cat/2.jpg;bb;2026-01-01 10:01;cat",
        encoding="utf-8-sig",
        newline="",
    )
    assert decided(table) == {("train/cat/1.jpg", "aa"): (KEEP, ""), ("train/cat/2.jpg", "bb"): (RELABEL, "dog")}
    assert record(table, Correction("train/cat/3.jpg", "cc", "cat", LEAVE_OUT), CLASSES)
    assert table.read_bytes().splitlines()[-1].startswith(b";leave out;;train/cat/3.jpg;cc;20")
    assert len(decided(table)) == 3 and not read(table, CLASSES)[1]


@pytest.mark.parametrize(
    "row",
    [
        b"train/cat/1.jpg,aa,cat,relabel,bird,2026",
        b"train/cat/1.jpg,aa,cat,delete,,2026",
        b"train/cat/1.jpg,aa,cat,keep",
        b"train/cat/1.jpg,,cat,keep,,2026",
        b'"' + b"x" * 200_000,
        b"\xff\xfe\x00\x01,\x00",
        "我的猫,cat".encode("gb18030"),
    ],
)
def test_a_row_that_makes_no_sense_is_reported_and_skipped(row, table):
    record(table, A, CLASSES)
    table.write_bytes(table.read_bytes() + row + b"\r\n")
    standing, remarks = read(table, CLASSES)
    assert list(standing) == [("train/cat/1.jpg", "aa")]
    assert len(remarks) == 1 and remarks[0].startswith("line 3 is incomplete or names no known decision")


@pytest.mark.parametrize("content", [b"\n\n", os.urandom(3000), "file\tdigest".encode("utf-16"), b"x" * 200_000])
def test_a_file_of_something_else_is_refused_and_kept(content, table):
    table.write_bytes(content)
    for use in (lambda: read(table, CLASSES), lambda: record(table, A, CLASSES)):
        with pytest.raises(UserError, match="Expected file,digest,label"):
            use()
    assert table.read_bytes() == content


def test_a_class_may_be_called_like_a_decision(table):
    record(table, Correction("train/cat/1.jpg", "aa", "cat", RELABEL, "leave out"), CLASSES)
    record(table, Correction("train/leave out/1.jpg", "bb", "leave out", KEEP), CLASSES)
    assert list(decided(table).values()) == [(RELABEL, "leave out"), (KEEP, "")]


@pytest.mark.parametrize("name", ["a;b.jpg", "=1+1.jpg", " 猫 'x'.jpg", '","",.jpg', "\udcff.jpg"])
def test_names_come_back_as_they_were(name, table):
    if os.name == "nt" and name.startswith("\udcff"):
        pytest.skip("a name that is no text, as only other systems have it")
    assert record(table, Correction(f"train/cat/{name}", "aa", "cat", KEEP), CLASSES)
    assert list(decided(table)) == [(f"train/cat/{name}", "aa")]


def test_a_name_that_no_table_can_hold(table):
    with pytest.raises(UserError, match="line break"):
        record(table, Correction("train/cat/a\nb.jpg", "aa", "cat", KEEP), CLASSES)
    assert not table.exists()


def test_a_full_disk_leaves_the_file_as_it_was(table):
    resource = pytest.importorskip("resource")
    record(table, A, CLASSES)
    before, limits = table.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))  # only the row's beginning fits
    try:
        with pytest.raises(UserError, match="cannot be written"):
            record(table, Correction("train/dog/1.jpg", "bb", "dog", KEEP), CLASSES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert table.read_bytes() == before


def test_a_table_that_cannot_be_read(table):
    table.mkdir()
    for use in (lambda: read(table, CLASSES), lambda: record(table, A, CLASSES)):
        with pytest.raises(UserError, match="cannot be read"):
            use()


WRITER = """
import sys
from pathlib import Path
from classifier.data.corrections import Correction, record
table, me = Path(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    own = Correction(f"train/cat/{me}-{number}.jpg", "aa", "cat", "keep", who=me)
    both = Correction(f"train/cat/{number}.jpg", "aa", "cat", "leave out", who=me)
    assert record(table, own, ["cat", "dog"])
    print(number if record(table, both, ["cat", "dog"]) else "-", flush=True)
"""


def test_two_processes_at_once_lose_nothing_and_decide_nothing_twice(table):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(table), name],
            cwd=REPOSITORY, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    said = [writer.communicate(timeout=60)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(int(word) for words in said for word in words if word != "-") == list(range(60))
    assert Counter(row["decision"] for row in rows(table)) == {KEEP: 120, LEAVE_OUT: 60}
    assert read(table, ["cat", "dog"])[1] == [] and table.read_bytes().count(b"file,digest") == 1


def test_where_it_lies(tmp_path):
    assert corrections.table_of(tmp_path / "dataset" / "train") == tmp_path / "dataset" / "corrections.csv"
    assert corrections.table_of(tmp_path / "photos") == tmp_path / "photos" / "corrections.csv"
