"""HTML of answers, of the model's card and of the review, from the Jinja templates here, which escape all values."""

import base64
import functools
import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import jinja2
from PIL import Image

from classifier.cli import UserError
from classifier.data.images import ImageError
from webui.i18n import Translator


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
    environment.tests["error"] = lambda value: isinstance(value, UserError)
    return environment.get_template(f"{name}.html").module


def question(classes: Sequence[str], _: Translator) -> str:
    """Return the page's title as plain text: "Cat or dog?"."""
    names = [_.class_name(name) for name in classes]
    if len(names) not in (2, 3, 4) or len(" ".join(names)) > 40:
        return _("What is in the image?")
    text = _("{others} or {last}?", others=_(", ").join(names[:-1]), last=names[-1])
    return text[:1].upper() + text[1:]


def failed(error: UserError, language: str) -> str:
    """Return the reason why there is no answer."""
    return macros("answer", language).no_answer(Translator(language).error(error), isinstance(error, ImageError))
