"""What evaluate.py leaves on disk of several networks: a page that puts them side by side, and where they differ."""

from collections.abc import Sequence
from pathlib import Path

import jinja2

from classifier.data.image_folder import ImageFolder
from classifier.evaluation import comparison, plots, report, score_plots
from classifier.evaluation.comparison import EvalResult

DIFFERENCES = 640  # images on the sheets of all pairs together, but at least eight for each: the page is one file


def write(judged: Sequence[EvalResult], folder: ImageFolder, verdicts: list[dict], target: Path) -> list[Path]:
    """Several networks on the same images; arguments and errors as of `report.write_report`."""
    reports = [entry.report for entry in judged]
    names = [entry.name for entry in judged]
    figures = {
        "accuracy_over_milliseconds": score_plots.accuracy_over_cost(
            names, reports, "milliseconds_for_one", "milliseconds for one image, from pixels to the answer"
        )
    }
    if all(scores["multiply_adds"] for scores in reports):
        billions = [scores | {"billions": scores["multiply_adds"] / 1e9} for scores in reports]
        figures["accuracy_over_multiply_adds"] = score_plots.accuracy_over_cost(
            names, billions, "billions", "billions of multiply-adds for one image"
        )
    histories = {entry.name: report.history(entry.checkpoint) for entry in judged if not entry.mirrored}
    histories = {name: history for name, history in histories.items() if history}
    if histories:
        figures |= {"curves": plots.curves(histories), "accuracy_over_time": plots.accuracy_over_time(histories)}
    differences = {}
    shown = min(report.SHOWN, max(8, DIFFERENCES // max(1, len(verdicts))))
    for number, verdict in enumerate(verdicts):
        first, second = (judged[names.index(verdict[key])] for key in ("first", "second"))
        places = (first.right != second.right).nonzero().flatten().tolist()
        if places:
            key = f"differences_{number + 1}"
            text = f"{verdict['first']} or {verdict['second']} right, not both: {len(places)} images"
            differences[key] = text if len(places) <= shown else f"{text}, {shown} of them here"
            titles = [f"{folder.classes[first.labels[i]]}\nright: {(first if first.right[i] else second).name}"
                      for i in places[:shown]]  # fmt: skip
            figures[key] = plots.contact_sheet(report.pixels(folder, places[:shown]), titles)
    best = max(judged, key=lambda entry: entry.report["accuracy"])
    page = {
        "title": f"{len(judged)} networks on {report.subject(best.report)}",
        "lead": f"The most accurate: <b>{jinja2.filters.escape(best.name)}</b>, "
        f"{best.report['accuracy']:.2%} of {best.report['count']:,} images.",
        "remarks": _shared_remarks(judged),
        "side_by_side": comparison.rows(judged),
        "recalls": _recalls(judged, folder.classes),
        "verdicts": verdicts,
        "differences": differences,
        "suspects": None,
    }
    answers = [("path", "label", *names)]
    for place in comparison.disagreements(judged):
        given = [folder.classes[entry.logits[place].argmax()] for entry in judged]
        answers.append((folder.paths[place], folder.classes[folder.labels[place]], *given))
    content = {"networks": dict(zip(names, reports, strict=True)), "verdicts": verdicts}
    return report.write(target, content, figures, page, {"differences.csv": answers}, facts=best.report)


def _shared_remarks(judged: Sequence[EvalResult]) -> list[str]:
    """What has to be said of all networks once, of others with their names."""
    said: dict[str, list[str]] = {}
    for entry in judged:
        for remark in entry.report["remarks"]:
            said.setdefault(remark, []).append(entry.name)
    return [remark if len(who) == len(judged) else f"{', '.join(who)}: {remark}" for remark, who in said.items()]


def _recalls(judged: Sequence[EvalResult], classes: Sequence[str]) -> list[tuple[str, ...]]:
    """The recall of each class by each network, headings first, the most accurate network first."""
    ranked = sorted(judged, key=lambda entry: -entry.report["accuracy"])
    found = [{row["class"]: row["recall"] for row in entry.report["per_class"]} for entry in ranked]
    cells = [["-" if of[name] is None else f"{of[name]:.2%}" for of in found] for name in classes]
    return [
        ("class", *(entry.name for entry in ranked)),
        *((name, *row) for name, row in zip(classes, cells, strict=True)),
    ]
