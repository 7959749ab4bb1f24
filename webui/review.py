"""The Review tab: label issues, one image after the other, and a person's decisions, which go to corrections.csv.

Only for whoever sits at this machine, since it shows the data set.
"""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from PIL import ImageOps

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, quoted
from classifier.data import corrections
from classifier.data.corrections import KEEP, LEAVE_OUT, RELABEL, UNDONE, Correction
from classifier.data.image_folder import class_names
from classifier.data.images import load_image
from webui.classify import classify
from webui.i18n import Translator, failed, macros
from webui.models import Loaded
from webui.site import NETWORK, QUIET, Site

SIDE = 600  # pixels of the longer side as an image is shown
KEYS = "123456789"
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


class LabelIssue(NamedTuple):
    """A row of suspects.csv; `file` is the image's name in corrections.csv, `label` its class by its folder."""

    path: str
    file: str
    label: str
    confidence: float


class Review:
    """A network's label issues in the newest lists, and the decisions on them, read anew for each click.

    `find_next` sets what review.html shows: `issue`, with `digest`, `image`, `answer` and `choices` (the other classes,
    each with its key or ""), or None where nothing is left; `done` of `total`, fewer than `listed` where
    images cannot be opened; and `last`, which Undo takes back. Raises UserError for a report that cannot be read.
    """

    def __init__(self, loaded: Loaded, logs: Path):
        self.loaded = loaded
        self.root, found = label_issues(loaded.checkpoint, logs)
        if self.root:
            self.table, self.classes = corrections.table_of(self.root), class_names(self.root)
        found.sort(key=lambda issue: -issue.confidence)
        self.issues = {issue.file: issue for issue in found if Path(issue.path).is_file()}
        self.listed = len(found)

    def find_next(self, first: str = "") -> None:
        """Find the issue to show: the file `first` where it is still to be decided."""
        if not self.root:
            return
        decisions = corrections.read(self.table, self.classes)[0]
        decided = {file for file, _ in decisions}  # only these are read, to find out whether they have changed since
        undecided = [
            issue
            for file, issue in self.issues.items()
            if file not in decided or (file, corrections.digest(issue.path).hex()) not in decisions
        ]
        self.total, self.done = len(self.issues), len(self.issues) - len(undecided)
        self.last = next((one for one in reversed(decisions.values()) if one.file in self.issues), None)
        self.issue = None
        for issue in sorted(undecided, key=lambda issue: issue.file != first):
            try:
                self._open(issue)
                break
            except UserError:  # damaged since, or removed at this moment
                self.total -= 1

    def record(self, request: dict, _: Translator, who: str = "") -> str:
        """Record what a button says of the image that it was shown with; return "" or why that was not possible.

        The request has the decision as action, file and digest as in corrections.csv, the class as choice, and line:
        the row that Undo takes back.
        """
        keys = ("action", "file", "digest", "choice", "line")
        decision, file, digest, choice, line = (str(request.get(key, "")) for key in keys)
        replaces = int(line) if decision == UNDONE and line.isdecimal() else 0
        known = replaces or decision in (KEEP, LEAVE_OUT) or (decision == RELABEL and choice in self.classes)
        if file not in self.issues or not known:
            return ""
        issue = self.issues[file]
        if not replaces and corrections.digest(issue.path).hex() != digest:
            return _("{file} has changed since it was shown. Nothing was recorded; look at it again.", file=file)
        right = choice if decision == RELABEL else ""
        correction = Correction(file, digest, issue.label, decision, right, who)
        if not corrections.record(self.table, correction, self.classes, replaces):
            return _("{file} has been decided elsewhere in the meantime. Nothing was changed.", file=file)
        return ""

    def _open(self, issue: LabelIssue) -> None:
        """Set what is shown of the issue. Raises UserError where the image cannot be opened."""
        self.digest = corrections.digest(issue.path).hex()
        self.answer = classify(self.loaded, issue.path)
        self.image = ImageOps.contain(load_image(issue.path, SIDE), (SIDE, SIDE))
        names = self.classes  # a class has the same key all the time, or the most probable ones have keys
        if len(names) > len(KEYS):
            names = sorted(set(names) - {issue.label}, key=lambda name: -self.answer.probabilities.get(name, 0))
        keys = dict(zip(names, KEYS, strict=False))
        self.issue, self.choices = issue, [(name, keys.get(name, "")) for name in names if name != issue.label]


def label_issues(checkpoint: Checkpoint, logs: Path) -> tuple[Path | None, list[LabelIssue]]:
    """Return the folder of the newest suspects.csv of a .pth or of a cross-validation, and all issues in it.

    Issues in the newest list of another part (test, val) of the same data set are included.
    """
    newest, parts, issues = None, set(), []
    for path in sorted(logs.glob("evaluate/*/[!.]*/suspects.csv"), key=lambda path: path.parent.name, reverse=True):
        try:
            report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
            root, part, weights = Path(report["folder"]), report.get("part", "test"), report["weights"]
            table = corrections.table_of(root)
            other_data = newest and corrections.table_of(newest) != table
            if weights:
                is_own = Path(weights).resolve() == checkpoint.path.resolve()
            else:  # a cross-validation, which leaves no weights
                is_own = report["classes"] == checkpoint.classes
            if not is_own or part in parts or other_data:
                continue
            issues += _read_list(path, root, table)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error) as error:
            raise UserError("The report {folder} cannot be read. Remove it.", folder=path.parent) from error
        newest = newest or root
        parts.add(part)
    return newest, issues


def _read_list(path: Path, root: Path, table: Path) -> list[LabelIssue]:
    with path.open(encoding="utf-8-sig", errors=corrections.NAMES, newline="") as file:
        rows = [(row["path"], Path(row["path"]), float(row["sure"])) for row in csv.DictReader(file)]
    return [
        LabelIssue(name, image.relative_to(table.parent).as_posix(), image.relative_to(root).parts[0], confidence)
        for name, image, confidence in rows
        if name.isprintable()  # a browser cannot send others
    ]


def review_tab(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> None:
    """Fill the tab."""
    shown = gr.HTML(elem_id="review", js_on_load=SCRIPT)

    def update(event: gr.EventData, request: gr.Request, name: str, language: str) -> str:
        asked = event._data if isinstance(event._data, dict) else {}  # a button's, or of another event
        try:
            review = Review(site.models.get(name), site.logs)
            message = review.record(asked, Translator(language), request.username or "")
            review.find_next(str(asked.get("file", "")))
        except UserError as error:
            return failed(error, language)
        return macros("review", language).card(review, message, quoted(review.loaded.checkpoint.path))

    events = [tab.select, weights.change, language.change, shown.click]
    gr.on(events, update, [weights, language], shown, **QUIET, **NETWORK)
