"""The page: which parts it has."""

import gradio as gr

from classifier.cli import UserError
from webui import api, html, review, tabs
from webui.site import QUIET, Site
from webui.words import LANGUAGES, Speaker, preferred


def build(site: Site, with_review: bool) -> gr.Blocks:
    """All tabs, and what programs may call."""
    best = site.models.best()
    title = html.question(site.models.get(best).checkpoint.classes, Speaker())
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
            with site.put(gr.Tab(id="one"), label="One image"):
                image = tabs.one_image(site, weights, language)
            with site.put(gr.Tab(id="several"), label="Several images"):
                tabs.several_images(site, weights, language)
            with site.put(gr.Tab(id="compare"), label="Compare") as tab:
                tabs.compare(site, language, tab, image)
            with site.put(gr.Tab(id="about"), label="About") as tab:
                tabs.about_model(site, weights, language, tab)
            if with_review:
                with site.put(gr.Tab(id="review"), label="Review") as tab:
                    review.review_tab(site, weights, language, tab)
        api.offer(site.models, best)

        def begin(request: gr.Request) -> tuple[str, dict]:
            asked = request.query_params.get("lang", ""), site.language
            chosen = preferred(*asked, request.headers.get("accept-language", ""))
            return chosen, gr.update(choices=site.titles(Speaker(chosen)), value=site.models.best())

        def translate(name: str, chosen: str) -> list[dict | str]:
            return [_heading(site, name, chosen), gr.update(choices=site.titles(Speaker(chosen))), *site.said(chosen)]

        # on `load` and `input`, since what listens to `change` is done one after another, slow things among it
        translated = [heading, weights, *(component for component, _ in site.texts)]
        begun = blocks.load(begin, outputs=[language, weights], **QUIET)
        loaded = begun.then(translate, [weights, language], translated, js=SET_LANGUAGE, **QUIET)
        switched = language.input(translate, [weights, language], translated, js=SET_LANGUAGE, **QUIET)
        weights.focus(lambda chosen: gr.update(choices=site.titles(Speaker(chosen))), language, weights, **QUIET)
        other = weights.change(lambda name, chosen: _heading(site, name, chosen), [weights, language], heading, **QUIET)
        for event in (loaded, switched, other):
            event.then(None, js="() => { document.title = document.querySelector('h1').textContent; }")
    return blocks.queue(max_size=32, api_open=False)


# of the document, and of the next visit with this address
SET_LANGUAGE = """(weights, language) => {
  const url = new URL(location);
  if (document.documentElement.lang !== language) url.searchParams.set("lang", language);
  document.documentElement.lang = language;
  history.replaceState(null, "", url);
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
