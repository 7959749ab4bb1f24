"""Label images that nobody has labelled.

    python predict.py photos more/*.jpg holiday.zip     images, folders with all that is in them, zips
    find . -name "*.jpg" | python predict.py -          paths from elsewhere, one per line, or of find -print0
    python predict.py photos --sort-into sorted         besides, a copy of each image in sorted/<class>/
    python predict.py test.zip --kaggle                 besides, the file for Kaggle's "Dogs vs. Cats Redux"
    torchrun --nproc-per-node=8 predict.py photos       on eight GPUs, or with --device cpu in eight processes

Expected: the weights that come with the project label 2,000 photographs (200 x 200) in 8.3 s on two cores (AMD EPYC,
bfloat16), 242 a second, as evaluate.py does (241), and five seconds go into starting and the contact sheet. A million
paths take 80 MB of memory, and another 80 MB where they are names in one folder.

Without --weights the newest in module/ answer. predictions.csv gets a row for each image (path, class, probability of
each class, and a note where there is no answer), predictions.png some of the images with their answers, and
predictions.csv.json says which weights these were. The same command goes on where an interrupted run stopped, and
answers images that were added since. What was already answered stays, so an image has one row however often it is
named. No file of yours is changed or moved.

Of several processes the first one finds the images, deals them out and alone writes: the table is that of one
process, row by row, and any number of processes goes on with it.
"""

import contextlib
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from tqdm import tqdm
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import cli, distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.device import Compute, Precision, select_compute
from classifier.files import class_folders
from classifier.inference.predictor import Prediction, build_predictor
from classifier.prediction import loader, outputs, sources
from classifier.prediction.sources import Unlabelled, UnlabelledImage, key
from classifier.prediction.table import OR_ELSE, Table


@dataclass
class Settings:
    """The command line."""

    paths: Annotated[conf.Positional[tuple[str, ...]], conf.arg(metavar="IMAGES ...")] = ()
    """Images, folders, zips, patterns such as *.jpg; - reads paths from standard input."""
    weights: Path | None = None
    """A .pth; without one, the newest in module/."""
    output: Path = Path("predictions.csv")
    """The table; the contact sheet gets the same name with .png."""
    sort_into: Path | None = None
    """Copy each image into SORT_INTO/<class>/; nothing is moved or overwritten."""
    kaggle: bool = False
    """Write <output>.kaggle.csv too: id, the number in the file name, and label, P(dog) within 0.005 to 0.995; 0.5 for
    an image that cannot be read."""
    restart: bool = False
    """Throw the answers in the output away and begin anew."""
    batch_size: int = 64
    """Images at a time, in each process."""
    workers: int = min(4, os.cpu_count() or 1)
    """How many images are opened side by side, in each process."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU computes it natively, otherwise fp32."""


def main(args: Sequence[str] | None = None) -> None:
    """Label what the command line names."""
    with distributed.process_group():
        settings = distributed.run_on_main_and_broadcast(lambda: command_line(args))
        try:
            predict(settings)
        finally:
            sources.close_zips()


def command_line(args: Sequence[str] | None) -> Settings:
    """The settings, with the weights that answer; without anything named, print the usage and exit."""
    options = {"config": (conf.FlagCreatePairsOff,)}
    settings = cli.parse(Settings, __doc__.split("\n")[0], args, **options)
    if not settings.paths:
        with contextlib.suppress(SystemExit):
            cli.parse(Settings, __doc__.split("\n")[0], ["--help"], **options)
        sys.exit(2)
    check(settings)
    return dataclasses.replace(settings, weights=settings.weights or checkpoints.newest(Path("module")))


def predict(settings: Settings) -> None:
    """Label, then make everything else out of the table."""
    checkpoint = checkpoints.load(settings.weights)
    classes, side = checkpoint.classes, checkpoint.preprocess.size
    folders = class_folders([*classes, neither(classes)]) if settings.sort_into else {}
    if settings.kaggle:
        outputs.dog(classes)
    output, sheet, submission = settings.output, *map(settings.output.with_suffix, (".png", ".kaggle.csv"))
    table = Table(output, checkpoint)
    before = distributed.run_on_main_and_broadcast(lambda: table.resume((sheet, submission), settings.restart))
    compute = select_compute(settings.device, settings.precision, before)
    if before not in ("", compute.format):
        raise UserError(f"{output} was begun in {before}, and this would be {compute.format}. {OR_ELSE}")
    table.note["format"] = compute.format
    print(f"weights    {checkpoint.path}")
    if checkpoint.data.get("kind") == "drawings":
        print(f"learned    from drawings only; --weights module/{checkpoints.SHIPPED} has seen photographs")
    if checkpoint.assumed:
        print(f"assumed    {checkpoint.assumed}")
    print(f"network    {checkpoint.model}, {len(classes)} classes, sees {side} x {side}")
    print(f"device     {compute}", flush=True)

    # in the first process, key of the name of each image that has a row -> whether it is named now
    seen = {key(row[0]): False for row in table.rows()}
    if seen:
        print(f"kept       {len(seen):,} rows that {output} has already")
    without = [sheet, settings.sort_into or sheet]
    named = Unlabelled(settings.paths, frozenset(map(os.path.realpath, without)))

    def new_ones() -> Iterator[UnlabelledImage]:
        numbers = set()
        for image in named:
            named_before, seen[key(image.name)] = seen.get(key(image.name)), True
            if settings.kaggle and not named_before:
                outputs.kaggle_id(image.name, numbers)  # what makes no submission is told now, not after the work
            if named_before is None:
                yield image

    answer = build_predictor(checkpoint, compute)
    batches = loader.batches(new_ones(), checkpoint.preprocess.read, settings.batch_size, settings.workers)
    count, start = 0, time.perf_counter()
    with table, contextlib.closing(batches), tqdm(unit=" images", leave=False, disable=distributed.DISABLE_TQDM) as bar:
        try:
            for batch in batches:
                shares = distributed.all_gather_object(list(label(batch, answer, checkpoint, compute)))
                rows = list(itertools.chain(*shares))
                if distributed.IS_MAIN:
                    table.append(rows)
                count += len(rows)
                bar.update(len(rows))
        except KeyboardInterrupt:
            if distributed.IS_MAIN:
                print(f"\n{count:,} new answers are in {output}. The same command goes on there.", file=sys.stderr)
            raise
    seconds = time.perf_counter() - start
    if not distributed.IS_MAIN:
        return

    def given() -> Iterator[list[str]]:
        return (row for row in table.rows() if seen.get(key(row[0])))

    outputs.print_summary(given(), count, named.others, seconds)
    written = [output]
    if outputs.draw_sheet(given(), checkpoint.preprocess, sheet):
        written.append(sheet)
    if settings.kaggle:
        outputs.write_kaggle(given(), classes, submission)
        written.append(submission)
    if settings.sort_into:
        outputs.copy_by_class(given(), folders, settings.sort_into)
        written.append(settings.sort_into)
    print("written    " + "\n           ".join(map(str, written)))


def check(settings: Settings) -> None:
    """Raise a UserError for what can be seen to be wrong in the command."""
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(settings, name) < low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; at least {low} is needed.")
    if settings.output.suffix.lower() != ".csv":
        raise UserError(f"--output {settings.output}: expected the name of a table that ends in .csv")
    sources.check(settings.paths)
    if sources.STDIN in settings.paths and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0":
        raise UserError(
            "A process has died, and those before have read standard input. The same command goes on, given the list "
            f"anew; what is answered stays in {settings.output}."
        )
    if target := settings.sort_into and settings.sort_into.resolve():
        if target.exists() and not target.is_dir():
            raise UserError(f"--sort-into {settings.sort_into} is a file. Name a folder; it need not exist yet.")
        for path in settings.paths:
            if path != sources.STDIN and Path(path).resolve().is_relative_to(target):
                raise UserError(f"{path} is in {settings.sort_into}, where copies go. Choose another --sort-into.")


def label(
    batch: Sequence[tuple[UnlabelledImage, Tensor | str]],
    answer: Callable[[Tensor], Prediction],
    checkpoint: Checkpoint,
    compute: Compute,
) -> Iterator[list[str]]:
    """The row of each image; one that cannot be read has a note instead of an answer."""
    classes = checkpoint.classes
    pixels = [opened for _, opened in batch if isinstance(opened, Tensor)]
    answers = iter(())
    if pixels:
        try:
            found = answer(torch.stack(pixels).to(compute.device))
        except torch.OutOfMemoryError:
            asked = f"{len(batch)} images at a time need more memory than {compute.device} has"
            raise UserError(f"{asked}. Try a smaller --batch-size.") from None
        if not found.logits.isfinite().all():
            raise UserError(f"{checkpoint.path} gives logits that are not numbers. Train it again.")
        answers = zip(found.probabilities.tolist(), found.is_ood.tolist(), strict=True)
    for image, opened in batch:
        if isinstance(opened, str):
            yield [image.name, "", *[""] * len(classes), opened]
            continue
        probabilities, unlike = next(answers)
        best = classes[probabilities.index(max(probabilities))]
        note = f"unlike the training images; nearest is {best}" if unlike else ""
        yield [image.name, neither(classes) if unlike else best, *(f"{p:.5g}" for p in probabilities), note]


def neither(classes: Sequence[str]) -> str:
    """What to call an image that is of none of the classes."""
    return next(name for name in ("neither", "unlike", "none of them") if name not in map(str.casefold, classes))


if __name__ == "__main__":
    cli.run(main)
