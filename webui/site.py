"""What all tabs share: the models, and components whose texts follow the language."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gradio.components.base import Component

from webui.i18n import Translator
from webui.models import Models

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
NETWORK = {"concurrency_id": "network", "concurrency_limit": 2}  # one decodes while the other computes
BULK = {"concurrency_id": "many", "concurrency_limit": 1}  # many images at once do not delay single ones

Text = str | Callable[[Translator], object]  # an English sentence, or what depends on the language


@dataclass
class Site:
    """What all tabs need."""

    models: Models
    logs: Path
    language: str  # to begin with; "auto": what the browser asks for
    shared: bool
    texts: list[tuple[Component, dict[str, Text]]] = field(default_factory=list)

    def localized(self, component: Component, **texts: Text) -> Component:
        """Return the component, with these texts in the language of the page whenever that changes."""
        for key, text in translated(texts, Translator()).items():
            setattr(component, key, text)
        self.texts.append((component, texts))
        return component


def translated(texts: dict[str, Text], _: Translator) -> dict[str, object]:
    """Return the texts in a language."""
    return {key: text(_) if callable(text) else _(text) for key, text in texts.items()}
