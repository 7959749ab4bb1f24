"""The tabs of the page, one function each: what is on it, and what happens when it is used."""

from pathlib import Path

import gradio as gr
from gradio.route_utils import get_api_call_path, get_root_url

from classifier.cli import UserError
from classifier.data.images import ImageError
from webui import feedback, html
from webui.about import about
from webui.answers import MANY, ask, ask_many
from webui.examples import IN_BROWSERS, copied, examples, thumbnail
from webui.site import BULK, NETWORK, QUIET, Site, or_busy
from webui.uploads import Files, ImageInput, Upload
from webui.words import Speaker

CHOOSE = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("click", { place: button.dataset.place });
});"""  # which of the buttons was clicked
# until the next image is answered, the earlier answer is faint, and its heat map does not lie over the new image
FORGET = """(...inputs) => {
  for (const part of document.querySelectorAll("#answer:has(input) .prose > *")) {
    part.classList.add("old");
    if (part.matches("style")) part.textContent = "";
  }
  return inputs;
}"""
SOURCES = ["upload", "webcam", "clipboard"]
# longer side in pixels: in the table, beside another network's, and in place of an image that browsers do not show
THUMBNAIL, FIGURE, LARGE = 96, 480, 960


def one_image(site: Site, weights: gr.Dropdown, language: gr.Radio) -> ImageInput:
    """Drop an image, see the answer and where it comes from, say whether it is right."""
    given = gr.State(None)  # what feedback is about: (path, classes, name of the weights, answer, confidence)
    with gr.Row(elem_id="main"):
        with gr.Column():
            image = site.put(
                ImageInput(
                    show_label=False,
                    sources=SOURCES,
                    height="min(400px, 86vw)",
                    buttons=["fullscreen"],
                    elem_id="picture",
                ),
                label="Image",
                alt_text="Your image",
                placeholder="Drop an image here\nor click to choose one",
            )
            site.put(gr.HTML(elem_id="strength"), value=html.strength)
        with gr.Column():
            result = gr.HTML(elem_id="answer")
            with gr.Row(visible=False, elem_id="feedback") as asking:
                right = site.put(gr.Button(size="sm", elem_id="right"), value="That is right")
                truth = site.put(gr.Dropdown([], elem_id="truth"), label="No, it is:")
            noted = gr.HTML(elem_id="noted")

    tries = gr.HTML(elem_id="examples", js_on_load=CHOOSE)

    def offer(name: str, chosen: str) -> str:
        paths, drawn = _examples(site, name)
        return html.examples([thumbnail(path) for path in paths], drawn, Speaker(chosen))

    def choose(event: gr.EventData, name: str) -> str | None:
        paths, place = _examples(site, name)[0], str(event._data.get("place"))
        return copied(paths[int(place)], site.uploads) if place.isdecimal() and int(place) < len(paths) else None

    def show(path: str | None, name: str, chosen: str) -> tuple:
        say = Speaker(chosen)
        try:
            loaded = site.models.get(name)
            classes = loaded.checkpoint.classes
            if path is None:
                return html.waiting(classes, say), None, gr.update(visible=False), gr.update(), ""
            answer = ask(loaded, path, 0 if Path(path).suffix.lower() in IN_BROWSERS else LARGE)
        except UserError as error:
            return html.refused(error, say), None, gr.update(visible=False), gr.update(), ""
        said = feedback.NEITHER if answer.is_ood else answer.best
        others = [(say.name(one), one) for one in classes if one != said]
        others += [(say("Neither"), feedback.NEITHER)] * (said != feedback.NEITHER)
        what = (path, classes, name, said, answer.probabilities[answer.best])
        return html.one(answer, say), what, gr.update(visible=True), gr.update(choices=others, value=None), ""

    def note(what: tuple | None, truth: str | None, chosen: str) -> tuple:
        if not what:  # pressed twice: it is noted already
            return gr.update(), gr.update(), None
        path, classes, name, said, sure = what
        say = Speaker(chosen)
        problem = feedback.note(site.logs, Path(path), classes, name, said, sure, truth or said, site.keep_images)
        if problem:
            return html.hint(say.reason(problem)), gr.update(), what
        return html.hint(say("Noted, thank you.")), gr.update(visible=False), None

    answered = [result, given, asking, truth, noted]
    answering = gr.on(
        [image.change, weights.change, language.change],
        show, [image, weights, language], answered, trigger_mode="always_last", js=FORGET, **QUIET, **NETWORK,
    )  # fmt: skip
    or_busy(answering, language, result)
    right.click(lambda what, chosen: note(what, None, chosen), [given, language], [noted, asking, given], **QUIET)
    truth.input(note, [given, truth, language], [noted, asking, given], **QUIET)
    gr.on([weights.change, language.change], offer, [weights, language], tries, **QUIET)
    or_busy(tries.click(choose, weights, image, **QUIET), language, result)
    best = site.models.best()
    result.value = html.waiting(site.models.get(best).checkpoint.classes, Speaker())
    tries.value = offer(best, "en")
    return image


def _examples(site: Site, name: str) -> tuple[list[Path], bool]:
    try:
        return examples(site.models.get(name).checkpoint, site.uploads)
    except UserError:
        return [], False


def several_images(site: Site, weights: gr.Dropdown, language: gr.Radio) -> None:
    """Many images or a zip: a table."""
    files = site.put(
        Files(file_count="multiple", file_types=["image", ".zip"], show_label=False, height=180, elem_id="files"),
        label="Images, or a zip of them",
    )
    given = gr.State([])
    result = gr.HTML(elem_id="several")

    def show(uploads: list[Upload], name: str, chosen: str):
        say = Speaker(chosen)
        if not uploads:
            yield ""
            return
        try:
            loaded = site.models.get(name)
            rows: list[html.Column] = []
            for batch in ask_many(loaded, uploads, THUMBNAIL):
                rows += batch
                yield html.progress(len(rows), say)
                if len(rows) > MANY:
                    break
            yield html.table(rows[:MANY], loaded.checkpoint.classes, len(rows) > MANY, say)
        except UserError as error:
            yield html.refused(error, say)

    # the component is emptied at once, ready for more: a list of all files would push the answers off the page
    files.upload(lambda uploads: (uploads, None), files, [given, files], **QUIET)
    answering = gr.on(
        [given.change, weights.change, language.change],
        show, [given, weights, language], result, trigger_mode="always_last", **QUIET, **BULK,
    )  # fmt: skip
    or_busy(answering, language, result)


def compare(site: Site, language: gr.Radio, tab: gr.Tab, image: ImageInput) -> None:
    """The same image through several weights."""

    def selectable(say: Speaker) -> list[tuple[str, str]]:
        return site.titles(say, good=True)

    names = [name for _, name in selectable(Speaker())]
    chosen_weights = site.put(
        gr.CheckboxGroup(value=names[:2], elem_id="compared-weights"), label="Weights to compare", choices=selectable
    )
    with gr.Row(elem_id="compare-main"):
        own = site.put(
            ImageInput(show_label=False, height=220, buttons=[], sources=SOURCES, elem_id="second"),
            label="Image",
            alt_text="Your image",
            placeholder="Drop an image here\nor click to choose one",
        )
    result = gr.HTML(elem_id="comparison")

    def show(path: str | None, names: list[str], chosen: str) -> str:
        say = Speaker(chosen)
        if path is None:
            if len(selectable(say)) > 1:
                return ""
            return html.hint(say("There are only these weights. Train others: python train.py --model resnet34"))
        columns = []
        for name in names[: site.models.keep]:  # more would be loaded anew each time
            try:
                columns.append((name, ask(site.models.get(name), path, FIGURE)))
            except ImageError as error:
                return html.refused(error, say)
            except UserError as error:
                columns.append((name, say.reason(error)))
        return html.compared(columns, say)

    def begin(chosen: str, names: list[str], before: str | None, path: str | None) -> tuple[dict, str | None]:
        choices = selectable(Speaker(chosen))
        here = [name for _, name in choices if name in names]  # a file may be gone
        return gr.update(choices=choices, value=here), before or path

    answering = gr.on(
        [own.change, chosen_weights.change, language.change],
        show, [own, chosen_weights, language], result, trigger_mode="always_last", **QUIET, **NETWORK,
    )  # fmt: skip
    or_busy(answering, language, result)
    tab.select(begin, [language, chosen_weights, own, image], [chosen_weights, own], **QUIET)
    result.value = show(None, [], "en")


def about_model(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> None:
    """What the weights say of themselves, and how programs ask."""
    facts, opened = gr.HTML(elem_id="about"), gr.State(False)

    def show(name: str, chosen: str, request: gr.Request) -> str:
        say = Speaker(chosen)
        try:
            loaded = site.models.get(name)
        except UserError as error:
            return html.refused(error, say)
        programs = html.programs(address(request), bool(request.username), say)
        return about(loaded.checkpoint, loaded.compute, say) + str(programs)

    def again(known: bool, name: str, chosen: str, request: gr.Request) -> str | dict:
        return show(name, chosen, request) if known else gr.skip()  # drawing curves for nobody takes a second

    opening = tab.select(show, [weights, language], facts, **QUIET)
    opening.then(lambda: True, outputs=opened, **QUIET)
    or_busy(opening, language, facts)
    gr.on([weights.change, language.change], again, [opened, weights, language], facts, **QUIET)


def address(request: gr.Request) -> str:
    """Where programs reach the page, as the visitor did, without a slash at the end."""
    asked = request.request
    return get_root_url(asked, get_api_call_path(asked), asked.scope.get("root_path"))
