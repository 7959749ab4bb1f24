"""The page: title, language, model and tabs."""

import gradio as gr

from classifier.cli import UserError
from webui import about, api, review, tabs
from webui.i18n import LANGUAGES, Translator, macros, preferred_language
from webui.models import learned_from_drawings
from webui.site import QUIET, Site, translated


def build(site: Site, with_review: bool) -> gr.Blocks:
    """Return the page with all tabs, and with the endpoints that programs may call."""
    best = site.models.best()
    title = macros("answer", "en").question(site.models.get(best).checkpoint.classes).unescape()
    with gr.Blocks(title=title, delete_cache=(3600, 24 * 3600)) as blocks:  # every hour, uploads older than a day
        with gr.Row(elem_id="top"):
            heading = gr.HTML(_heading(site, best, "en"), elem_id="introduction")
            languages = [(name, key) for key, name in LANGUAGES.items()]
            language = gr.Radio(languages, value="en", label="Language", elem_id="language")
        weights = gr.Dropdown(site.models.titles(Translator()), value=best, filterable=False, elem_id="weights")
        site.localized(weights, label="Model", choices=site.models.titles)
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with site.localized(gr.Tab(id="one"), label="One image"):
                image = tabs.one_image(site, weights, language)
            with site.localized(gr.Tab(id="several"), label="Several images"):
                tabs.several_images(site, weights, language)
            with site.localized(gr.Tab(id="compare"), label="Compare") as tab:
                tabs.compare(site, language, tab, image)
            with site.localized(gr.Tab(id="about"), label="About") as tab:
                about.about_tab(site, weights, language, tab)
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
        return chosen, gr.update(choices=site.models.titles(Translator(chosen)), value=site.models.best())

    def translate(name: str, language: str) -> list[dict | str]:
        texts = [gr.update(**translated(texts, Translator(language))) for _component, texts in site.texts]
        return [_heading(site, name, language), *texts]

    # on `load` and `input`, since listeners to `change` run one after another, slow ones among them
    components = [heading, *(component for component, _texts in site.texts)]
    loaded = blocks.load(begin, outputs=[language, weights], **QUIET).then(
        translate, [weights, language], components, js="setLanguage", **QUIET
    )
    switched = language.input(translate, [weights, language], components, js="setLanguage", **QUIET)
    weights.focus(lambda key: gr.update(choices=site.models.titles(Translator(key))), language, weights, **QUIET)
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
    return macros("answer", language).heading_of_page(classes, drawings, site.shared)
