"""Evaluate networks on labelled images, and compare them.

    python evaluate.py                                    the newest weights in module/, on their test images
    python evaluate.py module/flowers.pth --data photos   others, on photos/<class>/* or photos/test/<class>/*
    python evaluate.py module/a.pth module/b.pth          which is better, whether significantly, and its cost
    python evaluate.py --part val                         on the validation images: finds label issues
    python evaluate.py --tta flip                         also with the mean over each image and its mirror image
    torchrun --nproc-per-node=8 evaluate.py               on eight GPUs, or with --device cpu in eight processes

Expected for the weights that come with the project, on 2,000 photographs of cats and dogs: 98.95% accuracy, 95%
interval 98.40% to 99.31%, in 44 seconds (22 ms per image) on two cores (AMD EPYC without bfloat16).

A plain state_dict of a network in zoo/ will do as well. Every image counts once, whatever the number of processes. The
report, logs/evaluate/<weights>/<time>/report.html, has figures, a map of the images, errors and label issues.
"""

import itertools
import os
import stat
import time
import timeit
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import cli, distributed
from classifier.checkpoint import Checkpoint, CheckpointError, Stated
from classifier.cli import plural, print_table, quoted, shorten
from classifier.data import loaders
from classifier.data.image_folder import ImageFolder
from classifier.device import Precision, device_name, dtype_name
from classifier.evaluation import comparison, gallery, metrics, report
from classifier.evaluation.report import EvalResult
from classifier.evaluation.selection import Part, is_part, remarks, select_images
from classifier.inference import onnx_file
from classifier.inference.predictor import Prediction, build_predictor
from zoo import MODELS

Predictor = Callable[[Tensor], Prediction]
MAX_COLUMNS = 90  # of the terminal for class names
WARM_UP, TIMED = 5, 30  # batches of one image
MAX_CLASSES_IN_PTH = 100  # with more, the confusion matrix would be a large part of the file


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[tuple[Path, ...], conf.arg(metavar="[WEIGHTS ...]")]] = ()
    """One or several .pth files, or .onnx of export.py; by default the newest in module/."""
    data: Annotated[Path | None, conf.arg(metavar="DIR")] = None
    """Folder that holds test/<class>/* or <class>/*; by default the one that the network was trained on."""
    part: Part = "auto"
    """test: test images. val: the validation images of the training run (DIR/val, or its split of DIR/train).
    auto: test images, or where there are none, validation images."""
    tta: Literal["off", "flip"] = "off"
    """flip: test-time augmentation; also evaluates the mean of the logits of each image and its mirror image."""
    batch_size: int = 64
    """Images per batch, in each process."""
    workers: int = min(4, os.cpu_count() or 1)
    """Threads that decode images, in each process."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Precision = "auto"
    """auto: bf16 where the processor or GPU is faster with it, otherwise fp32."""
    logs: Path = Path("logs")
    """Folder for the reports."""
    stated: Annotated[Stated, conf.arg(name="")] = checkpoints.UNSTATED


def main(args: Sequence[str] | None = None) -> None:
    """Evaluate, print, write the reports and note the scores in the .pth files; the main process writes."""
    with distributed.process_group():
        title, least = __doc__.split("\n")[0], {"batch_size": 1, "workers": 0}
        settings = distributed.run_on_main_and_broadcast(lambda: cli.parse(Settings, title, args, least))
        paths = find_weights(settings.weights or [checkpoints.newest(Path("module"))])
        times = [path.stat().st_mtime_ns if path.exists() else 0 for path in paths]
        loaded = [onnx_file.load(path, stated=settings.stated) for path in paths]
        settings.part, folders = distributed.run_on_main_and_broadcast(
            lambda: select_images(loaded, settings.part, settings.data)
        )
        networks = []
        for name, checkpoint, time_ns, folder in zip(paths.values(), loaded, times, folders, strict=True):
            if isinstance(folder, cli.UserError):
                reason = str(folder).split(". ")[0].removeprefix(f"{checkpoint.path} ")
                print(f"left out   {checkpoint.path}: {reason}")
            else:
                networks.append((name, checkpoint, time_ns, folder))

        results: list[EvalResult] = []
        passes = [False, True] if settings.tta == "flip" else [False]
        for (name, checkpoint, time_ns, folder), flip in itertools.product(networks, passes):
            result = evaluate(name, checkpoint, folder, settings, flip)
            if not distributed.IS_MAIN:
                continue
            report.print_scores(result.report)
            page = report.write_report(result, folder, settings.logs / "evaluate" / result.name)
            print(f"\nreport     {page}", flush=True)
            if settings.part == "test" and is_part(checkpoint, folder, "test") and not flip:
                print(f"           {note_score(checkpoint.path, time_ns, result.report)}")
            results.append(result)

        if len(results) > 1:
            results.sort(key=lambda result: -result.report["accuracy"])
            verdicts = comparison.verdicts(results)
            print("\ncomparison")
            print_table(comparison.table(results))
            print("\n" + "\n".join(verdict["words"] for verdict in verdicts))
            target = settings.logs / "evaluate" / "comparison"
            print(f"\nreport     {comparison.write_comparison(results, networks[0][3], verdicts, target)}")
        command = ["python", "app.py"]
        if results and (settings.weights or settings.stated != checkpoints.UNSTATED):
            command.append(Path(results[0].report["weights"]))
        for flag, value in settings.stated.given().items():
            command += [f"--{flag.replace('_', '-')}", *(value if isinstance(value, tuple) else [value])]
        print("next      ", *map(quoted, command))


def find_weights(weights: Sequence[Path]) -> dict[Path, str]:
    """Return the files, each with a name of its own: the file's, and where two are equal its ending or folders, too.

    Expands module/*.pth, which Windows leaves to us; <run>.last.pth is left out where <run>.pth is among them.
    Raises UserError for a folder without weights.
    """
    found = [("*" in path.name and sorted(path.parent.glob(path.name))) or [path] for path in weights]
    paths = dict.fromkeys(itertools.chain(*found))
    if folder := next((path for path in paths if path.is_dir() and not any(path.glob("*.pth"))), None):
        raise cli.UserError(f"{folder} is a folder; expected a file of weights. Images are --data {quoted(folder)}")
    last = {path.with_name(path.stem + checkpoints.LAST) for path in paths}
    names = {path: checkpoints.name_of(path) for path in paths if path not in last}
    inner = {path: path.relative_to(path.anchor) for path in names}
    for longer in (  # until all differ, also from what --tta flip calls them
        {path: path.name for path in names},
        {path: "-".join(inner[path].with_suffix("").parts) for path in names},
        {path: "-".join(inner[path].parts) for path in names},
        {path: f"{number}-{path.name}" for number, path in enumerate(names, 1)},
    ):
        taken = Counter(itertools.chain(*([name, f"{name}-flip"] for name in names.values())))
        names = {
            path: longer[path] if max(taken[name], taken[f"{name}-flip"]) > 1 else name for path, name in names.items()
        }
    return names


def evaluate(
    name: str, checkpoint: Checkpoint, folder: ImageFolder, settings: Settings, flip: bool
) -> EvalResult | None:
    """Return the network's logits and scores; of several processes only the main one does.

    With `flip`, those of the mean over each image and its mirror image, called `name`-flip.
    """
    preprocess, side, classes = checkpoint.preprocess, checkpoint.preprocess.size, ", ".join(folder.classes)
    compute = onnx_file.select_compute(checkpoint, settings.device, settings.precision)
    print(f"\nweights    {checkpoint.path}")
    if not checkpoint.named:
        checkpoint.assumed += f"; class names from the folder, in order: {classes}"
    if checkpoint.assumed:
        print(f"assumed    {checkpoint.assumed}")
    print(f"network    {checkpoint.model}, {len(folder.classes)} classes, input {side} x {side} ({preprocess.resize})")
    images = plural(len(folder), "validation image" if settings.part == "val" else "image")
    print(f"images     {folder.root}, {images} of {shorten(classes, MAX_COLUMNS)}")
    print(f"device     {compute}", flush=True)

    predict = predictor = build_predictor(checkpoint, compute)
    if flip:
        print("tta        the mean over each image and its mirror image")

        def predict(pixels: Tensor) -> Prediction:
            one, other = predictor(pixels), predictor(pixels.flip(-1))
            mean = (one.logits + other.logits) / 2
            return one._replace(logits=mean, is_ood=one.is_ood & other.is_ood)  # neither where both say so

    distributed.broadcast_object(None)  # the others wait until the main process has measured and written
    start = time.perf_counter()
    logits, is_ood, shown = infer(predict, checkpoint, folder, compute.device, settings)
    seconds, labels = time.perf_counter() - start, torch.tensor(folder.labels)
    if not distributed.IS_MAIN:
        return None
    scores = {
        "weights": checkpoint.path.as_posix(),
        "model": checkpoint.model,
        "folder": folder.root.as_posix(),
        "part": settings.part,
        "learned_from": settings.part == "test" and is_part(checkpoint, folder, "train"),
        "trained_on": checkpoint.data.get("kind", "unknown"),
        "assumed": checkpoint.assumed,
        "remarks": remarks(checkpoint, folder, settings.part),
        "preprocess": preprocess.to_dict(),
        **metrics.score(logits, labels, folder.classes, checkpoint.temperature),
        "neither": is_ood.sum().item() if checkpoint.ood_stats else None,
        **costs(checkpoint, predict, compute.device),
        "seconds": seconds,  # from files to logits: reading, decoding, resizing, network
        "milliseconds_per_picture": 1000 * seconds / len(folder),
        "device": device_name(compute.device),
        "precision": dtype_name(compute.dtype),
        "batch_size": settings.batch_size,
        "workers": settings.workers,
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": checkpoints.versions(),
    }
    history = checkpoint.scores.get("history") or checkpoint.resume.get("history") or []
    if flip:  # two passes; the training is shown with the first result
        name, history, scores["multiply_adds"] = f"{name}-flip", [], 2 * scores["multiply_adds"]
    return EvalResult(name, scores, history, logits, labels, shown)


def infer(
    predict: Predictor, checkpoint: Checkpoint, folder: ImageFolder, device: torch.device, settings: Settings
) -> tuple[Tensor, Tensor, gallery.Gallery]:
    """Return logits (N, classes) and is_ood (N,) of all images and a gallery, with a progress bar on a terminal.

    Of several processes each takes every n-th batch of those that one process would make, so on a CPU the logits are
    equal to the last digit.
    """
    size = settings.batch_size
    batches = distributed.shard(torch.arange(len(folder)).split(size))  # of indices
    images = loaders.ImageDataset(folder, checkpoint.preprocess, settings.workers)
    loader = loaders.loader(images, size, order=[index for batch in batches for index in batch.tolist()])
    bar = {"total": len(batches), "unit": " images", "unit_scale": size, "disable": distributed.DISABLE_TQDM}
    own, room = [], 2 * gallery.MAX_POINTS
    answered = tqdm(loaders.on_device(loader, device), leave=False, **bar)
    for batch, (pixels, labels) in zip(batches, answered, strict=True):
        prediction = predict(pixels)
        shown = gallery.choose(batch, len(folder), pixels, prediction, labels, room)
        room -= len(shown.indices)
        own.append((batch, prediction.logits, prediction.is_ood, *shown))
    parts = itertools.chain(*distributed.all_gather_object(own))
    order, logits, is_ood, *shown = map(torch.cat, zip(*parts, strict=True))
    shown = gallery.Gallery(*(values[shown[0].argsort()] for values in shown))
    return logits[order.argsort()], is_ood[order.argsort()], shown


def costs(checkpoint: Checkpoint, predict: Predictor, device: torch.device) -> dict:
    """Return parameters and multiply-adds for one image, megabytes of the file, and milliseconds for one image.

    These are the median and the 95th percentile, warm, from pixels (1, 3, S, S) on the CPU to the prediction there.
    """
    side = checkpoint.preprocess.size
    with FlopCounterMode(display=False) as flops, torch.inference_mode(), torch.device("meta"):  # shapes only
        network = MODELS[checkpoint.model](num_classes=len(checkpoint.classes)).eval()
        network(torch.zeros(1, 3, side, side))
    image = torch.randint(0, 256, (1, 3, side, side), dtype=torch.uint8)
    seconds = timeit.repeat(lambda: predict(image.to(device)), number=1, repeat=WARM_UP + TIMED)
    milliseconds = 1000 * torch.tensor(seconds[WARM_UP:], dtype=torch.float64)
    return {
        # without GoogLeNet's auxiliary classifiers, which are used in training only
        "parameters": sum(p.numel() for name, p in network.named_parameters() if not name.startswith("aux")),
        "multiply_adds": flops.get_total_flops() // 2,
        "megabytes": checkpoint.path.stat().st_size / 1e6 if checkpoint.path else None,
        "milliseconds_for_one": milliseconds.quantile(0.5).item(),
        "milliseconds_for_one_p95": milliseconds.quantile(0.95).item(),
    }


def note_score(path: Path, time_ns: int, scores: dict) -> str:
    """Add the test score to the .pth, for app.py to show, and return what came of it; a failure loses nothing."""
    keys = ["accuracy", "interval", "loss", "count", "calibration_error", "neither", "folder", "date", "remarks"]
    keys += ["confusion_matrix"] * (len(scores["classes"]) <= MAX_CLASSES_IN_PTH)
    try:
        if path.suffix != ".pth":
            raise CheckpointError("only a .pth keeps scores")
        if path.name in checkpoints.SHIPPED:
            raise CheckpointError("it comes with the project")
        if not path.stat().st_mode & stat.S_IWRITE or path.stat().st_mtime_ns != time_ns:
            raise CheckpointError("it is read-only, or has changed meanwhile")  # by a run
        checkpoints.amend(path.resolve(), scores={"test": {key: scores[key] for key in keys}})
    except (CheckpointError, OSError) as error:
        return f"The score is not noted in {path}: {error}."
    return f"The score is noted in {path}."


if __name__ == "__main__":
    cli.run(main)
