"""The pages how-it-works.md, English and Chinese: every snippet runs, every number in a table is the measured one."""

import code
import io
import json
import re
import sys
import warnings
from contextlib import redirect_stdout
from decimal import Decimal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from classifier.data.transforms import CROP_MARGIN
from docs import experiments, figures
from resnet import resnet18
from tests.conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
FOLDER = DOCS / "how-it-works"
PAGES = {language: DOCS / f"how-it-works{language}.md" for language in ("", ".zh-CN")}
TEXTS = {language: path.read_text(encoding="utf-8") for language, path in PAGES.items()}
TABLES = json.loads((FOLDER / "numbers.json").read_text(encoding="utf-8"))


def snippets(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Name in the comment above a table -> its rows without header and first column."""
    found = {}
    for name, lines in re.findall(r"^<!-- (\w+) -->\n((?:\|.*\n)+)", text, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines.splitlines()]
        found[name] = [row[1:] for row in rows[2:]]
    return found


def says(cell: str, number: float) -> bool:
    """Whether a cell is this number, rounded to the digits that the cell shows."""
    shown, scale = (cell[:-1], 100) if cell.endswith("%") else (cell, 1)
    half = Decimal(5).scaleb(Decimal(shown).as_tuple().exponent - 1)
    return abs(Decimal(shown) - scale * Decimal(number)) <= half * Decimal("1.000001")


class Prompt(code.InteractiveConsole):
    """Python's prompt: one line after the other. An exception ends it."""

    def showtraceback(self):
        raise

    def showsyntaxerror(self, *args, **options):
        raise


@pytest.mark.parametrize("language", PAGES)
def test_snippets_can_be_pasted_and_print_what_they_say(language, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "displayhook", lambda value: None)  # lines without print show what they give, or not
    prompt = Prompt()
    for snippet in snippets(TEXTS[language]):
        assert len(snippet.splitlines()) <= 20 and max(map(len, snippet.splitlines())) <= 120
        with redirect_stdout(io.StringIO()) as printed:
            for line in [*snippet.splitlines(), ""]:
                more = prompt.push(line)
        assert not more
        expected = re.findall(r"^print\(.*\)  # (.+)$", snippet, re.MULTILINE)
        assert expected and printed.getvalue().splitlines() == expected


def test_both_languages_have_the_same_code_figures_tables_and_links():
    english, chinese = TEXTS.values()
    assert snippets(english) == snippets(chinese) and len(snippets(english)) >= 5
    assert tables(english) == tables(chinese)
    for pattern in (r"!\[[^]]+\]\(([^)]+)\)", r"https://[^)\s]+", r"^(##) \d"):
        found, other = (re.findall(pattern, text, re.MULTILINE) for text in (english, chinese))
        assert found and found == other
    assert "(how-it-works.zh-CN.md)" in english and "(how-it-works.md)" in chinese


@pytest.mark.parametrize("language", PAGES)
def test_figures_and_links_lead_somewhere(language):
    shown = re.findall(r"!\[[^]]+\]\(how-it-works/([^)]+)\)", TEXTS[language])
    assert sorted(shown) == sorted(path.name for path in FOLDER.glob("*.png"))
    for name in shown:
        assert (FOLDER / name).stat().st_size <= 60_000
        with Image.open(FOLDER / name) as image:
            image.load()
            assert image.width <= 1000
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", TEXTS[language]):
        assert (DOCS / target).exists(), target


@pytest.mark.parametrize("language", PAGES)
def test_tables_say_what_was_measured(language):
    found = tables(TEXTS[language])
    assert found.keys() == TABLES.keys()
    for name, rows in found.items():
        assert [len(row) for row in rows] == [len(row) for row in TABLES[name]], name
        for row, numbers in zip(rows, TABLES[name], strict=True):
            for cell, number in zip(row, numbers, strict=True):
                assert says(cell, number), f"{name}: the page says {cell}, numbers.json {number}"


@pytest.mark.parametrize(
    ("cell", "number", "right"),
    [("0.12", 0.1249, True), ("0.12", 0.1251, False), ("12%", 0.124, True), ("1.2e-15", 1.249e-15, True),
     ("1.2e-15", 1.26e-15, False), ("56", 56, True), ("56", 57, False)],
)  # fmt: skip
def test_says_rounds_to_the_digits_shown(cell, number, right):
    assert says(cell, number) is right


def test_sizes_and_receptive_fields_are_those_of_the_networks():
    assert figures.sizes() == TABLES["sizes"]
    for side, kernel, stride, padding, exact, output in TABLES["sizes"][:-1]:
        assert output == int(exact) == (side - kernel + 2 * padding) // stride + 1
    assert TABLES["sizes"][-1][-2:] == [55.5, 56]  # GoogLeNet's poolings round up
    assert figures.fields() == [row[0] for row in TABLES["fields"]]


def test_seen_ends_at_the_receptive_field():
    torch.manual_seed(0)
    gradients = figures.seen(resnet18(), torch.randn(1, 3, 224, 224))
    for gradient, field in zip(gradients, figures.fields(), strict=True):
        assert figures.side_of_most(gradient, 0.9) <= figures.side_of_most(gradient, 0.999999) <= field
        assert gradient.sum() > 0


def test_a_plain_network_lacks_the_shortcuts_only():
    plain, residual = (
        experiments.thirty_four_layers(block, experiments.STARTS[0], 0) for block in experiments.BLOCKS.values()
    )
    kernels = {name: p.shape for name, p in residual.named_parameters() if "downsample" not in name}
    assert {name: p.shape for name, p in plain.named_parameters()} == kernels
    x, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])
    found = experiments.gradients(plain, x, labels)
    assert len(found) == 33 and min(found) > 0
    bare = experiments.thirty_four_layers(experiments.PlainBlock, experiments.STARTS[2], 0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bare.modules())


def test_a_small_training_repeats_and_each_option_changes_it():
    train, test = (experiments.drawings("train", 16, round(experiments.SIZE * CROP_MARGIN)),
                   experiments.drawings("test", 8, experiments.SIZE))  # fmt: skip
    runs = [experiments.train_small(train, test, 0, epochs=2, **options) for options in experiments.OPTIONS.values()]
    assert experiments.train_small(train, test, 0, epochs=2) == runs[0]
    assert len({run["loss"] for run in runs}) == len(runs)
    assert all(len(run["accuracies"]) == 2 and 0 <= run["by heart"] <= 1 for run in runs)


def test_figures_draw_without_warnings():
    values = np.random.default_rng(0).uniform(0.1, 1, (3, 33))
    by_kind = dict.fromkeys(experiments.BLOCKS, values)
    made = [
        figures.residual_figure(dict.fromkeys(experiments.STARTS, by_kind), by_kind),
        figures.training_figure(dict.fromkeys(experiments.OPTIONS, values)),
        figures.batch_norm_figure(torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)),
        figures.edge_figure(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in made:
            figure.savefig(io.BytesIO(), dpi=50)


def test_answers():
    torch.manual_seed(0)
    network = resnet18(num_classes=2).train()
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    network.layer1(network.maxpool(network.relu(network.bn1(network.conv1(x)))))[0, :, 8, 8].sum().backward()
    assert (x.grad.abs().sum(1) > 0).all()  # 1: in training one value sees every pixel of every image
    with pytest.raises(ValueError, match="more than 1 value per channel"):  # 3
        network(torch.randn(1, 3, 32, 32))
    with torch.no_grad():  # 5: kernels of half the size, the same answer
        x = torch.randn(2, 3, 96, 96)
        before = network(x)
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.weight /= 2
        torch.testing.assert_close(network(x), before, rtol=1e-2, atol=1e-2)
