"""The web page: a picture in, its class and the probabilities out.

    python app.py                                   the newest weights in module/
    python app.py module/flowers.pth --port 8000    others, elsewhere

Expected, after about six seconds on two cores:

    module/resnet18.pth: ResNet-18, 2 classes (cat, dog)
    Computing on AMD EPYC, 2 threads (PyTorch finds no GPU), bfloat16 channels-last (269 images/s in a short trial)
    Open http://127.0.0.1:7860 in a browser; Ctrl-C stops.

Programs ask through /classify, which answers with the class and all probabilities, or raises the reason:

    from gradio_client import Client, handle_file
    Client("http://127.0.0.1:7860").predict(handle_file("cat.jpg"), api_name="/classify")
    # {"label": "cat", "confidences": [{"label": "cat", "confidence": 0.98}, {"label": "dog", "confidence": 0.02}]}
"""

import errno
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import: from then on Gradio calls nobody

import gradio as gr
import torch
from gradio import component_meta
from gradio.data_classes import ImageData
from gradio_client.utils import is_http_url_like
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import page as html
from classifier.answer import answerer
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, parse, run
from classifier.device import Compute
from classifier.pictures import PictureError, is_candidate
from classifier.precision import Precision, choose

SAMPLE = Path("dataset/sample")  # where the drawn sample set lies
EXAMPLES = 8
MAX_UPLOAD = "20mb"
API = "One picture in; its class and the probability of each class out. A file that cannot be read is an error."
PORTS = 100  # tried one after the other where the wished one is taken
IN_BROWSERS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp"}

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
THEME = gr.themes.Monochrome(
    neutral_hue="zinc", radius_size="lg", font=FONTS, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"]
).set(body_background_fill_dark="#111113", block_background_fill_dark="#18181b", block_border_color_dark="#303036")


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[Path | None, conf.arg(metavar="[WEIGHTS]")]] = None
    """A .pth; without one, the newest in module/."""
    port: int = 7860
    """Where the page listens; the next free port where this one is taken."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines of your network in."""
    share: bool = False
    """Ask Gradio for a public address, open to everybody who knows it, for a week at most."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the fastest."""
    precision: Precision = "auto"
    """fp32, bf16 or fp16; auto takes what a short trial on this machine shows to be fastest."""


component_meta.create_or_modify_pyi = lambda *_: None  # Gradio would write an app.pyi next to this file


class Picture(gr.Image):
    """`gr.Image` that hands over the uploaded file's path, undecoded: `open_picture` is the only decoder.

    Only files inside Gradio's upload folder are handed over, whatever path or address an API call names.
    """

    is_template = True  # the browser shows it as an Image

    def preprocess(self, payload: ImageData | None) -> str | None:
        """The path of the upload; None where there is no picture."""
        if payload is None:
            return None
        path = Path(payload.path or "").resolve()
        if not path.is_relative_to(self.GRADIO_CACHE) or not path.is_file():
            raise gr.Error("Only an uploaded picture can be classified.", print_exception=False)
        return str(path)

    async def async_move_resource_to_block_cache(self, url_or_file_path):
        """As in Gradio, which would also fetch a picture from an address: this server calls nobody."""
        if is_http_url_like(str(url_or_file_path)):
            raise gr.Error("Send the picture itself, not its address.", print_exception=False)
        return await super().async_move_resource_to_block_cache(url_or_file_path)


def classifier(checkpoint: Checkpoint, compute: Compute) -> Callable[[str], tuple[dict[str, float], bool]]:
    """A function from a picture's path to the probability of each class, and whether it is unlike all of them.

    The network is loaded here, once.
    """
    answer = answerer(checkpoint, compute)

    def classify(path: str) -> tuple[dict[str, float], bool]:
        answers = answer(checkpoint.preprocess.read(path).unsqueeze(0).to(compute.device))
        return dict(zip(checkpoint.classes, answers.probabilities[0].tolist(), strict=True)), bool(answers.unlike[0])

    side = checkpoint.preprocess.size
    answer(torch.zeros(1, 3, side, side, dtype=torch.uint8, device=compute.device))  # the first run is the slowest
    return classify


def examples(checkpoint: Checkpoint) -> tuple[list[str], str]:
    """Up to EXAMPLES pictures from the run's test folder, else from the drawn sample set, and what to call them.

    The classes take turns; the same folder always gives the same pictures.
    """
    data = checkpoint.data
    places = [(SAMPLE / "test", "drawings")]
    if data.get("root"):
        places.insert(0, (Path(data["root"]) / "test", data.get("kind")))
    for folder, kind in places:
        classes = [name for name in checkpoint.classes if (folder / name).is_dir()][:EXAMPLES]
        each = -(-EXAMPLES // max(1, len(classes)))  # rounded up
        columns = [_some(folder / name, each) for name in classes]
        found = [column[row] for row in range(each) for column in columns if row < len(column)][:EXAMPLES]
        if found:
            return found, "Example drawings" if kind == "drawings" else "Examples"
    return [], ""


def _some(folder: Path, count: int) -> list[str]:
    """`count` pictures of a folder, spread evenly over its names."""
    paths = sorted(str(path) for path in folder.iterdir() if is_candidate(path) and path.suffix.lower() in IN_BROWSERS)
    return paths[:: max(1, len(paths) // count)][:count]


def free_port(host: str, wanted: int) -> int:
    """`wanted`, or the next port after it that nobody listens on."""
    if not 1 <= wanted <= 65535:
        raise UserError(f"--port {wanted} is no port: they go from 1 to 65535, and those below 1024 are the system's.")
    for port in range(wanted, min(wanted + PORTS, 65536)):
        try:
            for address in {host, "127.0.0.1"}:  # Gradio asks itself on the second one
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                socket.create_server((address, port), family=family).close()
            return port
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise UserError(f"cannot listen on --host {host} --port {port}: {error.strerror or error}.") from error
    raise UserError(f"no port from {wanted} to {port} is free. Give another one with --port.")


def page(checkpoint: Checkpoint, compute: Compute, shared: bool) -> gr.Blocks:
    """The page, and /classify for programs."""
    classify = classifier(checkpoint, compute)

    def show(path: str | None) -> str:
        if path is None:
            return html.waiting(checkpoint.classes)
        start = time.perf_counter()
        try:
            probabilities, unlike = classify(path)
            return html.answer(probabilities, unlike, time.perf_counter() - start)
        except PictureError as error:
            return html.no_answer(error)

    def serve(picture: str | None) -> dict[str, float]:  # the name of the argument is part of the API
        if picture is None:
            raise gr.Error("Send one picture.", print_exception=False)
        try:
            return classify(picture)[0]
        except PictureError as error:
            raise gr.Error(html.sentence(error), print_exception=False) from None

    with gr.Blocks(title=html.question(checkpoint.classes), delete_cache=(3600, 24 * 3600)) as blocks:
        gr.HTML(html.introduction(checkpoint, shared), elem_id="introduction")
        with gr.Row(elem_id="main"):
            picture = Picture(
                label="Picture",
                show_label=False,
                height="min(420px, 90vw)",
                buttons=["fullscreen"],
                placeholder="Drop a picture here\nor click to choose one",
                alt_text="Your picture",
                elem_id="picture",
            )
            result = gr.HTML(html.waiting(checkpoint.classes), elem_id="answer")
        found, called = examples(checkpoint)
        if found:
            gr.Examples(
                found, picture, label=called, cache_examples=False, api_visibility="private", elem_id="examples"
            )
        facts = gr.HTML(html.about(checkpoint, compute), elem_id="about")

        network = {"concurrency_id": "network", "concurrency_limit": 2}  # one decodes while the other computes
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        blocks.load(lambda: html.about(checkpoint, compute), outputs=facts, **quiet)  # the age of the weights grows
        picture.change(show, picture, result, **quiet, **network)
        with gr.Row(visible=False):  # what programs call hangs on components that nobody sees
            gr.Button().click(
                serve, picture, gr.Label(label="Answer"), api_name="classify", api_description=API, **network
            )
    return blocks.queue(max_size=32, api_open=False)


def main() -> None:
    """Load the weights, build the page, serve it until Ctrl-C."""
    settings = parse(Settings, __doc__.splitlines()[0])
    port = free_port(settings.host, settings.port)
    checkpoint = checkpoints.load(settings.weights or checkpoints.newest(Path("module")))
    compute = choose(settings.device, settings.precision, checkpoint.network(), checkpoint.preprocess.size)
    try:
        html.about(checkpoint, compute)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{checkpoint.path} describes itself in an unknown way ({error!r}). Train it again.") from error
    names = ", ".join(checkpoint.classes[: html.SHOWN]) + ", ..." * (len(checkpoint.classes) > html.SHOWN)
    print(f"{checkpoint.path}: {html.network_name(checkpoint)}, {len(checkpoint.classes)} classes ({names})")
    print(f"Computing on {compute}", flush=True)

    for name in ("no_proxy", "NO_PROXY"):  # Gradio asks itself whether it is up, which no proxy can know
        own = ["localhost", "127.0.0.1", settings.host]
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *own]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the uploads go away then too

    with tempfile.TemporaryDirectory(prefix="classifier-", ignore_cleanup_errors=True) as uploads:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(uploads).resolve())
        blocks = page(checkpoint, compute, settings.share)
        blocks.launch(
            server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
            server_port=port,
            share=settings.share,
            max_file_size=MAX_UPLOAD,
            theme=THEME,
            css=html.CSS,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        taken = f"Port {settings.port} is taken. " if port != settings.port else ""
        print(f"{taken}Open {blocks.share_url or blocks.local_url} in a browser; Ctrl-C stops.", flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            blocks.close(verbose=False)


if __name__ == "__main__":
    run(main)
