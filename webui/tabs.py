"""The tabs of the page, one function each: its components, and what happens when they are used."""

from pathlib import Path

import gradio as gr

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.formats import ImageError
from webui import feedback
from webui.api import FilesUpload, ImageUpload
from webui.classify import MAX_IMAGE_MB, MAX_IMAGES, MAX_ZIP_MB, NEITHER, Row, Upload, classify, classify_many, to_csv
from webui.examples import examples, thumbnail
from webui.i18n import Translator, failed, macros
from webui.models import MAX_LOADED
from webui.site import BULK, NETWORK, QUIET, Site

# longer side in pixels: in the table, beside another model's answer, and in place of the image as the browser reads it
THUMBNAIL, FIGURE, LARGE = 96, 480, 960


def image_upload(site: Site, **options) -> ImageUpload:
    """Return the component that takes an image from a file, the camera or the clipboard."""
    return site.localized(
        ImageUpload(show_label=False, sources=["upload", "webcam", "clipboard"], **options),
        label="Image",
        alt_text="Your image",
        placeholder=lambda _: _("Drop an image here\nor click to choose one,\nup to {limit} MB", limit=MAX_IMAGE_MB),
    )


def one_image(site: Site, weights: gr.Dropdown, language: gr.Radio) -> ImageUpload:
    """Classify an image, show which parts speak for each class, and take feedback."""
    given = gr.State(None)  # image, model, answer and confidence, which feedback is about
    with gr.Row(elem_id="main"):
        with gr.Column():
            image = image_upload(site, height="min(400px, 86vw)", buttons=["fullscreen"], elem_id="image")
            site.localized(gr.HTML(elem_id="strength"), value=lambda _: macros("answer", _.language).strength())
        with gr.Column():
            classes = site.models.get(site.models.best()).checkpoint.classes
            result = gr.HTML(macros("answer", "en").waiting(classes), elem_id="answer")
            with gr.Row(elem_id="feedback"):  # the style sheet hides it where there is nothing to say
                right = site.localized(gr.Button(size="sm", elem_id="right"), value="Correct")
                truth = site.localized(gr.Dropdown([], elem_id="truth"), label="Wrong; it is:")
            noted = gr.HTML(elem_id="noted")

    def show(path: str | None, name: str, language: str) -> tuple:
        _, html, no_feedback = Translator(language), macros("answer", language), (None, gr.skip(), "")
        try:
            loaded = site.models.get(name)
            classes = loaded.checkpoint.classes
            if path is None:
                return html.waiting(classes), *no_feedback
            answer = classify(loaded, path, LARGE)
        except UserError as error:
            return failed(error, language), *no_feedback
        truths = [(_.class_name(other), other) for other in classes] + [(html.neither(classes).unescape(), NEITHER)]
        others = gr.update(choices=[(title, other) for title, other in truths if other != answer.label], value=None)
        about_answer = Path(path), name, answer.label, answer.probabilities[answer.best]
        return html.one(answer), about_answer, others, ""

    def note(about_answer: tuple | None, truth: str | None, language: str) -> tuple:
        try:
            if about_answer:  # otherwise pressed twice: it is recorded already
                feedback.record(site.logs, *about_answer, truth or about_answer[2])
        except UserError as error:
            return macros("answer", language).hint(Translator(language).error(error)), about_answer
        return macros("answer", language).recorded(), None

    gr.on(
        [image.change, weights.change, language.change],
        show, [image, weights, language], [result, given, truth, noted],
        trigger_mode="always_last", js="fadeAnswer", **QUIET, **NETWORK,
    )  # fmt: skip
    right.click(lambda answer, language: note(answer, None, language), [given, language], [noted, given], **QUIET)
    truth.input(note, [given, truth, language], [noted, given], **QUIET)
    _offer_examples(site, weights, language, image)
    return image


def _offer_examples(site: Site, weights: gr.Dropdown, language: gr.Radio, image: ImageUpload) -> None:
    """Add images to try the page with; a click on one puts it into `image`."""

    def found(name: str) -> list[Path]:
        checkpoint = site.models.found().get(name)
        return examples(checkpoint) if isinstance(checkpoint, Checkpoint) else []

    def offer(name: str, language: str) -> str:
        return macros("answer", language).examples([thumbnail(path) for path in found(name)])

    def choose(event: gr.EventData, name: str) -> str | None:
        return next((str(path) for index, path in enumerate(found(name)) if str(index) == event._data["index"]), None)

    shown = gr.HTML(offer(site.models.best(), "en"), elem_id="examples", js_on_load="reportClicks(element, trigger)")
    gr.on([weights.change, language.change], offer, [weights, language], shown, **QUIET)
    shown.click(choose, weights, image, **QUIET)


def several_images(site: Site, weights: gr.Dropdown, language: gr.Radio) -> None:
    """Classify many images or zips into a table."""
    options = {"file_count": "multiple", "file_types": ["image", ".zip"], "show_label": False, "height": 180}
    files = site.localized(FilesUpload(elem_id="files", **options), label="Images, or a zip of them")
    text = "At most {count} images at a time, of up to {image} MB each; a zip may have {zip} MB."
    limits = {"count": MAX_IMAGES, "image": MAX_IMAGE_MB, "zip": MAX_ZIP_MB}
    site.localized(gr.HTML(elem_id="limits"), value=lambda _: f"<p>{_(text, **limits)}</p>")
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
    gr.on(
        [given.change, weights.change, language.change],
        show, [given, weights, language], result, trigger_mode="always_last", **QUIET, **BULK,
    )  # fmt: skip


def compare(site: Site, language: gr.Radio, tab: gr.Tab, image: ImageUpload) -> None:
    """Classify one image with several models."""
    loadable = [name for name, found in site.models.found().items() if not isinstance(found, UserError)]
    chosen = gr.CheckboxGroup(value=loadable[:2], elem_id="compared-weights")
    site.localized(chosen, label="Models to compare", choices=site.models.titles)
    with gr.Row(elem_id="compare-main"):
        own = image_upload(site, height=220, buttons=[], elem_id="second")
    result = gr.HTML(elem_id="comparison")

    def show(path: str | None, names: list[str], language: str) -> str:
        if path is None:
            return macros("answer", language).only_this_model() if len(site.models.found()) == 1 else ""
        rows: list[Row] = []
        for i, name in enumerate(names):
            try:
                if i >= MAX_LOADED:  # more would be loaded again each time
                    raise UserError("left out: at most {count} models at a time", count=MAX_LOADED)
                rows.append((name, classify(site.models.get(name), path, FIGURE)))
            except ImageError as error:
                return failed(error, language)
            except UserError as error:
                rows.append((name, error))
        return macros("answer", language).compared(rows)

    def begin(language: str, before: str | None, path: str | None) -> tuple[dict, str | dict]:
        from_first_tab = path if path and not before else gr.skip()  # an image that is given meanwhile stays
        return gr.update(choices=site.models.titles(Translator(language))), from_first_tab

    gr.on(
        [tab.select, own.change, chosen.change, language.change],
        show, [own, chosen, language], result, trigger_mode="always_last", **QUIET, **NETWORK,
    )  # fmt: skip
    tab.select(begin, [language, own, image], [chosen, own], **QUIET)
