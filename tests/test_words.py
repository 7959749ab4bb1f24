"""Is everything that the page says there in Chinese?"""

import ast
import re
from pathlib import Path

import pytest

from webui.words import CHINESE, CLASSES, Speaker, preferred

PAGE = Path(__file__).resolve().parents[1] / "webui"


def sentences() -> set[str]:
    """All literal texts that are given to `say`, in Python and in templates, and to `Site.put`."""
    found: set[str] = set()
    templates = [path.read_text(encoding="utf-8") for path in PAGE.glob("*.html")]
    for path in PAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "{{ say(" in node.value:
                templates.append(node.value)
            if not isinstance(node, ast.Call):
                continue
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called == "say" and node.args:
                found |= texts(node.args[0])
            if called == "put":
                found |= {one for keyword in node.keywords for one in texts(keyword.value)}
    for template in templates:
        found |= {one or two for one, two in re.findall(r"""say\(\s*(?:"([^"]+)"|'([^']+)')""", template)}
        for choice in re.findall(r"say\(\{([^}]*\"[^)]*)\}\[", template):
            found |= set(re.findall(r':\s*"([^"]+)"', choice))
    return found


def texts(node: ast.AST) -> set[str]:
    """The literals that an argument may be."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def test_every_sentence_is_there_in_chinese():
    from webui.about import FACTS

    assert len(sentences()) > 80
    missing = sorted((sentences() | set(FACTS)) - set(CHINESE))
    assert not missing, missing


@pytest.mark.parametrize("english", CHINESE)
def test_both_languages_have_the_same_values(english):
    values = re.findall(r"\{(\w+)\}", english)
    assert sorted(values) == sorted(re.findall(r"\{(\w+)\}", CHINESE[english]))


def test_what_is_not_known_stays_english():
    say = Speaker("zh")
    assert say("A sentence of {kind}.", kind="its own") == "A sentence of its own."
    assert say.name("cat") == "猫" == CLASSES["cat"] and say.name("red_panda") == "red panda"
    assert Speaker("en").name("cat") == "cat"
    assert say.reason("is 20000 x 20000, more than 50 million pixels") == "是 20000 x 20000，超过了 50 百万像素"
    assert say.reason("is odd") == "is odd"


@pytest.mark.parametrize(
    ("accepted", "asked", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "", "zh"),
        ("en-GB,en;q=0.9,zh;q=0.1", "", "en"),
        ("fr-FR,zh;q=0.5", "", "zh"),
        ("fr", "", "en"),
        ("", "", "en"),
        ("zh", "en", "en"),
        ("en", "zh", "zh"),
        ("en", "<script>", "en"),
        ("zh;q=0,en", "", "en"),
    ],
)
def test_the_language_to_begin_with(accepted, asked, language):
    assert preferred(asked, accepted) == language
