"""Several networks on the same images: what each costs, and which differences are more than chance."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor

from classifier.checkpoint import Checkpoint
from zoo.table import layer_table

LEVEL = 0.05  # how often a difference may be claimed where there is none, over all pairs
WARM, TIMED, SECONDS = 5, 50, 5.0  # single images before and while the clock runs, and at most so long


@dataclass
class EvalResult:
    """A network with its answers; `report` holds its scores as plain values."""

    name: str
    checkpoint: Checkpoint
    report: dict
    logits: Tensor  # (N, classes)
    labels: Tensor  # (N,)
    mirrored: bool = False  # whether the answers are means over an image and its mirror image

    @property
    def right(self) -> Tensor:
        """(N,) bool."""
        return self.logits.argmax(1) == self.labels


def cost(checkpoint: Checkpoint) -> dict:
    """Parameters and multiply-adds of one image, as the network answers, and the megabytes of its file."""
    network = checkpoint.network()
    try:
        rows = layer_table(network, checkpoint.preprocess.size)
    except Exception:  # a network of somebody's own that cannot be traced
        rows = []
    return {
        "parameters": sum(row.parameters for row in rows) or sum(p.numel() for p in network.parameters()),
        "multiply_adds": sum(row.multiply_adds for row in rows) or None,
        "megabytes": checkpoint.path.stat().st_size / 1e6 if checkpoint.path else None,
    }


def latency(answer: Callable[[Tensor], object], device: torch.device, size: int) -> dict:
    """Milliseconds from the pixels of one image to its answer, warm: median and 95th percentile.

    Args:
        answer: takes (1, 3, size, size) uint8 on `device`, and has its result on the CPU when it returns.
        device: where the network computes; the way there counts.
        size: side in pixels.
    """
    image = torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)
    times: list[float] = []
    for turn in range(WARM + TIMED):
        start = time.perf_counter()
        answer(image.to(device))
        times += [time.perf_counter() - start] * (turn >= WARM)
        if sum(times) > SECONDS and len(times) > 2:
            break
    return {
        "milliseconds_for_one": 1000 * statistics.median(times),
        "milliseconds_for_one_p95": 1000 * statistics.quantiles(times, n=20, method="inclusive")[-1],
    }


class Disagreement(NamedTuple):
    """Two networks on the same images."""

    first: int  # images that only the first one has right
    second: int  # that only the second one has right
    p: float  # how probable a split at least as uneven is if neither is better


def mcnemar(first: Tensor, second: Tensor) -> Disagreement:
    """McNemar's exact test: of the images that one has right and the other wrong, is the split like a coin's?

    Args:
        first, second: (N,) bool, whether each network has each image right.
    """
    only_first, only_second = (first & ~second).sum().item(), (second & ~first).sum().item()
    both = only_first + only_second
    return Disagreement(only_first, only_second, float(binomtest(only_first, both).pvalue) if both else 1.0)


def verdicts(judged: Sequence[EvalResult]) -> list[dict]:
    """For every pair who is better, in words, by McNemar's exact test.

    Of many pairs some differ by chance alone. So the p-values are judged by Holm's step-down rule ("A Simple
    Sequentially Rejective Multiple Test Procedure", 1979), which keeps the chance of any wrong claim below LEVEL.
    """
    pairs = list(itertools.combinations(judged, 2))
    tests = [mcnemar(first.right, second.right) for first, second in pairs]
    real, claimed = set(), True
    for rank, i in enumerate(sorted(range(len(pairs)), key=lambda i: tests[i].p)):
        claimed = claimed and tests[i].p <= LEVEL / (len(pairs) - rank)
        if claimed:
            real.add(i)
    return [
        {
            "first": first.name,
            "second": second.name,
            "only_first_right": test.first,
            "only_second_right": test.second,
            "p": test.p,
            "real": i in real,
            "words": _words(first.name, second.name, test, i in real, len(pairs)),
        }
        for i, ((first, second), test) in enumerate(zip(pairs, tests, strict=True))
    ]


def _words(first: str, second: str, test: Disagreement, real: bool, pairs: int) -> str:
    both = test.first + test.second
    if not both:
        return f"{first} and {second} are right and wrong on the same images"
    better, worse, more, less = first, second, test.first, test.second
    if test.second > test.first:
        better, worse, more, less = second, first, test.second, test.first
    p = f"p = {test.p:.2g}" if test.p >= 0.0001 else "p < 0.0001"
    split = f"{more} against {less} of the {both} that only one has right, {p}"
    if real:
        return f"{better} is better than {worse}: {split}"
    among = f", too large for one of {pairs} pairs" if test.p <= LEVEL else ""
    return f"no difference shown between {first} and {second}: {split}{among}"


def rows(judged: Sequence[EvalResult]) -> list[tuple[str, ...]]:
    """The networks side by side, headings first, the most accurate first."""
    table = [
        ("network", "accuracy", "95% interval", "worst class", "calibration", "parameters", "multiply-adds",
         "MB", "images/s", "ms for one", "95% below")
    ]  # fmt: skip
    for entry in sorted(judged, key=lambda entry: -entry.report["accuracy"]):
        report = entry.report
        low, high = report["interval"]
        recalls = {row["class"]: row["recall"] for row in report["per_class"] if row["recall"] is not None}
        worst = min(recalls, key=recalls.get)
        table.append((
            entry.name,
            f"{report['accuracy']:.2%}",
            f"{low:.2%} to {high:.2%}",
            f"{worst} {recalls[worst]:.1%}",
            f"{report['calibration_error']:.3f}",
            f"{report['parameters'] / 1e6:.1f} M",
            f"{report['multiply_adds'] / 1e9:.2f} G" if report["multiply_adds"] else "-",
            f"{report['megabytes']:.1f}",
            f"{1000 / report['milliseconds_per_picture']:.0f}",
            f"{report['milliseconds_for_one']:.1f}",
            f"{report['milliseconds_for_one_p95']:.1f}",
        ))  # fmt: skip
    return table


def disagreements(judged: Sequence[EvalResult]) -> list[int]:
    """Places of the images on which the networks do not all give the same answer."""
    predicted = torch.stack([entry.logits.argmax(1) for entry in judged])
    return (predicted != predicted[0]).any(0).nonzero().flatten().tolist()
