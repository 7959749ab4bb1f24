"""What the page says, in English and in Chinese.

English sentences stand where they are used, zh.json has the other half. A sentence that is missing there stays
English, and a class that is missing below keeps its name.
"""

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = {"en": "English", "zh": "中文"}

# class names, as folders have them -> in Chinese; add your own
CLASSES = {
    "cat": "猫", "cats": "猫", "dog": "狗", "dogs": "狗",
    "ant": "蚂蚁", "ants": "蚂蚁", "bee": "蜜蜂", "bees": "蜜蜂",
    "daisy": "雏菊", "dandelion": "蒲公英", "rose": "玫瑰", "roses": "玫瑰",
    "sunflower": "向日葵", "sunflowers": "向日葵", "tulip": "郁金香", "tulips": "郁金香",
    "airplane": "飞机", "automobile": "汽车", "bird": "鸟", "deer": "鹿",
    "frog": "青蛙", "horse": "马", "ship": "船", "truck": "卡车",
}  # fmt: skip

CHINESE: dict[str, str] = json.loads((Path(__file__).parent / "zh.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Speaker:
    """Says things in one language; `values` from outside have to be escaped by who gives them."""

    language: str = "en"

    def __call__(self, text: str, **values: object) -> str:
        """The sentence, with its values."""
        return (CHINESE.get(text, text) if self.language == "zh" else text).format(**values)

    def name(self, label: str) -> str:
        """A class as a person reads it, not escaped."""
        return (CLASSES.get(label.lower()) if self.language == "zh" else None) or label.replace("_", " ")

    def reason(self, problem: object) -> str:
        """What an error says, where it is a sentence that is known here."""
        for pattern, text in _patterns() if self.language == "zh" else ():
            if found := pattern.fullmatch(str(problem)):
                return text.format(**found.groupdict())
        return str(problem)


def preferred(*wishes: str) -> str:
    """The language to begin with: the first one that is known, English where none is.

    Args:
        wishes: names such as "zh" or "zh-CN", or a browser's Accept-Language, "zh-CN,zh;q=0.9,en;q=0.8".
    """
    for part in ",".join(wishes).split(","):
        name, _, quality = part.strip().partition(";q=")
        if name[:2].lower() in LANGUAGES and quality != "0":
            return name[:2].lower()
    return "en"


@functools.cache
def _patterns() -> list[tuple[re.Pattern, str]]:
    """The English sentences as patterns in which any value fits, with the Chinese ones; the wordiest first."""
    words = {english: len(re.sub(r"\{\w+\}", "", english)) for english in CHINESE}
    return [(_pattern(one), CHINESE[one]) for one in sorted(words, key=words.get, reverse=True) if words[one] > 8]


def _pattern(sentence: str) -> re.Pattern:
    seen: set[str] = set()

    def value(found: re.Match) -> str:
        again = found[1] in seen
        seen.add(found[1])
        return f"(?P={found[1]})" if again else f"(?P<{found[1]}>.+)"

    return re.compile(re.sub(r"\\\{(\w+)\\\}", value, re.escape(sentence)), re.DOTALL)
