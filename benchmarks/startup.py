"""From the command to the first batch, with very many images: benchmarks/startup.md.

    python -m benchmarks.startup [IMAGES ...]         10,000, 100,000 and 1,000,000, if nothing else is said

For each number so many small JPEGs, each of another content, are written into a temporary folder (a million take 4 GB
of disk and a minute), and train.py is started: once cold, with nothing remembered of them, then some times warm. The
clock stops when it announces its first step, and then it is ended. The stages are those of another process that does
the same with images, up to its first batch, but one thing after the other: warm, train.py has very many listed while
PyTorch is being imported (classifier/data/ahead.py). Memory is what that process needs at most, over one with 1,000
images. Linux and macOS.
"""

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.__main__ import HERE, PROJECT, table

NUMBERS = (10_000, 100_000, 1_000_000)
CLASSES, FEW, WARM = 10, 1_000, 5  # WARM starts, of which the middle one counts
SIZE, BATCH = 32, 64
LASTING = 2.5  # seconds after which a file counts as finished (classifier/data/index.py)


def main() -> None:
    """Make images, measure, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("images", type=int, nargs="*", default=NUMBERS)
    parser.add_argument("--folder", type=Path, help="where there is room for the images; else the system's own place")
    parser.add_argument("--stages", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stages:
        print(json.dumps(stages(options.stages)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        few = measured_stages(written(Path(name), FEW))
        start(Path(name) / str(FEW))  # tries which number format is fastest; the others remember
        results = [measure(Path(name), images) for images in options.images]
    rows = [("images", "", "seconds from the command", "for images alone", "MB of memory", "bytes for each image")]
    names = [name for name in results[0]["stages warm"] if name != "peak"]
    inside = [("images", "", *names)]
    for result in results:
        for kind in ("cold", "warm"):
            found = result[f"stages {kind}"]
            more = found["peak"] - few["peak"]
            own = sum(found[name] for name in names)
            rows.append((f"{result['images']:,}", kind, f"{result[kind]:.1f}", f"{own:.1f}",
                         f"{more / 1e6:+.0f}", f"{more / result['images']:.0f}"))  # fmt: skip
            inside.append((f"{result['images']:,}", kind, *(f"{found[name]:.2f}" for name in names)))
    said = "".join(f" {number}" for number in options.images) if options.images != NUMBERS else ""
    text = (
        f"# Starting with many images\n\nWritten by `python -m benchmarks.startup{said}`, on {os.cpu_count()} cores: "
        f"JPEGs of {SIZE // 2} x {SIZE // 2},\nfresh from writing, so that the system has them in memory. From the "
        f"command to the first step of\n`python train.py --size {SIZE}`; warm, the middle one of {WARM},\n"
        f"after the system has written what the cold start cached.\n\n"
        f"{table(rows)}\n\nSeconds in the stages, measured by themselves:\n\n{table(inside)}\n"
    )
    (HERE / "startup.md").write_text(text, encoding="utf-8")
    print(text)


def measure(folder: Path, images: int) -> dict:
    """Two lines of the table."""
    root = written(folder, images)
    time.sleep(LASTING)
    result = {"images": images, "cold": start(root)}
    os.sync()  # what the cold start has cached is written by now
    result["warm"] = statistics.median(start(root) for _ in range(WARM))
    shutil.rmtree(root / ".cache", ignore_errors=True)
    for kind in ("cold", "warm"):
        result[f"stages {kind}"] = measured_stages(root)
    shutil.rmtree(root)
    print(result, flush=True)
    return result


def written(folder: Path, images: int) -> Path:
    """A dataset of so many different files."""
    root = folder / f"{images}"
    stream = io.BytesIO()
    Image.new("RGB", (SIZE // 2, SIZE // 2), "orange").save(stream, "JPEG")
    begin, rest = stream.getvalue()[:2], stream.getvalue()[2:]
    for label in range(CLASSES):
        place = root / "train" / f"class{label}"
        place.mkdir(parents=True)
        for number in range(label, images, CLASSES):
            comment = b"\xff\xfe\x00\x0c%010d" % number  # a segment of its own, which decoders pass over
            descriptor = os.open(place / f"{number:08d}.jpg", os.O_CREAT | os.O_WRONLY)
            os.write(descriptor, begin + comment + rest)
            os.close(descriptor)
    return root


def start(root: Path) -> float:
    """Seconds from the command to the first step of training."""
    command = [
        sys.executable,
        "-u",
        PROJECT / "train.py",
        "--data",
        root,
        "--size",
        str(SIZE),
        "--batch-size",
        str(BATCH),
    ]
    begun = time.perf_counter()
    with subprocess.Popen(
        command, cwd=root.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("on "):  # the last line before the loop
                process.kill()
                return time.perf_counter() - begun
    raise SystemExit(f"train.py did not start:\n{''.join(said)}")


def measured_stages(root: Path) -> dict:
    """`stages` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.startup", "--stages", root]
    done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def stages(root: Path) -> dict:
    """Seconds in what train.py does with images before it asks for the first batch, and the memory at most, bytes."""
    import torch

    from classifier.data import image_folder, loaders
    from classifier.data.transforms import Preprocess

    found, clock = {}, time.perf_counter()

    def done(name: str) -> None:
        nonlocal clock
        found[name], clock = time.perf_counter() - clock, time.perf_counter()

    images = image_folder.read_folder(root / "train")
    done("listing")
    images = image_folder.with_digests(images)
    done("digests")
    training, validation = image_folder.split_validation(images, 0.1)
    done("splitting")
    training.fingerprint()
    done("fingerprint")
    ready = [
        loaders.kept_ready(part, images, Preprocess(SIZE), root / ".cache", torch.device("cpu"), 2)
        for part in (training, validation)
    ]
    done("cache")
    next(iter(loaders.loader(ready[0], BATCH, order=loaders.ResumableSampler(len(training), 0, None, BATCH))))
    done("first batch")
    unit = 1 if sys.platform == "darwin" else 1024
    return found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


if __name__ == "__main__":
    main()
