"""Measure the page, under load and by itself: benchmarks/page.md.

    python -m benchmarks.page [WEIGHTS]

app.py is called through its API. Times are those of the server, from the end of the upload to the prediction with its
class activation maps, and of the whole call. Two minutes.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from benchmarks.__main__ import HERE, PROJECT, table
from classifier import checkpoint as checkpoints

CLIENTS, REQUESTS, BAD = 16, 1000, 10  # one request in ten is not an image
SIZES = {"12 megapixels": (4032, 3024), "500 x 375": (500, 375)}
ROUNDS = 40


def main() -> None:
    """Start the page, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", type=Path, nargs="?", default=PROJECT / "module" / checkpoints.SHIPPED[-1])
    weights = parser.parse_args().weights.resolve()
    rows = [("", "measured", "bar")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "module").mkdir()
        os.link(weights, folder / "module" / weights.name)
        begun = time.perf_counter()
        process, address = start(folder)
        httpx.get(address, trust_env=False).raise_for_status()
        seconds = time.perf_counter() - begun
        try:
            rows.append(("from the command to a page, seconds", f"{seconds:.1f}", "8"))
            client = Client(address, verbose=False)
            for (kind, size), bar in zip(SIZES.items(), ("300", "80"), strict=True):
                path = folder / "photo.jpg"
                photograph(size, 0).save(path, quality=90)
                whole, server = [], []
                for _ in range(ROUNDS):
                    begun = time.perf_counter()
                    answer = client.predict(handle_file(path), api_name="/classify")
                    whole.append(1000 * (time.perf_counter() - begun))
                    server.append(answer["milliseconds"])
                values = f"{statistics.median(server):.0f}, {statistics.median(whole):.0f} with upload and queue"
                rows.append((f"{kind}, median ms at the server", values, bar))
            rows += load(address, process.pid, folder)
        finally:
            process.terminate()
            process.wait()
    text = f"# The page\n\nWritten by `python -m benchmarks.page`, with {weights.name}.\n\n{table(rows)}\n"
    (HERE / "page.md").write_text(text, encoding="utf-8")
    print(text)


def start(folder: Path) -> tuple[subprocess.Popen, str]:
    """app.py in `folder`, and its address once it answers."""
    command = [sys.executable, "-u", str(PROJECT / "app.py"), "--port", "7900"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    for line in process.stdout:
        if "Open " in line:
            return process, line.split("Open ")[1].split()[0]
    raise SystemExit("app.py did not start")


def load(address: str, process: int, folder: Path) -> list[tuple[str, str, str]]:
    """REQUESTS from CLIENTS at once; each answer is compared with that to the same image alone."""
    good = []
    for number in range(8):
        good.append(folder / f"{number}.jpg")
        photograph((500, 375), number).save(good[-1])
    bad = folder / "bad.jpg"
    bad.write_text("text")
    client = Client(address, verbose=False)
    alone = {path: label(client.predict(handle_file(path), api_name="/classify")) for path in good}
    clients = threading.local()
    counts = {"correct": 0, "refused": 0, "wrong": 0}
    memory, seconds = [], []
    lock = threading.Lock()

    def ask(number: int) -> None:
        own = clients.__dict__.setdefault("client", None) or Client(address, verbose=False)
        clients.client = own
        path = bad if number % BAD == 0 else random.Random(number).choice(good)
        begun = time.perf_counter()
        try:
            answer = label(own.predict(handle_file(path), api_name="/classify"))
            result = "correct" if answer == alone.get(path) else "wrong"
        except AppError as error:
            result = "refused" if path == bad and "not an image" in str(error) else "wrong"
        with lock:
            counts[result] += 1
            seconds.append(time.perf_counter() - begun)
            if sum(counts.values()) % 100 == 0:
                memory.append(resident(process))

    begun = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(REQUESTS)))
    lasted = time.perf_counter() - begun
    return [
        (f"{REQUESTS} requests of {CLIENTS} clients: correct, refused with a message, wrong or lost",
         f"{counts['correct']}, {counts['refused']}, {REQUESTS - counts['correct'] - counts['refused']}",
         "900, 100, 0"),
        ("the same, requests a second; median and 95th percentile of ms",
         f"{REQUESTS / lasted:.0f}; {1000 * statistics.median(seconds):.0f}, "
         f"{1000 * statistics.quantiles(seconds, n=20)[-1]:.0f}", ""),
        ("memory after all, against after the first hundred",
         f"{memory[-1] / memory[0] - 1:+.1%} ({memory[-1]:.0f} MB)", "+10%"),
    ]  # fmt: skip


def photograph(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth patches with some grain, which JPEG finds about as hard as a photograph."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    patches = patches.resize(size, Image.Resampling.BICUBIC)
    grain = random.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(patches) + grain).clip(0, 255).astype(np.uint8))


def label(answer: dict) -> str:
    """What has to be the same whatever else is asked at that time."""
    return json.dumps([answer["label"], [round(one["confidence"], 4) for one in answer["confidences"]]])


def resident(process: int) -> float:
    """MB of memory of a process, on Linux."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


if __name__ == "__main__":
    main()
