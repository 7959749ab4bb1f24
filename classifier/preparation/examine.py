"""Every image of a source decoded in full, once, in parallel: is it good, what are its bytes, how does it look?

`Image.verify()` would be quicker, but passes a JPEG that stops half-way; only decoding finds it.
"""

import concurrent.futures
import hashlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from classifier.cli import UserError
from classifier.data.images import ImageError, load_image
from classifier.preparation.duplicates import look
from classifier.preparation.sources import Entry, read_bytes

FEW = 50  # images per process, at least: starting one takes as long as decoding these


@dataclass(frozen=True)
class Seen:
    """What decoding an image told: the problem, or the SHA-256 of its bytes and its look."""

    problem: str = ""
    sha256: str = ""
    look: bytes | None = None


def examine(job: tuple[Entry, Path]) -> Seen:
    """Read an image, decode it, and write its bytes to the given place if it is good."""
    entry, place = job
    try:
        content = read_bytes(entry)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on odd metadata: they name no file
            features = look(load_image(content))
    except ImageError as error:
        return Seen(str(error))
    place.write_bytes(content)
    return Seen("", hashlib.sha256(content).hexdigest(), features)


def examine_all(entries: list[Entry], scratch: Path) -> list[Seen]:
    """`examine` in as many processes as there are processors; the n-th image goes to `scratch/n`."""
    jobs = [(entry, scratch / str(number)) for number, entry in enumerate(entries)]
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(available, len(jobs) // FEW, 61)  # 61: Windows waits for no more
    with tqdm(total=len(jobs), desc="checking", unit="picture", disable=None) as bar:
        seen = []
        for one in in_processes(jobs, workers) if workers > 1 else map(examine, jobs):
            seen.append(one)
            bar.update()
    return seen


def in_processes(jobs: list[tuple[Entry, Path]], workers: int) -> Iterator[Seen]:
    """`map(examine, jobs)` in processes that are started afresh on every system, as Windows and macOS do anyway."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=live_with_parent)
    try:
        # Ctrl-C is this process's to handle; the others inherit that they ignore it from their first moment on
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        results = pool.map(examine, jobs, chunksize=32)
        signal.signal(signal.SIGINT, handler)
        yield from results
    except BrokenProcessPool:
        raise UserError(
            "a process that decodes images was ended from outside, most often for want of memory: "
            "close other programs and run the same command again. Nothing was written"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def live_with_parent() -> None:
    """A parent that was killed takes its workers along."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
