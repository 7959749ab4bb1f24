"""The pages: both languages say the same, commands, options and links exist, snippets run."""

import code
import importlib
import io
import re
import sys
from contextlib import redirect_stdout

import pytest

from tests.conftest import REPOSITORY

FOLDERS = map(REPOSITORY.joinpath, ("", "docs", "benchmarks", "dataset", "logs", "module"))
FILES = [path.relative_to(REPOSITORY).as_posix() for folder in FOLDERS for path in folder.glob("*.md")]
PAGES = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in FILES}
PAIRS = [(page, chinese) for page in PAGES if (chinese := page.replace(".md", ".zh-CN.md")) in PAGES]
# options of an earlier version that are no more
REMOVED = {"--early-lr", "--patience", "--unfreeze-after", "--keep-feedback-pictures", "--no-keep-feedback-pictures"}
REMOVED |= {"--find-lr", "--no-find-lr"}  # now tools/find_lr.py


def parts(page: str) -> list[list[str]]:
    """Return what both languages have in common: snippets, commands, numbers in named tables, links, outline."""
    text = PAGES[page].replace(".zh-CN", "")
    commands = [re.split(" {2,}", line)[0] for line in re.findall(r"^    (?!.*->)(.+)", text, re.MULTILINE)]
    links = [re.sub(r"#\W.*", "", a or b) for a, b in re.findall(r"\]\(([^)\s]+)\)|(https://[^)\s]+)", text)]
    outline = re.findall(r"^(#+ |\|[ :-]+\||\*\*(?=[.…]))", text, re.MULTILINE)
    own = page.replace(".zh-CN", "").split("/")[-1]  # each links to the other
    return [snippets(text), commands, tables(text), sorted({*links} - {own}), outline, re.findall(r"`test_\w+`", text)]


def snippets(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Return the tables that a comment names, without header and first column."""
    found = re.findall(r"^<!-- (\w+) -->\n((?:\|.*\n)+)", text, re.MULTILINE)
    return {name: [line.strip("| ").split(" | ")[1:] for line in rows.splitlines()[2:]] for name, rows in found}


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_both_languages_say_the_same(english, chinese):
    assert parts(english) == parts(chinese)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", PAGES[page]):
        path = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert path.exists(), target
        headings = re.findall(r"^#+ (.+)", path.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings]


@pytest.mark.parametrize("line", (REPOSITORY / "tests" / "before" / "flags.txt").read_text().splitlines())
def test_options_in_the_pages_and_of_an_earlier_version_exist(line, monkeypatch, capsys):
    script, *before = line.split()
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(script).main()
    options = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    # docs/results.md, the card of the weights and benchmarks/ hold the commands of the days of their measurements
    today = "\n".join(text for page, text in PAGES.items() if not re.match(r"docs/results|module|benchmarks", page))
    used = re.findall(rf"\b{script}\.py\b([^`#\n]*)", today)
    assert used and {*re.findall(r"--[a-z][a-z-]*", " ".join(used))} | ({*before} - REMOVED) <= options


@pytest.mark.parametrize("page", PAIRS[0])
def test_readme_is_short_and_its_files_and_targets_exist(page):
    assert len(PAGES[page].splitlines()) <= 200 and len(PAGES[page].split()) <= 1800
    for name in re.findall(r"\b(?:[a-z]+/)?[a-z_]+\.(?:py|sh)\b|requirements[a-z-]*\.txt", PAGES[page]):
        assert (REPOSITORY / name).exists(), name
    targets = re.findall(r"^    make (\w+)", PAGES[page], re.MULTILINE)
    assert targets and all(f"\n{target}:" in (REPOSITORY / "Makefile").read_text() for target in targets)


def test_each_promise_names_a_test_that_exists():
    named = re.findall(r"\(\.\./(tests/\w+\.py)\) `(test_\w+)`", PAGES["docs/promises.md"])
    assert len(named) >= 20
    for file, test in named:
        assert f"def {test}(" in (REPOSITORY / file).read_text(encoding="utf-8"), test


def test_snippets_can_be_pasted_and_print_what_they_say(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "displayhook", lambda value: None)  # lines without print show their value, or not
    prompt = code.InteractiveConsole()
    for snippet in snippets(PAGES["docs/how-it-works.md"]):
        with redirect_stdout(io.StringIO()) as printed:
            more = [prompt.push(line) for line in [*snippet.splitlines(), ""]][-1]
        expected = re.findall(r"^print\(.*\)  # (.+)$", snippet, re.MULTILINE)
        assert not more and expected and printed.getvalue().splitlines() == expected
