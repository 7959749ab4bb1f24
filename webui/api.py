"""What programs may call: /classify and /classify_many, through Gradio's own protocol."""

import gradio as gr

from classifier.cli import UserError
from webui.classify import MAX_IMAGES, classify, classify_many
from webui.components import FilesUpload, ImageUpload, Upload
from webui.i18n import Translator
from webui.models import Models
from webui.site import BULK, NETWORK

ONE = "Takes an image; returns its class and the probability of each class. A file that cannot be read is an error."
MANY = "Takes images or zips; returns for each image what /classify does, with its file name, or an error of its own."


def add_api(models: Models, name: str) -> None:
    """Add both endpoints to the page that is being built; the model called `name` answers."""
    _ = Translator()

    def classify_one(picture: str | None) -> dict:  # the names of the arguments are part of the API
        if picture is None:
            raise gr.Error("Send one image.", print_exception=False)
        try:
            return classify(models.get(name), picture).to_json()
        except UserError as error:
            raise gr.Error(_.error(error), print_exception=False) from None

    def classify_all(pictures: list[Upload]) -> list[dict]:
        if not pictures:
            raise gr.Error("Send images, or a zip of them.", print_exception=False)
        try:
            rows = [row for batch in classify_many(models.get(name), pictures) for row in batch]
        except UserError as error:
            raise gr.Error(_.error(error), print_exception=False) from None
        if len(rows) > MAX_IMAGES:
            raise gr.Error(f"At most {MAX_IMAGES} images at a time.", print_exception=False)
        return [
            {"file": file} | ({"error": _.error(found)} if isinstance(found, UserError) else found.to_json())
            for file, found in rows
        ]

    with gr.Row(visible=False):  # Gradio's endpoints need components, which nobody sees
        one, several = ImageUpload(label="picture"), FilesUpload(label="pictures", file_count="multiple")
        gr.Button().click(classify_one, one, gr.JSON(), api_name="classify", api_description=ONE, **NETWORK)
        gr.Button().click(classify_all, several, gr.JSON(), api_name="classify_many", api_description=MANY, **BULK)
