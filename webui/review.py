"""The Review tab: label issues, one image after the other, and a person's decisions, which go to corrections.csv.

Only for whoever sits at this machine, since it shows the data set.
"""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from PIL import Image, ImageOps

from classifier.cli import UserError
from classifier.data import corrections
from classifier.data.corrections import KEEP, LEAVE_OUT, RELABEL, UNDONE, Correction
from classifier.data.image_folder import class_names
from classifier.data.images import load_image
from classifier.text import quoted
from webui.classify import Answer, classify
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


@dataclass
class View:
    """What the tab shows: how far the review is, and the next issue; none is left where `issue` is None."""

    total: int
    done: int
    missing: int  # images of the list that do not exist any more, or cannot be opened
    last: Correction | None  # what Undo takes back
    issue: LabelIssue | None = None
    digest: str = ""  # of the file as it is shown
    image: Image.Image | None = None
    answer: Answer | None = None
    choices: Sequence[tuple[str, str]] = ()  # the other classes, each with its key or ""


class Review:
    """The newest lists of a network's label issues and the decisions on them, as they are now: both may change."""

    def __init__(self, loaded: Loaded, logs: Path):
        self.loaded = loaded
        self.root, found, self.unreadable = label_issues(loaded.checkpoint.path, logs)
        if self.root:
            self.table, self.classes = corrections.table_of(self.root), class_names(self.root)
        issues = {issue.file: issue for issue in sorted(found, key=lambda issue: -issue.confidence)}
        self.issues = {file: issue for file, issue in issues.items() if Path(issue.path).is_file()}
        self.missing = len(issues) - len(self.issues)

    def view(self, first: str = "") -> View | None:
        """Return what is to be shown now, the file `first` where it is still to be decided; None without a list."""
        if not self.root:
            return None
        decisions = corrections.read(self.table, self.classes)[0]
        decided = {file for file, _ in decisions}  # only these are read, to find out whether they have changed since
        undecided = [
            issue
            for file, issue in self.issues.items()
            if file not in decided or (file, corrections.digest(issue.path).hex()) not in decisions
        ]
        last = next((one for one in reversed(decisions.values()) if one.file in self.issues), None)
        view = View(len(self.issues), len(self.issues) - len(undecided), self.missing, last)
        for issue in sorted(undecided, key=lambda issue: issue.file != first):
            try:
                self._show(view, issue)
                break
            except UserError:  # damaged since, or removed at this moment
                view.total, view.missing = view.total - 1, view.missing + 1
        return view

    def act(self, request: dict, _: Translator, who: str = "") -> tuple[View | None, str]:
        """Do what a button says, for the image that it was shown with, unless that was decided elsewhere meanwhile.

        The request has action ("keep", "relabel", "leave out" or "undo"), file, digest, the class as choice, and line:
        the row that Undo takes back. Returns what is to be shown now, and a message or "".
        """
        keys = ("action", "file", "digest", "choice", "line")
        action, file, digest, choice, line = (str(request.get(key, "")) for key in keys)
        issue = self.issues.get(file)
        replaces = int(line) if action == "undo" and line.isdecimal() else 0
        known = replaces or action in (KEEP, LEAVE_OUT) or (action == RELABEL and choice in self.classes)
        if issue is None or not known:
            return self.view(), ""
        if not replaces and corrections.digest(issue.path).hex() != digest:
            text = "{file} has changed since it was shown. Nothing was recorded; look at it again."
            return self.view(first=file), _(text, file=file)
        right = choice if action == RELABEL else ""
        decision = Correction(file, digest, issue.label, UNDONE if replaces else action, right, who)
        if not corrections.record(self.table, decision, self.classes, replaces):
            text = "{file} has been decided elsewhere in the meantime. Nothing was changed."
            return self.view(), _(text, file=file)
        return self.view(first=file if replaces else ""), ""

    def _show(self, view: View, issue: LabelIssue) -> None:
        """Add the issue to the view. Raises UserError where the image cannot be opened."""
        view.digest = corrections.digest(issue.path).hex()
        view.answer = classify(self.loaded, issue.path)
        view.image = ImageOps.contain(load_image(issue.path, SIDE), (SIDE, SIDE))
        names = self.classes  # a class has the same key all the time, or the most probable ones have keys
        if len(names) > len(KEYS):
            names = sorted(set(names) - {issue.label}, key=lambda name: -view.answer.probabilities.get(name, 0))
        keys = dict(zip(names, KEYS, strict=False))
        view.issue, view.choices = issue, [(name, keys.get(name, "")) for name in names if name != issue.label]


def label_issues(weights: Path, logs: Path) -> tuple[Path | None, list[LabelIssue], list[str]]:
    """Return the folder of the newest suspects.csv of a .pth, all issues in it, and reports that cannot be read.

    Issues in the newest list of another part (test, val) of the same data set are included.
    """
    newest, parts, issues, unreadable = None, set(), [], []
    for path in sorted(logs.glob("evaluate/*/[!.]*/suspects.csv"), key=lambda path: path.parent.name, reverse=True):
        try:
            report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
            root, weights_of_list, part = Path(report["folder"]), Path(report["weights"]), report.get("part", "test")
        except (OSError, ValueError, KeyError, TypeError):
            unreadable.append(path.with_name("report.json").relative_to(logs).as_posix())
            continue
        table, newest_table = corrections.table_of(root), newest and corrections.table_of(newest)
        if weights_of_list.resolve() != weights.resolve() or part in parts or newest_table not in (None, table):
            continue
        found = []
        try:
            with path.open(encoding="utf-8-sig", errors=corrections.NAMES, newline="") as file:
                for row in csv.DictReader(file):
                    name, label = row["path"], Path(row["path"]).relative_to(root).parts[0]
                    if name.isprintable():  # a browser cannot send others
                        found.append(LabelIssue(name, corrections.name_in(table, name), label, float(row["sure"])))
        except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error):
            unreadable.append(path.relative_to(logs).as_posix())
            continue
        newest = newest or root
        parts.add(part)
        issues += found
    return newest, issues, unreadable


def review_tab(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> None:
    """Fill the tab."""
    shown = gr.HTML(elem_id="review", js_on_load=SCRIPT)

    def update(event: gr.EventData, request: gr.Request, name: str, language: str) -> str:
        asked = event._data if isinstance(event._data, dict) else {}  # a button's, or of another event
        try:
            review = Review(site.models.get(name), site.logs)
            view, message = review.act(asked, Translator(language), request.username or "")
        except UserError as error:
            return failed(error, language)
        return macros("review", language).card(view, message, quoted(review.loaded.checkpoint.path), review.unreadable)

    events = [tab.select, weights.change, language.change, shown.click]
    gr.on(events, update, [weights, language], shown, **QUIET, **NETWORK)
