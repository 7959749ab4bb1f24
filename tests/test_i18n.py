"""Is everything that the page says there in Chinese?"""

import ast
import re
from pathlib import Path

from classifier.cli import UserError
from classifier.data.images import ImageError
from webui.i18n import CATALOGUES, Translator, preferred_language

ROOT = Path(__file__).resolve().parents[1]
CHINESE = CATALOGUES["zh"]
# modules whose errors visitors may see
SHOWN = [ROOT / "classifier/data" / f"{name}.py" for name in ("archives", "decoders", "formats", "images")]
SHOWN += [ROOT / "classifier" / name for name in ("checkpoint.py", "safe_load.py", "foreign.py")]
SHOWN += [ROOT / "classifier" / name for name in ("evaluation/plots.py", "inference/onnx_file.py")]
SHOWN += (ROOT / "webui").glob("*.py")
FIELD = re.compile(r"\{(\w+)[^}]*\}")


def constants(node: ast.AST) -> set[str]:
    """Literals that an expression may give."""
    if isinstance(node, ast.IfExp):
        return constants(node.body) | constants(node.orelse)
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def sentences_in_python(path: Path) -> set[str]:
    """Templates that are translated, that make an error, or that are kept for either under the usual names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("text", "message", "template"):
            values = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
            found |= {one for value in values for one in constants(value)}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id == "_" or node.func.id in ("ImageError", "CheckpointError"):
                found |= constants(node.args[0]) if node.args else set()
            if node.func.id == "UserError" and node.keywords:
                found |= constants(node.args[0])
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "localized":
            found |= {one for keyword in node.keywords for one in constants(keyword.value)}
    return found


def sentences() -> set[str]:
    found = set().union(*map(sentences_in_python, SHOWN))
    for path in (ROOT / "webui").glob("*.html"):
        pattern = r"""\b_\(\s*(?:"([^"]+)"|'([^']+)')"""
        found |= {one or two for one, two in re.findall(pattern, path.read_text(encoding="utf-8"))}
    only_in_terminal = {"{folder} holds no .pth yet. Train a network first: python train.py"}
    only_in_terminal |= {one for one in found if one.endswith("give what was in it")}
    return {one for one in found - only_in_terminal if one == " " or not one.endswith(" ")}  # first halves of sentences


def test_every_sentence_is_there_in_chinese():
    assert len(sentences()) > 120
    missing = sorted(sentences() - set(CHINESE))
    assert not missing, missing


def test_both_languages_have_the_same_values():
    def values(text):  # Chinese counts in tens of thousands, and leaves out what decoders say, which is English
        return sorted(set(FIELD.findall(text.replace("{wan}", "{millions}"))) - {"error", "reason"})

    assert {one: values(one) for one in CHINESE} == {one: values(chinese) for one, chinese in CHINESE.items()}
    decoders = [one for one in CHINESE if ("damaged" in one and ".pth" not in one) or one.startswith("cannot be read")]
    assert len(decoders) >= 4 and not any("{error}" in CHINESE[one] or "{reason}" in CHINESE[one] for one in decoders)


def test_errors_become_sentences_where_they_are_shown_and_what_is_not_known_stays_english():
    english, chinese = Translator("en"), Translator("zh")
    large = ImageError("has more than {limit} million pixels", limit=50)
    assert chinese.error(large) == "这个文件超过 5000 万像素。"
    assert english.error(large) == "This file has more than 50 million pixels."
    damaged = UserError("{file} cannot be read: {reason}.", file=Path("/home/somebody/a.pth"), reason="no {braces}")
    assert english.error(damaged) == "a.pth cannot be read: no {braces}."
    assert chinese.error(UserError("is odd: {}")) == "is odd: {}"
    assert chinese("A sentence of {kind}.", kind="its own") == "A sentence of its own."
    assert (chinese.class_name("cat"), chinese.class_name("red_panda")) == ("猫", "red panda")


def test_the_language_to_begin_with():
    assert preferred_language("zh", "en-GB,zh;q=0.1") == preferred_language("<script>", "fr-FR,zh;q=0.5") == "zh"
    assert preferred_language("", "en-GB,zh;q=0.1") == preferred_language("", "") == "en"
