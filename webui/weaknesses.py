"""Where weights fail, as far as their .pth tells: in words, and class by class.

Each sentence is empty where there is nothing to say; all raise KeyError, TypeError or ValueError where the .pth does
not hold what they tell of.
"""

from typing import NamedTuple

import torch

from classifier.checkpoint import Checkpoint
from classifier.evaluation.metrics import per_class
from webui.words import Speaker

MANY = 12  # classes; of more, only the worst are shown


def _only_drawings(checkpoint: Checkpoint, say: Speaker) -> str:
    if checkpoint.data.get("kind") != "drawings":
        return ""
    return say("It has only ever seen drawings. What it says of a photograph is a guess.")


def _only_these(checkpoint: Checkpoint, say: Speaker) -> str:
    if not checkpoint.ood_stats:
        return say(
            "It knows its {count} classes and nothing else: whatever an image shows, it names one of them.",
            count=len(checkpoint.classes),
        )
    return say(
        "It knows its {count} classes and nothing else. An image unlike all that it learned from is answered "
        "with “neither”, but it does not notice every one.",
        count=len(checkpoint.classes),
    )


def _wrongly_neither(checkpoint: Checkpoint, say: Speaker) -> str:
    if not checkpoint.ood_stats:
        return ""
    text = say(
        "Blurred and very small images count as unlike, whatever they show, and so does about one in 20 good ones."
    )
    test = checkpoint.scores.get("test", {})
    if test.get("neither") is None:
        return text
    return f"{text} " + say(
        "Of the test images it was {neither} of {count}.", neither=f"{test['neither']:,}", count=f"{test['count']:,}"
    )


def _weakest(checkpoint: Checkpoint, say: Speaker) -> str:
    matrix = confusion(checkpoint)
    if len(matrix) == 2:  # then the most frequent mistake says the same
        return ""
    worst = min((row for row in _by_class(checkpoint) if row.recall is not None), key=lambda row: row.recall)
    return say(
        "Of its classes it finds this one least often: {name}, {recall} of {count} test images.",
        name=say.name(worst.name),
        recall=f"{worst.recall:.1%}",
        count=f"{worst.count:,}",
    )


def _most_frequent_mistake(checkpoint: Checkpoint, say: Speaker) -> str:
    true, taken, wrong, count = mistakes(checkpoint)[0]
    return say(
        "Its most frequent mistake: {wrong} of {count} test images of {true} taken for {taken}.",
        wrong=f"{wrong:,}",
        count=f"{count:,}",
        true=say.name(true),
        taken=say.name(taken),
    )


def _edges(checkpoint: Checkpoint, say: Speaker) -> str:
    if checkpoint.preprocess.resize == "squash":
        return say(
            "What is small in a large image may be lost, since it sees all of it at {size} × {size} pixels.",
            size=checkpoint.preprocess.size,
        )
    return say("What lies outside of the largest square in the middle of an image is not seen.")


WEAKNESSES = (_only_drawings, _only_these, _wrongly_neither, _most_frequent_mistake, _weakest, _edges)


class Class(NamedTuple):
    """How a class fared among the test images; a share of nothing is None."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    count: int


def confusion(checkpoint: Checkpoint) -> torch.Tensor:
    """(classes, classes) int64, rows truth. Raises KeyError or ValueError where the .pth has none."""
    matrix = torch.tensor(checkpoint.scores["test"]["confusion_matrix"])
    if matrix.shape != (len(checkpoint.classes),) * 2 or matrix.is_floating_point() or matrix.min() < 0:
        raise ValueError("no confusion matrix of these classes")
    return matrix


def mistakes(checkpoint: Checkpoint) -> list[tuple[str, str, int, int]]:
    """(true class, taken for, images, of so many of the true class), the most frequent first."""
    matrix, names = confusion(checkpoint), checkpoint.classes
    wrong = matrix.clone().fill_diagonal_(0).flatten()
    places = [place for place in wrong.argsort(descending=True, stable=True)[:MANY].tolist() if wrong[place]]
    rows = [(place // len(names), place % len(names)) for place in places]
    return [(names[i], names[j], int(matrix[i, j]), int(matrix[i].sum())) for i, j in rows]


def _by_class(checkpoint: Checkpoint) -> list[Class]:
    columns = per_class(confusion(checkpoint))
    shares = [[None if value != value else value for value in column.tolist()] for column in columns[:3]]
    return [Class(*row) for row in zip(checkpoint.classes, *shares, columns.count.tolist(), strict=True)]


def table(checkpoint: Checkpoint, say: Speaker) -> dict:
    """What the page's tables hold: of many classes, those found least often and the most frequent mistakes."""
    matrix, classes = confusion(checkpoint), _by_class(checkpoint)
    if few := len(classes) <= MANY:
        rows = [(say.name(name), row) for name, row in zip(checkpoint.classes, matrix.tolist(), strict=True)]
    else:
        classes = sorted(classes, key=lambda row: 2 if row.recall is None else row.recall)[:MANY]
        rows = [(say.name(true), say.name(taken), wrong, count) for true, taken, wrong, count in mistakes(checkpoint)]
    return {"classes": classes, "few": few, "rows": rows}
