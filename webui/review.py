"""The Review tab: label issues, one image after the other, and a person's decisions, which go to corrections.csv.

Only for whoever sits at this machine, since it shows the data set.
"""

from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from PIL import ImageOps

from classifier.cli import UserError
from classifier.data import corrections
from classifier.data.corrections import KEEP, LEAVE_OUT, RELABEL, UNDONE, Correction
from classifier.data.image_folder import class_names
from classifier.data.images import load_image
from classifier.text import quoted
from webui.classify import Answer, classify
from webui.i18n import Translator
from webui.label_issues import LabelIssue, newest_lists, read_list
from webui.models import Loaded
from webui.render import failed, jpeg, macros
from webui.site import NETWORK, QUIET, Site

MAX_SIDE, MIN_SIDE = 800, 400  # pixels of the longer side as an image is shown
KEYS = "123456789"
SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Shown:
    """An issue ready to be shown; `digest` is that of the file as it is shown."""

    issue: LabelIssue
    digest: str
    image: str  # a data URI
    answer: Answer
    choices: list[tuple[str, str]]  # the other classes, each with its key or ""


@dataclass(frozen=True)
class View:
    """What the tab shows; `missing` images of the list do not exist any more, or cannot be opened."""

    listed: bool  # whether there is a list
    total: int = 0
    done: int = 0
    missing: int = 0
    shown: Shown | None = None
    last: Correction | None = None  # what Undo takes back

    def card(self, weights: Path, language: str, message: str = "") -> str:
        """Return the tab as HTML; `message` tells how the last action ended."""
        return macros("review", language).card(self, message, quoted(weights))


class Review:
    """The newest list of a network's label issues and the decisions on it, as they are now: both may change."""

    def __init__(self, loaded: Loaded, logs: Path):
        self.loaded, lists = loaded, newest_lists(loaded.checkpoint.path, logs)
        self.listed = bool(lists)
        issues: list[LabelIssue] = []
        if lists:
            root = lists[0][1]
            self.table, self.classes = corrections.table_of(root), class_names(root)
            for path, other in lists:
                if corrections.table_of(other) == self.table:
                    issues += read_list(path, other)
        by_file = {issue.file: issue for issue in sorted(issues, key=lambda issue: -issue.confidence)}
        self.issues = {file: one for file, one in by_file.items() if one.label in self.classes and one.exists()}
        self.missing = len(by_file) - len(self.issues)

    def view(self, first: str = "") -> View:
        """Return what is to be shown now, beginning with the file `first` where it is still to be decided."""
        if not self.listed:
            return View(False)
        decisions = corrections.read(self.table, self.classes)[0]
        decided = {file for file, _ in decisions}
        undecided = [
            issue
            for file, issue in self.issues.items()
            if file not in decided or (file, issue.digest()) not in decisions
        ]
        missing, shown = self.missing, None
        for issue in sorted(undecided, key=lambda issue: issue.file != first):
            try:
                shown = self._show(issue)
                break
            except UserError:  # damaged since, or removed at this moment
                missing += 1
        last = next((one for one in reversed(decisions.values()) if one.file in self.issues), None)
        total, done = len(self.issues) + self.missing - missing, len(self.issues) - len(undecided)
        return View(True, total, done, missing, shown, last)

    def act(self, request: dict, _: Translator, who: str = "") -> tuple[View, str]:
        """Do what a button says, for the image that it was shown with, unless that was decided elsewhere meanwhile.

        The request has action ("keep", "relabel", "leave out" or "undo"), file, digest, the class as choice, and line:
        the row that Undo takes back. Returns what is to be shown now, and a message or "".
        """
        keys = ("action", "file", "digest", "choice", "line")
        action, file, digest, choice, line = (str(request.get(key, "")) for key in keys)
        issue = self.issues.get(file)
        if issue is None:
            return self.view(), _("{file} is no longer on the list.", file=file)
        replaces = int(line) if action == "undo" and line.isdecimal() else 0
        if not (replaces or action in (KEEP, LEAVE_OUT) or (action == RELABEL and choice in self.classes)):
            return self.view(), ""
        right = choice if action == RELABEL else ""
        decision = Correction(file, digest, issue.label, UNDONE if replaces else action, right, who)
        if not replaces and issue.digest() != digest:
            text = "{file} has changed since it was shown. Nothing was recorded; look at it again."
            return self.view(first=file), _(text, file=file)
        try:
            recorded = corrections.record(self.table, decision, self.classes, replaces)
        except UserError as error:
            return self.view(first=file), _("Nothing was recorded: {reason}", reason=_.error(error))
        if not recorded:
            text = "{file} has been decided elsewhere in the meantime. Nothing was changed."
            return self.view(), _(text, file=file)
        return self.view(first=file if replaces else ""), ""

    def _show(self, issue: LabelIssue) -> Shown:
        """Raises UserError where the image cannot be opened."""
        digest, answer = issue.digest(), classify(self.loaded, issue.path)
        image = load_image(issue.path, MAX_SIDE // 2)  # leaves at least MAX_SIDE of the shorter side, if it has that
        if max(image.size) > MAX_SIDE:
            image.thumbnail((MAX_SIDE, MAX_SIDE))
        elif max(image.size) < MIN_SIDE:
            image = ImageOps.contain(image, (MIN_SIDE, MIN_SIDE))
        others = [name for name in self.classes if name != issue.label]
        keys = dict(zip(self.classes, KEYS, strict=False))  # the same key for a class all the time
        if len(self.classes) > len(KEYS):  # or for the most probable ones
            others.sort(key=lambda name: -answer.probabilities.get(name, 0))
            keys = dict(zip(others, KEYS, strict=False))
        return Shown(issue, digest, jpeg(image), answer, [(name, keys.get(name, "")) for name in others])


def review_tab(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> None:
    """Fill the tab."""
    shown = gr.HTML(elem_id="review", js_on_load=SCRIPT)

    def show(name: str, language: str) -> str:
        try:
            review = Review(site.models.get(name), site.logs)
            return review.view().card(review.loaded.checkpoint.path, language)
        except UserError as error:
            return failed(error, language)

    def act(event: gr.EventData, request: gr.Request, name: str, language: str) -> str:
        try:
            review = Review(site.models.get(name), site.logs)
            view, message = review.act(event._data or {}, Translator(language), request.username or "")
            return view.card(review.loaded.checkpoint.path, language, message)
        except UserError as error:
            return failed(error, language)

    gr.on([tab.select, weights.change, language.change], show, [weights, language], shown, **QUIET, **NETWORK)
    shown.click(act, [weights, language], shown, **QUIET, **NETWORK)
