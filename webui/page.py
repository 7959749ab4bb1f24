"""The page: title, language, model and tabs."""

import contextlib
import re
from pathlib import Path

import gradio as gr
import jinja2
from gradio.routes import templates

from classifier.cli import UserError
from webui import about, api, review, tabs
from webui.i18n import LANGUAGES, Translator, macros, preferred_language
from webui.site import QUIET, Site, translated

HEAD = Path(__file__).with_name("head.html").read_text(encoding="utf-8")


def describe_links() -> None:
    """Put this page's title, description and icon where link previews look, instead of Gradio's. Once per process."""
    loader = templates.env.loader

    def own_head(name: str) -> str:
        html = loader.get_source(templates.env, name)[0]
        return re.sub(r'<meta\s+(property="og|name="twitter):[^>]*>', "", html).replace("</head>", HEAD + "</head>", 1)

    templates.env.loader = jinja2.FunctionLoader(own_head)


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
            with site.localized(gr.Tab(id="one", elem_id="tab-image"), label="One image"):
                image = tabs.one_image(site, weights, language)
            with site.localized(gr.Tab(id="several", elem_id="tab-files"), label="Several images"):
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
        best = None  # of none: their files went while the page was served
        with contextlib.suppress(UserError):
            best = site.models.best()
        return chosen, gr.update(choices=site.models.titles(Translator(chosen)), value=best)

    def translate(name: str, language: str) -> list[dict | str]:
        texts = [gr.update(**translated(texts, Translator(language))) for _component, texts in site.texts]
        return [_heading(site, name, language), *texts]

    began = blocks.load(begin, outputs=[language, weights], **QUIET)
    components = [heading, *(component for component, _texts in site.texts)]
    # not on `change`, whose listeners run one after another, slow ones among them
    for event in (began.then, language.input, weights.input):
        event(translate, [weights, language], components, **QUIET).then(None, language, js="setLanguage")
    weights.focus(lambda key: gr.update(choices=site.models.titles(Translator(key))), language, weights, **QUIET)


def _heading(site: Site, name: str, language: str) -> str:
    """Return the title, and what visitors must know before they trust an answer."""
    return macros("answer", language).heading_of_page(site.models.found().get(name), site.shared)
