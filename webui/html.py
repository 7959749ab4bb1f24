"""What the page shows of an answer, as HTML. pieces.html has the pieces, and escapes what is not ours."""

import base64
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import jinja2
from PIL import Image

from classifier.cli import UserError
from classifier.data.images import ImageError
from classifier.text import no_formula
from webui.answers import SHOWN, Answer
from webui.words import Speaker

HERE = Path(__file__).resolve().parent
Column = tuple[str, Answer | str]  # what it is called, and the answer or why there is none


def percent(share: float) -> str:
    """97%; never a plain 0% or 100%, of which no network can be sure."""
    return "<1%" if share < 0.005 else ">99%" if share >= 0.995 else f"{share:.0%}"


def data_uri(content: bytes, kind: str) -> str:
    """An image as an address of its own."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def jpeg(image: Image.Image) -> str:
    """The same for a decoded image."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return data_uri(file.getvalue(), "jpeg")


_environment = jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True)
_environment.filters |= {"percent": percent, "data_uri": data_uri, "jpeg": jpeg}
_pieces = _environment.get_template("pieces.html").module


def question(classes: Sequence[str], say: Speaker) -> str:
    """The title, not escaped: "Cat or dog?" """
    names = [say.name(name) for name in classes]
    if len(names) not in (2, 3, 4) or len(" ".join(names)) > 40:
        return say("What is in the image?")
    text = say("{others} or {last}?", others=say(", ").join(names[:-1]), last=names[-1])
    return text[:1].upper() + text[1:]


def heading(classes: Sequence[str], drawings: bool, shared: bool, say: Speaker) -> str:
    """The title, and what one must know before believing an answer; `shared` pages are reached through Gradio."""
    return _pieces.heading_of_page(question(classes, say), drawings, shared, say)


def strength(say: Speaker) -> str:
    """The slider that fades the heat map."""
    return _pieces.strength(say)


def hint(text: str) -> str:
    """A line in small print."""
    return _pieces.hint(text)


def programs(address: str, password: bool, say: Speaker) -> str:
    """How programs ask, with the address of this page; `password`: whether it asks for one."""
    return _pieces.programs(address, password, say)


def waiting(classes: Sequence[str], say: Speaker) -> str:
    """In place of an answer, as long as there is no image."""
    return _pieces.waiting(classes[:SHOWN], say)


def one(answer: Answer, say: Speaker) -> str:
    """The answer to an image with bars; each bar can be chosen to show where that class was seen."""
    return _pieces.one(answer, say)


def examples(thumbnails: Sequence[Image.Image], drawn: bool, say: Speaker) -> str:
    """Images to try the page with, as buttons."""
    return _pieces.examples(thumbnails, drawn, say)


def refused(error: UserError, say: Speaker) -> str:
    """The reason why there is no answer."""
    reason = say.reason(error)
    if isinstance(error, ImageError):
        reason = say("This file {problem}.", problem=reason)
    return _pieces.no_answer(reason, say, isinstance(error, ImageError))


def busy(say: Speaker) -> str:
    """In place of an answer, where the server has taken none of it."""
    return _pieces.no_answer(say("The page is busy. Try again in a moment."), say)


def compared(columns: Sequence[Column], say: Speaker) -> str:
    """Several networks' answers to one image, with the heat map of what each one found."""
    return _pieces.compared(columns, say)


def progress(done: int, say: Speaker) -> str:
    """While images are answered."""
    return _pieces.progress(done, say)


def table(rows: Sequence[Column], classes: Sequence[str], left_out: bool, say: Speaker) -> str:
    """Name, answer and confidence of each image with a thumbnail; sortable by script.js; a CSV to download."""
    return _pieces.table(rows, as_csv(rows, classes), left_out, say)


def as_csv(rows: Sequence[Column], classes: Sequence[str]) -> str:
    """The same for a spreadsheet: file, answer, probability of each class, note."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("file", "answer", *map(no_formula, classes), "note"))
    for name, answer in rows:
        if isinstance(answer, str):
            writer.writerow((no_formula(name), "", *[""] * len(classes), answer))
        else:
            given = "neither" if answer.is_ood else answer.best
            note = "" if answer.verdict == "sure" else f"{answer.verdict}; nearest is {answer.best}"
            shares = (f"{answer.probabilities[one]:.5g}" for one in classes)
            writer.writerow((no_formula(name), no_formula(given), *shares, note))
    return "\ufeff" + file.getvalue()
