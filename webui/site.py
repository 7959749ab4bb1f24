"""What all tabs share: the models, and components whose texts follow the language."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
from gradio.components.base import Component
from gradio.events import Dependency

from webui.i18n import LANGUAGES, Translator
from webui.models import Models
from webui.render import macros

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
NETWORK = {"concurrency_id": "network", "concurrency_limit": 2}  # one decodes while the other computes
BULK = {"concurrency_id": "many", "concurrency_limit": 1}  # many images at once do not delay single ones


@dataclass
class Site:
    """What all tabs need."""

    models: Models
    logs: Path
    uploads: Path  # Gradio's upload folder, the only one whose files are served and opened
    language: str  # to begin with; "auto": what the browser asks for
    shared: bool
    keep_images: bool
    texts: list[tuple[Component, dict]] = field(default_factory=list)

    def localized(self, component: Component, **texts: str | Callable[[Translator], object]) -> Component:
        """Return the component, with these texts in the language of the page whenever that changes."""
        for key, text in texts.items():
            setattr(component, key, _translated(text, Translator()))
        self.texts.append((component, texts))
        return component

    def updates(self, language: str) -> list[dict]:
        """Return an update for each component in `texts`."""
        _ = Translator(language)
        return [gr.update(**{key: _translated(text, _) for key, text in texts.items()}) for _c, texts in self.texts]

    def titles(self, _: Translator, loadable: bool = False) -> list[tuple[str, str]]:
        """Return (title, name) of all models, newest first; `loadable`: only of those that can be loaded."""
        return [(choice.title(_), choice.name) for choice in self.models.choices() if not (loadable and choice.error)]


def or_busy(event: Dependency, language: gr.Radio, result: gr.HTML) -> None:
    """Where the queue is full, say so in place of the result: no earlier answer stays beside a new image."""
    texts = json.dumps({key: macros("answer", key).busy() for key in LANGUAGES})
    event.failure(None, language, result, js=f"(language) => ({texts})[language]", **QUIET)


def _translated(text: str | Callable[[Translator], object], _: Translator) -> object:
    return _(text) if isinstance(text, str) else text(_)
