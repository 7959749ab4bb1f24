"""What several tests need: the scripts as processes, and small folders of images."""

import contextlib
import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.skips import pytest_sessionfinish  # noqa: F401  a hook: which tests may be skipped

REPOSITORY = Path(__file__).resolve().parents[1]
# one thread, in processes and here: the machine may be busy, and another number of threads gives other last digits
ENVIRONMENT = os.environ | {"PYTHONIOENCODING": "utf-8", "OMP_NUM_THREADS": "1"}
torch.set_num_threads(1)
# train.py's flags for a run of some seconds
TINY = ("--model", "tiny", "--size", 32, "--batch-size", 18, "--workers", 0, "--name", "run", "--device", "cpu")
torch.utils.data._utils.signal_handling._SIGCHLD_handler_set = True  # it raises anywhere, inside of locks, too
signal.signal(signal.SIGINT, signal.default_int_handler)  # started in the background, processes would ignore Ctrl-C


def run_code(code: str, *arguments: object, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess:
    """Run a few lines of Python in a process of its own, which can import the project from its folder."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True, encoding="utf-8", timeout=60
    )


def run_script(name: str, *arguments: object, cwd: Path, **options) -> subprocess.CompletedProcess:
    """Run a script of the project in the folder `cwd`, as a person would."""
    command = [sys.executable, str(REPOSITORY / name), *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, encoding="utf-8", timeout=300, **options
    )


@contextlib.contextmanager
def serving(handler: type, **attributes: object) -> Iterator[http.server.ThreadingHTTPServer]:
    """A web server on this machine for the time being, with these attributes, which `handler` may look at."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        vars(server).update(attributes, url=f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """For the block, files larger than `size` bytes cannot be written, as on a full disk."""
    resource = pytest.importorskip("resource", reason="a limit of Unix")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def soon_and_small() -> Iterator[None]:
    """Fails where the block computes for 20 seconds, or the process grows by 1.5 GB."""
    resource = pytest.importorskip("resource", reason="a limit of Unix")
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - begun < 20
    unit = 1e6 if sys.platform == "darwin" else 1e3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit < 1500


def make_images(root: Path, classes: dict[str, int], size: int = 40, seed: int = 0) -> Path:
    """`root/<class>/<i>.png`: noise with a bright bar whose direction tells the class, so that it can be learned."""
    random = np.random.default_rng(seed)
    for label, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = random.integers(0, 90, (size, size, 3), dtype=np.uint8)
            at = random.integers(size // 4, 3 * size // 4)
            bar = [slice(None), slice(None)]
            bar[label % 2] = slice(at - 3, at + 3)
            pixels[tuple(bar)] += 150 - 30 * (label // 2)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def same(a: object, b: object) -> bool:
    """Whether both are equal bit for bit, whatever the nesting."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture
def run(bars, tmp_path, monkeypatch):
    """`run(*arguments, fault=, at=)` trains a tiny network on `bars`, in this process and in a folder of its own."""
    from tests import tiny  # imports train.py, which most tests do without

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tiny.MODELS, "tiny", tiny.Tiny)  # and takes it away in the end

    def call(*arguments: object, fault: object = "none", at: int = 0) -> None:
        tiny.register(fault, at)
        begin = () if "--resume" in arguments and "auto" not in arguments else ("--data", bars, *TINY)
        with tiny.own_signals():
            tiny.train.main([str(word) for word in (*begin, *arguments)])

    return call


@pytest.fixture(scope="session")
def bars(tmp_path_factory) -> Path:
    """dataset/train and dataset/test with two classes of 40 and 12 small images."""
    root = tmp_path_factory.mktemp("bars") / "dataset"
    make_images(root / "train", {"across": 40, "down": 40})
    make_images(root / "test", {"across": 12, "down": 12}, seed=1)
    return root


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A page that runs; starting it takes longer than most tests that ask it."""
    from tests.running_page import running_page

    with running_page(tmp_path_factory.mktemp("app")) as running:
        yield running
