"""What each .pth says of itself, and which is the best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.evaluation.metrics import wilson_interval
from webui.words import Speaker

# When a file was written (ns), its bytes, and what else changes with it: a score noted by evaluate.py leaves its date.
# None where there is no file.
Stamp = tuple[int, ...] | None


def score_of(scores: dict) -> tuple[str, float, int] | None:
    """("test" or "val", share of right answers, images) of what a .pth says of itself; None where it says neither."""
    for part in ("test", "val"):
        try:
            accuracy, count = float(scores[part]["accuracy"]), int(scores[part]["count"])
        except (KeyError, TypeError, ValueError):
            continue
        if 0 <= accuracy <= 1 and count > 0:
            return part, accuracy, count
    return None


@dataclass(frozen=True)
class Choice:
    """A .pth and what it says; `checkpoint` has no weights, and is None where there is a `problem`, a sentence."""

    name: str
    path: Path
    stamp: Stamp
    checkpoint: Checkpoint | None
    problem: str = ""

    @property
    def drawings(self) -> bool:
        """Whether it has only ever seen the drawn sample set."""
        return bool(self.checkpoint) and self.checkpoint.data.get("kind") == "drawings"

    def title(self, say: Speaker) -> str:
        """The name and how often it is right, or why it cannot be loaded, as plain text; `say` translates."""
        if self.problem:
            return say.reason(self.problem)
        found = score_of(self.checkpoint.scores)
        if not found:
            title = say("{name}: not tested", name=self.name)
        else:
            part, accuracy, count = found
            values = {"name": self.name, "right": f"{accuracy:.1%}", "count": f"{count:,}"}
            if part == "test":
                title = say("{name}: {right} of {count} test images", **values)
            else:
                title = say("{name}: {right} of {count} validation images", **values)
        return say("{title} (drawings)", title=title) if self.drawings else title

    def at_least(self) -> float:
        """The lower end of the 95% interval of its accuracy: 100% of 20 images promise less than 97% of 2,000."""
        found = score_of(self.checkpoint.scores)
        return wilson_interval(round(found[1] * found[2]), found[2])[0] if found else 0.0

    def level(self) -> int:
        """Which weights go before others whatever their scores, which were found on different images.

        Somebody's own before those that come with the project, these before a plain state_dict, which does not even
        say what its classes are called, and that before what has only seen drawings.
        """
        if self.drawings:
            return 0
        if self.checkpoint.assumed:
            return 1
        return 2 if self.path.name == checkpoints.SHIPPED else 3


def best_of(choices: Sequence[Choice]) -> Choice:
    """Of the weights that go before others, those with the same classes as the newest compete by their accuracy.

    Args:
        choices: at least one; the newest first, who wins among equals.

    Raises:
        CheckpointError: none of them can be loaded.
    """
    good = [choice for choice in choices if not choice.problem]
    if not good:
        raise CheckpointError(choices[0].problem)
    newest = max(good, key=Choice.level)  # the first of those
    alike = [choice for choice in good if choice.level() == newest.level()]
    alike = [choice for choice in alike if set(choice.checkpoint.classes) == set(newest.checkpoint.classes)]
    return max(alike, key=Choice.at_least)


def stamp_of(path: Path) -> Stamp:
    """Equal as long as the file is the same."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ctime_ns, state.st_ino


def look_into(name: str, path: Path, stamp: Stamp) -> Choice:
    """Read a file for what it says; its weights are let go of."""
    try:
        checkpoint = read(path)
    except CheckpointError as error:
        return Choice(name, path, stamp, None, str(error))
    novelty = {"threshold": checkpoint.ood_stats["threshold"]} if checkpoint.ood_stats else {}
    return Choice(name, path, stamp, replace(checkpoint, state_dict={}, resume={}, ood_stats=novelty))


def read(path: Path) -> Checkpoint:
    """The checkpoint. Raises CheckpointError, whose message names the file without its folder."""
    try:
        checkpoint = checkpoints.load(path)
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(str(path), path.name)) from error
    if not all(values.isfinite().all() for values in checkpoint.state_dict.values()):
        raise CheckpointError(f"{path.name} holds weights that are not numbers. Train it again.")
    return checkpoint
