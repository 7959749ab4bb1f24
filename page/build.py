"""The page: which parts it has."""

import gradio as gr

from classifier.cli import UserError
from page import api, html, review, tabs
from page.site import QUIET, Site
from page.words import LANGUAGES, Speaker, preferred


def build(site: Site, with_review: bool) -> gr.Blocks:
    """All tabs, and what programs may call."""
    best = site.models.best()
    loaded = site.models.get(best)
    title = html.question(loaded.checkpoint.classes, Speaker())
    with gr.Blocks(title=title, delete_cache=(3600, 24 * 3600)) as blocks:
        with gr.Row(elem_id="top"):
            heading = gr.HTML(_heading(site, best, "en"), elem_id="introduction")
            language = gr.Radio(
                [(name, key) for key, name in LANGUAGES.items()], value="en", label="Language", elem_id="language"
            )
        weights = site.put(
            gr.Dropdown(site.titles(Speaker()), value=best, filterable=False, elem_id="weights"), label="Weights"
        )
        with gr.Tabs(elem_id="tabs", overflow_behavior="wrap"):
            with site.put(gr.Tab(id="one"), label="One picture"):
                picture = tabs.one_picture(site, weights, language)
            with site.put(gr.Tab(id="several"), label="Several pictures"):
                tabs.several_pictures(site, weights, language)
            with site.put(gr.Tab(id="compare"), label="Compare") as tab:
                tabs.compare(site, language, tab, picture)
            with site.put(gr.Tab(id="about"), label="About") as tab:
                tabs.about_model(site, weights, language, tab)
            if with_review:
                with site.put(gr.Tab(id="review"), label="Review") as tab:
                    review.review_tab(site, weights, language, tab)
        api.offer(site.models, best)

        def begin(request: gr.Request) -> tuple[str, dict]:
            asked = request.query_params.get("lang") or site.language
            chosen = preferred(request.headers.get("accept-language", ""), asked)
            return chosen, gr.update(choices=site.titles(Speaker(chosen)), value=site.models.best())

        def translate(name: str, chosen: str) -> list[dict | str]:
            return [_heading(site, name, chosen), gr.update(choices=site.titles(Speaker(chosen))), *site.said(chosen)]

        blocks.load(begin, outputs=[language, weights], **QUIET)
        spoken = [component for component, _ in site.texts]
        language.change(translate, [weights, language], [heading, weights, *spoken], js=REMEMBER, **QUIET)
        weights.focus(lambda chosen: gr.update(choices=site.titles(Speaker(chosen))), language, weights, **QUIET)
        weights.change(lambda name, chosen: _heading(site, name, chosen), [weights, language], heading, **QUIET)
    return blocks.queue(max_size=32, api_open=False)


# the language of the document, and of the next visit with this address
REMEMBER = """(weights, language) => {
  document.documentElement.lang = language;
  const url = new URL(location); url.searchParams.set("lang", language); history.replaceState(null, "", url);
  return [weights, language];
}"""


def _heading(site: Site, name: str, language: str) -> str:
    """The title, and what one must know before believing an answer."""
    say = Speaker(language)
    try:
        checkpoint = site.models.get(name).checkpoint
    except UserError:
        return html.heading([], False, site.shared, say)
    return html.heading(checkpoint.classes, checkpoint.data.get("kind") == "drawings", site.shared, say)
