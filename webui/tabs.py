"""The tabs of the page, one function each: its components, and what happens when they are used."""

from pathlib import Path

import gradio as gr
from gradio.route_utils import get_api_call_path, get_root_url

from classifier.cli import UserError
from classifier.data.images import ImageError
from webui import feedback
from webui.about import about
from webui.classify import MAX_IMAGES, Answer, Row, classify, classify_many, to_csv
from webui.components import FilesUpload, ImageUpload, Upload
from webui.examples import SHOWN_BY_BROWSERS, examples, thumbnail
from webui.i18n import Translator
from webui.render import failed, macros
from webui.site import BULK, NETWORK, QUIET, Site, or_busy

# longer side in pixels: in the table, beside another model's answer, and in place of an image that browsers do not show
THUMBNAIL, FIGURE, LARGE = 96, 480, 960


def image_upload(site: Site, **options) -> ImageUpload:
    """Return the component that takes an image from a file, the camera or the clipboard."""
    return site.localized(
        ImageUpload(show_label=False, sources=["upload", "webcam", "clipboard"], **options),
        label="Image",
        alt_text="Your image",
        placeholder="Drop an image here\nor click to choose one",
    )


def one_image(site: Site, weights: gr.Dropdown, language: gr.Radio) -> ImageUpload:
    """Classify an image, show which parts speak for each class, and take feedback."""
    given = gr.State(None)  # the answer that feedback is about
    with gr.Row(elem_id="main"):
        with gr.Column():
            image = image_upload(site, height="min(400px, 86vw)", buttons=["fullscreen"], elem_id="image")
            site.localized(gr.HTML(elem_id="strength"), value=lambda _: macros("answer", _.language).strength())
        with gr.Column():
            best = site.models.best()
            waiting = macros("answer", "en").waiting(site.models.get(best).checkpoint.classes)
            result = gr.HTML(waiting, elem_id="answer")
            with gr.Row(visible=False, elem_id="feedback") as asking:
                right = site.localized(gr.Button(size="sm", elem_id="right"), value="Correct")
                truth = site.localized(gr.Dropdown([], elem_id="truth"), label="Wrong; it is:")
            noted = gr.HTML(elem_id="noted")

    def show(path: str | None, name: str, language: str) -> tuple:
        html = macros("answer", language)
        try:
            classes = site.models.get(name).checkpoint.classes
            if path is None:
                return html.waiting(classes), None, gr.update(visible=False), gr.update(), ""
            in_browser = Path(path).suffix.lower() in SHOWN_BY_BROWSERS
            answer = classify(site.models.get(name), path, 0 if in_browser else LARGE)
        except UserError as error:
            return failed(error, language), None, gr.update(visible=False), gr.update(), ""
        about_answer, others = _feedback_on(answer, path, name, classes, Translator(language))
        truths = gr.update(choices=others, value=None)
        return html.one(answer), about_answer, gr.update(visible=True), truths, ""

    def note(about_answer: feedback.Given | None, truth: str | None, language: str) -> tuple:
        if not about_answer:  # pressed twice: it is recorded already
            return gr.update(), gr.update(), None
        _, hint = Translator(language), macros("answer", language).hint
        try:
            feedback.record(site.logs, about_answer, truth or about_answer.answer, site.keep_images)
        except UserError as error:
            return hint(_.error(error)), gr.update(), about_answer
        return hint(_("Recorded. Thank you.")), gr.update(visible=False), None

    answering = gr.on(
        [image.change, weights.change, language.change],
        show, [image, weights, language], [result, given, asking, truth, noted],
        trigger_mode="always_last", js="fadeAnswer", **QUIET, **NETWORK,
    )  # fmt: skip
    or_busy(answering, language, result)
    recorded = [noted, asking, given]
    right.click(lambda answer, language: note(answer, None, language), [given, language], recorded, **QUIET)
    truth.input(note, [given, truth, language], recorded, **QUIET)
    _offer_examples(site, weights, language, image, result)
    return image


def _feedback_on(answer: Answer, path: str, name: str, classes: list[str], _: Translator) -> tuple:
    """Return what feedback is about, and the other classes to choose from, as (title, name)."""
    said = feedback.NEITHER if answer.is_ood else answer.best
    others = [(_.class_name(other), other) for other in classes if other != said]
    if said != feedback.NEITHER:
        others.append((_("Neither"), feedback.NEITHER))
    return feedback.Given(Path(path), classes, name, said, answer.probabilities[answer.best]), others


def _offer_examples(site: Site, weights: gr.Dropdown, language: gr.Radio, image: ImageUpload, result: gr.HTML) -> None:
    """Add images to try the page with; a click on one puts it into `image`."""

    def found(name: str) -> tuple[list[Path], bool]:
        try:
            return examples(site.models.get(name).checkpoint, site.uploads)
        except UserError:
            return [], False

    def offer(name: str, language: str) -> str:
        paths, drawn = found(name)
        return macros("answer", language).examples([thumbnail(path) for path in paths], drawn)

    def choose(event: gr.EventData, name: str) -> str | None:
        paths, index = found(name)[0], str(event._data.get("index"))
        chosen = paths[int(index)] if index.isdecimal() and int(index) < len(paths) else None
        return str(chosen) if chosen and chosen.is_file() else None

    shown = gr.HTML(offer(site.models.best(), "en"), elem_id="examples", js_on_load="reportClicks(element, trigger)")
    gr.on([weights.change, language.change], offer, [weights, language], shown, **QUIET)
    or_busy(shown.click(choose, weights, image, **QUIET), language, result)


def several_images(site: Site, weights: gr.Dropdown, language: gr.Radio) -> None:
    """Classify many images or zips into a table."""
    options = {"file_count": "multiple", "file_types": ["image", ".zip"], "show_label": False, "height": 180}
    files = site.localized(FilesUpload(elem_id="files", **options), label="Images, or a zip of them")
    given = gr.State([])
    result = gr.HTML(elem_id="several")

    def show(uploads: list[Upload], name: str, language: str):
        if not uploads:
            yield ""
            return
        html, rows = macros("answer", language), []
        try:
            loaded = site.models.get(name)
            for batch in classify_many(loaded, uploads, THUMBNAIL):
                rows += batch
                yield html.progress(min(len(rows), MAX_IMAGES))
            left_out, rows = len(rows) > MAX_IMAGES, rows[:MAX_IMAGES]
            yield html.table(rows, to_csv(rows, loaded.checkpoint.classes), left_out)
        except UserError as error:
            yield failed(error, language)

    # the component is emptied at once, ready for more: a list of all files would push the answers off the page
    files.upload(lambda uploads: (uploads, None), files, [given, files], **QUIET)
    answering = gr.on(
        [given.change, weights.change, language.change],
        show, [given, weights, language], result, trigger_mode="always_last", **QUIET, **BULK,
    )  # fmt: skip
    or_busy(answering, language, result)


def compare(site: Site, language: gr.Radio, tab: gr.Tab, image: ImageUpload) -> None:
    """Classify one image with several models."""

    def loadable(_: Translator) -> list[tuple[str, str]]:
        return site.titles(_, loadable=True)

    first_two = [name for _, name in loadable(Translator())[:2]]
    chosen = gr.CheckboxGroup(value=first_two, elem_id="compared-weights")
    site.localized(chosen, label="Models to compare", choices=loadable)
    with gr.Row(elem_id="compare-main"):
        own = image_upload(site, height=220, buttons=[], elem_id="second")

    def show(path: str | None, names: list[str], language: str) -> str:
        _, html = Translator(language), macros("answer", language)
        if path is None:
            if len(loadable(_)) > 1:
                return ""
            return html.hint(_("There is only this model. Train another one: python train.py --model resnet34"))
        rows: list[Row] = []
        for name in names[: site.models.keep]:  # more would be loaded again each time
            try:
                rows.append((name, classify(site.models.get(name), path, FIGURE)))
            except ImageError as error:
                return failed(error, language)
            except UserError as error:
                rows.append((name, error))
        return html.compared(rows)

    def begin(language: str, names: list[str], before: str | None, path: str | None) -> tuple[dict, str | None]:
        choices = loadable(Translator(language))
        existing = [name for _, name in choices if name in names]  # a file may have been removed
        return gr.update(choices=choices, value=existing), before or path

    result = gr.HTML(show(None, [], "en"), elem_id="comparison")
    answering = gr.on(
        [own.change, chosen.change, language.change],
        show, [own, chosen, language], result, trigger_mode="always_last", **QUIET, **NETWORK,
    )  # fmt: skip
    or_busy(answering, language, result)
    tab.select(begin, [language, chosen, own, image], [chosen, own], **QUIET)


def about_model(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> None:
    """Show the model card, and how programs call the page."""
    card, opened = gr.HTML(elem_id="about"), gr.State(False)

    def show(name: str, language: str, request: gr.Request) -> str:
        try:
            loaded = site.models.get(name)
        except UserError as error:
            return failed(error, language)
        programs = macros("about", language).programs(address(request), bool(request.username))
        return about(loaded.checkpoint, loaded.compute, language) + programs

    def update(known: bool, name: str, language: str, request: gr.Request) -> str | dict:
        return show(name, language, request) if known else gr.skip()  # curves that nobody sees would take a second

    opening = tab.select(show, [weights, language], card, **QUIET)
    opening.then(lambda: True, outputs=opened, **QUIET)
    or_busy(opening, language, card)
    gr.on([weights.change, language.change], update, [opened, weights, language], card, **QUIET)


def address(request: gr.Request) -> str:
    """Return where programs reach the page, as the visitor did, without a slash at the end."""
    inner = request.request
    return get_root_url(inner, get_api_call_path(inner), inner.scope.get("root_path"))
