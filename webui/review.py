"""The Review tab: the labels that evaluate.py doubts, one image after the other, and what a person decides of each.

Only for whoever sits at the machine, since it shows images of the data set.
"""

import gradio as gr
import jinja2

from classifier.cli import UserError
from classifier.data.corrections import KEEP, LEAVE_OUT, Correction
from classifier.text import quoted
from webui.answers import ask
from webui.doubts import Review, View
from webui.html import percent, refused
from webui.site import NETWORK, QUIET, Site
from webui.words import Speaker


def card(view: View, say: Speaker, told: str = "") -> str:
    """The tab as HTML; `told` is what there is to tell about the last action."""
    weights = quoted(view.weights)
    return CARD.render(view=view, image=view.image, say=say, told=told, weights=weights, percent=percent, words=_words)


def _words(correction: Correction, say: Speaker) -> str:
    """train/cat/12.jpg: dog"""
    if correction.decision == KEEP:
        return say("{file}: {label} is right", file=correction.file, label=say.name(correction.label))
    if correction.decision == LEAVE_OUT:
        return say("{file}: left out", file=correction.file)
    return say("{file}: {label}", file=correction.file, label=say.name(correction.right))


def review_tab(site: Site, weights: gr.Dropdown, language: gr.Radio, tab: gr.Tab) -> gr.HTML:
    """What is on the tab, and what happens when a button is pressed."""
    shown = gr.HTML(elem_id="review", js_on_load=SCRIPT)

    def review(name: str) -> Review:
        loaded = site.models.get(name)

        def look(path: str) -> tuple[dict[str, float], bytes | None]:
            answer = ask(loaded, path)
            return answer.probabilities, answer.heat.get(answer.best)

        return Review(loaded.checkpoint.path, look, site.logs)

    def show(name: str, chosen: str) -> str:
        say = Speaker(chosen)
        try:
            return card(review(name).view(), say)
        except UserError as error:
            return refused(error, say)

    def act(event: gr.EventData, request: gr.Request, name: str, chosen: str) -> str:
        say = Speaker(chosen)
        try:
            view, told = review(name).act(event._data or {}, say, request.username or "")
            return card(view, say, told)
        except UserError as error:
            return refused(error, say)

    gr.on([tab.select, weights.change, language.change], show, [weights, language], shown, **QUIET, **NETWORK)
    shown.click(act, [weights, language], shown, **QUIET, **NETWORK)
    return shown


CARD = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""
{% macro button(text, action, key, file, digest, choice="", line=0) -%}
<button type="button" data-action="{{ action }}" data-file="{{ file }}" data-digest="{{ digest }}"
  data-choice="{{ choice }}" data-line="{{ line }}" {%- if key %} aria-keyshortcuts="{{ key }}"{% endif %}>
{{- text }}{% if key %} <kbd aria-hidden="true">{{ key }}</kbd>{% endif %}</button>
{%- endmacro %}
{% if not view.listed %}
<h2>{{ say("There is no list of doubtful labels yet.") }}</h2>
<p>{{ say("These commands make one: of the test images, or of those training images that the run set aside.") }}</p>
<pre tabindex="0"><code>python evaluate.py {{ weights }}
python evaluate.py {{ weights }} --part val</code></pre>
{% elif not view.total and view.gone %}
<h2>{{ say("None of the listed images is there any more.") }}</h2>
{% elif not view.total %}
<h2>{{ say("There is no label to doubt.") }}</h2>
<p>{{ say("The newest report of evaluate.py lists no image that these weights surely call something else.") }}</p>
{% else %}
<p class="progress"><progress max="{{ view.total }}" value="{{ view.done }}" aria-hidden="true"></progress>
<span role="status">{{ say("{done} of {total} decided", done=view.done, total=view.total) }}</span></p>
{% if image %}
<div class="judged">
<figure><img src="{{ image.image }}" alt="{{ say("The image {file}", file=image.doubt.file) }}">
{%- if image.overlay %}<img class="heat" src="{{ image.overlay }}" alt="">{% endif %}</figure>
<div>
<h2>{{ say("Is {label} the right label?", label=say.name(image.doubt.label)) }}</h2>
<p>{{ say("The folder says {label}. The network says {answer}, and is {sure} sure.",
  label=say.name(image.doubt.label), answer=say.name(image.answer), sure=percent(image.sure)) }}</p>
<p class="file">{{ image.doubt.file }}</p>
<div class="buttons">
{{ button(say("Yes, {label}", label=say.name(image.doubt.label)), "keep", "K", image.doubt.file, image.digest) }}
{% for name, key in image.choices[:9] %}
{{ button(say("No, {label}", label=say.name(name)), "relabel", key, image.doubt.file, image.digest, name) }}
{% endfor %}
{{ button(say("Leave out"), "leave out", "X", image.doubt.file, image.digest) }}
</div>
{% if image.choices[9:] %}
<details><summary>{{ say("Other classes") }}</summary><div class="buttons">
{% for name, key in image.choices[9:] %}
{{ button(say.name(name), "relabel", key, image.doubt.file, image.digest, name) }}
{% endfor %}
</div></details>
{% endif %}
{% if image.overlay %}
{{ button(say("Heat map"), "heat", "H", "", "") }}
{% endif %}
</div>
</div>
{% else %}
<h2>{{ say("All {total} decided.", total=view.total) }}</h2>
<p>{{ say("Images and folders stay as they are; training and evaluation go by corrections.csv from now on:") }}</p>
<pre tabindex="0"><code>python train.py
python evaluate.py</code></pre>
{% endif %}
{% endif %}
{% if told %}<p role="alert">{{ told }}</p>{% endif %}
{% if view.gone and view.total %}
<p>{{ say("Of the list, {gone} are no longer there or cannot be opened.", gone=view.gone) }}</p>
{% endif %}
{% if view.last %}
<p class="last"><span role="status">{{ words(view.last, say) }}</span>
{{ button(say("Undo"), "undo", "U", view.last.file, view.last.digest, "", view.last.line) }}</p>
{% endif %}
""")

# Keys work without a click before, but not in text fields. Until the next image is there, and for a quarter of a
# second after, nothing can be decided: nobody has seen it yet.
SCRIPT = """
let busy = 0;
const press = (button) => {
  if (button.dataset.action === "heat") {
    element.dataset.heat = element.dataset.heat ? "" : "off";
  } else if (Date.now() > busy) {
    busy = Date.now() + 3000;
    trigger('click', { ...button.dataset });
  }
};
watch("value", () => { busy = Date.now() + 250; });
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) press(button);
});
const keydown = (event) => {
  if (!element.isConnected) return document.removeEventListener("keydown", keydown);
  const { target, key, code } = event;
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (!element.getClientRects().length || target.isContentEditable) return;
  if (target.matches?.("textarea, select, input:not([type=radio], [type=checkbox], [type=range])")) return;
  const name = /^[a-z0-9]$/i.test(key) ? key.toUpperCase() : code.replace(/^(Key|Digit|Numpad)/, "");
  const button = [...element.querySelectorAll("button")].find((one) => one.getAttribute("aria-keyshortcuts") === name);
  if (button) { event.preventDefault(); press(button); }
};
document.addEventListener("keydown", keydown);
"""
