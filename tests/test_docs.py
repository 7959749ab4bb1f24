"""The pages: both languages say the same, commands, options and links exist, snippets run, numbers are measured."""

import code
import importlib
import io
import json
import re
import sys
from contextlib import redirect_stdout
from decimal import Decimal
from itertools import chain

import numpy as np
import pytest
import torch

from classifier.data.transforms import CROP_MARGIN
from docs import experiments, figures
from resnet import resnet18
from tests.conftest import REPOSITORY

FOLDERS = map(REPOSITORY.joinpath, ("", "docs", "benchmarks", "dataset", "logs", "module"))
FILES = [path.relative_to(REPOSITORY).as_posix() for folder in FOLDERS for path in folder.glob("*.md")]
PAGES = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in FILES}
PAIRS = [(page, chinese) for page in PAGES if (chinese := page.replace(".md", ".zh-CN.md")) in PAGES]
LESSON = PAGES["docs/how-it-works.md"]
FIGURES = REPOSITORY / "docs" / "how-it-works"
TABLES = json.loads((FIGURES / "numbers.json").read_text(encoding="utf-8"))


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


def shows(cell: str, number: float) -> bool:
    shown, scale = (cell[:-1], 100) if cell.endswith("%") else (cell, 1)
    half = Decimal(5).scaleb(Decimal(shown).as_tuple().exponent - 1)
    return abs(Decimal(shown) - scale * Decimal(number)) <= half * Decimal("1.000001")


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


@pytest.mark.parametrize("script", ["train", "evaluate", "predict", "prepare", "export", "app"])
def test_options_in_the_pages_exist(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(script).main()
    options = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    # docs/results.md, the card of the weights and benchmarks/ hold the commands of the days of their measurements
    today = [text for page, text in PAGES.items() if not re.match(r"docs/results|module|benchmarks", page)]
    used = re.findall(rf"\b{script}\.py\b([^`#\n]*)", "\n".join(today))
    assert used and {*re.findall(r"--[a-z][a-z-]*", " ".join(used))} <= options


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
    for snippet in snippets(LESSON):
        with redirect_stdout(io.StringIO()) as printed:
            more = [prompt.push(line) for line in [*snippet.splitlines(), ""]][-1]
        expected = re.findall(r"^print\(.*\)  # (.+)$", snippet, re.MULTILINE)
        assert not more and expected and printed.getvalue().splitlines() == expected


def test_tables_show_what_was_measured():
    found = tables(LESSON)
    assert found.keys() == TABLES.keys()
    for cell, number in zip(chain(*chain(*found.values())), chain(*chain(*(TABLES[n] for n in found))), strict=True):
        assert shows(cell, number), f"the page says {cell}, numbers.json {number}"
    assert figures.sizes() == TABLES["sizes"] and figures.fields() == [row[0] for row in TABLES["fields"]]


@pytest.mark.filterwarnings("error")
def test_figures_are_small_and_draw_without_warnings():
    assert all(path.name in LESSON and path.stat().st_size <= 60_000 for path in FIGURES.glob("*.png"))
    values = np.random.default_rng(0).uniform(0.1, 1, (3, 33))
    by_kind = dict.fromkeys(experiments.BLOCKS, values)
    figures.residual_figure(dict.fromkeys(experiments.STARTS, by_kind), by_kind).savefig(io.BytesIO())
    figures.training_figure(dict.fromkeys(experiments.OPTIONS, values)).savefig(io.BytesIO())
    figures.edge_figure().savefig(io.BytesIO())


def test_experiments_measure_what_they_say():
    torch.manual_seed(0)
    for gradient, field in zip(figures.seen(resnet18(), torch.randn(1, 3, 224, 224)), figures.fields(), strict=True):
        assert figures.side_of_most(gradient, 0.9) <= figures.side_of_most(gradient, 0.999999) <= field
    blocks = experiments.BLOCKS.values()
    plain, residual = (experiments.thirty_four_layers(block, experiments.STARTS[0], 0) for block in blocks)
    assert plain.state_dict().keys() == {name for name in residual.state_dict() if "downsample" not in name}
    assert len(experiments.gradients(plain, torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1]))) == 33
    train = experiments.drawings("train", 16, round(experiments.SIZE * CROP_MARGIN))
    test = experiments.drawings("test", 8, experiments.SIZE)
    runs = [experiments.train_small(train, test, 0, epochs=2, **options) for options in experiments.OPTIONS.values()]
    assert experiments.train_small(train, test, 0, epochs=2) == runs[0]
    assert len({run["loss"] for run in runs}) == len(runs)


def test_answers_to_the_questions():
    torch.manual_seed(0)
    network = resnet18(num_classes=2).train()
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))[0, :, 8, 8].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()  # 1: in training one value sees every pixel of every image
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # 3
        network(torch.randn(1, 3, 32, 32))
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():  # 5: kernels of half the size, the same answer
        before = network(x)
        for name, weight in network.named_parameters():
            weight /= 2 if "conv" in name else 1
        torch.testing.assert_close(network(x), before, rtol=1e-2, atol=1e-2)
