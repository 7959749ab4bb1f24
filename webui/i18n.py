"""The language of the page: English templates stand where they are used; zh.json maps them to Chinese ones.

Gradio's `gr.I18n` goes by the browser's locale alone and translates labels only; here visitors can switch, and answers
and errors are sentences, too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from classifier.cli import UserError
from classifier.data.images import ImageError

LANGUAGES = {"en": "English", "zh": "中文"}
_CHINESE = json.loads(Path(__file__).with_name("zh.json").read_text(encoding="utf-8"))
CATALOGUES: dict[str, dict[str, str]] = {"en": {}, "zh": _CHINESE["sentences"]}
CLASS_NAMES: dict[str, dict[str, str]] = {"en": {}, "zh": _CHINESE["classes"]}  # as folders have them: add your own


@dataclass(frozen=True)
class Translator:
    """Translates into one language. What is in no catalogue stays English; nothing is escaped for HTML."""

    language: str = "en"

    def __call__(self, template: str, **values: object) -> str:
        """Return the translated template, filled with the values."""
        return CATALOGUES[self.language].get(template, template).format(**values)

    def class_name(self, label: str) -> str:
        """Return a class name as a person reads it."""
        return CLASS_NAMES[self.language].get(label.lower()) or label.replace("_", " ")

    def error(self, error: UserError) -> str:
        """Return an error's sentence, in which files are named without their folders: visitors may read it."""
        values = {key: Path(value).name if key == "file" else value for key, value in error.values.items()}
        sentence = UserError(error.message, **values).translated(CATALOGUES[self.language])
        return self("This file {problem}.", problem=sentence) if isinstance(error, ImageError) else sentence


def preferred_language(*wishes: str) -> str:
    """Return the first language that is known among names such as "zh-CN" or Accept-Language headers, else "en"."""
    for part in ",".join(wishes).split(","):
        name, _, quality = part.strip().partition(";q=")
        if name[:2].lower() in LANGUAGES and quality != "0":
            return name[:2].lower()
    return "en"
