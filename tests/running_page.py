"""`python app.py` as a process, for the tests that need a page which runs."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from zoo import MODELS

APP = Path(__file__).resolve().parents[1] / "app.py"
CLASSES = ["猫", "dog", "<i>ant"]
PROXY = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}  # nobody is there


@dataclass
class Server:
    """Its address, the folder it was started in, what it said, its weights and the port it was asked to take."""

    address: str
    folder: Path
    said: str
    weights: Checkpoint
    wanted_port: int


def image(size: tuple[int, int] = (120, 80)) -> Image.Image:
    """Something with corners that differ, so that turning it matters."""
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    return Image.fromarray(np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], 2).astype(np.uint8))


@contextmanager
def running_page(folder: Path) -> Iterator[Server]:
    """The page on a port that is taken, with two networks and a file that is none; doubtful labels to review."""
    save_weights(folder / "module" / "other.pth", seed=1, accuracy=0.91)
    weights = save_weights(folder / "module" / "three.pth")
    (folder / "module" / "broken.pth").write_bytes(b"no weights at all")
    for name in CLASSES:
        (folder / "photos" / "test" / name).mkdir(parents=True)
        for number in range(3):
            image((90 + 30 * number, 100)).save(folder / "photos" / "test" / name / f"{number}.jpg")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with app_process(folder, port, "--review") as said:
            yield Server(address(said), folder, said, weights, port)


@contextmanager
def app_process(folder: Path, port: int, *options: str) -> Iterator[str]:
    """`python app.py` in `folder`, on `port` or after it; gives what it said when it was ready."""
    uploads, log = folder / "uploads", folder / "app.log"
    uploads.mkdir()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(APP), "--precision", "fp32", "--port", str(port), *options],
            cwd=folder,
            env=os.environ | PROXY | {"TMPDIR": str(uploads), "PYTHONUTF8": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            yield wait_for(process, log)
        finally:
            process.terminate()
            process.wait(20)
    assert os.name == "nt" or not list(uploads.glob("classifier-*")), "it left the uploads behind"


def address(said: str) -> str:
    """Where the page is, from what the script said."""
    return said.split("Open ")[1].split()[0]


def wait_for(process: subprocess.Popen, log: Path) -> str:
    """What the server says, once it answers."""
    deadline = time.monotonic() + 90
    while "Ctrl-C stops" not in (said := log.read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < deadline, said
        time.sleep(0.1)
    return said


def save_weights(path: Path, seed: int = 0, accuracy: float = 0.9731) -> Checkpoint:
    """Random weights for three classes, said to be tested."""
    torch.manual_seed(seed)
    weights = MODELS["resnet18"](num_classes=len(CLASSES)).state_dict()
    data = {"root": "photos", "kind": "photographs", "train": 900, "val": 100}
    scores = {"test": {"accuracy": accuracy, "interval": [accuracy - 0.0081, accuracy + 0.0064], "count": 2000}}
    checkpoints.save(Checkpoint("resnet18", CLASSES, Preprocess(size=96), weights, scores, data), path)
    return checkpoints.load(path)
