"""The web page: an image in, what it is and why out.

    python app.py                                   the best of the newest weights in module/; others can be chosen
    python app.py module/flowers.pth --port 8000    others, elsewhere
    python app.py --review                          go through the labels that evaluate.py doubts

Expected, after about six seconds on two cores:

    module/catdog-resnet18.pth: resnet18, 2 classes (cat, dog)
    Computing on AMD EPYC, 2 threads (PyTorch finds no GPU), bfloat16 channels-last (the processor computes it natively)
    Open http://127.0.0.1:7860 in a browser; Ctrl-C stops.

Programs ask through /classify and /classify_many; the page says how, under "About". /healthz answers monitors.
"""

import errno
import os
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import: from then on Gradio calls nobody
import gradio as gr
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from tyro import conf

from classifier.cli import UserError, parse, run
from classifier.device import Precision
from classifier.inference.cam import cam_predictor
from webui.build import build
from webui.models import Models
from webui.site import Site

PAGE = Path(__file__).resolve().parent / "webui"
MAX_UPLOAD = "20mb"
SESSIONS = 200  # visitors whose last answers are kept in memory; a program has a new one with each call
PORTS = 100  # tried one after the other where the wished one is taken
SHOWN = 5  # classes in the terminal
KEEP = 8  # networks in memory
OWN = ("127.0.0.1", "localhost", "::1")

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
THEME = gr.themes.Monochrome(
    neutral_hue="zinc", radius_size="lg", font=FONTS, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"]
).set(body_background_fill_dark="#111113", block_background_fill_dark="#18181b", block_border_color_dark="#303036")


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[Path | None, conf.arg(metavar="[WEIGHTS]")]] = None
    """A .pth to begin with; all in module/ can be chosen on the page."""
    port: int = 7860
    """Where the page listens; the next free port where this one is taken."""
    host: str = "127.0.0.1"
    """Address to listen on. 0.0.0.0 lets other machines of your network in."""
    lang: Literal["auto", "en", "zh"] = "auto"
    """Language to begin with; auto: what the browser asks for."""
    auth: Annotated[str, conf.arg(metavar="USER:PASSWORD")] = ""
    """Ask visitors for these."""
    root_path: Annotated[str, conf.arg(metavar="/PATH")] = ""
    """Where a proxy in front of the page shows it."""
    share: bool = False
    """Ask Gradio for a public address, open to everybody who knows it, for a week at most."""
    review: bool = False
    """Also a tab to go through the labels that evaluate.py doubts. Only for this machine."""
    keep_feedback_images: bool = False
    """Keep images that visitors say something about, in logs/feedback. Without it, only what they say."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the fastest."""
    precision: Precision = "auto"
    """fp32, bf16 or fp16; auto takes bf16 where the processor or GPU computes it natively."""


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


def check(settings: Settings) -> None:
    """Raise a UserError for what can be seen to be wrong in the command."""
    user, colon, password = settings.auth.partition(":")
    if settings.auth and not (user and colon and password):
        raise UserError("--auth needs a user and a password with a colon between them: --auth ada:lovelace")
    if settings.root_path and not settings.root_path.startswith(("/", "http://", "https://")):
        raise UserError(f"--root-path {settings.root_path}: expected a path that begins with /, such as /classifier")
    if settings.review and (settings.host not in OWN or settings.share or settings.root_path):
        raise UserError(
            "--review changes what training reads, so it is for this machine alone: no --host, --share or --root-path."
        )


def head() -> str:
    """Style and script of the page; not as Gradio's `css`, which takes selectors apart at commas, also in brackets."""
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    return f"<style>{style}</style><script>{script}</script>"


def main() -> None:
    """Load the weights, build the page, serve it until Ctrl-C."""
    settings = parse(Settings, __doc__.splitlines()[0])
    check(settings)
    port = free_port(settings.host, settings.port)
    models = Models(Path("module"), settings.weights, settings.device, settings.precision, KEEP, cam_predictor)
    loaded = models.get(models.best())
    classes = loaded.checkpoint.classes
    names = ", ".join(classes[:SHOWN]) + ", ..." * (len(classes) > SHOWN)
    print(f"{loaded.path}: {loaded.checkpoint.model}, {len(classes)} classes ({names})")
    print(f"Computing on {loaded.compute}", flush=True)

    for name in ("no_proxy", "NO_PROXY"):  # Gradio asks itself whether it is up, which no proxy can know
        own = ["localhost", "127.0.0.1", settings.host]
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *own]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the uploads go away then too

    with tempfile.TemporaryDirectory(prefix="classifier-", ignore_cleanup_errors=True) as folder:
        uploads = Path(folder).resolve()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        site = Site(models, Path("logs"), uploads, settings.lang, settings.share, settings.keep_feedback_images)
        blocks = build(site, settings.review)
        served, _, _ = blocks.launch(
            server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
            server_port=port,
            auth=tuple(settings.auth.split(":", 1)) if settings.auth else None,
            root_path=settings.root_path or None,
            share=settings.share,
            max_file_size=MAX_UPLOAD,
            state_session_capacity=SESSIONS,
            theme=THEME,
            head=head(),
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        served.router.routes.insert(0, APIRoute("/healthz", lambda: PlainTextResponse("ok"), include_in_schema=False))
        taken = f"Port {settings.port} is taken. " if port != settings.port else ""
        print(f"{taken}Open {blocks.share_url or blocks.local_url} in a browser; Ctrl-C stops.", flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            blocks.close(verbose=False)


if __name__ == "__main__":
    run(main)
