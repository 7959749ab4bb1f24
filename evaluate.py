"""Score networks on labelled pictures, and compare them.

    python evaluate.py                                    the newest weights in module/, on their test pictures
    python evaluate.py module/flowers.pth --data photos   others, on photos/<class>/* or photos/test/<class>/*
    python evaluate.py module/a.pth module/b.pth          which is better, is that more than chance, and what it costs
    python evaluate.py --tta flip                         with and without a look at the mirrored picture

Expected: the weights that come with the project: 97.80% of 2,000 photographs of cats and dogs, 95% interval 97.06% to
98.36%, in 9 seconds (4.6 ms each) on two busy cores.

A plain state_dict of a network in zoo/ will do as well. Every picture counts once. A page with figures, the most wrong
pictures and doubtful labels goes to logs/evaluate/<weights>/<time>/report.html, with report.json and predictions.csv
beside it; that of several networks to logs/evaluate/comparison/<time>/.
"""

import dataclasses
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor
from tqdm import tqdm
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import cli, comparison, data, folders, report
from classifier.answer import Answers, answerer
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.comparison import Judged
from classifier.device import Compute, device_name, dtype_name
from classifier.folders import Folder
from classifier.pictures import is_candidate
from classifier.precision import Precision, choose
from classifier.scores import score
from classifier.text import print_table, quoted, shorten

DRAWINGS = "drawings"  # the kind of pictures that the built-in sample set holds
MANY = 12  # with more classes than these the terminal shows the worst confusions instead of the whole matrix


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[tuple[Path, ...], conf.arg(metavar="[WEIGHTS ...]")]] = ()
    """One or several .pth; without one, the newest in module/."""
    data: Annotated[Path | None, conf.arg(metavar="DIR")] = None
    """Folder that holds test/<class>/* or <class>/*; without one, the test pictures of the weights' own run."""
    tta: Literal["off", "flip"] = "off"
    """flip: judge also, like a network of its own, the mean of the answers to a picture and to its mirror image."""
    batch_size: int = 64
    """Pictures at a time."""
    workers: int = min(4, os.cpu_count() or 1)
    """How many pictures are opened side by side."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: what a short trial on this machine shows to be fastest."""
    logs: Path = Path("logs")
    """Folder for the reports."""


def main(args: Sequence[str] | None = None) -> None:
    """Score, print, write the reports, and note the scores in the .pth files."""
    settings = cli.parse(Settings, __doc__.split("\n")[0], args)
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(settings, name) < low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; at least {low} is needed.")
    paths = list(dict.fromkeys(settings.weights)) or [checkpoints.newest(Path("module"))]
    stamps = [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]
    loaded = [checkpoints.load(path) for path in paths]
    roots = [pictures_for(checkpoint, settings.data) for checkpoint in loaded]
    if len({root.resolve() for root in roots}) > 1:
        raise UserError(
            f"These weights belong to different pictures, {' and '.join(sorted(map(str, set(roots))))}. "
            "Say with --data DIR which they shall be compared on."
        )
    read = folders.read_folder(roots[0])
    folder = match_classes(read, loaded[0])[0]  # the first one's order of classes is that of the comparison

    judged: list[Judged] = []
    for name, checkpoint, stamp in zip(names(paths), loaded, stamps, strict=True):
        own = own_test_folder(checkpoint)
        labelled, assumed = match_classes(read, checkpoint)
        entries = judge(name, checkpoint, labelled, assumed, settings)
        for entry in entries:
            print_report(entry.report)
            learned_from = bool(own) and (own.parent / "train").resolve() == read.root.resolve()
            written = report.write_one(entry, labelled, learned_from, settings.logs / "evaluate" / entry.name)
            print(f"report     {written[0]}", flush=True)
        if not checkpoint.assumed and own and own.resolve() == read.root.resolve():
            print(note_score(checkpoint.path, stamp, entries[0].report))
        judged += [in_order(entry, labelled.classes, folder.classes) for entry in entries]

    if len(judged) > 1:
        compare(judged, folder, settings)
    print(f"next       python app.py{f' {quoted(settings.weights[0])}' if settings.weights else ''}")


def names(paths: Sequence[Path]) -> list[str]:
    """What to call each of the weights: the file's name, with its folders where two have the same."""
    count = Counter(path.stem for path in paths)
    return [
        path.stem if count[path.stem] == 1 else "-".join(path.relative_to(path.anchor).with_suffix("").parts)
        for path in paths
    ]


def pictures_for(checkpoint: Checkpoint, chosen: Path | None) -> Path:
    """The folder to score on: `chosen`, or the test pictures of the weights' own run."""
    own = own_test_folder(checkpoint)
    if own and not chosen and not own.is_dir():
        raise UserError(
            f"{checkpoint.path} belongs to {own}, which does not exist. Score other pictures with --data DIR."
        )
    return test_folder(chosen) if chosen else own or Path("dataset/test")


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


def judge(name: str, checkpoint: Checkpoint, folder: Folder, assumed: str, settings: Settings) -> list[Judged]:
    """The network's answers to all pictures and its scores; with --tta a second time, for mirrored views as well."""
    seen = checkpoint.preprocess
    checkpoint.classes = folder.classes
    compute = choose(settings.device, settings.precision, checkpoint.network(), seen.size)
    print(f"\nweights    {checkpoint.path}")
    if assumed:
        print(f"assumed    {assumed}")
    print(
        f"network    {checkpoint.model}, {len(folder.classes)} classes, sees {seen.size} x {seen.size} ({seen.resize})"
    )
    print(f"pictures   {folder.root}, {len(folder):,} of {brief(folder.classes)}")
    print(f"device     {compute}", flush=True)

    answer = answerer(checkpoint, compute)
    views = {name: answer}
    if settings.tta == "flip":
        views[f"{name}-flip"] = lambda pixels: mean_of(answer(pixels), answer(pixels.flip(-1)))
    judged = []
    for view, predict in views.items():
        start = time.perf_counter()
        logits, unlike, labels = infer(predict, checkpoint, folder, compute, settings)
        seconds = time.perf_counter() - start
        scores = {
            "weights": checkpoint.path.as_posix(),
            "model": checkpoint.model,
            "folder": folder.root.as_posix(),
            "trained_on": checkpoint.data.get("kind", "unknown"),
            "assumed": assumed,
            "preprocess": seen.to_dict(),
            **score(logits, labels, folder.classes, checkpoint.temperature),
            "neither": unlike.sum().item() if checkpoint.novelty else None,  # pictures called unlike the training's
            **comparison.cost(checkpoint),
            "seconds": seconds,  # from file to logits: reading, decoding, resizing, network
            "milliseconds_per_picture": 1000 * seconds / len(folder),
            **comparison.latency(predict, compute.device, seen.size),
            "device": device_name(compute.device),
            "precision": dtype_name(compute.dtype),
            "batch_size": settings.batch_size,
            "workers": settings.workers,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": checkpoints.versions(),
        }
        mirrored = view != name
        if mirrored and scores["multiply_adds"]:
            scores["multiply_adds"] *= 2
        judged.append(Judged(view, checkpoint, scores, logits, labels, mirrored))
    return judged


def mean_of(one: Answers, other: Answers) -> Answers:
    """Two views of the same pictures: the mean of the logits; neither class only where both say so."""
    return one._replace(logits=(one.logits + other.logits) / 2, unlike=one.unlike & other.unlike)


def infer(
    predict: Callable[[Tensor], Answers], checkpoint: Checkpoint, folder: Folder, compute: Compute, settings: Settings
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, classes), whether unlike (N,), and labels (N,), with a progress bar where there is a terminal."""
    batches = data.loader(data.Pictures(folder, checkpoint.preprocess, settings.workers), settings.batch_size)
    found = []
    try:
        with tqdm(total=len(folder), unit=" pictures", leave=False, disable=None) as bar:
            for pixels, labels in data.on_device(batches, compute.device):
                answers = predict(pixels)
                found.append((answers.logits, answers.unlike, labels.cpu()))
                bar.update(len(labels))
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch-size {settings.batch_size} needs more memory than {compute.device} has. Try a smaller one."
        ) from None
    logits, unlike, labels = map(torch.cat, zip(*found, strict=True))
    if not logits.isfinite().all():
        raise UserError(f"{checkpoint.path} gives logits that are not numbers. Train it again, with a smaller --lr.")
    return logits, unlike, labels


def in_order(entry: Judged, classes: Sequence[str], wanted: Sequence[str]) -> Judged:
    """The same answers, with the classes in another order."""
    places = [classes.index(name) for name in wanted]
    labels = torch.tensor(places).argsort()[entry.labels]
    return dataclasses.replace(entry, logits=entry.logits[:, places], labels=labels)


def compare(judged: list[Judged], folder: Folder, settings: Settings) -> None:
    """Print and write the networks side by side."""
    verdicts = comparison.verdicts(judged)
    print("\nside by side")
    print_table(comparison.rows(judged))
    print()
    for verdict in verdicts:
        print(verdict["words"])
    written = report.write_comparison(judged, folder, verdicts, settings.logs / "evaluate" / "comparison")
    print(f"\ncompared   {written[0]}")


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
    print(f"loss       {report['loss']:.4f}")
    print(
        f"sureness   off by {report['calibration_error']:.3f} on average (calibration error; "
        f"{report['calibration_error_without_temperature']:.3f} before the temperature, {report['temperature']:.2f})"
    )
    if report["neither"] is not None:
        print(f"neither    {report['neither']:,} of {report['count']:,} called unlike the training pictures")
    print()
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
        f"answer, decoding included; {report['device']}\n"
        f"           {report['milliseconds_for_one']:.1f} ms for one alone, from pixels to answer; 95% below "
        f"{report['milliseconds_for_one_p95']:.1f} ms"
    )


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
        checkpoints.amend(path.resolve(), scores={"test": {key: report[key] for key in keys}})
    except (CheckpointError, OSError) as error:
        return f"           The score is not noted in {path}: {error}"
    return f"           The score is noted in {path}."


if __name__ == "__main__":
    cli.run(main)
