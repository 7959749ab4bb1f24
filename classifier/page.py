"""What the web page says and how it looks: a .pth and its answers -> HTML.

Class and file names come from outside; whatever is not ours is escaped.
"""

from datetime import datetime
from html import escape

from classifier.checkpoint import Checkpoint
from classifier.device import Compute, device_name, dtype_name
from classifier.pictures import PictureError

SHOWN = 5  # classes in an answer; programs get all of them
CALL = 'gradio_client.Client(ADDRESS).predict(handle_file("cat.jpg"), api_name="/classify")'


def words(name: str) -> str:
    """A class as a person reads it."""
    return escape(name.replace("_", " "))


def question(classes: list[str]) -> str:
    """The title: "Cat or dog?" """
    if len(classes) > 4 or len(" ".join(classes)) > 40:
        return "What is in the picture?"
    text = " or ".join(filter(None, [", ".join(classes[:-1]), classes[-1]])).replace("_", " ")
    return f"{text[:1].upper()}{text[1:]}?"


def introduction(checkpoint: Checkpoint, shared: bool) -> str:
    """The title, and what one must know before believing an answer; `shared` pages are reached through Gradio."""
    text = "Give it a picture and the answer comes by itself."
    text += "" if shared else " Pictures stay on the machine that runs this page."
    if checkpoint.data.get("kind") == "drawings":
        text = (
            "<strong>These weights have only ever seen drawings of cats and dogs.</strong> What they say about a "
            "photograph is a guess. To learn from real photographs: <code>python prepare.py --download</code>, then "
            "<code>python train.py</code>."
        )
    return f"<h1>{escape(question(checkpoint.classes))}</h1><p>{text}</p>"


def percent(share: float) -> str:
    """97%; never a plain 0% or 100%, of which no network can be sure."""
    return "&lt;1%" if share < 0.005 else "&gt;99%" if share >= 0.995 else f"{share:.0%}"


def bars(probabilities: dict[str, float]) -> str:
    """The most probable classes, best first."""
    best = sorted(probabilities.items(), key=lambda item: -item[1])[:SHOWN]
    row = '<li style="--share: {:.2%}"><span>{}</span><b>{}</b></li>'
    rows = [row.format(share, words(name), percent(share)) for name, share in best]
    others = len(probabilities) - len(best)
    return f"<ol>{''.join(rows)}</ol>" + (f"<p>and {others} other classes</p>" if others else "")


def waiting(classes: list[str]) -> str:
    """In place of an answer, as long as there is no picture."""
    return f'<h2 class="quiet">The answer appears here</h2>{bars(dict.fromkeys(classes, 0.0))}'


def answer(probabilities: dict[str, float], unlike: bool, seconds: float) -> str:
    """The most probable class, large, and the bars; for a picture that is `unlike` all of them, that."""
    best = max(probabilities, key=probabilities.get)
    name = f"<h2><span>{words(best)}</span> <b>{percent(probabilities[best])}</b></h2>"
    if unlike:
        name = f"<h2>Neither</h2><p>unlike the pictures it learned from; the nearest is {words(best)}</p>"
    return f"{name}{bars(probabilities)}<p>answered in {1000 * seconds:.0f} ms</p>"


def no_answer(error: PictureError) -> str:
    """The reason why there is none."""
    return f'<h2 class="quiet">No answer</h2><p role="alert">{escape(sentence(error))}</p>'


def sentence(error: PictureError) -> str:
    """The same for people and programs."""
    return f"This file {error}."


def ago(created: str) -> str:
    """2 hours ago"""
    seconds = (datetime.now().astimezone() - datetime.fromisoformat(created).astimezone()).total_seconds()
    for unit, length in (("year", 31_557_600), ("month", 2_629_800), ("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            count = int(seconds // length)
            return f"{count} {unit}{'s' * (count > 1)} ago"
    return "just now"


def score(scores: dict) -> str:
    """How often the weights are right, and how that is known."""
    if test := scores.get("test"):
        low, high = test["interval"]
        return (
            f"<b>{test['accuracy']:.1%}</b> of {test['count']:,} pictures never used in training "
            f"(95% interval {100 * low:.1f} to {high:.1%})"
        )
    if val := scores.get("val"):
        return (
            f"<b>{val['accuracy']:.1%}</b> of {val['count']:,} validation pictures, which also chose the best epoch; "
            "not tested yet: <code>python evaluate.py</code>"
        )
    return "not tested yet: <code>python evaluate.py</code>"


def about(checkpoint: Checkpoint, compute: Compute) -> str:
    """Which weights answer here, how good they are, and what made them."""
    data, preprocess, classes = checkpoint.data, checkpoint.preprocess, checkpoint.classes
    learned = f"{data['train']:,} {data['kind']} in {data['root']}" if data else "not recorded"
    rows = {
        "Weights": escape(checkpoint.path.name)
        + (f", trained {ago(checkpoint.created)}" if checkpoint.created else ""),
        "Right": score(checkpoint.scores),
        "Learned from": escape(learned),
        "Classes": f"{len(classes)}: {', '.join(map(words, classes[:20]))}{', ...' * (len(classes) > 20)}",
        "Network": f"{network_name(checkpoint)}, which sees {preprocess.size} × {preprocess.size} pixels",
        "Computed on": escape(f"{device_name(compute.device)}, {dtype_name(compute.dtype)}"),
        "Note": escape(checkpoint.assumed),
        "For programs": f"<code>{CALL}</code>",
    }
    return f"<dl>{''.join(f'<div><dt>{key}</dt><dd>{text}</dd></div>' for key, text in rows.items() if text)}</dl>"


def network_name(checkpoint: Checkpoint) -> str:
    """resnet18 -> ResNet-18"""
    return checkpoint.model.replace("resnet", "ResNet-")


CSS = """
:root { --accent: #0f766e; --track: #e9e9ec; --muted: #5c5c66; --alarm: #c2410c; }
.dark { --accent: #2dd4bf; --track: #2b2b31; --muted: #a9a9b4; --alarm: #fb923c; }
.fillable.app { max-width: 1040px !important; padding: 44px 24px 56px !important; }
.html-container { padding: 0 !important; }
.prose :is(h1, h2, p, ol, li, dl, dd, dt) { margin: 0; padding: 0; }
.prose code { padding: 1px 5px; border-radius: 4px; background: var(--track); font-size: .92em;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
#introduction h1 { font-size: clamp(1.9rem, 6vw, 2.6rem); font-weight: 650; letter-spacing: -.02em; line-height: 1.15; }
#introduction p { margin-top: 10px; max-width: 100ch; color: var(--muted); }
#introduction strong { color: var(--body-text-color); }
#main { gap: 40px; margin-top: 12px; }
#main > * { flex: 1 1 300px; min-width: min(300px, 100%) !important; }
#picture img { width: 100%; height: 100%; object-fit: contain; }
#main:has([role="alert"]) #picture img { visibility: hidden; }
#answer { align-self: center; }
#answer h2 { display: flex; justify-content: space-between; align-items: baseline; gap: 16px; font-size: 2.1rem;
  font-weight: 650; letter-spacing: -.02em; line-height: 1.2; }
#answer h2 b { color: var(--accent); font-weight: inherit; white-space: nowrap; }
#answer h2.quiet { font-size: 1.25rem; font-weight: 500; color: var(--muted); letter-spacing: 0; }
#answer span { display: inline-block; min-width: 0; overflow-wrap: anywhere; }
#answer span::first-letter { text-transform: uppercase; }
#answer ol { list-style: none; margin: 22px 0 14px; display: grid; gap: 16px; }
#answer li { display: grid; grid-template-columns: 1fr auto; gap: 7px 16px; font-variant-numeric: tabular-nums; }
#answer li b { font-weight: 500; }
#answer li::after { content: ""; grid-column: 1 / -1; height: 8px; border-radius: 4px;
  background: linear-gradient(var(--bar, var(--muted)) 0 0) no-repeat 0 / var(--share) 100%, var(--track); }
#answer li:first-child { --bar: var(--accent); }
#answer h2.quiet ~ ol b { visibility: hidden; }
#answer p { font-size: .88rem; color: var(--muted); }
#answer p[role="alert"] { margin-top: 10px; padding: 12px 16px; border-left: 3px solid var(--alarm); font-size: 1.05rem;
  color: var(--body-text-color); }
#examples .gallery { display: grid; grid-template-columns: repeat(8, 1fr); gap: 10px; }
#examples .gallery-item { aspect-ratio: 1; }
#examples .gallery-item * { display: block; width: 100%; height: 100%; max-width: none; object-fit: cover; }
#examples .label { font-weight: 400; font-size: .88rem; color: var(--muted); }
#examples .label svg { display: none; }
#about { margin-top: 20px; border-top: 1px solid var(--track); border-radius: 0; padding-top: 24px; }
#about dl { display: grid; gap: 10px; font-size: .92rem; }
#about dl > div { display: grid; grid-template-columns: 8rem 1fr; gap: 2px 16px; }
#about dt { color: var(--muted); }
#about dd { overflow-wrap: anywhere; }
@media (max-width: 640px) {
  .fillable.app { padding: 24px 16px 40px !important; }
  #main { gap: 24px; }
  #examples .gallery { grid-template-columns: repeat(4, 1fr); }
  #about dl > div { grid-template-columns: 1fr; }
}
"""
