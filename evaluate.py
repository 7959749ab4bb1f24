"""Score networks on labelled images, and compare them.

    python evaluate.py                                    the newest weights in module/, on their test images
    python evaluate.py module/flowers.pth --data photos   others, on photos/<class>/* or photos/test/<class>/*
    python evaluate.py module/a.pth module/b.pth          which is better, is that more than chance, and what it costs
    python evaluate.py --part val                         on training images that were set aside: labels to check
    python evaluate.py --tta flip                         with and without a look at the mirrored image
    torchrun --nproc-per-node=8 evaluate.py               on eight GPUs, or with --device cpu in eight processes

Expected: the weights that come with the project: 98.20% of 2,000 photographs of cats and dogs, 95% interval 97.52% to
98.70%, in 8.3 seconds (4.2 ms each) on two cores (AMD EPYC, bfloat16).

A plain state_dict of a network in zoo/ will do as well. Every image counts once. A page with figures, the most wrong
images and doubtful labels goes to logs/evaluate/<weights>/<time>/report.html, with report.json and predictions.csv
beside it; that of several networks to logs/evaluate/comparison/<time>/. Several processes give, batch by batch in turn,
the answers of one; the first one scores and writes.
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
from classifier import cli, distributed
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.data import loaders
from classifier.data.image_folder import ImageFolder
from classifier.device import EACH, Compute, Precision, device_name, dtype_name, select_compute
from classifier.evaluation import comparison, comparison_report, parts, report
from classifier.evaluation.comparison import EvalResult
from classifier.evaluation.score_text import print_scores
from classifier.evaluation.scores import score
from classifier.inference.predictor import Prediction, build_predictor
from classifier.text import print_table, quoted

FEW = 100  # classes, with which the confusion matrix still is a small part of a .pth


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[tuple[Path, ...], conf.arg(metavar="[WEIGHTS ...]")]] = ()
    """One or several .pth; without one, the newest in module/."""
    data: Annotated[Path | None, conf.arg(metavar="DIR")] = None
    """Folder that holds test/<class>/* or <class>/*; without one, the test images of the weights' own run."""
    part: parts.Part = "test"
    """val: instead of test images those training images that the run set aside, found in DIR/train."""
    tta: Literal["off", "flip"] = "off"
    """flip: judge also, like a network of its own, the mean of the answers to an image and to its mirror image."""
    batch_size: int = 64
    """Images at a time, in each process."""
    workers: int = min(4, os.cpu_count() or 1)
    """How many images are opened side by side, in each process."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU computes it natively, otherwise fp32."""
    logs: Path = Path("logs")
    """Folder for the reports."""


def main(args: Sequence[str] | None = None) -> None:
    """Score what the command line names."""
    with distributed.process_group():
        evaluate(*distributed.run_on_main_and_broadcast(lambda: command_line(args)))


def command_line(args: Sequence[str] | None) -> tuple[Settings, list[Path]]:
    """The settings, and the weights meant."""
    settings = cli.parse(Settings, __doc__.split("\n")[0], args)
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(settings, name) < low:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; at least {low} is needed.")
    return settings, files(settings.weights) or [checkpoints.newest(Path("module"))]


def evaluate(settings: Settings, paths: Sequence[Path]) -> None:
    """Score, print, write the reports, and note the scores in the .pth files: all but the answers by the first one."""
    stamps = [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]
    loaded = [checkpoints.load(path) for path in paths]
    read = distributed.run_on_main_and_broadcast(lambda: parts.images(loaded, settings.part, settings.data))
    matched = [parts.match_classes(read, checkpoint) for checkpoint in loaded]
    folder = matched[0][0]  # the first one's order of classes is that of the comparison

    judged: list[EvalResult] = []
    for name, checkpoint, stamp, (labelled, assumed) in zip(names(paths), loaded, stamps, matched, strict=True):
        entries = judge(name, checkpoint, labelled, assumed, settings)
        for entry in entries:
            print_scores(entry.report)
            written = report.write_report(entry, labelled, settings.logs / "evaluate" / entry.name)
            print(f"report     {written[0]}", flush=True)
        if entries and not checkpoint.assumed and parts.own_test(checkpoint, read):
            print(note_score(checkpoint.path, stamp, entries[0].report))
        judged += [in_order(entry, labelled.classes, folder.classes) for entry in entries]

    if len(judged) > 1:
        compare(judged, folder, settings)
    print(f"next       python app.py{f' {quoted(paths[0])}' if settings.weights else ''}")


def files(weights: Sequence[Path]) -> list[Path]:
    """The files meant, each once: module/*.pth written out, which Windows leaves to us; of a run not its last state
    beside its best one."""
    found = [("*" in path.name and sorted(path.parent.glob(path.name))) or [path] for path in weights]
    paths = dict.fromkeys(path for some in found for path in some)
    best = {path.with_name(path.name.removesuffix(".pth") + checkpoints.LAST) for path in paths}
    return [path for path in paths if path not in best]


def names(paths: Sequence[Path]) -> list[str]:
    """What to call each of the weights: the file's name, with its folders where two have the same."""
    count = Counter(path.stem for path in paths)
    return [
        path.stem if count[path.stem] == 1 else "-".join(path.relative_to(path.anchor).with_suffix("").parts)
        for path in paths
    ]


def judge(name: str, checkpoint: Checkpoint, folder: ImageFolder, assumed: str, settings: Settings) -> list[EvalResult]:
    """The network's answers to all images and its scores; with --tta a second time, for mirrored views as well.

    Of several processes only the first one has something to return.
    """
    seen = checkpoint.preprocess
    checkpoint.classes = folder.classes
    compute = select_compute(settings.device, settings.precision)
    print(f"\nweights    {checkpoint.path}")
    if assumed:
        print(f"assumed    {assumed}")
    print(
        f"network    {checkpoint.model}, {len(folder.classes)} classes, sees {seen.size} x {seen.size} ({seen.resize})"
    )
    aside = " set aside in training" if settings.part == "val" else ""
    print(f"images   {folder.root}, {len(folder):,}{aside}, of {parts.brief(folder.classes)}")
    print(f"device     {compute}", flush=True)

    answer = build_predictor(checkpoint, compute)
    views = {name: answer}
    if settings.tta == "flip":
        views[f"{name}-flip"] = lambda pixels: mean_of(answer(pixels), answer(pixels.flip(-1)))
    judged = []
    for view, predict in views.items():
        distributed.broadcast_object(None)  # the others wait while the first one is at work alone
        start = time.perf_counter()
        logits, unlike, labels = infer(predict, checkpoint, folder, compute, settings)
        seconds = time.perf_counter() - start
        if not distributed.IS_MAIN:
            continue
        scores = {
            "weights": checkpoint.path.as_posix(),
            "model": checkpoint.model,
            "folder": folder.root.as_posix(),
            "part": settings.part,
            "learned_from": parts.learned_from(checkpoint, folder, settings.part),
            "trained_on": checkpoint.data.get("kind", "unknown"),
            "assumed": assumed,
            "remarks": parts.remarks(checkpoint, folder, settings.part),
            "preprocess": seen.to_dict(),
            **score(logits, labels, folder.classes, checkpoint.temperature),
            "neither": unlike.sum().item() if checkpoint.ood_stats else None,  # images called unlike the training's
            **comparison.cost(checkpoint),
            "seconds": seconds,  # from file to logits: reading, decoding, resizing, network
            "milliseconds_per_picture": 1000 * seconds / len(folder),
            **comparison.latency(predict, compute.device, seen.size),
            "device": EACH + device_name(compute.device),
            "precision": dtype_name(compute.dtype),
            "batch_size": settings.batch_size,
            "workers": settings.workers,
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "versions": checkpoints.versions(),
        }
        mirrored = view != name
        if mirrored and scores["multiply_adds"]:
            scores["multiply_adds"] *= 2
        judged.append(EvalResult(view, checkpoint, scores, logits, labels, mirrored))
    return judged


def mean_of(one: Prediction, other: Prediction) -> Prediction:
    """Two views of the same images: the mean of the logits; neither class only where both say so."""
    return one._replace(logits=(one.logits + other.logits) / 2, is_ood=one.is_ood & other.is_ood)


def infer(
    predict: Callable[[Tensor], Prediction],
    checkpoint: Checkpoint,
    folder: ImageFolder,
    compute: Compute,
    settings: Settings,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, classes), whether unlike (N,), and labels (N,), with a progress bar where there is a terminal.

    Several processes take whole batches in turn: those of one process, and so its logits, on a CPU to the last digit.
    """
    size = settings.batch_size
    turns = [range(len(folder))[start : start + size] for start in range(0, len(folder), size)]
    places = [place for turn in distributed.shard(turns) for place in turn]
    images = loaders.ImageDataset(folder, checkpoint.preprocess, settings.workers)
    batches = loaders.loader(images, size, order=places)
    found = [(torch.empty(0, len(folder.classes)), torch.empty(0, dtype=torch.bool))]  # there may be no turn
    try:
        with tqdm(total=len(places), unit=" images", leave=False, disable=distributed.DISABLE_TQDM) as bar:
            for pixels, _ in loaders.on_device(batches, compute.device):
                answers = predict(pixels)
                found.append((answers.logits, answers.is_ood))
                bar.update(len(pixels))
    except torch.OutOfMemoryError:
        raise UserError(
            f"--batch-size {settings.batch_size} needs more memory than {compute.device} has. Try a smaller one."
        ) from None
    logits, unlike = map(torch.cat, zip(*found, strict=True))
    if not logits.isfinite().all():
        raise UserError(f"{checkpoint.path} gives logits that are not numbers. Train it again, with a smaller --lr.")
    shares = distributed.all_gather_object((torch.tensor(places, dtype=torch.long), logits, unlike))
    places, logits, unlike = map(torch.cat, zip(*shares, strict=True))
    order = places.argsort()
    return logits[order], unlike[order], torch.tensor(list(folder.labels))


def in_order(entry: EvalResult, classes: Sequence[str], wanted: Sequence[str]) -> EvalResult:
    """The same answers, with the classes in another order."""
    places = [classes.index(name) for name in wanted]
    labels = torch.tensor(places).argsort()[entry.labels]
    return dataclasses.replace(entry, logits=entry.logits[:, places], labels=labels)


def compare(judged: list[EvalResult], folder: ImageFolder, settings: Settings) -> None:
    """Print and write the networks side by side."""
    verdicts = comparison.verdicts(judged)
    print("\nside by side")
    print_table(comparison.rows(judged))
    print()
    for verdict in verdicts:
        print(verdict["words"])
    written = comparison_report.write(judged, folder, verdicts, settings.logs / "evaluate" / "comparison")
    print(f"\ncompared   {written[0]}")


def note_score(path: Path, stamp: int, report: dict) -> str:
    """Put the test score into the .pth, for app.py to show; says what came of it. A failure loses nothing."""
    keys = ["accuracy", "interval", "loss", "count", "calibration_error", "neither", "folder", "date"]
    keys += ["confusion_matrix"] * (len(report["classes"]) <= FEW)
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
