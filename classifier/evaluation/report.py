"""What evaluate.py prints and leaves on disk: a page that opens without a server, figures, CSV and JSON."""

import base64
import csv
import json
import mimetypes
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2
import torch
from matplotlib.figure import Figure
from torch import Tensor

from classifier.cli import UserError, plural, print_table, shorten
from classifier.data.image_folder import ImageFolder
from classifier.data.transforms import Preprocess
from classifier.evaluation import metrics, plots
from classifier.evaluation.gallery import Gallery, page_rows, write_projector

CONFIDENT = 0.9  # probability of another class than the label from which on the label may be wrong
MAX_IMAGES_ON_SHEET = 32
MAX_ROWS = 20  # of a table on the terminal; report.html has all classes
THUMBNAIL = Preprocess(size=144, resize="crop")
# the mark of utf-8-sig tells Excel the encoding; a file name that is no valid text keeps its bytes
CSV_TEXT = {"encoding": "utf-8-sig", "errors": sys.getfilesystemencodeerrors(), "newline": ""}
ENVIRONMENT = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
ENVIRONMENT.globals |= {"plural": plural, "confident": CONFIDENT, "confusions": metrics.confusions}
PAGE = ENVIRONMENT.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


@dataclass
class EvalResult:
    """A network with its logits."""

    name: str
    report: dict  # its scores as plain values, the content of report.json
    history: list[dict]  # the epochs of its training, as far as the .pth holds them
    logits: Tensor  # (N, classes)
    labels: Tensor  # (N,)
    gallery: Gallery | None = None  # images for the page; of cross-validation there are none

    @property
    def correct(self) -> Tensor:
        """(N,) bool."""
        return self.logits.argmax(1) == self.labels

    @property
    def answers(self) -> list[str]:
        """The predicted classes, N names."""
        return [self.report["classes"][index] for index in self.logits.argmax(1)]


def print_scores(report: dict) -> None:
    """Print what report.json holds."""
    low, high = report["interval"]
    images = plural(report["count"], "image")
    print(f"\naccuracy   {report['accuracy']:.2%} on {images}, 95% interval {low:.2%} to {high:.2%}")
    for remark in report["remarks"]:
        print(f"           {remark}")
    print(f"loss       {report['loss']:.4f}")
    print(f"ECE        {report['calibration_error']:.3f}, the expected calibration error")
    if report["neither"] is not None:
        print(f"neither    {report['neither']:,} of {images}: unlike the training images, so no class is answered")
    per_image = report["milliseconds_per_picture"]
    print(f"time       {per_image:.2f} ms per image ({1000 / per_image:,.0f} images/s) in batches, decoding included")
    print(f"           {report['milliseconds_for_one']:.1f} ms for a batch of one, without decoding (median)\n")

    rows = metrics.lowest_recall(report["per_class"], MAX_ROWS)
    if len(rows) < len(report["per_class"]):
        print(f"the {MAX_ROWS} classes of {len(report['per_class'])} with the lowest recall; report.html has all")
    table = [("class", "precision", "recall", "F1", "images")]
    for row in rows:
        shares = ("-" if row[key] is None else f"{row[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.append((shorten(row["class"], 30), *shares, f"{row['count']:,}"))
    print_table(table)
    if confusions := metrics.confusions(report["confusion_matrix"], report["classes"], MAX_ROWS):
        print("\nmost frequent confusions")
    for label, answer, count, _ in confusions:
        print(f"{shorten(label, 30)} predicted as {shorten(answer, 30)}: {count:,}")


def write_report(result: EvalResult, folder: ImageFolder, target: Path) -> Path:
    """Write the report of one network and return its page.

    Label issues are labels that the network contradicts with confidence (Northcutt et al., "Confident Learning", 2021),
    unless it was trained on the images: a network trained on a wrong label repeats it. `folder` has the images in the
    order of the logits; `target` is logs/evaluate/<weights>.
    """
    report, correct = result.report, result.correct
    uncalibrated, probabilities = (metrics.probabilities(result.logits, t) for t in (1.0, report["temperature"]))
    confidence, second = probabilities.topk(2).values.T
    rows = list(zip(folder.paths, [folder.classes[label] for label in folder.labels], result.answers, strict=True))
    errors = [i for i in confidence.argsort(descending=True, stable=True).tolist() if not correct[i]]
    titles = [f"{rows[i][2]} {share:.0%}\nlabel: {rows[i][1]}" for i, share in enumerate(confidence)]
    confidences = {
        f"uncalibrated: ECE {report['calibration_error_without_temperature']:.3f}": uncalibrated.max(1).values,
        f"temperature {report['temperature']:.2f}: ECE {report['calibration_error']:.3f}": confidence,
    }
    figures = {
        "confusion_matrix.png": plots.confusion_matrix(torch.tensor(report["confusion_matrix"]), report["classes"]),
        "calibration.png": plots.calibration(confidences, correct),
        "rankings.png": plots.rankings(probabilities, result.labels, report["per_class"]),
        "unsure.jpg": sheet(folder, (confidence - second).argsort(stable=True).tolist(), titles, ~correct),
    }
    if errors:
        figures["mistakes.jpg"] = sheet(folder, errors, titles, ~correct)
    if result.history:
        figures["curves.png"] = plots.curves({result.name: result.history})

    predictions = ((*row, *(f"{p:.6f}" for p in own)) for row, own in zip(rows, probabilities.tolist(), strict=True))
    tables = {"predictions.csv": [("path", "label", "answer", *report["classes"]), *predictions]}
    issues = None
    if not report["learned_from"]:
        issues = [(*rows[i], f"{confidence[i]:.4f}") for i in errors if confidence[i] >= CONFIDENT]
        tables["suspects.csv"] = [("path", "label", "answer", "sure"), *issues]
    page = {"results": [result], "issues": issues, "names": [row[1:] for row in rows]}
    if result.gallery:
        page["images"] = page_rows(result.gallery, folder.paths, result.labels, probabilities)
    return write(target, report, figures, page, tables)


def sheet(folder: ImageFolder, indices: Sequence[int], titles: Sequence[str], wrong: Tensor) -> Figure:
    """Draw the first of these images of the folder; takes titles and `wrong` (N,) of all its images."""
    indices = indices[:MAX_IMAGES_ON_SHEET]
    pixels = torch.stack([THUMBNAIL.read(folder.paths[i]) for i in indices])
    return plots.contact_sheet(pixels, [titles[i] for i in indices], wrong=wrong[indices].tolist())


def write(target: Path, report: dict, figures: dict[str, Figure], page: dict, tables: dict[str, Iterable]) -> Path:
    """Write all files into `target`/<time>, all or none, and return the page.

    `report` is for report.json, `page` for report.html and its `names` (label and prediction of each image) for
    TensorBoard's projector; `figures` and `tables` (rows) go by file name. Raises UserError if the folder cannot be
    written to or the disk is full.
    """
    folder = target / f"{datetime.now():%Y%m%d-%H%M%S-%f}"
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        drawn = {}
        for name, figure in figures.items():
            figure.savefig(unfinished / name, dpi=130)
            content = base64.b64encode((unfinished / name).read_bytes()).decode()
            drawn[Path(name).stem] = f"data:{mimetypes.guess_type(name)[0]};base64,{content}"
        # a file name may hold bytes that are no text: a JSON escape, and on the page a question mark
        text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
        (unfinished / "report.json").write_text(text, encoding="utf-8", errors="backslashreplace")
        html = PAGE.render(figures=drawn, **page)
        (unfinished / "report.html").write_text(html, encoding="utf-8", errors="replace")
        for name, rows in tables.items():
            with (unfinished / name).open("w", **CSV_TEXT) as file:
                csv.writer(file).writerows(rows)
        if page.get("images"):
            write_projector(page["results"][0].gallery, page["names"], unfinished / "projector")
        unfinished.rename(folder)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{target} cannot be written to ({reason}). Choose another folder with --logs.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder / "report.html"
