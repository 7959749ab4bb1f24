"""Upload components that hand over files as they are; `load_image` is the only decoder."""

from pathlib import Path
from typing import NamedTuple

import gradio as gr
from gradio import component_meta
from gradio.components.base import Component
from gradio.data_classes import FileData, ImageData, ListFiles
from gradio_client.utils import is_http_url_like

component_meta.create_or_modify_pyi = lambda *_: None  # Gradio would write a components.pyi next to this file


class Upload(NamedTuple):
    """A file in Gradio's upload folder, and what the visitor calls it."""

    path: str
    name: str


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
        raise gr.Error("Send the image itself, not its address.", print_exception=False)
    return await Component.async_move_resource_to_block_cache(component, path)


class ImageUpload(gr.Image):
    """`gr.Image` without decoding."""

    is_template = True  # the browser shows it as its base class
    async_move_resource_to_block_cache = _refuse_urls

    def preprocess(self, payload: ImageData | None) -> str | None:
        """Return the path of the upload, None where there is no image."""
        return None if payload is None else uploaded(self, payload).path


class FilesUpload(gr.File):
    """`gr.File` of several files, with the names that the visitor gave them."""

    is_template = True
    async_move_resource_to_block_cache = _refuse_urls

    def preprocess(self, payload: ListFiles | FileData | None) -> list[Upload]:
        """Return the uploads, in their order."""
        files = payload.root if isinstance(payload, ListFiles) else [payload] if payload else []
        return [uploaded(self, file) for file in files]
