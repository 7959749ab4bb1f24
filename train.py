"""Train a network on folders of pictures.

    python train.py                                     ResNet-18 on dataset/train/<class>/*
    python train.py --model resnet34 --epochs 20
    python train.py --recipe classic                    the published baseline, for comparison
    python train.py --resume module/NAME.last.pth       go on where a run stopped

Expected: TO MEASURE
"""

import copy
import math
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from classifier import checkpoint, cli, data, metrics
from classifier.augment import Augment
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.device import choose
from classifier.pictures import is_candidate
from classifier.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from classifier.records import Records
from classifier.sample import draw_sample_set, holds_sample_set
from classifier.settings import Settings, read_settings
from zoo import MODELS

MODULE, LOGS = Path("module"), Path("logs")
PREDICTIONS = 24  # validation pictures shown in TensorBoard
NORMALIZATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}
MARGIN = 1.15  # pictures are read this much larger than the network's square, so that crops of them stay sharp


def find_pictures(folder: str) -> tuple[Path, str]:
    """(folder that holds train/, what is in it): the user's photographs, or the drawings where there are none yet."""
    root = Path(folder)
    if folder != Settings.data or data.has_pictures(root / "train"):
        return root, "drawings" if holds_sample_set(root) else "photographs"
    misplaced = [path.name for path in root.glob("[!.]*") if path.name not in ("train", "test", "sample")]
    misplaced = [name for name in misplaced if any(map(is_candidate, (root / name).rglob("*")))]
    if misplaced:
        raise UserError(
            f"{root} has pictures in {', '.join(sorted(misplaced))}, but they belong in {root}/train/<class>/.\n"
            f"Move that elsewhere and let python prepare.py FOLDER sort it into {root}."
        )
    print(
        f"{root} holds no photographs yet, so this run learns from drawings of cats and dogs, {root / 'sample'}.\n"
        "For photographs:  python prepare.py --download        Microsoft's 25,000 cats and dogs (825 MB)\n"
        "                  python prepare.py FILE_OR_FOLDER    Kaggle's train.zip, or pictures of your own\n"
    )
    draw_sample_set(root / "sample")
    return root / "sample", "drawings"


def check(root: Path, training: data.Folder, settings: Settings, network: nn.Module) -> None:
    """What would only go wrong later: classes that differ from the test pictures', batch size, disk."""
    if (root / "test").is_dir():
        classes = data.class_names(root / "test")
        if classes != training.classes:
            raise UserError(
                f"{root / 'train'} has the classes {', '.join(training.classes)}, but {root / 'test'} has "
                f"{', '.join(classes) or 'none'}. They have to be the same folders."
            )
    if settings.batch_size > len(training):
        raise UserError(
            f"--batch-size is {settings.batch_size}, but there are {len(training)} pictures to train with. "
            f"Add pictures, or use --batch-size {max(2, len(training) // 8)}."
        )
    # the weights once in NAME.pth, four times in NAME.last.pth (average, network, Adam's two), and a copy while writing
    needed = 10 * sum(value.numel() * value.element_size() for value in network.state_dict().values())
    MODULE.mkdir(exist_ok=True)
    free = shutil.disk_usage(MODULE).free
    if free < needed:
        raise UserError(
            f"The weights need {needed / 1e6:.0f} MB in {MODULE}, but {free / 1e6:.0f} MB are free. Free some."
        )


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to 0 (https://arxiv.org/abs/1608.03983) or no change."""
    rising = round(settings.warmup * steps)
    if step < rising:
        return settings.lr * (step + 1) / rising
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """average <- decay * average + (1 - decay) * network; early on it forgets faster, so that it keeps up."""
    decay = min(decay, (1 + step) / (10 + step))
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 - decay)
        else:
            mean.copy_(value)  # batch norm counts its batches


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Kernels and matrices are decayed; biases and batch norm's scales, which have one dimension, are not."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def stop_on_signal() -> list[int]:
    """A list that Ctrl-C and SIGTERM put an entry into; the loop then finishes its step and saves. Twice: at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        received.append(number)
        signal.signal(number, signal.default_int_handler)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)
    return received


def main() -> None:
    """Set up, train, save."""
    settings, saved = read_settings(__doc__)
    size = settings.batch_size

    # --- pictures
    root, kind = find_pictures(settings.data)
    training, validation = data.split_validation(data.read_folder(root / "train"), settings.val)
    preprocess = Preprocess(settings.size, settings.resize, *NORMALIZATIONS[settings.normalize])
    augment = Augment(settings.size) if settings.augment == "on" else None
    seen = replace(preprocess, size=round(settings.size * MARGIN)) if augment else preprocess
    order = data.EpochOrder(len(training), settings.seed)
    train_batches = data.loader(data.Pictures(training, seen), size, settings.workers, order, drop_last=True)
    val_batches = data.loader(data.Pictures(validation, preprocess), 2 * size, settings.workers)
    sheet = torch.linspace(0, len(validation) - 1, min(PREDICTIONS, len(validation))).long()  # for TensorBoard

    def training_input(pixels: Tensor, step: int) -> Tensor:  # (N, 3, H, W) uint8 -> (N, 3, size, size) float32
        # random numbers depend on seed and step alone (dropout's too), so there is no random state to save
        generator = torch.manual_seed(settings.seed * 1_000_003 + step)
        pixels = augment(pixels, generator) if augment else pixels
        return preprocess.normalize(pixels).contiguous(memory_format=torch.channels_last)

    # --- network
    compute = choose(settings.device, settings.precision)
    torch.manual_seed(settings.seed)
    network = MODELS[settings.model](num_classes=len(training.classes))
    check(root, training, settings, network)
    network = network.to(compute.device, memory_format=torch.channels_last)
    average = copy.deepcopy(network)  # of the weights over time: this is what is scored and saved
    optimizer = torch.optim.AdamW(parameter_groups(network, settings.weight_decay), lr=settings.lr)

    # --- a new run, or where an earlier one stopped
    epoch_steps = len(training) // size
    steps = settings.epochs * epoch_steps
    began = time.strftime("%Y%m%d-%H%M%S")
    run = {
        "name": settings.name or f"{settings.model}-{began}",
        "logs": str(LOGS / settings.model / began),
        "step": 0,  # steps made
        "minutes": 0.0,  # spent in them
        "totals": [0.0, 0, 0],  # of the epoch that is under way: sum of losses, correct pictures, pictures
        "history": [],  # a dictionary per finished epoch
    }
    if saved:
        run = saved.resume
        network.load_state_dict(run.pop("network"))
        optimizer.load_state_dict(run.pop("optimizer"))
        average.load_state_dict(saved.state_dict)
    best_path, last_path = MODULE / f"{run['name']}.pth", MODULE / f"{run['name']}{checkpoint.LAST}"
    if saved and run["step"] >= steps:
        raise UserError(
            f"{last_path} has finished its {settings.epochs} epochs. --epochs {2 * settings.epochs} trains it further."
        )
    if saved and saved.data["train"] != len(training):
        raise UserError(f"{last_path} learned from {saved.data['train']} pictures, but {root} has {len(training)} now.")
    taken = [str(path) for path in (best_path, last_path) if path.exists()]
    if taken and not saved:
        raise UserError(f"{' and '.join(taken)} would be overwritten. Choose another --name, or --resume {last_path}")

    described = Checkpoint(
        settings.model,
        training.classes,
        preprocess,
        state_dict={},
        data={"root": str(root), "kind": kind, "train": len(training), "val": len(validation)},
        settings=vars(settings) | {"data": str(root), "name": run["name"], "resume": ""},
    )

    def save_last() -> None:
        weights = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        checkpoint.save(replace(described, state_dict=average.state_dict(), resume=run | weights), last_path)

    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"{settings.model}: {parameters:.1f} million parameters, {len(training.classes)} classes")
    for name, count in training.counts().items():
        print(f"  {name}: {count:,} {kind} to train with, {validation.counts()[name]:,} to choose the best epoch with")
    print(
        f"{settings.epochs} epochs of {epoch_steps} steps, each of {size} pictures of {settings.size} x {settings.size}"
    )
    print(f"on {compute}")
    if saved:
        print(f"going on after step {run['step']} of {steps}")

    # --- the loop
    records = Records(Path(run["logs"]), run["step"])
    stopping = stop_on_signal()
    first_epoch, done = divmod(run["step"], epoch_steps)  # `done` steps of the first epoch were made before
    for epoch in range(first_epoch, settings.epochs):
        order.epoch, order.start = epoch, done * size
        network.train()
        start = time.perf_counter()
        title = f"epoch {epoch + 1}/{settings.epochs}"
        bar = tqdm(total=epoch_steps * size, initial=done * size, desc=title, unit="img", leave=False, disable=None)
        for pixels, labels in data.on_device(train_batches, compute.device):
            rate = learning_rate(run["step"], steps, settings)
            for group in optimizer.param_groups:
                group["lr"] = rate
            x = training_input(pixels, run["step"])  # (N, 3, size, size)
            if run["step"] == 0:
                records.beginning(network, vars(settings), preprocess.denormalize(x))
            with compute.autocast():
                logits = network(x)  # (N, classes)
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_average(average, network, settings.ema, run["step"])

            run["step"] += 1
            correct = (logits.argmax(1) == labels).sum().item()
            run["totals"] = [a + b for a, b in zip(run["totals"], (loss.item() * size, correct, size), strict=True)]
            total_loss, total_correct, total = run["totals"]
            records.step(run["step"], loss.item(), correct / size, rate)
            bar.set_postfix_str(f"loss {total_loss / total:.3f}, accuracy {total_correct / total:.1%}, lr {rate:.1e}")
            bar.update(size)
            if not math.isfinite(total_loss):
                raise UserError(f"The loss became {total_loss} in step {run['step']}. A smaller --lr may help.")
            if stopping:
                break
        bar.close()
        seconds = time.perf_counter() - start
        run["minutes"] += seconds / 60
        if stopping:
            records.close()
            save_last()
            print(f"\nstopped after step {run['step']} of {steps}, and saved. To go on:")
            print(f"  python train.py --resume {last_path}")
            sys.exit(128 + stopping[0])

        logits, labels = metrics.infer(average, data.on_device(val_batches, compute.device), preprocess, compute)
        entry = {
            "epoch": epoch + 1,
            "minutes": run["minutes"],
            "train": {"loss": total_loss / total, "accuracy": total_correct / total},
            "val": {"loss": metrics.loss(logits, labels), "accuracy": metrics.accuracy(logits, labels)},
            "images_per_second": (epoch_steps - done) * size / seconds,
        }
        run["history"].append(entry)
        run["totals"], done = [0.0, 0, 0], 0
        best = max(run["history"], key=quality)
        if best is entry:
            scores = {"val": entry["val"] | {"epoch": epoch + 1, "count": len(validation)}, "history": run["history"]}
            checkpoint.save(replace(described, state_dict=average.state_dict(), scores=scores), best_path)
        save_last()
        left = run["minutes"] / (epoch + 1) * (settings.epochs - epoch - 1)
        train, val = entry["train"], entry["val"]
        print(
            f"epoch {epoch + 1:>{len(str(settings.epochs))}}/{settings.epochs}"
            f"   train loss {train['loss']:.3f}, accuracy {train['accuracy']:.1%}"
            f"   val loss {val['loss']:.3f}, accuracy {val['accuracy']:.1%}{'*' if best is entry else ' '}"
            f"   {entry['images_per_second']:,.0f} images/s, {left:.0f} min left",
            flush=True,
        )
        records.epoch(epoch + 1, run["step"], entry)
        names = training.classes
        truth, predicted = ([names[i] for i in values[sheet]] for values in (labels, logits.argmax(1)))
        records.predictions(epoch + 1, torch.stack([val_batches.dataset[i][0] for i in sheet]), truth, predicted)

    checkpoint.add_scores(best_path, "history", run["history"])
    records.end(vars(settings), best)
    print(
        f"\nbest: epoch {best['epoch']}, {best['val']['accuracy']:.2%} of {len(validation):,} validation {kind}, "
        f"after {run['minutes']:.1f} minutes of training\n"
        f"  {best_path}   the weights of that epoch\n"
        f"  {last_path}   to go on: --resume {last_path} --epochs {2 * settings.epochs}\n"
        f"  {run['logs']}   for TensorBoard\n"
        "next:\n"
        f"  python evaluate.py {best_path}\n"
        f"  python app.py {best_path}\n"
        f"  tensorboard --logdir {LOGS}"
    )


def quality(entry: dict) -> tuple[float, float]:
    """What makes an epoch the best: validation accuracy, and the smaller loss among equals."""
    return entry["val"]["accuracy"], -entry["val"]["loss"]


if __name__ == "__main__":
    cli.run(main)
