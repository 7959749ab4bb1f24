"""What all parts of the page need: the weights, and components whose texts follow the language."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
from gradio.components.base import Component
from gradio.events import Dependency

from webui import html
from webui.models import Models
from webui.words import LANGUAGES, Speaker

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
NETWORK = {"concurrency_id": "network", "concurrency_limit": 2}  # one decodes while the other computes
BULK = {"concurrency_id": "many", "concurrency_limit": 1}  # many images at once do not hold up single ones


@dataclass
class Site:
    """What all tabs need."""

    models: Models
    logs: Path
    uploads: Path  # Gradio's own folder: the only one whose files are served and opened
    language: str  # to begin with; "auto": what the browser asks for
    shared: bool
    keep_images: bool
    texts: list[tuple[Component, dict]] = field(default_factory=list)

    def put(self, component: Component, **texts: str | Callable[[Speaker], object]) -> Component:
        """The component, with these texts in the language of the page, now and whenever it changes."""
        for key, text in texts.items():
            setattr(component, key, _said(text, Speaker()))
        self.texts.append((component, texts))
        return component

    def said(self, language: str) -> list[dict]:
        """What changes with the language, for each component in `texts`."""
        say = Speaker(language)
        return [gr.update(**{key: _said(text, say) for key, text in texts.items()}) for _, texts in self.texts]

    def titles(self, say: Speaker, good: bool = False) -> list[tuple[str, str]]:
        """(title, name) of all weights, newest first; `good`: only of those that can be loaded."""
        return [(choice.title(say), choice.name) for choice in self.models.choices() if not (good and choice.problem)]


def or_busy(event: Dependency, language: gr.Radio, result: gr.HTML) -> None:
    """Where the queue is full, say so in place of the result: no earlier answer stays beside a new image."""
    texts = json.dumps({key: html.busy(Speaker(key)) for key in LANGUAGES})
    event.failure(None, language, result, js=f"(language) => ({texts})[language]", **QUIET)


def _said(text: str | Callable[[Speaker], object], say: Speaker) -> object:
    return say(text) if isinstance(text, str) else text(say)
