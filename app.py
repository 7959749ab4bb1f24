"""The web page: an image in, its class and a heat map of the reasons out.

    python app.py                                   the best of the newest networks in module/; others can be chosen
    python app.py module/flowers.pth --port 8000    another one, on another port
    python app.py --review                          also go through the label issues that evaluate.py has found

Expected, after about six seconds on two cores:

    module/catdog-efficientnet_lite0.pth: efficientnet_lite0, 2 classes (cat, dog)
    Computing on AMD EPYC, 2 threads, float32 channels-last (it has no faster format)
    Open http://127.0.0.1:7860 in a browser; Ctrl-C stops.

Programs call /classify and /classify_many; the About tab shows how. /healthz answers health checks.
"""

import contextlib
import os
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the import: from then on Gradio contacts nobody
os.environ["PORT"] = os.environ.pop("GRADIO_SERVER_PORT", "") or os.environ.get("PORT", "")  # Gradio would not check it

import gradio as gr
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute
from tyro import conf

from classifier.checkpoint import UNSTATED, Stated
from classifier.cli import UserError, parse, run, shorten
from classifier.device import Precision
from webui.classify import MAX_IMAGE_MB, MAX_ZIP_MB
from webui.models import Models
from webui.page import build, describe_links
from webui.site import Site

WEBUI = Path(__file__).resolve().parent / "webui"
MAX_SESSIONS = 200  # visitors whose last answers are kept in memory; a program starts a new one with each call
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EVERYWHERE = ("0.0.0.0", "::")

FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans CJK SC", "Microsoft YaHei", "sans-serif"]
THEME = gr.themes.Monochrome(
    neutral_hue="zinc", radius_size="lg", font=FONTS, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"]
).set(body_background_fill_dark="#111113", block_background_fill_dark="#18181b", block_border_color_dark="#303036")


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[Path | None, conf.arg(metavar="[WEIGHTS]")]] = None
    """A .pth, or an .onnx of export.py, to begin with; all .pth in module/ can be chosen on the page."""
    port: int = 0
    """Port to listen on; 0: GRADIO_SERVER_PORT or PORT where one is set, or the first free one from 7860 on."""
    host: str = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    """Address to listen on; GRADIO_SERVER_NAME sets another default. 0.0.0.0 lets other machines of your network in."""
    lang: Literal["auto", "en", "zh"] = "auto"
    """Language to begin with; auto: what the browser asks for."""
    auth: Annotated[str, conf.arg(metavar="USER:PASSWORD")] = ""
    """Ask visitors for these."""
    root_path: Annotated[str, conf.arg(metavar="/PATH")] = ""
    """Path under which a proxy serves the page."""
    share: bool = False
    """Ask Gradio for a public address, open to everybody who knows it, for a week at most."""
    review: bool = False
    """Add a tab to go through the label issues that evaluate.py has found. Only for this machine."""
    device: str = "auto"
    """cpu, cuda, cuda:1, mps; auto takes the fastest."""
    precision: Precision = "auto"
    """fp32, bf16 or fp16; auto takes bf16 where the processor or GPU is faster with it."""
    stated: Annotated[Stated, conf.arg(name="")] = UNSTATED


def check(settings: Settings) -> None:
    """Complete the settings from the environment. Raises a UserError for mistakes in either."""
    user, _, password = settings.auth.partition(":")
    if settings.auth and not (user and password):
        raise UserError("--auth needs a user and a password with a colon between them: --auth ada:lovelace")
    if settings.stated != UNSTATED and not settings.weights:
        raise UserError("What the flags say of a network needs the network: python app.py WEIGHTS ...")
    if settings.root_path and not settings.root_path.startswith(("/", "http://", "https://")):
        raise UserError(f"--root-path {settings.root_path}: expected a path that begins with /, such as /classifier")
    if settings.review and (settings.host not in LOOPBACK or settings.share or settings.root_path):
        raise UserError(
            "--review changes what training reads, so it is for this machine alone: no --host, --share or --root-path."
        )
    port = os.environ["PORT"] or "0"
    if not port.isdecimal():
        raise UserError(f"PORT or GRADIO_SERVER_PORT is {port!r}; expected a number.")
    settings.port = settings.port or int(port)
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        socket.create_server((settings.host, settings.port), family=family).close()
    except (OSError, OverflowError) as error:  # ports end at 65535
        raise UserError(f"cannot listen on --host {settings.host} --port {settings.port}: {error}") from error


def network_address() -> str:
    """Return this machine's address in its network, "" without one. Nothing is sent."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address that nobody has
        return probe.getsockname()[0]
    return ""


def main() -> None:
    """Load the network, build the page, serve it until Ctrl-C."""
    settings = parse(Settings, __doc__.splitlines()[0])
    check(settings)
    models = Models(Path("module"), settings.weights, settings.device, settings.precision, settings.stated)
    loaded = models.get(models.best())
    checkpoint, names = loaded.checkpoint, shorten(", ".join(loaded.checkpoint.classes), 60)
    print(f"{checkpoint.path}: {checkpoint.model}, {len(checkpoint.classes)} classes ({names})")
    print(f"Computing on {loaded.compute}", flush=True)

    style, script = ((WEBUI / name).read_text(encoding="utf-8") for name in ("style.css", "script.js"))
    script = f"const MAX_IMAGE_MB = {MAX_IMAGE_MB}, MAX_ZIP_MB = {MAX_ZIP_MB};\n{script}"
    for name in ("no_proxy", "NO_PROXY"):  # Gradio asks itself whether it is up, not through a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), *LOOPBACK[:2], settings.host]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that the uploads are deleted then, too

    with tempfile.TemporaryDirectory(prefix="classifier-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder).resolve())  # the only one whose files are served and opened
        describe_links()
        site = Site(models, Path("logs"), settings.lang, settings.share)
        blocks = build(site, settings.review)
        served, _, _ = blocks.launch(
            server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
            server_port=settings.port or None,
            auth=tuple(settings.auth.split(":", 1)) if settings.auth else None,
            root_path=settings.root_path or None,
            share=settings.share,
            max_file_size=f"{MAX_ZIP_MB}mb",
            favicon_path=WEBUI / "favicon.svg",
            state_session_capacity=MAX_SESSIONS,
            theme=THEME,
            head=f"<style>{style}</style><script>{script}</script>",  # `css` would take selectors apart at commas
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
        served.router.routes.insert(0, APIRoute("/healthz", lambda: PlainTextResponse("ok"), include_in_schema=False))
        if settings.host in EVERYWHERE and (address := network_address()):
            print(f"Other machines of your network open http://{address}:{blocks.server_port}")
        print(f"Open {blocks.share_url or blocks.local_url} in a browser; Ctrl-C stops.", flush=True)
        try:
            while True:
                time.sleep(3600)
        finally:
            blocks.close(verbose=False)


if __name__ == "__main__":
    run(main)
