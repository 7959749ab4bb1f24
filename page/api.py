"""What programs may ask: /classify and /classify_many, through Gradio's own protocol."""

import gradio as gr

from classifier.cli import UserError
from classifier.pictures import PictureError
from page.answers import MANY, Answer, ask, ask_many
from page.models import Models
from page.site import BULK, NETWORK
from page.uploads import Files, Picture, Upload

ONE = "One picture in; its class and the probability of each class out. A file that cannot be read is an error."
SEVERAL = "Pictures or zips in; for each picture what /classify gives, with its file name, or an error of its own, out."


def offer(models: Models, name: str) -> None:
    """Add both to the page that is being built; the weights called `name` answer.

    What programs call hangs on components that nobody sees.
    """

    def classify(picture: str | None) -> dict:  # the names of the arguments are part of the API
        if picture is None:
            raise gr.Error("Send one picture.", print_exception=False)
        try:
            return as_json(ask(models.get(name), picture))
        except PictureError as error:
            raise gr.Error(f"This file {error}.", print_exception=False) from None
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def classify_many(pictures: list[Upload]) -> list[dict]:
        if not pictures:
            raise gr.Error("Send pictures, or a zip of them.", print_exception=False)
        try:
            answers = []
            for batch in ask_many(models.get(name), pictures):
                for file, found in batch:
                    one = {"error": f"This file {found}."} if isinstance(found, str) else as_json(found)
                    answers.append({"file": file} | one)
                if len(answers) > MANY:
                    raise gr.Error(f"At most {MANY} pictures at a time.", print_exception=False)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return answers

    with gr.Row(visible=False):
        for function, inputs, description, share in (
            (classify, Picture(label="picture"), ONE, NETWORK),
            (classify_many, Files(label="pictures", file_count="multiple"), SEVERAL, BULK),
        ):
            gr.Button().click(
                function, inputs, gr.JSON(), api_name=function.__name__, api_description=description, **share
            )  # fmt: skip


def as_json(answer: Answer) -> dict:
    """An answer as plain values: {"label": "cat", "confidences": [{"label": "cat", "confidence": 0.98}, ...], ...}"""
    confidences = [{"label": label, "confidence": share} for label, share in answer.probabilities.items()]
    return {
        "label": answer.best,
        "verdict": answer.verdict,  # "sure", "not sure", or "neither": unlike the pictures it learned from
        "confidences": confidences,
        "milliseconds": round(1000 * answer.seconds, 1),
    }
