"""What evaluate.py leaves on disk: a page that opens without a server, figures, and tables for other programs."""

import base64
import csv
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from classifier import comparison, metrics, plots, scores
from classifier.cli import UserError
from classifier.comparison import Judged
from classifier.folders import Folder
from classifier.preprocess import Preprocess

SHOWN = 32  # pictures on a contact sheet
PHOTOGRAPHS = ("mistakes", "unsure", "differences")  # sheets of pictures, which take a fifth as JPEG
LISTED = 50  # doubtful labels on the page; all are in the table
SHEET = Preprocess(size=144, resize="crop")  # of the pictures on contact sheets
PAGE = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


def write_one(judged: Judged, folder: Folder, learned_from: bool, target: Path) -> list[Path]:
    """The report of one network.

    Args:
        judged: with its answers.
        folder: the pictures, in the order of the answers.
        learned_from: whether the network was trained on them; then its disagreement says nothing of a label.
        target: the folder, logs/evaluate/<weights>; a folder named after the time is made in it.

    Returns:
        The files, the page first.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    report, labels = judged.report, judged.labels
    probabilities = (judged.logits / report["temperature"]).softmax(1)
    wrong, unsure = scores.most_wrong(probabilities, labels)[:SHOWN], scores.least_sure(probabilities)[:SHOWN]
    doubtful = None if learned_from else scores.suspects(probabilities, labels)
    figures = {
        "confusion_matrix": plots.confusion_matrix(torch.tensor(report["confusion_matrix"]), report["classes"]),
        "calibration": plots.calibration(
            metrics.calibration(judged.logits.softmax(1), labels),
            metrics.calibration(probabilities, labels),
            report["temperature"],
        ),
        "rankings": plots.rankings(probabilities, labels, report["classes"]),
        "unsure": _sheet(folder, probabilities, labels, unsure),
    }
    if wrong:
        figures["mistakes"] = _sheet(folder, probabilities, labels, wrong)
    history = judged.checkpoint.scores.get("history") or judged.checkpoint.resume.get("history")
    if history:
        figures["curves"] = plots.curves({judged.name: history})
    low, high = report["interval"]
    page = {
        "title": f"{judged.name} on {report['folder']}",
        "lead": f"<b>{report['accuracy']:.2%}</b> of {report['count']:,} pictures right; 95% interval {low:.2%} to "
        f"{high:.2%}. Calibration error {report['calibration_error']:.3f}.",
        "remarks": [report["assumed"]] * bool(report["assumed"])
        + ["These are pictures that it learned from: new ones will be harder."] * learned_from,
        "per_class": _class_rows(report),
        "suspects": None
        if doubtful is None
        else [_row(folder, probabilities, labels, place) for place in doubtful[:LISTED]],
        "sure": f"{scores.SURE:.0%}",
    }
    if report["neither"] is not None:
        page["lead"] += (
            f" {report['neither']:,} are unlike the pictures that it learned from, and would be answered so."
        )
    tables = {"predictions.csv": _predictions(folder, probabilities, labels, report["classes"])}
    if doubtful is not None:
        rows = [_row(folder, probabilities, labels, place) for place in doubtful]
        tables["suspects.csv"] = [("path", "label", "answer", "sure"), *(tuple(row.values()) for row in rows)]
    return _write(target, report, figures, page, tables)


def write_comparison(judged: Sequence[Judged], folder: Folder, verdicts: list[dict], target: Path) -> list[Path]:
    """Several networks on the same pictures; arguments and errors as of `write_one`."""
    reports = [entry.report for entry in judged]
    names = [entry.name for entry in judged]
    figures = {
        "accuracy_over_milliseconds": plots.accuracy_over_cost(
            names, reports, "milliseconds_for_one", "milliseconds for one picture, from pixels to the answer"
        )
    }
    if all(report["multiply_adds"] for report in reports):
        billions = [report | {"billions": report["multiply_adds"] / 1e9} for report in reports]
        figures["accuracy_over_multiply_adds"] = plots.accuracy_over_cost(
            names, billions, "billions", "billions of multiply-adds for one picture"
        )
    histories = {entry.name: entry.checkpoint.scores.get("history") for entry in judged if not entry.mirrored}
    histories = {name: history for name, history in histories.items() if history}
    if histories:
        figures |= {"curves": plots.curves(histories), "accuracy_over_time": plots.accuracy_over_time(histories)}
    differences = {}
    for number, verdict in enumerate(verdicts):
        first, second = (judged[names.index(verdict[key])] for key in ("first", "second"))
        places = (first.right != second.right).nonzero().flatten().tolist()
        if places:
            key = f"differences_{number + 1}"
            text = f"{verdict['first']} or {verdict['second']} right, not both: {len(places)} pictures"
            differences[key] = text if len(places) <= SHOWN else f"{text}, {SHOWN} of them here"
            titles = [f"{folder.classes[first.labels[i]]}\nright: {(first if first.right[i] else second).name}"
                      for i in places[:SHOWN]]  # fmt: skip
            figures[key] = plots.contact_sheet(_pixels(folder, places[:SHOWN]), titles)
    best = max(reports, key=lambda report: report["accuracy"])
    page = {
        "title": f"{len(judged)} networks on {best['folder']}",
        "lead": f"The most accurate: <b>{jinja2.filters.escape(names[reports.index(best)])}</b>, "
        f"{best['accuracy']:.2%} of {best['count']:,} pictures.",
        "side_by_side": comparison.rows(judged),
        "verdicts": verdicts,
        "differences": differences,
        "suspects": None,
    }
    answers = [("path", "label", *names)]
    for place in comparison.disagreements(judged):
        given = [folder.classes[entry.logits[place].argmax()] for entry in judged]
        answers.append((folder.paths[place], folder.classes[folder.labels[place]], *given))
    content = {"networks": dict(zip(names, reports, strict=True)), "verdicts": verdicts}
    return _write(target, content, figures, page, {"differences.csv": answers}, facts=best)


def _class_rows(report: dict) -> list[tuple[str, ...]]:
    keys = {"precision": ".2%", "recall": ".2%", "f1": ".2%", "auroc": ".4f", "average_precision": ".4f", "count": ","}
    headings = ("class", "precision", "recall", "F1", "area under ROC", "average precision", "pictures")
    rows = [tuple("-" if row[key] is None else format(row[key], form) for key, form in keys.items())
            for row in report["per_class"]]  # fmt: skip
    return [headings, *((row["class"], *cells) for row, cells in zip(report["per_class"], rows, strict=True))]


def _row(folder: Folder, probabilities: Tensor, labels: Tensor, place: int) -> dict[str, str]:
    sure, answer = probabilities[place].max(0)
    label = folder.classes[labels[place]]
    return {"path": folder.paths[place], "label": label, "answer": folder.classes[answer], "sure": f"{sure:.4f}"}


def _predictions(folder: Folder, probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Iterable[tuple]:
    yield ("path", "label", "answer", *classes)
    for path, label, row in zip(folder.paths, labels.tolist(), probabilities, strict=True):
        yield (path, classes[label], classes[row.argmax()], *(f"{value:.6f}" for value in row.tolist()))


def _sheet(folder: Folder, probabilities: Tensor, labels: Tensor, places: Sequence[int]) -> Figure:
    sure, answers = probabilities[places].max(1)
    wrong = (answers != labels[places]).tolist()
    titles = [f"{folder.classes[answer]} {share:.0%}\nis {folder.classes[label]}"
              for answer, share, label in zip(answers, sure, labels[places], strict=True)]  # fmt: skip
    return plots.contact_sheet(_pixels(folder, places), titles, wrong=wrong)


def _pixels(folder: Folder, places: Sequence[int]) -> Tensor:
    return torch.stack([SHEET.read(folder.paths[place]) for place in places])


def _write(
    folder: Path, report: dict, figures: dict[str, Figure], page: dict, tables: dict, facts: dict | None = None
) -> list[Path]:
    """All files into `folder`/<time>, all or nothing; the figures into TensorBoard as well."""
    begun = datetime.now()
    target = folder / f"{begun:%Y%m%d-%H%M%S}"
    if target.exists():  # a second one within this second
        target = folder / f"{begun:%Y%m%d-%H%M%S-%f}"
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    facts = facts or report
    page["facts"] = {key: facts[key] for key in ("date", "device", "precision", "batch_size", "workers")}
    page["facts"] |= facts["versions"]
    try:
        unfinished.mkdir(parents=True)
        with SummaryWriter(str(unfinished)) as writer:
            drawn = {}
            for name, figure in figures.items():
                path = unfinished / f"{name}.{'jpg' if name.startswith(PHOTOGRAPHS) else 'png'}"
                figure.savefig(path, dpi=130)
                drawn[name] = f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
                with Image.open(path) as picture:
                    writer.add_image(f"evaluation/{name}", np.asarray(picture.convert("RGB")), dataformats="HWC")
            for key, value in report.items():
                if isinstance(value, float):
                    writer.add_scalar(f"evaluation/{key}", value)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (unfinished / "report.json").write_text(text + "\n", encoding="utf-8")
        (unfinished / "report.html").write_text(PAGE.render(figures=drawn, **page), encoding="utf-8")
        for name, rows in tables.items():
            with (unfinished / name).open("w", encoding="utf-8-sig", newline="") as file:
                csv.writer(file).writerows(rows)
        unfinished.rename(target)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}). Choose another with --logs."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sorted(
        target.iterdir(), key=lambda path: (path.suffix != ".html", path.suffix in (".png", ".jpg"), path.name)
    )
