"""Errors become one message and an exit status; tables and plurals are what they should be."""

import os
from dataclasses import dataclass

import pytest

from classifier import cli
from classifier.cli import UserError, no_formula, plural, print_table, shorten, text_width
from tests.conftest import run_code


def test_an_error_is_a_template_in_any_language():
    error = UserError("{file} has {count} images", file="{a}", count=2)
    assert str(error) == "{a} has 2 images"
    assert error.translated({"{file} has {count} images": "{file} 有 {count} 张图片"}) == "{a} 有 2 张图片"
    assert error.translated({"other": "x"}) == str(error)
    assert str(UserError("no {template}")) == "no {template}"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("Give it a name."), 2, "error: Give it a name.\n"),
        (OSError(28, "No space left on device", "/x"), 2, "error: [Errno 28] No space left on device: '/x'\n"),
        (OSError("odd"), 2, "error: odd\n"),
        (KeyboardInterrupt(), 130, "\nstopped\n"),
        (SystemExit(2), 2, ""),
        (SystemExit(0), 0, ""),
        (ZeroDivisionError(), None, ""),  # an error of the program keeps its traceback
    ],
    ids=repr,
)
def test_an_error_ends_a_script_with_one_message(capsys, error, status, message):
    def main():
        raise error

    with pytest.raises((SystemExit, ZeroDivisionError)) as caught:
        cli.run(main)
    assert (getattr(caught.value, "code", None), capsys.readouterr().err) == (status, message)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_reader_that_has_seen_enough_is_no_error():
    code = """
import os, sys
from classifier import cli
read, write = os.pipe()
os.dup2(write, 1)
os.close(read)
os.close(write)
cli.run(lambda: print("x" * 100_000))
"""
    done = run_code(code)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_wrong_command_line(capsys):
    @dataclass
    class Settings:
        epochs: int = 1
        """How many."""

    assert cli.parse(Settings, "A script.", ["--epochs", "3"]) == Settings(3)
    with pytest.raises(SystemExit) as caught:
        cli.parse(Settings, "A script.", ["--epoch", "3"])
    assert caught.value.code == 2 and "--epochs" in capsys.readouterr().err


def test_text(capsys):
    assert text_width("猫 cat") == 6 and shorten("猫猫猫", 5) == "猫猫…" and shorten("cat", 3) == "cat"
    assert [no_formula(cell) for cell in ("=1", "-1", "a")] == ["'=1", "'-1", "a"]
    assert [plural(count, "image") for count in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]
    assert plural(2, "class", "classes") == "2 classes"
    print_table([("class", "images"), ("猫", 12), ("a dog", 3)])
    assert capsys.readouterr().out == "class  images\n猫         12\na dog       3\n"
