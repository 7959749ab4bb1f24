"""What programs may ask: /classify and /classify_many, through Gradio's own protocol."""

import gradio as gr

from classifier.cli import UserError
from classifier.data.images import ImageError
from webui.answers import MANY, Answer, ask, ask_many
from webui.models import Models
from webui.site import BULK, NETWORK
from webui.uploads import Files, ImageInput, Upload

ONE = "One image in; its class and the probability of each class out. A file that cannot be read is an error."
SEVERAL = "Images or zips in; for each image what /classify gives, with its file name, or an error of its own, out."


def offer(models: Models, name: str) -> None:
    """Add both to the page that is being built; the weights called `name` answer.

    What programs call hangs on components that nobody sees.
    """

    def classify(image: str | None) -> dict:  # the names of the arguments are part of the API
        if image is None:
            raise gr.Error("Send one image.", print_exception=False)
        try:
            return as_json(ask(models.get(name), image))
        except ImageError as error:
            raise gr.Error(f"This file {error}.", print_exception=False) from None
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def classify_many(images: list[Upload]) -> list[dict]:
        if not images:
            raise gr.Error("Send images, or a zip of them.", print_exception=False)
        try:
            answers = []
            for batch in ask_many(models.get(name), images):
                for file, found in batch:
                    one = {"error": f"This file {found}."} if isinstance(found, str) else as_json(found)
                    answers.append({"file": file} | one)
                if len(answers) > MANY:
                    raise gr.Error(f"At most {MANY} images at a time.", print_exception=False)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return answers

    with gr.Row(visible=False):
        for function, inputs, description, share in (
            (classify, ImageInput(label="picture"), ONE, NETWORK),
            (classify_many, Files(label="images", file_count="multiple"), SEVERAL, BULK),
        ):
            gr.Button().click(
                function, inputs, gr.JSON(), api_name=function.__name__, api_description=description, **share
            )  # fmt: skip


def as_json(answer: Answer) -> dict:
    """An answer as plain values: {"label": "cat", "confidences": [{"label": "cat", "confidence": 0.98}, ...], ...}"""
    confidences = [{"label": label, "confidence": share} for label, share in answer.probabilities.items()]
    return {
        "label": answer.best,
        "verdict": answer.verdict,  # "sure", "not sure", or "neither": unlike the images it learned from
        "confidences": confidences,
        "milliseconds": round(1000 * answer.seconds, 1),
    }
