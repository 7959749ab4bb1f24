"""What the page takes: uploads as they are, and calls of programs to /classify and /classify_many.

`load_image` is the only decoder, so the upload components decode nothing.
"""

import functools
from pathlib import Path

import gradio as gr
from gradio import component_meta
from gradio.components.base import Component
from gradio.data_classes import FileData, ImageData, ListFiles
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like

from classifier.cli import UserError
from webui.classify import MAX_IMAGES, Upload, check_size, classify, classify_many
from webui.i18n import Translator
from webui.models import Models
from webui.site import BULK, NETWORK

component_meta.create_or_modify_pyi = lambda *_: None  # Gradio would write a .pyi next to this file

ONE = (
    'Takes an image; returns its label (a class, or "neither") and how probable each class is if it is one of them. '
    "A file that cannot be read is an error."
)
MANY = "Takes images or zips; returns for each image what /classify does, with its file name, or an error of its own."
NOT_UPLOADED = "Send the image itself, not its address or name: handle_file uploads it in Python, /upload for curl."


def uploaded(component: Component, payload: FileData | ImageData) -> Upload:
    """Return where the upload is. Raises gr.Error for whatever is outside of the upload folder.

    Gradio checks this, too, but only where the payload says that it is a file.
    """
    path = Path(payload.path or "").resolve()
    if not path.is_relative_to(component.GRADIO_CACHE) or not path.is_file():
        raise gr.Error("Only an uploaded image can be classified.", print_exception=False)
    return Upload(str(path), payload.orig_name or path.name)


async def _refuse_urls(component: Component, path: str) -> str | None:
    """Replace Gradio's method, which would download an image from its address: this server contacts nobody."""
    if is_http_url_like(str(path)):
        raise gr.Error(NOT_UPLOADED, print_exception=False)
    return await Component.async_move_resource_to_block_cache(component, path)


class _Image(ImageData):
    @classmethod
    def model_validate(cls, payload: object, **options) -> ImageData:
        """Raise gr.Error for text and other things; pydantic's error would not reach the program that sent them."""
        if not is_file_obj_with_meta(payload):
            raise gr.Error(NOT_UPLOADED, print_exception=False)
        return super().model_validate(payload, **options)


class _Files(ListFiles):
    @classmethod
    def model_validate(cls, payload: object, **options) -> ListFiles:
        """Raise gr.Error for anything but a list of uploads."""
        if not isinstance(payload, list) or not all(map(is_file_obj_with_meta, payload)):
            raise gr.Error(NOT_UPLOADED, print_exception=False)
        return super().model_validate(payload, **options)


class ImageUpload(gr.Image):
    """`gr.Image` without decoding."""

    is_template = True  # the browser shows it as its base class
    data_model = _Image
    async_move_resource_to_block_cache = _refuse_urls

    def preprocess(self, payload: ImageData | None) -> str | None:
        """Return the path of the upload, None where there is no image."""
        if payload is None:
            return None
        path = uploaded(self, payload).path
        try:
            check_size(path)
        except UserError as error:
            raise gr.Error(Translator().error(error), print_exception=False) from None
        return path


class FilesUpload(gr.File):
    """`gr.File` of several files, with the names that the visitor gave them."""

    is_template = True
    async_move_resource_to_block_cache = _refuse_urls

    @functools.wraps(gr.File.__init__)  # Gradio reads the signature
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.data_model = _Files

    def preprocess(self, payload: ListFiles | None) -> list[Upload]:
        """Return the uploads, in their order."""
        return [uploaded(self, file) for file in payload.root] if payload else []


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
