"""What evaluate.py leaves on disk of a network: a page that opens without a server, figures, tables for programs."""

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

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.image_folder import ImageFolder
from classifier.data.transforms import Preprocess
from classifier.evaluation import comparison, metrics, plots, score_plots, scores
from classifier.evaluation.comparison import EvalResult
from classifier.prediction.table import TEXT

SHOWN = 32  # images on a contact sheet
PHOTOGRAPHS = ("mistakes", "unsure", "differences")  # sheets of images, which take a fifth as JPEG
LISTED = 50  # doubtful labels on the page; all are in the table
SHEET = Preprocess(size=144, resize="crop")  # of the images on contact sheets
PAGE = jinja2.Environment(autoescape=True).from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


def write_report(judged: EvalResult, folder: ImageFolder, target: Path) -> list[Path]:
    """The report of one network.

    Args:
        judged: with its answers.
        folder: the images, in the order of the answers.
        target: the folder, logs/evaluate/<weights>; a folder named after the time is made in it.

    Returns:
        The files, the page first.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    report, labels = judged.report, judged.labels
    probabilities = scores.probabilities(judged.logits, report["temperature"])
    wrong, unsure = scores.most_wrong(probabilities, labels)[:SHOWN], scores.least_sure(probabilities)[:SHOWN]
    # of an image that it learned from, its disagreement says nothing
    doubtful = None if report["learned_from"] else scores.suspects(probabilities, labels)
    figures = {
        "confusion_matrix": score_plots.confusion_matrix(torch.tensor(report["confusion_matrix"]), report["classes"]),
        "calibration": score_plots.calibration(
            metrics.calibration(scores.probabilities(judged.logits), labels),
            metrics.calibration(probabilities, labels),
            report["temperature"],
        ),
        "rankings": score_plots.rankings(probabilities, labels, report["classes"]),
        "unsure": _sheet(folder, probabilities, labels, unsure),
    }
    if wrong:
        figures["mistakes"] = _sheet(folder, probabilities, labels, wrong)
    if epochs := history(judged.checkpoint):
        figures["curves"] = plots.curves({judged.name: epochs})
    low, high = report["interval"]
    page = {
        "title": f"{judged.name} on {subject(report)}",
        "lead": f"<b>{report['accuracy']:.2%}</b> of {report['count']:,} images right; 95% interval {low:.2%} to "
        f"{high:.2%}. Calibration error {report['calibration_error']:.3f}.",
        "remarks": [*([f"Assumed: {report['assumed']}"] if report["assumed"] else []), *report["remarks"]],
        "per_class": _class_rows(report),
        "costs": [row[:1] + row[5:] for row in comparison.rows([judged])],
        "suspects": None
        if doubtful is None
        else [_row(folder, probabilities, labels, place) for place in doubtful[:LISTED]],
        "doubtful": len(doubtful or ()),
        "imaged": min(len(doubtful or ()), SHOWN),
        "sure": f"{scores.SURE:.0%}",
    }
    if report["neither"] is not None:
        page["lead"] += f" {report['neither']:,} are unlike the images that it learned from, and would be answered so."
    tables = {"predictions.csv": _predictions(folder, probabilities, labels, report["classes"])}
    if doubtful is not None:
        rows = [_row(folder, probabilities, labels, place) for place in doubtful]
        tables["suspects.csv"] = [("path", "label", "answer", "sure"), *(tuple(row.values()) for row in rows)]
    return write(target, report, figures, page, tables)


def history(checkpoint: Checkpoint) -> list[dict]:
    """The epochs of the run, where the .pth tells."""
    return checkpoint.scores.get("history") or checkpoint.resume.get("history") or []


def subject(report: dict) -> str:
    """The images that it is about, for a title."""
    return f"{report['folder']}{', the part set aside' if report['part'] == 'val' else ''}"


def _class_rows(report: dict) -> list[tuple[str, ...]]:
    keys = {"precision": ".2%", "recall": ".2%", "f1": ".2%", "auroc": ".4f", "average_precision": ".4f", "count": ","}
    headings = ("class", "precision", "recall", "F1", "area under ROC", "average precision", "images")
    rows = [tuple("-" if row[key] is None else format(row[key], form) for key, form in keys.items())
            for row in report["per_class"]]  # fmt: skip
    return [headings, *((row["class"], *cells) for row, cells in zip(report["per_class"], rows, strict=True))]


def _row(folder: ImageFolder, probabilities: Tensor, labels: Tensor, place: int) -> dict[str, str]:
    sure, answer = probabilities[place].max(0)
    label = folder.classes[labels[place]]
    return {"path": folder.paths[place], "label": label, "answer": folder.classes[answer], "sure": f"{sure:.4f}"}


def _predictions(folder: ImageFolder, probabilities: Tensor, labels: Tensor, classes: Sequence[str]) -> Iterable[tuple]:
    yield ("path", "label", "answer", *classes)
    for path, label, row in zip(folder.paths, labels.tolist(), probabilities, strict=True):
        yield (path, classes[label], classes[row.argmax()], *(f"{value:.6f}" for value in row.tolist()))


def _sheet(folder: ImageFolder, probabilities: Tensor, labels: Tensor, places: Sequence[int]) -> Figure:
    sure, answers = probabilities[places].max(1)
    wrong = (answers != labels[places]).tolist()
    titles = [f"{folder.classes[answer]} {share:.0%}\nis {folder.classes[label]}"
              for answer, share, label in zip(answers, sure, labels[places], strict=True)]  # fmt: skip
    return plots.contact_sheet(pixels(folder, places), titles, wrong=wrong)


def pixels(folder: ImageFolder, places: Sequence[int]) -> Tensor:
    """The images at these places as `contact_sheet` takes them."""
    return torch.stack([SHEET.read(folder.paths[place]) for place in places])


def write(
    folder: Path, report: dict, figures: dict[str, Figure], page: dict, tables: dict, facts: dict | None = None
) -> list[Path]:
    """All files into `folder`/<time>, all or nothing; the figures into TensorBoard as well.

    Args:
        folder: below logs/evaluate.
        report: of plain values, for report.json.
        figures: by name; report.html says where they stand.
        page: what else report.html asks for.
        tables: file name -> rows, for CSV.
        facts: the scores that say where and when it was measured; None: `report`.

    Returns, raises:
        As `write_report`.
    """
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
                kind = "jpeg" if path.suffix == ".jpg" else "png"
                drawn[name] = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
                with Image.open(path) as image:
                    writer.add_image(f"evaluation/{name}", np.asarray(image.convert("RGB")), dataformats="HWC")
            for key, value in report.items():
                if isinstance(value, float):
                    writer.add_scalar(f"evaluation/{key}", value)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        # a file name may hold bytes that are no text: a JSON escape, and on the page a question mark
        (unfinished / "report.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
        (unfinished / "report.html").write_text(PAGE.render(figures=drawn, **page), encoding="utf-8", errors="replace")
        for name, rows in tables.items():
            with (unfinished / name).open("w", **TEXT) as file:
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
