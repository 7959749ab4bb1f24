"""What visitors send: components that hand over uploaded files as they are, and nothing else of this machine."""

from pathlib import Path
from typing import NamedTuple

import gradio as gr
from gradio import component_meta
from gradio.components.base import Component
from gradio.data_classes import FileData, ImageData, ListFiles
from gradio_client.utils import is_http_url_like

component_meta.create_or_modify_pyi = lambda *_: None  # Gradio would write an uploads.pyi next to this file


class Upload(NamedTuple):
    """One file: where it lies now, and what the visitor called it."""

    path: str
    name: str


def uploaded(component: Component, payload: FileData | ImageData) -> Upload:
    """Where the upload lies. Raises gr.Error for whatever is outside of Gradio's own upload folder."""
    path = Path(payload.path or "").resolve()
    if not path.is_relative_to(component.GRADIO_CACHE) or not path.is_file():
        raise gr.Error("Only an uploaded image can be classified.", print_exception=False)
    return Upload(str(path), payload.orig_name or path.name)


async def without_addresses(component: Component, path: str) -> str | None:
    """As in Gradio, which would also fetch an image from an address: this server calls nobody."""
    if is_http_url_like(str(path)):
        raise gr.Error("Send the image itself, not its address.", print_exception=False)
    return await Component.async_move_resource_to_block_cache(component, path)


class ImageInput(gr.Image):
    """`gr.Image`, undecoded: `load_image` is the only decoder."""

    is_template = True  # the browser shows it as its base class
    async_move_resource_to_block_cache = without_addresses

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the upload; None where there is no image."""
        return None if payload is None else uploaded(self, payload).path


class Files(gr.File):
    """`gr.File` of several files, with the names that the visitor gave them."""

    is_template = True
    async_move_resource_to_block_cache = without_addresses

    def preprocess(self, payload: ListFiles | FileData | None) -> list[Upload]:
        """The uploads, in their order."""
        if payload is None:
            return []
        return [uploaded(self, file) for file in (payload.root if isinstance(payload, ListFiles) else [payload])]
