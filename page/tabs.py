"""The tabs of the page, one function each: what is on it, and what happens when it is used."""

from pathlib import Path

import gradio as gr

from classifier.cli import UserError
from classifier.pictures import PictureError
from page import feedback, html
from page.about import about
from page.answers import ask, ask_many
from page.examples import IN_BROWSERS, copied, examples, thumbnail
from page.site import NETWORK, QUIET, Site
from page.uploads import Files, Picture, Upload
from page.words import Speaker

CHOOSE = """element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) trigger("click", { place: button.dataset.place });
});"""  # which of the buttons was clicked
SOURCES = ["upload", "webcam", "clipboard"]
MANY = 500  # pictures at once
# longer side in pixels: in the table, beside another network's, and in place of a picture that browsers do not show
THUMBNAIL, FIGURE, LARGE = 96, 480, 960


def one_picture(site: Site, weights: gr.Dropdown, language: gr.Radio) -> Picture:
    """Drop a picture, see the answer and where it comes from, say whether it is right."""
    given = gr.State(None)  # what was answered: (name of the weights, path, answer)
    with gr.Row(elem_id="main"):
        with gr.Column():
            picture = site.put(
                Picture(
                    show_label=False,
                    sources=SOURCES,
                    height="min(440px, 92vw)",
                    buttons=["fullscreen"],
                    elem_id="picture",
                ),
                label="Picture",
                alt_text="Your picture",
                placeholder="Drop a picture here\nor click to choose one",
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

    best = site.models.best()
    result.value = html.waiting(_classes(site, best), Speaker())
    tries.value = offer(best, "en")

    def show(path: str | None, name: str, chosen: str) -> tuple:
        say = Speaker(chosen)
        if path is None:
            return html.waiting(_classes(site, name), say), None, gr.update(visible=False), gr.update(), ""
        try:
            loaded = site.models.get(name)
            answer = ask(loaded, path, 0 if Path(path).suffix.lower() in IN_BROWSERS else LARGE)
        except PictureError as error:
            return html.no_answer(html.sentence(error, say), say), None, gr.update(visible=False), gr.update(), ""
        except UserError as error:
            return html.no_answer(say.reason(error), say), None, gr.update(visible=False), gr.update(), ""
        others = [(say.name(one), one) for one in loaded.checkpoint.classes if one != answer.best]
        asked = gr.update(choices=[*others, (say("Neither"), feedback.NEITHER)], value=None)
        return html.one(answer, say), (name, path, answer), gr.update(visible=True), asked, ""

    def note(what: tuple | None, truth: str | None, chosen: str) -> tuple:
        if not what:  # pressed twice: it is noted already
            return gr.update(), gr.update(), None
        name, path, answer = what
        said, sure = feedback.NEITHER if answer.unlike else answer.best, answer.probabilities[answer.best]
        say = Speaker(chosen)
        classes = list(answer.probabilities)
        problem = feedback.note(site.logs, Path(path), classes, name, said, sure, truth or said, site.keep_pictures)
        if problem:
            return html.no_answer(say.reason(problem), say), gr.update(), what
        return html.hint(say("Noted, thank you.")), gr.update(visible=False), None

    answered = [result, given, asking, truth, noted]
    gr.on(
        [picture.change, weights.change, language.change],
        show, [picture, weights, language], answered, trigger_mode="always_last", **QUIET, **NETWORK,
    )  # fmt: skip
    right.click(lambda what, chosen: note(what, None, chosen), [given, language], [noted, asking, given], **QUIET)
    truth.input(note, [given, truth, language], [noted, asking, given], **QUIET)
    gr.on([weights.change, language.change], offer, [weights, language], tries, **QUIET)
    tries.click(choose, weights, picture, **QUIET)
    return picture


def _classes(site: Site, name: str) -> list[str]:
    try:
        return site.models.get(name).checkpoint.classes
    except UserError:
        return []


def _examples(site: Site, name: str) -> tuple[list[Path], bool]:
    try:
        return examples(site.models.get(name).checkpoint)
    except UserError:
        return [], False


def several_pictures(site: Site, weights: gr.Dropdown, language: gr.Radio) -> None:
    """Many pictures or a zip: a table."""
    files = site.put(
        Files(file_count="multiple", file_types=["image", ".zip"], height=180, elem_id="files"),
        label="Pictures, or a zip of them",
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
            yield html.no_answer(say.reason(error), say)

    # the component is emptied at once, ready for more: a list of all files would push the answers off the page
    taken = files.upload(lambda uploads: (uploads, None), files, [given, files], **QUIET)
    asked = [given, weights, language]
    taken.then(show, asked, result, **QUIET, **NETWORK)
    gr.on([weights.change, language.change], show, asked, result, trigger_mode="always_last", **QUIET, **NETWORK)


def compare(site: Site, language: gr.Radio, tab: gr.Tab, picture: Picture) -> None:
    """The same picture through several weights."""

    def selectable(say: Speaker) -> list[tuple[str, str]]:
        return site.titles(say, good=True)

    names = [name for _, name in selectable(Speaker())]
    chosen_weights = site.put(
        gr.CheckboxGroup(value=names[:2], elem_id="compared-weights"), label="Weights", choices=selectable
    )
    with gr.Row(elem_id="compare-main"):
        own = site.put(
            Picture(show_label=False, height=220, buttons=[], sources=SOURCES, elem_id="second"),
            label="Picture",
            alt_text="Your picture",
            placeholder="Drop a picture here\nor click to choose one",
        )
    result = gr.HTML(elem_id="comparison")

    def show(path: str | None, names: list[str], chosen: str) -> str:
        say = Speaker(chosen)
        if path is None:
            if len(selectable(say)) > 1:
                return ""
            return html.hint(say("There are only these weights. Train others: python train.py --model resnet34"))
        columns = []
        for name in names:
            try:
                columns.append((name, ask(site.models.get(name), path, FIGURE)))
            except PictureError as error:
                return html.no_answer(html.sentence(error, say), say)
            except UserError as error:
                columns.append((name, say.reason(error)))
        return html.compared(columns, say)

    def begin(chosen: str, before: str | None, path: str | None) -> tuple[dict, str | None]:
        return gr.update(choices=selectable(Speaker(chosen))), before or path

    gr.on(
        [own.change, chosen_weights.change, language.change],
        show, [own, chosen_weights, language], result, trigger_mode="always_last", **QUIET, **NETWORK,
    )  # fmt: skip
    tab.select(begin, [language, own, picture], [chosen_weights, own], **QUIET).then(
        show, [own, chosen_weights, language], result, **QUIET, **NETWORK
    )


def about_model(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> None:
    """What the weights say of themselves, and how programs ask."""
    facts = gr.HTML(elem_id="about")

    def show(name: str, chosen: str, request: gr.Request) -> str:
        say = Speaker(chosen)
        try:
            loaded = site.models.get(name)
        except UserError as error:
            return html.no_answer(say.reason(error), say)
        return about(loaded.checkpoint, loaded.compute, say) + str(html.programs(address(request), say))

    gr.on([tab.select, weights.change, language.change], show, [weights, language], facts, **QUIET)


def address(request: gr.Request) -> str:
    """Where the visitor reached the page, without a slash at the end: as programs would."""
    return str(request.request.base_url).rstrip("/") if request.request else "http://127.0.0.1:7860"
