"""What evaluate.py prints and leaves on disk: a page that opens without a server, figures, CSV and JSON."""

import base64
import csv
import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2
import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.image_folder import ImageFolder
from classifier.data.transforms import Preprocess
from classifier.evaluation import label_issues, metrics, plots
from classifier.text import plural, print_table, shorten

MAX_IMAGES_ON_SHEET = 32
MAX_ISSUES_ON_PAGE = 50  # all are in suspects.csv
MAX_CLASSES_IN_MATRIX = 12  # with more, the terminal shows the most frequent confusions
MAX_CLASSES_IN_TABLE = 40  # with more, the terminal shows the LOWEST with the lowest F1
LOWEST = 12
SHEETS = ("mistakes", "unsure", "differences")  # names of figures that hold photographs: a fifth of the size as JPEG
THUMBNAIL = Preprocess(size=144, resize="crop")
# the mark of utf-8-sig tells Excel the encoding; a file name that is no valid text keeps its bytes
CSV_TEXT = {"encoding": "utf-8-sig", "errors": sys.getfilesystemencodeerrors(), "newline": ""}
ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
ENVIRONMENT.globals["plural"] = plural
PAGE = ENVIRONMENT.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


@dataclass
class EvalResult:
    """A network with its logits; `report` holds its scores as plain values, the content of report.json."""

    name: str
    checkpoint: Checkpoint
    report: dict
    logits: Tensor  # (N, classes)
    labels: Tensor  # (N,)
    mirrored: bool = False  # whether the logits are means over an image and its mirror image

    @property
    def correct(self) -> Tensor:
        """(N,) bool."""
        return self.logits.argmax(1) == self.labels

    @property
    def answers(self) -> list[str]:
        """The predicted classes, N names."""
        return [self.report["classes"][index] for index in self.logits.argmax(1)]

    @property
    def history(self) -> list[dict]:
        """The epochs of its training, as far as the .pth holds them."""
        return self.checkpoint.scores.get("history") or self.checkpoint.resume.get("history") or []


def print_scores(report: dict) -> None:
    """Print what report.json holds."""
    low, high = report["interval"]
    images = plural(report["count"], "image")
    print(f"\naccuracy   {report['accuracy']:.2%} on {images}, 95% interval {low:.2%} to {high:.2%}")
    for remark in report["remarks"]:
        print(f"           {remark}")
    print(f"loss       {report['loss']:.4f}")
    print(
        f"ECE        {report['calibration_error']:.3f}, the expected calibration error "
        f"({report['calibration_error_without_temperature']:.3f} before dividing by the temperature, "
        f"{report['temperature']:.2f})"
    )
    if report["neither"] is not None:
        print(f"neither    {report['neither']:,} of {images}: out of distribution, so answered with neither class")
    _print_classes(report["per_class"])
    _print_confusions(report["classes"], torch.tensor(report["confusion_matrix"]))
    per_image = report["milliseconds_per_picture"]
    print(
        f"\ntime       {per_image:.2f} ms per image ({1000 / per_image:,.0f} images/s) in batches, decoding included; "
        f"{report['device']}\n"
        f"           {report['milliseconds_for_one']:.1f} ms for a batch of one, without decoding (median; 95th "
        f"percentile {report['milliseconds_for_one_p95']:.1f} ms)"
    )


def _print_classes(rows: list[dict]) -> None:
    print()
    if len(rows) > MAX_CLASSES_IN_TABLE:
        print(f"the {LOWEST} classes of {len(rows)} with the lowest F1; report.html has all")
        rows = sorted(rows, key=lambda row: 2 if row["f1"] is None else row["f1"])[:LOWEST]
    table = [("class", "precision", "recall", "F1", "images")]
    for row in rows:
        shares = ("-" if row[key] is None else f"{row[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.append((shorten(row["class"], 30), *shares, f"{row['count']:,}"))
    print_table(table)


def _print_confusions(classes: Sequence[str], matrix: Tensor) -> None:
    names = [shorten(name, 30) for name in classes]
    if len(names) <= MAX_CLASSES_IN_MATRIX:
        print("\nconfusion matrix (rows: labels, columns: predictions)")
        rows = ((name, *counts) for name, counts in zip(names, matrix.tolist(), strict=True))
        print_table([("", *(shorten(name, 9) for name in names)), *rows])
        return
    errors = matrix.fill_diagonal_(0).flatten().topk(LOWEST)
    if errors.values.any():
        print("\nmost frequent confusions")
    for count, index in zip(errors.values.tolist(), errors.indices.tolist(), strict=True):
        if count:
            print(f"{names[index // len(names)]} predicted as {names[index % len(names)]}: {count}")


def write_report(result: EvalResult, folder: ImageFolder, target: Path) -> Path:
    """Write the report of one network and return its page.

    Args:
        result: the network.
        folder: the images, in the order of the logits.
        target: the folder, logs/evaluate/<weights>; a folder named after the time is made in it.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    report, labels = result.report, result.labels
    probabilities = metrics.probabilities(result.logits, report["temperature"])
    confidence, answers, wrong = probabilities.max(1).values, result.answers, ~result.correct

    def sheet(indices: list[int]) -> Figure:
        titles = [f"{answers[i]} {confidence[i]:.0%}\nlabel: {folder.classes[labels[i]]}" for i in indices]
        return plots.contact_sheet(thumbnails(folder, indices), titles, wrong=wrong[indices].tolist())

    def rows(indices: Iterable[int]) -> Iterable[tuple[str, str, str]]:
        return ((folder.paths[i], folder.classes[labels[i]], answers[i]) for i in indices)

    figures = {
        "confusion_matrix": plots.confusion_matrix(torch.tensor(report["confusion_matrix"]), report["classes"]),
        "calibration": plots.calibration(
            metrics.calibration(metrics.probabilities(result.logits), labels),
            metrics.calibration(probabilities, labels),
            report["temperature"],
        ),
        "rankings": plots.rankings(probabilities, labels, report["classes"]),
        "unsure": sheet(label_issues.smallest_margins(probabilities)[:MAX_IMAGES_ON_SHEET]),
    }
    if errors := label_issues.confident_errors(probabilities, labels)[:MAX_IMAGES_ON_SHEET]:
        figures["mistakes"] = sheet(errors)
    if result.history:
        figures["curves"] = plots.curves({result.name: result.history})
    shares = ([f"{value:.6f}" for value in row] for row in probabilities.tolist())
    predictions = ((*row, *values) for row, values in zip(rows(range(len(labels))), shares, strict=True))
    tables = {"predictions.csv": [("path", "label", "answer", *report["classes"]), *predictions]}
    issues = None
    if not report["learned_from"]:
        found = label_issues.label_issues(probabilities, labels)
        issues = [(*row, f"{confidence[i]:.4f}") for i, row in zip(found, rows(found), strict=True)]
        tables["suspects.csv"] = [("path", "label", "answer", "sure"), *issues]
    page = {"title": f"{result.name} on {subject(report)}", "issues": issues, "confident": label_issues.CONFIDENT}
    return write(target, report, figures, {**page, "max_issues": MAX_ISSUES_ON_PAGE, "report": report}, tables)


def subject(report: dict) -> str:
    """Return the images that a report is about, for a title."""
    return report["folder"] + " (validation images)" * (report["part"] == "val")


def thumbnails(folder: ImageFolder, indices: Iterable[int]) -> Tensor:
    """Return images as `plots.contact_sheet` takes them, (n, 3, S, S) uint8."""
    return torch.stack([THUMBNAIL.read(folder.paths[index]) for index in indices])


def write(target: Path, report: dict, figures: dict[str, Figure], page: dict, tables: dict[str, Iterable]) -> Path:
    """Write all files into `target`/<time>, all or none, and the figures for TensorBoard as well; return the page.

    Args:
        target: below logs/evaluate.
        report: plain values, for report.json.
        figures: by name; report.html says where they stand.
        page: what else report.html asks for.
        tables: file name -> rows, for CSV.

    Raises:
        UserError: as of `write_report`.
    """
    from torch.utils.tensorboard import SummaryWriter

    time = datetime.now()
    folder = target / f"{time:%Y%m%d-%H%M%S}"
    if folder.exists():  # a second report within this second
        folder = target / f"{time:%Y%m%d-%H%M%S-%f}"
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        drawn = {}
        with SummaryWriter(str(unfinished)) as writer:
            for name, figure in figures.items():
                kind = "jpeg" if name.startswith(SHEETS) else "png"
                path = unfinished / f"{name}.{'jpg' if kind == 'jpeg' else 'png'}"
                figure.savefig(path, dpi=130)
                drawn[name] = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
                with Image.open(path) as image:
                    writer.add_image(f"evaluation/{name}", np.asarray(image.convert("RGB")), dataformats="HWC")
            for key, value in report.items():
                if isinstance(value, float):
                    writer.add_scalar(f"evaluation/{key}", value)
        # a file name may hold bytes that are no text: a JSON escape, and on the page a question mark
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (unfinished / "report.json").write_text(text, encoding="utf-8", errors="backslashreplace")
        (unfinished / "report.html").write_text(PAGE.render(figures=drawn, **page), encoding="utf-8", errors="replace")
        for name, rows in tables.items():
            with (unfinished / name).open("w", **CSV_TEXT) as file:
                csv.writer(file).writerows(rows)
        unfinished.rename(folder)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written to ({error.strerror or error}). Choose another folder with --logs."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / "report.html"
