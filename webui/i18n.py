"""The language of the page: sentences, and HTML from the Jinja templates here, which escape all values.

English sentences stand where they are used; zh.json maps them to Chinese ones. Gradio's `gr.I18n` goes by the browser's
locale alone and translates labels only; here visitors can switch, and answers and errors are sentences, too.
"""

import base64
import functools
import io
import json
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from types import ModuleType

import jinja2
from PIL import Image

from classifier.cli import UserError
from classifier.data.formats import ImageError

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
    names = (part.strip()[:2].lower() for part in ",".join(wishes).split(","))
    return next((name for name in names if name in LANGUAGES), "en")


def percent(probability: float) -> str:
    """Return "97%"; never a plain 0% or 100%, of which no network can be sure."""
    return "<1%" if probability < 0.005 else ">99%" if probability >= 0.995 else f"{probability:.0%}"


def data_uri(content: bytes, kind: str = "png") -> str:
    """Return an image file as a URI of its own."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(image: Image.Image) -> str:
    """Return a decoded image as a URI of its own."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), "jpeg")


@functools.cache
def macros(name: str, language: str) -> ModuleType:
    """Return the macros of `<name>.html` in a language."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    _ = Translator(language)
    environment.globals |= {"_": _, "class_name": _.class_name, "reason": _.error}
    environment.filters |= {"percent": percent, "data_uri": data_uri, "jpeg": jpeg}
    environment.filters |= {"thousands": "{:,}".format, "class_name": _.class_name}
    environment.filters["file_name"] = lambda path: PureWindowsPath(path).name
    environment.tests["error"] = lambda value: isinstance(value, UserError)
    return environment.get_template(f"{name}.html").module


def failed(error: UserError, language: str) -> str:
    """Return the reason why there is no answer."""
    return macros("answer", language).no_answer(Translator(language).error(error), isinstance(error, ImageError))
