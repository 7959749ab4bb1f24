"""Label images: write the class of each image, and the probabilities, into a table.

    python predict.py photos more/*.jpg holiday.zip     images, folders with all their subfolders, zips
    find . -name "*.jpg" | python predict.py -          a list of paths, one per line, or from find -print0
    python predict.py photos --sort-into sorted         also copy each image to sorted/<class>/
    python predict.py test.zip --kaggle                 also write the submission for Kaggle's "Dogs vs. Cats Redux"
    torchrun --nproc-per-node=8 predict.py photos       on eight GPUs, or with --device cpu in eight processes

Without --weights, the newest file in module/ is used. predictions.csv gets a row per image (path, class, probability of
each class, and a note where there is no class), predictions.png shows some of them, and predictions.csv.json records
which weights were used and what the images were like. The same command continues where an interrupted run stopped and
labels images that were added or changed since, by size and time; rows of files that are gone are removed, all others
stay. Your files are neither changed nor moved.

Expected: two cores (AMD EPYC, bfloat16) label 242 photographs per second; start and contact sheet take five seconds.
"""

import contextlib
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from tqdm import tqdm
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import cli, distributed
from classifier.checkpoint import Checkpoint, Stated
from classifier.cli import UserError, plural, quoted
from classifier.data import archives
from classifier.device import Precision
from classifier.files import class_folders, file_lock
from classifier.inference import onnx_file
from classifier.inference.predictor import Prediction, build_predictor
from classifier.prediction import outputs, sources
from classifier.prediction.sources import UnlabelledImage
from classifier.prediction.table import Table

OF_WEIGHTS = (".pth", ".pt", ".ckpt", ".safetensors", ".onnx")  # endings


@dataclass
class Settings:
    """The command line."""

    paths: Annotated[conf.Positional[tuple[str, ...]], conf.arg(metavar="IMAGES ...")] = ()
    """Images, folders, zips, patterns such as *.jpg; - reads paths from standard input."""
    weights: Path | None = None
    """A .pth, or an .onnx of export.py; without one, the newest .pth in module/."""
    output: Path = Path("predictions.csv")
    """The table; the contact sheet has the same name with .png."""
    sort_into: Path | None = None
    """Copy each image to SORT_INTO/<class>/; nothing is moved or overwritten."""
    kaggle: bool = False
    """Also write <output>.kaggle.csv: id, the number in the file name, and label, P(dog) within 0.005 to 0.995; 0.5 for
    an image that cannot be read."""
    restart: bool = False
    """Discard the rows of an earlier run and start over."""
    batch_size: int = 64
    """Images per batch, in each process."""
    workers: int = min(4, os.cpu_count() or 1)
    """Number of threads that read images, in each process."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU is faster with it, otherwise fp32."""
    stated: Annotated[Stated, conf.arg(name="")] = checkpoints.UNSTATED


def main(args: Sequence[str] | None = None) -> None:
    """Label the images that the command line names."""
    with distributed.process_group(), contextlib.ExitStack() as stack:
        settings = distributed.run_on_main_and_broadcast(lambda: command_line(args))
        try:
            predict(settings, stack)
        except KeyboardInterrupt:
            if distributed.IS_MAIN:
                print(f"\nThe same command continues after the rows in {settings.output}.", file=sys.stderr)
            raise
        except BrokenPipeError:  # the reader of the output has ended
            raise
        except OSError as error:
            raise UserError(
                f"The results cannot be written ({error}). Free some disk space, close programs that have the files "
                f"open, or choose another --output. The same command continues after the rows in {settings.output}."
            ) from error
        finally:
            archives.open_zip.cache_clear()


def command_line(args: Sequence[str] | None) -> Settings:
    """Return the settings, with the file of the weights. Raises UserError for what can be seen to be wrong."""
    least = {"batch_size": 1, "workers": 0}
    settings = cli.parse(Settings, __doc__.split("\n")[0], args, least, config=(conf.FlagCreatePairsOff,))
    if not settings.paths:
        raise UserError("Name images, folders or zips to label: python predict.py IMAGES; --help shows the options.")
    for path in settings.paths:
        if path.lower().endswith(OF_WEIGHTS) and Path(path).is_file() and not settings.weights:
            raise UserError(f"{path} holds weights, not images. To use them: --weights {quoted(path)}")
    if settings.output.suffix.lower() != ".csv":
        raise UserError(f"--output {settings.output}: the table's name must end in .csv")
    if target := settings.sort_into:
        if target.exists() and not target.is_dir():
            raise UserError(f"--sort-into {target} is a file. Name a folder; it need not exist yet.")
        for path in settings.paths:
            if path != sources.STDIN and Path(path).resolve().is_relative_to(target.resolve()):
                raise UserError(f"{path} is in {target}, where copies go. Choose another --sort-into.")
    return dataclasses.replace(settings, weights=settings.weights or checkpoints.newest(Path("module")))


def predict(settings: Settings, stack: contextlib.ExitStack) -> None:
    """Label the images that have no row yet, then make the other files from the table, whose lock `stack` holds.

    Raises UserError where no image could be read.
    """
    checkpoint = onnx_file.load(settings.weights, stated=settings.stated)
    folders = class_folders([*checkpoint.classes, neither(checkpoint.classes)]) if settings.sort_into else {}
    images, others, table = distributed.run_on_main_and_broadcast(lambda: find(settings, checkpoint, stack))
    new = [image for name, image in images.items() if name not in table.rows]
    compute = onnx_file.select_compute(checkpoint, settings.device, settings.precision)
    outputs.print_header(checkpoint, compute)
    outputs.print_kept(table, len(images) - len(new))

    predictor = build_predictor(checkpoint, compute)
    start = time.perf_counter()
    with tqdm(total=len(new), unit=" images", leave=False, disable=distributed.DISABLE_TQDM) as bar:
        for batch in sources.load_batches(new, checkpoint.preprocess.read, settings.batch_size, settings.workers):
            shares = distributed.all_gather_object(label(batch, predictor, checkpoint, compute.device))
            rows = list(itertools.chain(*shares))
            if distributed.IS_MAIN:
                table.append(rows)
            bar.update(len(rows))
    if not distributed.IS_MAIN:
        return

    table.append([])  # so that rows are removed even where no image is new
    rows = [(images[name], row) for name, row in table.rows.items() if name in images]
    outputs.print_summary(rows, len(new), others, time.perf_counter() - start)
    written = [table.path, *outputs.draw_sheet(rows, checkpoint.preprocess, table.sheet)]
    if settings.kaggle:
        written.append(outputs.write_kaggle(rows, checkpoint.classes, table.submission))
    if settings.sort_into:
        written.append(outputs.copy_by_class(rows, folders, settings.sort_into))
    print("written    " + "\n           ".join(map(str, written)))
    if new and not any(row[1] for _, row in rows):
        raise UserError(f"Nothing is labelled: no image could be read; {table.path} notes why. Name other images.")


def find(
    settings: Settings, checkpoint: Checkpoint, stack: contextlib.ExitStack
) -> tuple[dict[str, UnlabelledImage], int, Table]:
    """Return all images by their `key`, the number of other files, and the table with the rows of an earlier run.

    The table is locked until `stack` closes. Raises UserError where another predict.py writes it.
    """
    table = Table(settings.output, checkpoint)
    exclude = filter(None, (table.sheet, settings.sort_into))
    images, others = sources.find_images(settings.paths, frozenset(map(os.path.realpath, exclude)))
    if not images:
        found = f", only {plural(len(others), 'other file')}" if others else ""
        raise UserError(f"There are no images to label{found}. Name images, folders with images, or zips.")
    if settings.kaggle:
        outputs.kaggle_ids(checkpoint.classes, (image.name for image in images.values()))
    message = f"{table.path} is being written by another predict.py. Choose another --output, or wait for it."
    stack.enter_context(file_lock(table.path, message, timeout=1))
    table.resume(images, settings.restart)
    return images, others, table


def label(
    batch: Sequence[tuple[UnlabelledImage, Tensor | UserError]],
    predictor: Callable[[Tensor], Prediction],
    checkpoint: Checkpoint,
    device: torch.device,
) -> list[list[str]]:
    """Return the row of each image; one that cannot be read has a note instead of a class."""
    classes, rows = checkpoint.classes, []
    if pixels := [content for _, content in batch if isinstance(content, Tensor)]:
        prediction = predictor(torch.stack(pixels).to(device))
        answers = zip(prediction.probabilities.tolist(), prediction.is_ood.tolist(), strict=True)
    for image, content in batch:
        if isinstance(content, UserError):
            rows.append([image.name, "", *[""] * len(classes), str(content)])
            continue
        probabilities, is_ood = next(answers)
        best = classes[probabilities.index(max(probabilities))]
        name, note = (neither(classes), f"out of distribution; the nearest class is {best}") if is_ood else (best, "")
        rows.append([image.name, name, *(f"{p:.5g}" for p in probabilities), note])
    return rows


def neither(classes: Sequence[str]) -> str:
    """Return what the class column says of an image that is out of distribution: not the name of a class."""
    return next(name for name in ("neither", "unlike", "none of them") if name not in map(str.casefold, classes))


if __name__ == "__main__":
    cli.run(main)
