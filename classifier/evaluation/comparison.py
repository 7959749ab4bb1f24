"""Several networks on the same images: which differences are significant, and a report that compares them."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from classifier.data.image_folder import ImageFolder
from classifier.evaluation import plots
from classifier.evaluation.report import MAX_IMAGES_ON_SHEET, EvalResult, subject, thumbnails, write
from classifier.text import plural

LEVEL = 0.05  # significance: how often a difference may be claimed where there is none, over all pairs
MAX_DIFFERENCES = 640  # images on the sheets of all pairs together, but at least 8 for each: the page is one file


def mcnemar(first: Tensor, second: Tensor) -> tuple[int, int, float]:
    """Return how many images only the first and only the second network gets right, and McNemar's exact p-value.

    That is the probability of a split at least as uneven if neither network is better, as of tosses of a fair coin.

    Args:
        first, second: (N,) bool, whether each network's prediction of each image is correct.
    """
    from scipy.stats import binomtest

    only_first, only_second = (first & ~second).sum().item(), (second & ~first).sum().item()
    both = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, both).pvalue) if both else 1.0


def verdicts(results: Sequence[EvalResult]) -> list[dict]:
    """Return for every pair which network is better by McNemar's exact test, with a sentence that says so.

    Of many pairs some differ by chance alone. So the p-values are judged by Holm's step-down rule ("A Simple
    Sequentially Rejective Multiple Test Procedure", 1979), which keeps the chance of any wrong claim below LEVEL.
    """
    pairs = list(itertools.combinations(results, 2))
    tests = [mcnemar(first.correct, second.correct) for first, second in pairs]
    found, significant = [{}] * len(pairs), True
    for rank, i in enumerate(sorted(range(len(pairs)), key=lambda i: tests[i][2])):
        (first, second), (only_first, only_second, p) = (result.name for result in pairs[i]), tests[i]
        significant = significant and p <= LEVEL / (len(pairs) - rank)
        found[i] = {"first": first, "second": second, "only_first_right": only_first, "only_second_right": only_second}
        found[i] |= {"p": p, "real": significant}
        found[i]["words"] = _sentence(**found[i], pairs=len(pairs))
    return found


def _sentence(
    first: str, second: str, only_first_right: int, only_second_right: int, p: float, real: bool, pairs: int
) -> str:
    if not only_first_right + only_second_right:
        return f"{first} and {second} are correct on exactly the same images"
    counts = ((only_first_right, first), (only_second_right, second))
    (more, better), (less, worse) = sorted(counts, key=lambda pair: -pair[0])
    value = f"p = {p:.2g}" if p >= 0.0001 else "p < 0.0001"
    text = f"{plural(more, 'image')} correct only by {better}, {less:,} only by {worse}, {value}"
    if real:
        return f"{better} is better than {worse}: {text}"
    among = f", too large for one of {pairs} pairs" * (p <= LEVEL)
    return f"no significant difference between {first} and {second}: {text}{among}"


def ranked(results: Sequence[EvalResult]) -> list[EvalResult]:
    """Return the networks, the most accurate first."""
    return sorted(results, key=lambda result: -result.report["accuracy"])


def table(results: Sequence[EvalResult]) -> list[tuple[str, ...]]:
    """Return the networks as rows, headings first, the most accurate network first."""
    columns = {
        "accuracy": "{accuracy:.2%}",
        "95% interval": "{interval[0]:.2%} to {interval[1]:.2%}",
        "lowest recall": "{lowest[class]} {lowest[recall]:.1%}",
        "ECE": "{calibration_error:.3f}",
        "parameters": "{millions:.1f} M",
        "multiply-adds": "{billions:.2f} G",
        "MB": "{megabytes:.1f}",
        "images/s": "{throughput:.0f}",
        "ms, batch of 1": "{milliseconds_for_one:.1f}",
        "95th percentile": "{milliseconds_for_one_p95:.1f}",
    }
    rows = [("network", *columns)]
    for result in ranked(results):
        report = result.report
        values = {
            "lowest": min((row for row in report["per_class"] if row["count"]), key=lambda row: row["recall"]),
            "millions": report["parameters"] / 1e6,
            "billions": (report["multiply_adds"] or math.nan) / 1e9,
            "throughput": 1000 / report["milliseconds_per_picture"],
        }
        rows.append((result.name, *(text.format_map(report | values) for text in columns.values())))
    return rows


def write_comparison(results: Sequence[EvalResult], folder: ImageFolder, verdicts: list[dict], target: Path) -> Path:
    """Write the report of several networks and return its page; arguments and errors as of `report.write_report`."""
    reports, by_name = [result.report for result in results], {result.name: result for result in results}
    costs = {"milliseconds_for_one": "milliseconds for a batch of one, without decoding"}
    if all(report["multiply_adds"] for report in reports):
        costs["multiply_adds"] = "multiply-adds per image"
    figures = {
        "accuracy_over_" + key.removesuffix("_for_one"): plots.accuracy_over_cost(list(by_name), reports, key, title)
        for key, title in costs.items()
    }
    histories = {result.name: result.history for result in results if result.history and not result.mirrored}
    if histories:
        figures |= {"curves": plots.curves(histories), "accuracy_over_time": plots.accuracy_over_time(histories)}
    differences = {}
    shown = min(MAX_IMAGES_ON_SHEET, max(8, MAX_DIFFERENCES // len(verdicts)))
    for number, verdict in enumerate(verdicts, 1):
        first, second = by_name[verdict["first"]], by_name[verdict["second"]]
        differ = (first.correct != second.correct).nonzero().flatten().tolist()
        if differ:
            text = f"Correct only by {first.name} or only by {second.name}: {plural(len(differ), 'image')}"
            differences[f"differences_{number}"] = f"{text}, {shown} of them here" if len(differ) > shown else text
            titles = [f"{folder.classes[folder.labels[i]]}\ncorrect: {(first if first.correct[i] else second).name}"
                      for i in differ[:shown]]  # fmt: skip
            figures[f"differences_{number}"] = plots.contact_sheet(thumbnails(folder, differ[:shown]), titles)
    best = ranked(results)[0]
    page = {
        "title": f"{len(results)} networks on {subject(best.report)}",
        "best": best,
        "report": best.report,
        "table": table(results),
        "results": ranked(results),
        "verdicts": verdicts,
        "differences": differences,
    }
    answers = zip(*(result.answers for result in results), strict=True)
    images = zip(folder.paths, folder.labels, answers, strict=True)
    rows = [(path, folder.classes[label], *given) for path, label, given in images if len(set(given)) > 1]
    content = {"networks": {result.name: result.report for result in results}, "verdicts": verdicts}
    return write(target, content, figures, page, {"differences.csv": [("path", "label", *by_name), *rows]})
