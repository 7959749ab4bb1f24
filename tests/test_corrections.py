"""corrections.csv: what stands, what is passed over, and that nothing is lost when several people write."""

import csv
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from classifier.cli import UserError
from classifier.data.corrections import KEEP, LEAVE_OUT, RELABEL, UNDONE, Correction, read, record
from tests.conftest import file_size_limit

CLASSES = ["cat", "dog", "leave out", '猫,"x"']
A = Correction("train/cat/1.jpg", "aa", "cat", KEEP)
KEY = (A.file, A.digest)


@pytest.fixture
def table(tmp_path):
    return tmp_path / "corrections.csv"


def decided(table):
    return {key: (row.decision, row.right) for key, row in read(table, CLASSES)[0].items()}


def rows(table):
    with table.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_last_row_of_a_file_counts_and_what_was_decided_meanwhile_stays(table):
    assert record(table, A, CLASSES)
    one = read(table, CLASSES)[0][KEY]
    assert (one.label, one.decision, one.line) == ("cat", KEEP, 2) and one.time[:2] == "20"
    assert record(table, Correction(*KEY, "cat", UNDONE), CLASSES, replaces=2) and not decided(table)
    assert record(table, Correction(*KEY, "cat", RELABEL, "dog", "Ann"), CLASSES)
    assert decided(table) == {KEY: (RELABEL, "dog")}
    assert [row["decision"] for row in rows(table)] == [KEEP, UNDONE, RELABEL] and rows(table)[2]["who"] == "Ann"
    before = table.read_bytes()
    assert before.startswith(b"\xef\xbb\xbffile,digest,label,decision,class,time,who\r\n")
    for replaces in (0, 2, 7):  # somebody was faster; or it takes back what does not stand
        assert not record(table, A, CLASSES, replaces)
    assert table.read_bytes() == before
    assert record(table, Correction(A.file, "another content", "cat", LEAVE_OUT), CLASSES)
    assert len(decided(table)) == 2


def test_a_table_that_was_cut_off_anywhere_is_refused_or_costs_one_row(table):
    record(table, A, CLASSES)
    whole = len(table.read_bytes())
    record(table, Correction('train/cat/a, "b" 猫.jpg', "bb", "cat", RELABEL, CLASSES[3], "Ann"), CLASSES)
    both = table.read_bytes()
    for end in range(whole, len(both)):
        table.write_bytes(both[:end])
        try:
            standing, remarks = read(table, CLASSES)
        except UserError as error:  # within quotation marks
            assert "line 3" in str(error) and table.read_bytes() == both[:end]
            continue
        assert KEY in standing and len(remarks) <= 1
        assert set(decided(table).values()) <= {(KEEP, ""), (RELABEL, CLASSES[3])}  # half a class is none


def test_what_excel_makes_of_it_is_read_and_continued(table):
    lines = [
        "remark;decision;class;file;digest;time;label", ";keep;;train/cat/1.jpg;aa;2026-01-01 10:00;cat", ";;;;;;",
        "see;relabel;dog;train/cat/2.jpg;bb;2026-01-01 10:01;cat",
    ]  # fmt: skip
    table.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert decided(table) == {KEY: (KEEP, ""), ("train/cat/2.jpg", "bb"): (RELABEL, "dog")}
    assert record(table, Correction("train/cat/3.jpg", "cc", "cat", LEAVE_OUT), CLASSES)
    assert table.read_bytes().splitlines()[-1].startswith(b";leave out;;train/cat/3.jpg;cc;20")
    assert len(decided(table)) == 3 and not read(table, CLASSES)[1]


def test_rows_that_make_no_sense_are_reported_and_skipped(table):
    record(table, A, CLASSES)
    rows = [
        b"train/cat/1.jpg,aa,cat,relabel,bird,2026",
        b"train/cat/1.jpg,aa,cat,delete,,2026",
        b"train/cat/1.jpg,aa,cat,keep",
        b"train/cat/1.jpg,,cat,keep,,2026",
        b"\xff\xfe\x00\x01,\x00",
        "我的猫,cat".encode("gb18030"),
    ]
    table.write_bytes(table.read_bytes() + b"\r\n".join(rows))
    standing, remarks = read(table, CLASSES)
    assert list(standing) == [KEY]
    assert remarks == [f"line {i} is incomplete or names no known decision or class" for i in range(3, 9)]


def test_a_file_of_something_else_is_refused_and_kept(table):
    for content in (b"\n\n", os.urandom(3000), "file\tdigest".encode("utf-16"), b"x" * 200_000, b'"'):
        table.write_bytes(content)
        for use in (lambda: read(table, CLASSES), lambda: record(table, A, CLASSES)):
            with pytest.raises(UserError, match="Expected file,digest,label"):
                use()
        assert table.read_bytes() == content


def test_names_come_back_as_they_were(table):
    names = ["leave out/1.jpg", "a;b.jpg", "=1+1.jpg", " 猫 'x'.jpg", '","",.jpg', "\udcff.jpg", "a\nb"]
    for name in names:
        assert record(table, Correction(name, "aa", "leave out", RELABEL, "leave out"), CLASSES)  # like a decision
    assert decided(table) == {(name, "aa"): (RELABEL, "leave out") for name in names}


def test_a_table_that_cannot_be_written_is_as_before(table):
    record(table, A, CLASSES)
    before = table.read_bytes()
    with file_size_limit(len(before) + 5), pytest.raises(UserError, match="cannot be written"):
        record(table, Correction("train/dog/1.jpg", "bb", "dog", KEEP), CLASSES)
    assert table.read_bytes() == before  # although the row's beginning would have fit


def test_two_at_once_lose_nothing_and_decide_nothing_twice(table):
    def write(me):
        for number in range(60):
            assert record(table, Correction(f"train/cat/{me}-{number}.jpg", "aa", "cat", KEEP), CLASSES)
            yield record(table, Correction(f"train/cat/{number}.jpg", "aa", "cat", LEAVE_OUT), CLASSES)

    with ThreadPoolExecutor(2) as pool:  # of processes: tests/test_files.py
        done = pool.map(lambda me: list(write(me)), ("Ann", "Bob"))
    assert all(first != second for first, second in zip(*done, strict=True))
    assert Counter(row["decision"] for row in rows(table)) == {KEEP: 120, LEAVE_OUT: 60}
    assert read(table, CLASSES)[1] == [] and table.read_bytes().count(b"file,digest") == 1
