"""The About tab: the card of a model. about.html has the words.

All of it comes from the .pth. What an old or foreign file does not say is left out.
"""

import functools
import io
import json

import gradio as gr
import torch
from gradio.route_utils import get_api_call_path, get_root_url

from classifier.cli import UserError
from classifier.device import device_name, dtype_name
from classifier.evaluation.metrics import best_epoch, confusions, lowest_recall, per_class
from webui.i18n import Translator, data_uri, failed, macros
from webui.models import Loaded, score_of
from webui.site import QUIET, Site
from zoo import MODELS

MAX_CLASSES_IN_TABLE = 12  # of more, only the worst are shown


def about_tab(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> None:
    """Show the model card, and how programs call the page."""

    def show(name: str, language: str, request: gr.Request) -> str:
        inner = request.request
        address = get_root_url(inner, get_api_call_path(inner), inner.scope.get("root_path"))  # as the visitor did
        try:
            card = about(site.models.get(name), language)
        except UserError as error:
            return failed(error, language)
        return card + macros("about", language).programs(address, bool(request.username))

    card = gr.HTML(elem_id="about")
    events = [tab.select, weights.change, language.change]
    gr.on(events, show, [weights, language], card, concurrency_limit=1, **QUIET)  # as matplotlib needs it


def about(loaded: Loaded, language: str) -> str:
    """Return the card as HTML. The first call for a network takes a moment, for the curves."""
    checkpoint, compute = loaded.checkpoint, loaded.compute
    with torch.device("meta"):  # shapes only
        parameters = MODELS[checkpoint.model](num_classes=len(checkpoint.classes)).named_parameters()
    facts = {
        "computed_on": f"{device_name(compute.device)}, {dtype_name(compute.dtype)}",
        # GoogLeNet's auxiliary classifiers are used in training only
        "parameters": sum(values.numel() for name, values in parameters if not name.startswith("aux")),
        "score": score_of(checkpoint),
        "test": checkpoint.scores.get("test", {}),
    }
    if matrix := facts["test"].get("confusion_matrix"):
        facts["errors"] = confusions(matrix, checkpoint.classes, MAX_CLASSES_IN_TABLE)
        facts["by_class"] = lowest_recall(per_class(matrix, checkpoint.classes), MAX_CLASSES_IN_TABLE)
    if history := checkpoint.scores.get("history"):
        facts |= {"epochs": len(history), "minutes": history[-1]["minutes"], "best": best_epoch(history)}
        facts["curves"] = _curves(checkpoint.path.stem, json.dumps(history), language)
    return macros("about", language).card(checkpoint, facts)


@functools.lru_cache(8)
def _curves(name: str, history: str, language: str) -> str:
    """Return the curves of a run as a URI. Not for several threads at once."""
    import matplotlib  # takes a second to import, and few visitors need it

    from classifier.evaluation import plots

    file = io.BytesIO()
    figure = plots.curves({name: json.loads(history)}, _=Translator(language))
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text, so that the fonts are the visitor's
        figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    return data_uri(file.getvalue(), "svg+xml")
