"""Score a network on labelled pictures.

    python evaluate.py                                    the newest weights in module/, on their test pictures
    python evaluate.py module/flowers.pth --data photos   others, on photos/<class>/* or photos/test/<class>/*

Expected: the weights that come with the project: 97.80% of 2,000 photographs of cats and dogs, 95% interval 97.06% to
98.36%, in 9 seconds (4.6 ms each) on two busy cores.

A plain state_dict of a ResNet will do as well. Every picture counts once. The report goes to
logs/evaluate/<weights>/<time>/: report.json, confusion_matrix.png and, of weights that train.py made, curves.png.
"""

import dataclasses
import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor, nn
from tqdm import tqdm
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import cli, data, metrics, plots
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.data import Folder
from classifier.device import Compute, device_name, dtype_name
from classifier.inference import prepared
from classifier.pictures import is_candidate
from classifier.precision import Precision, choose
from classifier.text import print_table, quoted, shorten

DRAWINGS = "drawings"  # the kind of pictures that the built-in sample set holds
MANY = 12  # with more classes than these the terminal shows the worst confusions instead of the whole matrix


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[Path | None, conf.arg(metavar="[WEIGHTS]")]] = None
    """A .pth; without one, the newest in module/."""
    data: Annotated[Path | None, conf.arg(metavar="DIR")] = None
    """Folder that holds test/<class>/* or <class>/*; without one, the test pictures of the weights' own run."""
    batch_size: int = 64
    """Pictures at a time."""
    workers: int = min(4, os.cpu_count() or 1)
    """How many pictures are opened side by side."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: what a short trial on this machine shows to be fastest."""
    logs: Path = Path("logs")
    """Folder for the report."""


def main(args: Sequence[str] | None = None) -> None:
    """Score, print, write the report, and note the score in the .pth."""
    settings = cli.parse(Settings, __doc__.split("\n")[0], args)
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(settings, name) < low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; at least {low} is needed.")
    path = settings.weights or checkpoints.newest(Path("module"))
    stamp = path.stat().st_mtime_ns if path.exists() else 0
    checkpoint = checkpoints.load(path)
    own = own_test_folder(checkpoint)
    if own and not settings.data and not own.is_dir():
        raise UserError(f"{path} belongs to {own}, which does not exist. Score other pictures with --data DIR.")
    root = test_folder(settings.data) if settings.data else own or Path("dataset/test")
    folder, assumed = match_classes(data.read_folder(root), checkpoint)
    checkpoint.classes = folder.classes
    seen = checkpoint.preprocess
    network = checkpoint.network()
    compute = choose(settings.device, settings.precision, network, seen.size)
    print(f"weights    {path}")
    if assumed:
        print(f"assumed    {assumed}")
    print(
        f"network    {checkpoint.model}, {len(folder.classes)} classes, sees {seen.size} x {seen.size} ({seen.resize})"
    )
    print(f"pictures   {root}, {len(folder):,} of {brief(folder.classes)}")
    print(f"device     {compute}", flush=True)

    start = time.perf_counter()
    logits, labels = infer(checkpoint, network, folder, compute, settings)
    seconds = time.perf_counter() - start

    report = {
        "weights": path.as_posix(),
        "model": checkpoint.model,
        "folder": root.as_posix(),
        "trained_on": checkpoint.data.get("kind", "unknown"),
        "assumed": assumed,
        "preprocess": checkpoint.preprocess.to_dict(),
        **score(logits, labels, folder.classes),
        "seconds": seconds,  # from file to logits: reading, decoding, resizing, network
        "milliseconds_per_picture": 1000 * seconds / len(folder),
        "device": device_name(compute.device),
        "precision": dtype_name(compute.dtype),
        "batch_size": settings.batch_size,
        "workers": settings.workers,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": checkpoints.versions(),
    }
    print_report(report)
    written = write_report(
        report,
        checkpoint.scores.get("history") or checkpoint.resume.get("history"),
        settings.logs / "evaluate" / path.stem,
    )
    if not checkpoint.assumed and own and own.resolve() == root.resolve():
        print(note_score(path, stamp, report))
    print("report     " + "\n           ".join(map(str, written)))
    print(f"next       python app.py{f' {quoted(settings.weights)}' if settings.weights else ''}")


def own_test_folder(checkpoint: Checkpoint) -> Path | None:
    """The test pictures that belong to the pictures the weights were trained with, as far as the .pth says."""
    root = checkpoint.data.get("root")
    return Path(root) / "test" if isinstance(root, str) else None


def test_folder(folder: Path) -> Path:
    """`folder`/test where `folder` is split into train and test, otherwise `folder`.

    A folder named train or test with pictures right in it is a class of that name, not a part.
    """
    for part in (folder / "train", folder / "test"):
        if part.is_dir() and not any(is_candidate(path.name) for path in part.iterdir()):
            return folder / "test"
    return folder


def match_classes(folder: Folder, checkpoint: Checkpoint) -> tuple[Folder, str]:
    """The folder with its labels in the order of the logits, by class name; and what had to be assumed.

    A plain state_dict has no names: with as many classes as there are sub-folders it takes their sorted names.

    Raises:
        UserError: the classes of the folder are not those of the weights.
    """
    known = checkpoint.classes
    if checkpoint.assumed and len(known) == len(folder.classes):
        return folder, f"{checkpoint.assumed}; class names from the folder, in order: {brief(folder.classes)}"
    if set(known) != set(folder.classes) or len(known) != len(folder.classes):
        raise UserError(
            f"{checkpoint.path} knows {len(known)} classes ({brief(known)}), but {folder.root} has "
            f"{len(folder.classes)} ({brief(folder.classes)}). Their names have to be the same: rename or add folders, "
            "or score other pictures with --data DIR."
        )
    labels = [known.index(folder.classes[label]) for label in folder.labels]
    return dataclasses.replace(folder, classes=known, labels=labels), checkpoint.assumed


def brief(names: Sequence[str]) -> str:
    """The names, separated by commas; of many only the first."""
    return ", ".join(names[:10]) + (f", ... and {len(names) - 10} more" if len(names) > 10 else "")


def infer(
    checkpoint: Checkpoint, network: nn.Module, folder: Folder, compute: Compute, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Logits (N, classes) and labels (N,), with a progress bar where there is a terminal."""
    batches = data.loader(data.Pictures(folder, checkpoint.preprocess, settings.workers), settings.batch_size)

    def shown() -> Iterator[tuple[Tensor, Tensor]]:
        with tqdm(total=len(folder), unit=" pictures", leave=False, disable=None) as bar:
            for pixels, labels in data.on_device(batches, compute.device):
                yield pixels, labels
                bar.update(len(labels))

    try:
        logits, labels = metrics.infer(prepared(network, compute), shown(), checkpoint.preprocess)
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch-size {settings.batch_size} needs more memory than {compute.device} has. Try a smaller one."
        ) from None
    if not logits.isfinite().all():
        raise UserError(f"{checkpoint.path} gives logits that are not numbers. Train it again, with a smaller --lr.")
    return logits, labels


def score(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict:
    """All scores as plain values, ready for JSON; a share of nothing is None."""
    matrix = metrics.confusion_matrix(logits, labels)
    right, count = int(matrix.trace()), len(labels)
    columns = metrics.per_class(matrix)
    table = [
        {key: None if value != value else value for key, value in zip(columns._fields, row, strict=True)}
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return {
        "accuracy": right / count,
        "interval": list(metrics.wilson_interval(right, count)),  # 95%
        "loss": metrics.loss(logits, labels),
        "count": count,
        "classes": list(classes),
        "per_class": [{"class": name, **row} for name, row in zip(classes, table, strict=True)],
        "confusion_matrix": matrix.tolist(),  # rows truth, columns prediction
    }


def print_report(report: dict) -> None:
    """The scores as a table."""
    low, high = report["interval"]
    names = [shorten(name, 30) for name in report["classes"]]
    right = round(report["accuracy"] * report["count"])
    print(
        f"\naccuracy   {report['accuracy']:.2%}, {right:,} of {report['count']:,}; 95% interval {low:.2%} to {high:.2%}"
        + f"\n           of a network that learned from {DRAWINGS}, not from photographs"
        * (report["trained_on"] == DRAWINGS)
    )
    print(f"loss       {report['loss']:.4f}\n")
    table = [("class", "precision", "recall", "F1", "pictures")]
    for name, row in zip(names, report["per_class"], strict=True):
        shares = ("-" if row[key] is None else f"{row[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.append((name, *shares, f"{row['count']:,}"))
    print_table(table)

    matrix = torch.tensor(report["confusion_matrix"])
    if len(names) <= MANY:
        print("\ntrue class, and what its pictures were taken for")
        heading = ("", *(shorten(name, 9) for name in names))
        print_table([heading, *((name, *counts) for name, counts in zip(names, matrix.tolist(), strict=True))])
    else:
        print("\nmost frequent confusions")
        mistakes = matrix.clone().fill_diagonal_(0).flatten()
        for place in mistakes.topk(MANY).indices.tolist():
            if mistakes[place]:
                true, taken = names[place // len(names)], names[place % len(names)]
                print(f"{true} taken for {taken}: {mistakes[place]}")
    rate = 1000 / report["milliseconds_per_picture"]
    print(
        f"\ntime       {report['milliseconds_per_picture']:.2f} ms per picture ({rate:,.0f} pictures/s) from file to "
        f"answer, decoding included; {report['device']}"
    )


def write_report(report: dict, history: list[dict] | None, folder: Path) -> list[Path]:
    """Write report.json and the figures into `folder`/<time>, all or nothing, and give their paths.

    Raises:
        UserError: the folder cannot be written to or the disk is full.
    """
    begun = datetime.now()
    target = folder / f"{begun:%Y%m%d-%H%M%S}"
    if target.exists():  # a second one within this second
        target = folder / f"{begun:%Y%m%d-%H%M%S-%f}"
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        unfinished.mkdir(parents=True)
        text = json.dumps(report, indent=2, ensure_ascii=False)
        (unfinished / "report.json").write_text(text + "\n", encoding="utf-8")
        figure = plots.confusion_matrix(torch.tensor(report["confusion_matrix"]), report["classes"])
        figure.savefig(unfinished / "confusion_matrix.png", dpi=150)
        if history:
            plots.curves({folder.name: history}).savefig(unfinished / "curves.png", dpi=150)
        unfinished.rename(target)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}). Choose another with --logs."
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return sorted(target.iterdir(), reverse=True)


def note_score(path: Path, stamp: int, report: dict) -> str:
    """Put the test score into the .pth, for app.py to show; says what came of it. A failure loses nothing."""
    keys = ("accuracy", "interval", "loss", "count", "folder", "date")
    try:
        state = path.stat()
        if path.name == checkpoints.SHIPPED:
            return f"           {path} comes with the project and stays as it is."
        if not state.st_mode & stat.S_IWRITE:
            return f"           {path} is read-only, so the score is not noted in it."
        if state.st_mtime_ns != stamp:  # a run that is still going on has saved a better epoch
            return f"           {path} has changed meanwhile, so the score is not noted in it."
        checkpoints.add_scores(path.resolve(), "test", {key: report[key] for key in keys})
    except (CheckpointError, OSError) as error:
        return f"           The score is not noted in {path}: {error}"
    return f"           The score is noted in {path}."


if __name__ == "__main__":
    cli.run(main)
