"""`python app.py` as a process, for the tests that need a page which runs."""

import csv
import json
import os
import shutil
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
_TURNED = Image.Exif()
_TURNED[0x0112] = 6  # taken with the camera turned
ROTATED = _TURNED.tobytes()  # not the object, from which saving an AVIF takes the tag
PROXY = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}  # nobody is there


@dataclass
class Server:
    """A page that runs: its address, the folder it was started in, and its weights."""

    address: str
    folder: Path
    weights: Checkpoint


def image(size: tuple[int, int] = (120, 80)) -> Image.Image:
    """Something with corners that differ, so that turning it matters."""
    ramp = np.linspace(0, 255, size[0] * size[1]).reshape(size[1], size[0])
    return Image.fromarray(np.stack([ramp, ramp[::-1], np.full_like(ramp, 90)], 2).astype(np.uint8))


@contextmanager
def running_page(folder: Path) -> Iterator[Server]:
    """The page with two networks, that of the project and a file that is none; label issues to review."""
    (folder / "module").mkdir()
    shutil.copy2(APP.parent / "module" / checkpoints.SHIPPED[-1], folder / "module")
    save_weights(folder / "module" / "other.pth", seed=1, accuracy=0.91)
    weights = save_weights(folder / "module" / "three.pth")
    (folder / "module" / "broken.pth").write_bytes(b"no weights at all")
    for name in CLASSES:
        (folder / "photos" / "test" / name).mkdir(parents=True)
        for number in range(3):
            image((90 + 30 * number, 100)).save(folder / "photos" / "test" / name / f"{number}.jpg")
    list_issues(folder, "photos", {"dog/0.jpg": 0.91, "dog/1.jpg": 0.99, "猫/2.jpg": 0.95}, weights="module/three.pth")
    with app_process(folder, "--review") as printed:
        yield Server(address(printed), folder, weights)


def list_issues(
    project: Path, data: str, confidences: dict[str, float], when: str = "20260101-100000", weights: str = "w.pth"
) -> Path:
    """Write what evaluate.py does: for `<class>/<file>`, the confidence that it is a dog."""
    folder, root = project / "logs" / "evaluate" / Path(weights).stem / when, project / data / "test"
    folder.mkdir(parents=True)
    report = {"weights": (project / weights).as_posix(), "folder": root.as_posix()}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    with (folder / "suspects.csv").open("w", encoding="utf-8-sig", newline="") as file:
        rows = [(root / name, (root / name).parent.name, "dog", f"{share:.4f}") for name, share in confidences.items()]
        csv.writer(file).writerows([("path", "label", "answer", "sure"), *rows])
    return folder


@contextmanager
def app_process(folder: Path, *options: str) -> Iterator[str]:
    """`python app.py` in `folder`; gives what it had printed when it was ready."""
    uploads, log = folder / "uploads", folder / "app.log"
    uploads.mkdir()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, str(APP), "--precision", "fp32", *options],
            cwd=folder,
            env=os.environ | PROXY | {"TMPDIR": str(uploads), "PYTHONUTF8": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + 90
            while "Ctrl-C stops" not in (printed := log.read_text(encoding="utf-8")):
                assert process.poll() is None and time.monotonic() < deadline, printed
                time.sleep(0.1)
            yield printed
        finally:
            process.terminate()
            process.wait(60)
    assert os.name == "nt" or not list(uploads.glob("classifier-*")), "it left the uploads behind"


def address(printed: str) -> str:
    """Where the page is."""
    return printed.split("Open ")[1].split()[0]


def save_weights(path: Path, seed: int = 0, accuracy: float = 0.9731) -> Checkpoint:
    """Random weights for three classes, said to be tested."""
    torch.manual_seed(seed)
    weights = MODELS["resnet18"](num_classes=len(CLASSES)).state_dict()
    data = {"root": "photos", "kind": "photographs", "train": 900, "val": 100}
    scores = {"test": {"accuracy": accuracy, "interval": [accuracy - 0.0081, accuracy + 0.0064], "count": 2000}}
    checkpoints.save(Checkpoint("resnet18", CLASSES, Preprocess(size=96), weights, scores, data), path)
    return checkpoints.load(path)
