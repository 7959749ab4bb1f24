"""What each .pth says of itself, and which of them is the best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.evaluation.metrics import wilson_interval
from webui.i18n import Translator

# modification time (ns), bytes, and what else changes with a file: evaluate.py adds scores without changing its date;
# None where there is no file
Stamp = tuple[int, ...] | None


@dataclass(frozen=True)
class Choice:
    """A .pth and what it says; `checkpoint` has no weights, and is None where `error` says why it cannot be used."""

    name: str
    path: Path
    stamp: Stamp
    checkpoint: Checkpoint | None
    error: UserError | None = None

    def title(self, _: Translator) -> str:
        """Return its name and accuracy, or why it cannot be loaded, as plain text."""
        if self.error:
            return _.error(self.error)
        part, accuracy, count = score_of(self.checkpoint.scores)
        template = {
            "test": "{name}: {accuracy} accuracy on {count} test images",
            "val": "{name}: {accuracy} accuracy on {count} validation images",
            "": "{name}: not tested",
        }
        title = _(template[part], name=self.name, accuracy=f"{accuracy:.1%}", count=f"{count:,}")
        return _("{title} (drawings)", title=title) if learned_from_drawings(self.checkpoint) else title


def best_of(choices: Sequence[Choice]) -> Choice:
    """Return the most accurate of those that rank highest and have the same classes as the newest of these.

    Accuracies compete by the lower ends of their 95% intervals: 100% of 20 images promise less than 97% of 2,000. Of
    equals the first wins; give the newest first. Raises UserError where none can be loaded.
    """
    good = [choice for choice in choices if not choice.error]
    if not good:
        raise choices[0].error.with_traceback(None)
    newest = max(good, key=_rank)  # the first among equals
    alike = [choice for choice in good if _rank(choice) == _rank(newest)]
    alike = [choice for choice in alike if set(choice.checkpoint.classes) == set(newest.checkpoint.classes)]
    return max(alike, key=lambda choice: accuracy_interval(choice.checkpoint.scores)[0])


def read_choice(name: str, path: Path, stamp: Stamp) -> Choice:
    """Read what a file says; its weights are dropped."""
    try:
        checkpoint = read(path)
    except CheckpointError as error:
        return Choice(name, path, stamp, None, error.with_traceback(None))
    ood_stats = {"threshold": checkpoint.ood_stats["threshold"]} if checkpoint.ood_stats else {}
    return Choice(name, path, stamp, replace(checkpoint, state_dict={}, resume={}, ood_stats=ood_stats))


def read(path: Path) -> Checkpoint:
    """Return the checkpoint. Raises CheckpointError, also where weights are not numbers."""
    checkpoint = checkpoints.load(path)
    if not checkpoints.finite(checkpoint.state_dict):
        raise CheckpointError("{file} holds weights that are not numbers. Train it again.", file=path)
    return checkpoint


def stamp_of(path: Path) -> Stamp:
    """Return what is equal as long as the file is the same."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ctime_ns, state.st_ino


def score_of(scores: dict) -> tuple[str, float, int]:
    """Return (part, accuracy, images), part being "test", or "val", or "" where a .pth has no valid score."""
    for part in ("test", "val"):
        try:
            accuracy, count = float(scores[part]["accuracy"]), int(scores[part]["count"])
        except (KeyError, TypeError, ValueError):
            continue
        if 0 <= accuracy <= 1 and count > 0:
            return part, accuracy, count
    return "", 0.0, 0


def accuracy_interval(scores: dict) -> tuple[float, float]:
    """Return the 95% interval of the accuracy that a .pth has; (0, 1) where it has none."""
    _, accuracy, count = score_of(scores)
    return wilson_interval(round(accuracy * count), count)


def learned_from_drawings(checkpoint: Checkpoint) -> bool:
    """Return whether the network was trained with the drawn sample set only."""
    return checkpoint.data.get("kind") == "drawings"


def _rank(choice: Choice) -> tuple[bool, bool, bool]:
    """Return what goes before accuracy: not only drawings, known class names (no plain state_dict), a user's own.

    Scores of different ranks were measured on different images, so they do not compete.
    """
    checkpoint = choice.checkpoint
    return not learned_from_drawings(checkpoint), not checkpoint.assumed, choice.path.name != checkpoints.SHIPPED
