"""The model card: what a network is, its accuracy, what it was trained on, where it fails. about.html has the words.

All of it comes from the .pth. What an old or foreign file does not say, or says in an unknown way, is left out.
"""

import functools
import io
import json
import threading
from pathlib import PureWindowsPath

import torch
from torch import Tensor

from classifier.checkpoint import Checkpoint
from classifier.device import Compute, device_name, dtype_name
from classifier.evaluation.metrics import best_epoch, per_class
from webui.choices import accuracy_interval, score_of
from webui.render import data_uri, macros
from zoo import MODELS

MAX_CLASSES_IN_TABLE = 12  # of more, only the worst are shown
_drawing = threading.Lock()  # matplotlib's settings belong to all threads


def about(checkpoint: Checkpoint, compute: Compute, language: str) -> str:
    """Return the card as HTML. The first call for a checkpoint takes a moment, for the curves."""
    facts = {"computed_on": f"{device_name(compute.device)}, {dtype_name(compute.dtype)}"}
    for name, fact in FACTS.items():
        try:
            facts[name] = fact(checkpoint)
        except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError):
            facts[name] = None
    return macros("about", language).card(checkpoint, facts)


def _parameters(checkpoint: Checkpoint) -> int:
    with torch.device("meta"):  # shapes only
        parameters = MODELS[checkpoint.model](num_classes=len(checkpoint.classes)).named_parameters()
    # GoogLeNet's auxiliary classifiers are used in training only
    return sum(values.numel() for name, values in parameters if not name.startswith("aux"))


def _trained_on(checkpoint: Checkpoint) -> tuple[int, str]:
    """Return how many images, and their folder without its path."""
    root = checkpoint.data["root"]
    return int(checkpoint.data["train"]), PureWindowsPath(root).name or root


def _confusion(checkpoint: Checkpoint) -> Tensor:
    """Return (classes, classes) int64, rows are labels. Raises KeyError or ValueError where the .pth has none."""
    matrix = torch.tensor(checkpoint.scores["test"]["confusion_matrix"])
    if matrix.shape != (len(checkpoint.classes),) * 2 or matrix.is_floating_point() or matrix.min() < 0:
        raise ValueError("no confusion matrix of these classes")
    return matrix


def errors(checkpoint: Checkpoint) -> list[tuple[str, str, int, int]]:
    """Return (label, answer, images, of so many with this label), the most frequent first."""
    matrix, names = _confusion(checkpoint), checkpoint.classes
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    order = wrong.argsort(descending=True, stable=True)[:MAX_CLASSES_IN_TABLE].tolist()
    cells = [divmod(index, len(names)) for index in order if wrong[index]]
    return [(names[i], names[j], int(matrix[i, j]), int(matrix[i].sum())) for i, j in cells]


def by_class(checkpoint: Checkpoint) -> list[tuple]:
    """Return (class, precision, recall, F1, images), a share of nothing being None; of many, the lowest recalls."""
    scores = per_class(_confusion(checkpoint))
    shares = [[None if value != value else value for value in column.tolist()] for column in scores[:3]]
    rows = list(zip(checkpoint.classes, *shares, scores.count.tolist(), strict=True))
    if len(rows) > MAX_CLASSES_IN_TABLE:
        rows.sort(key=lambda row: 2 if row[2] is None else row[2])
    return rows[:MAX_CLASSES_IN_TABLE]


def curves(checkpoint: Checkpoint) -> dict:
    """Return the curves of the run as a URI, and what they show."""
    history = checkpoint.scores["history"]
    best = best_epoch(history)
    shown = {"epochs": len(history), "best": best["epoch"], "accuracy": best["val"]["accuracy"]}
    with _drawing:
        return shown | {"minutes": history[-1]["minutes"], "uri": _drawn(checkpoint.path.stem, json.dumps(history))}


@functools.lru_cache(8)
def _drawn(name: str, history: str) -> str:
    from classifier.evaluation import plots  # imports matplotlib, which takes a second and few visitors need

    file = io.BytesIO()
    plots.curves({name: json.loads(history)}).savefig(file, format="svg", facecolor="white", metadata={"Date": None})
    return data_uri(file.getvalue(), "svg+xml")


FACTS = {
    "parameters": _parameters,
    "trained_on": _trained_on,
    "pretrained": lambda checkpoint: PureWindowsPath(checkpoint.settings["weights"]).name,
    "score": lambda checkpoint: score_of(checkpoint.scores),
    "interval": lambda checkpoint: accuracy_interval(checkpoint.scores),
    "calibration_error": lambda checkpoint: float(checkpoint.scores["test"]["calibration_error"]),
    "neither": lambda checkpoint: (int(checkpoint.scores["test"]["neither"]), int(checkpoint.scores["test"]["count"])),
    "confusion": lambda checkpoint: list(zip(checkpoint.classes, _confusion(checkpoint).tolist(), strict=True)),
    "errors": errors,
    "by_class": by_class,
    "curves": curves,
}
