"""What the page takes: uploads as they are, and calls of programs to /classify and /classify_many.

`load_image` is the only decoder, so the upload components decode nothing.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
from gradio import component_meta
from gradio.data_classes import FileData, ImageData, ListFiles
from gradio_client.utils import is_http_url_like

from classifier.cli import UserError
from webui.classify import MAX_IMAGES, Upload, classify, classify_many
from webui.i18n import Translator
from webui.models import Models
from webui.site import BULK, NETWORK

component_meta.create_or_modify_pyi = lambda *_: None  # Gradio would write a .pyi next to this file

ONE = "Takes an image; returns its class and the probability of each class. A file that cannot be read is an error."
MANY = "Takes images or zips; returns for each image what /classify does, with its file name, or an error of its own."


class Uploads:
    """What our upload components do differently from Gradio's."""

    is_template = True  # the browser shows each as its base class

    async def async_move_resource_to_block_cache(self, path: str) -> str | None:
        """Refuse to download an image from its address: this server contacts nobody."""
        if is_http_url_like(str(path)):
            raise gr.Error("Send the image itself, not its address.", print_exception=False)
        return await super().async_move_resource_to_block_cache(path)

    def uploaded(self, payload: FileData | ImageData) -> Upload:
        """Return where the upload is. Raises gr.Error for whatever is outside of the upload folder.

        Gradio checks this, too, but only where the payload says that it is a file.
        """
        path = Path(payload.path or "").resolve()
        if not path.is_relative_to(self.GRADIO_CACHE) or not path.is_file():
            raise gr.Error("Only an uploaded image can be classified.", print_exception=False)
        return Upload(str(path), payload.orig_name or path.name)


class ImageUpload(Uploads, gr.Image):
    """`gr.Image` without decoding."""

    def preprocess(self, payload: ImageData | None) -> str | None:
        """Return the path of the upload, None where there is no image."""
        return None if payload is None else self.uploaded(payload).path


class FilesUpload(Uploads, gr.File):
    """`gr.File` of several files, with the names that the visitor gave them."""

    def preprocess(self, payload: ListFiles | None) -> list[Upload]:
        """Return the uploads, in their order."""
        return [self.uploaded(file) for file in payload.root] if payload else []


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Tell the caller, and not the terminal, of a UserError in the block."""
    try:
        yield
    except UserError as error:
        raise gr.Error(Translator().error(error), print_exception=False) from None


def add_api(models: Models, name: str) -> None:
    """Add both endpoints to the page that is being built; the model called `name` answers."""

    @told()
    def classify_one(picture: str | None) -> dict:  # the names of the arguments are part of the API
        if picture is None:
            raise UserError("Send one image.")
        return classify(models.get(name), picture).to_json()

    @told()
    def classify_all(pictures: list[Upload]) -> list[dict]:
        if not pictures:
            raise UserError("Send images, or a zip of them.")
        rows = [row for batch in classify_many(models.get(name), pictures) for row in batch]
        if len(rows) > MAX_IMAGES:
            raise UserError(f"At most {MAX_IMAGES} images at a time.")
        return [
            {"file": file} | ({"error": Translator().error(one)} if isinstance(one, UserError) else one.to_json())
            for file, one in rows
        ]

    with gr.Row(visible=False):  # Gradio's endpoints need components, which nobody sees
        one, several = ImageUpload(label="picture"), FilesUpload(label="pictures", file_count="multiple")
        gr.Button().click(classify_one, one, gr.JSON(), api_name="classify", api_description=ONE, **NETWORK)
        gr.Button().click(classify_all, several, gr.JSON(), api_name="classify_many", api_description=MANY, **BULK)
