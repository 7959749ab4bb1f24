"""Several networks on the same images: which differences are significant, and a report that compares them."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from classifier.cli import plural
from classifier.data.image_folder import ImageFolder
from classifier.evaluation import plots
from classifier.evaluation.report import MAX_IMAGES_ON_SHEET, EvalResult, sheet, write

LEVEL = 0.05  # significance: how often a difference may be claimed where there is none, over all pairs


def mcnemar(first: Tensor, second: Tensor) -> tuple[int, int, float]:
    """Return how many images only the first and only the second network gets right, and McNemar's exact p-value.

    That is the probability of a split at least as uneven if neither network is better, as of tosses of a fair coin.
    Takes whether each network's prediction of each image is correct, (N,) bool.
    """
    from scipy.stats import binomtest

    only_first, only_second = (first & ~second).sum().item(), (second & ~first).sum().item()
    both = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, both).pvalue) if both else 1.0


def verdicts(results: Sequence[EvalResult]) -> list[dict]:
    """Return for every pair which network is better by McNemar's exact test, in words too; the surest pairs first.

    Of many pairs some differ by chance alone. So the p-values are judged by Holm's step-down rule ("A Simple
    Sequentially Rejective Multiple Test Procedure", 1979), which keeps the chance of any wrong claim below LEVEL.
    """
    tests = [(pair, mcnemar(*(result.correct for result in pair))) for pair in itertools.combinations(results, 2)]
    found, significant = [], True
    for rank, ((first, second), (only_first, only_second, p)) in enumerate(sorted(tests, key=lambda test: test[1][2])):
        significant = significant and p <= LEVEL / (len(tests) - rank)
        verdict = {"first": first.name, "second": second.name, "p": p, "real": significant}
        verdict |= {"only_first_right": only_first, "only_second_right": only_second}
        found.append(verdict | {"words": _sentence(verdict, len(tests))})
    return found


def _sentence(verdict: dict, pairs: int) -> str:
    first, second, p = verdict["first"], verdict["second"], verdict["p"]
    counts = (verdict["only_first_right"], first), (verdict["only_second_right"], second)
    (less, worse), (more, better) = sorted(counts, key=lambda pair: pair[0])
    if not more:
        return f"{first} and {second} are correct on exactly the same images"
    value = f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"
    text = f"{plural(more, 'image')} correct only by {better}, {less:,} only by {worse}, {value}"
    if verdict["real"]:
        return f"{better} is better than {worse}: {text}"
    among = f", too large for one of {pairs} pairs" * (p <= LEVEL)
    return f"no significant difference between {first} and {second}: {text}{among}"


def table(results: Sequence[EvalResult]) -> list[tuple[str, ...]]:
    """Return the networks as rows, headings first."""
    rows = [("network", "accuracy", "95% interval", "ECE", "parameters", "multiply-adds", "images/s", "ms, batch of 1")]
    for result in results:
        report, (low, high) = result.report, result.report["interval"]
        accuracy = f"{report['accuracy']:.2%}", f"{low:.2%} to {high:.2%}", f"{report['calibration_error']:.3f}"
        size = f"{report['parameters'] / 1e6:.1f} M", f"{report['multiply_adds'] / 1e9:.2f} G"
        speed = f"{1000 / report['milliseconds_per_picture']:.0f}", f"{report['milliseconds_for_one']:.1f}"
        rows.append((result.name, *accuracy, *size, *speed))
    return rows


def write_comparison(results: Sequence[EvalResult], folder: ImageFolder, verdicts: list[dict], target: Path) -> Path:
    """Write the report of several networks, the most accurate first, and return its page; else as `write_report`."""
    by_name = {result.name: result for result in results}
    histories = {name: result.history for name, result in by_name.items() if result.history}
    panels = [("loss", "epoch"), ("accuracy", "epoch"), ("accuracy", "minutes")]
    figures = {"curves.png": plots.curves(histories, panels)} if histories else {}
    first, second = results[:2]  # of more networks, the two best
    if differ := (first.correct != second.correct).nonzero().flatten().tolist():
        right = [first.name if correct else second.name for correct in first.correct]
        titles = [f"{folder.classes[i]}\ncorrect: {name}" for i, name in zip(folder.labels, right, strict=True)]
        figures["differences.jpg"] = sheet(folder, differ, titles, torch.zeros(len(folder)).bool())
    caption = f"Correct only by {first.name} or only by {second.name}: {plural(len(differ), 'image')}"
    caption += f", {MAX_IMAGES_ON_SHEET} of them here" * (len(differ) > MAX_IMAGES_ON_SHEET)
    page = {"results": results, "table": table(results), "verdicts": verdicts, "differences": caption}
    images = zip(folder.paths, folder.labels, *(result.answers for result in results), strict=True)
    rows = [(path, folder.classes[label], *answers) for path, label, *answers in images if len(set(answers)) > 1]
    content = {"networks": {result.name: result.report for result in results}, "verdicts": verdicts}
    return write(target, content, figures, page, {"differences.csv": [("path", "label", *by_name), *rows]})
