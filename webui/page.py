"""The page: title, language, model and tabs."""

import gradio as gr

from classifier.cli import UserError
from webui import api, render, review, tabs
from webui.choices import learned_from_drawings
from webui.i18n import LANGUAGES, Translator, preferred_language
from webui.site import QUIET, Site


def build(site: Site, with_review: bool) -> gr.Blocks:
    """Return the page with all tabs, and with the endpoints that programs may call."""
    best, english = site.models.best(), Translator()
    title = render.question(site.models.get(best).checkpoint.classes, english)
    with gr.Blocks(title=title, delete_cache=(3600, 24 * 3600)) as blocks:  # every hour, uploads older than a day
        with gr.Row(elem_id="top"):
            heading = gr.HTML(_heading(site, best, "en"), elem_id="introduction")
            languages = [(name, key) for key, name in LANGUAGES.items()]
            language = gr.Radio(languages, value="en", label="Language", elem_id="language")
        weights = gr.Dropdown(site.titles(english), value=best, filterable=False, elem_id="weights")
        site.localized(weights, label="Model")
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with site.localized(gr.Tab(id="one"), label="One image"):
                image = tabs.one_image(site, weights, language)
            with site.localized(gr.Tab(id="several"), label="Several images"):
                tabs.several_images(site, weights, language)
            with site.localized(gr.Tab(id="compare"), label="Compare") as tab:
                tabs.compare(site, language, tab, image)
            with site.localized(gr.Tab(id="about"), label="About") as tab:
                tabs.about_model(site, weights, language, tab)
            if with_review:
                with site.localized(gr.Tab(id="review"), label="Review") as tab:
                    review.review_tab(site, weights, language, tab)
        api.add_api(site.models, best)
        _follow(site, blocks, heading, weights, language)
    return blocks.queue(max_size=32, api_open=False)


def _follow(site: Site, blocks: gr.Blocks, heading: gr.HTML, weights: gr.Dropdown, language: gr.Radio) -> None:
    """Make heading, titles and texts follow the chosen model and language."""

    def begin(request: gr.Request) -> tuple[str, dict]:
        wishes = request.query_params.get("lang", ""), site.language, request.headers.get("accept-language", "")
        chosen = preferred_language(*wishes)
        return chosen, gr.update(choices=site.titles(Translator(chosen)), value=site.models.best())

    def titles(language: str) -> dict:
        return gr.update(choices=site.titles(Translator(language)))

    def translate(name: str, language: str) -> list[dict | str]:
        return [_heading(site, name, language), titles(language), *site.updates(language)]

    # on `load` and `input`, since listeners to `change` run one after another, slow ones among them
    translated = [heading, weights, *(component for component, _ in site.texts)]
    loaded = blocks.load(begin, outputs=[language, weights], **QUIET).then(
        translate, [weights, language], translated, js="setLanguage", **QUIET
    )
    switched = language.input(translate, [weights, language], translated, js="setLanguage", **QUIET)
    weights.focus(titles, language, weights, **QUIET)
    chosen = weights.change(
        lambda name, language: _heading(site, name, language), [weights, language], heading, **QUIET
    )
    for event in (loaded, switched, chosen):
        event.then(None, js="setTitle")


def _heading(site: Site, name: str, language: str) -> str:
    """Return the title, and what visitors must know before they trust an answer."""
    try:
        checkpoint = site.models.get(name).checkpoint
        classes, drawings = checkpoint.classes, learned_from_drawings(checkpoint)
    except UserError:
        classes, drawings = [], False
    title = render.question(classes, Translator(language))
    return render.macros("answer", language).heading_of_page(title, drawings, site.shared)
