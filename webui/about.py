"""What weights say of themselves: what they are, how often they are right, what they learned from, where they fail.

All of it comes from the .pth. A fact that an old or foreign one does not hold, or holds in an unknown way, is left out.
"""

import base64
import functools
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import jinja2
import torch

from classifier.checkpoint import Checkpoint
from classifier.device import Compute, device_name, dtype_name
from classifier.evaluation.metrics import best_epoch, wilson_interval
from webui.choices import score_of
from webui.citation import bibtex, network_name
from webui.weaknesses import WEAKNESSES, table
from webui.words import Speaker
from zoo import MODELS

NAMED = 20  # classes by name in a sentence

_environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
_page = _environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
_drawing = threading.Lock()  # matplotlib's settings belong to all threads


def about(checkpoint: Checkpoint, compute: Compute, say: Speaker) -> str:
    """HTML; takes a moment for the curves when weights are asked about for the first time.

    Args:
        checkpoint: its weights are not needed.
        compute: where it computes.
        say: translates, and names classes.
    """
    return _page.render(
        facts={say(term): text for term, fact in FACTS.items() if (text := _told(fact, checkpoint, say))}
        | {say("Computed on"): f"{device_name(compute.device)}, {dtype_name(compute.dtype)}"},
        weaknesses=[text for weakness in WEAKNESSES if (text := _told(weakness, checkpoint, say))],
        table=_told(table, checkpoint, say),
        curves=_told(curves, checkpoint),
        citation=_told(bibtex, checkpoint),
        say=say,
    )


def _told(fact: Callable, *arguments: object) -> object:
    try:
        return fact(*arguments)
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError):
        return ""


def _weights(checkpoint: Checkpoint, say: Speaker) -> str:
    if not checkpoint.created:
        return checkpoint.path.name
    return say("{file}, trained on {date}", file=checkpoint.path.name, date=checkpoint.created[:10])


def _network(checkpoint: Checkpoint, say: Speaker) -> str:
    with torch.device("meta"):  # shapes only
        parameters = MODELS[checkpoint.model](num_classes=len(checkpoint.classes)).named_parameters()
    # those of GoogLeNet's auxiliary classifiers answer nothing
    millions = sum(values.numel() for name, values in parameters if not name.startswith("aux")) / 1e6
    return say(
        "{network}, {millions} million parameters", network=network_name(checkpoint.model), millions=f"{millions:.1f}"
    )


def _sees(checkpoint: Checkpoint, say: Speaker) -> str:
    size = checkpoint.preprocess.size
    if checkpoint.preprocess.resize == "squash":
        return say("the whole image, squashed to {size} × {size} pixels", size=size)
    return say("the largest square in the middle, at {size} × {size} pixels", size=size)


def _classes(checkpoint: Checkpoint, say: Speaker) -> str:
    names = say(", ").join(say.name(name) for name in checkpoint.classes[:NAMED])
    return f"{len(checkpoint.classes)}: {names}" + ", ..." * (len(checkpoint.classes) > NAMED)


def _learned_from(checkpoint: Checkpoint, say: Speaker) -> str:
    data = checkpoint.data
    values = {"count": f"{data['train']:,}", "folder": PureWindowsPath(data["root"]).name or data["root"]}
    if data.get("kind") == "drawings":
        return say("{count} drawings made by a program, in {folder}", **values)
    if data.get("kind") == "photographs":
        return say("{count} photographs, in {folder}", **values)
    return say("{count} images, in {folder}", **values)


def _began_with(checkpoint: Checkpoint, say: Speaker) -> str:
    weights = checkpoint.settings["weights"]
    if weights == "imagenet":
        return say("weights that had learned ImageNet's 1,000 classes")
    return PureWindowsPath(weights).name


def _right(checkpoint: Checkpoint, say: Speaker) -> str:
    found = score_of(checkpoint.scores)
    if not found:
        return say("not tested; to test it: {command}", command="python evaluate.py")
    part, accuracy, count = found
    values = {"right": f"{accuracy:.1%}", "count": f"{count:,}"}
    if part == "val":
        return say(
            "{right} of {count} validation images, by which the best epoch was chosen. Not tested yet; to test "
            "it: {command}",
            command="python evaluate.py",
            **values,
        )
    low, high = wilson_interval(round(accuracy * count), count)
    return say(
        "{right} of {count} test images, which it had never seen; 95% interval {low} to {high}",
        low=f"{low:.1%}",
        high=f"{high:.1%}",
        **values,
    )


def _calibration(checkpoint: Checkpoint, say: Speaker) -> str:
    error = checkpoint.scores.get("test", {}).get("calibration_error")
    if error is not None:
        return say(
            "its percentages are off by {points} points on average on the test images (calibration error; "
            "temperature {temperature})",
            points=f"{100 * error:.1f}",
            temperature=f"{checkpoint.temperature:.2f}",
        )
    if checkpoint.temperature == 1:
        return say("its percentages have not been compared with how often it is right")
    return say(
        "its percentages were fitted to how often it is right on the validation images (temperature {temperature})",
        temperature=f"{checkpoint.temperature:.2f}",
    )


def _training(checkpoint: Checkpoint, say: Speaker) -> str:
    history = checkpoint.scores["history"]
    return say(
        "{epochs} epochs in {minutes} min; the best was epoch {best}",
        epochs=len(history),
        minutes=f"{history[-1]['minutes']:.0f}",
        best=best_epoch(history)["epoch"],
    )


FACTS = {
    "File": _weights,
    "Network": _network,
    "It sees": _sees,
    "Classes": _classes,
    "Learned from": _learned_from,
    "Began with": _began_with,
    "Right": _right,
    "Calibration": _calibration,
    "Training": _training,
    "Assumed": lambda checkpoint, say: checkpoint.assumed,
}


def curves(checkpoint: Checkpoint) -> dict:
    """The curves of the run as an SVG in an address of its own, and what they say, for those who do not see them."""
    history = checkpoint.scores["history"]
    best = best_epoch(history)
    return {
        "address": _curves(checkpoint.path.stem, json.dumps(history)),
        "epochs": len(history),
        "best": best["epoch"],
        "right": f"{best['val']['accuracy']:.1%}",
    }


def _curves(name: str, history: str) -> str:
    with _drawing:
        return _drawn(name, history)


@functools.lru_cache(8)
def _drawn(name: str, history: str) -> str:
    from classifier.evaluation import plots  # here, since matplotlib takes a second and few visitors ask

    file = io.BytesIO()
    figure = plots.curves({name: json.loads(history)})
    figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
