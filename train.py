"""Train a network on folders of pictures.

    python train.py                                     ResNet-18 on dataset/train/<class>/*
    python train.py --model resnet34 --epochs 20
    python train.py --recipe classic                    the published baseline, for comparison
    python train.py --resume module/NAME.last.pth       go on where a run stopped

Expected: on 18,995 photographs of cats and dogs, two cores (AMD EPYC, bfloat16) and no GPU: 44 epochs in 106 minutes,
97.8% of 2,000 test pictures right; on the 540 drawings: ten epochs in half a minute, 117 of 120.
"""

import copy
import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from classifier import checkpoint, checks, cli, data, metrics
from classifier.augment import MARGIN, Augment, scaled
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.device import find_device
from classifier.inference import prepared
from classifier.precision import choose
from classifier.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from classifier.settings import Settings, read_settings
from classifier.stopping import saving_on_failure, stop_on_signal
from classifier.text import quoted
from zoo import MODELS

MODULE, LOGS = Path("module"), Path("logs")
PREDICTIONS = 24  # validation pictures shown in TensorBoard
NORMALIZATIONS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}


def learning_rate(step: int, steps: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to 0 (https://arxiv.org/abs/1608.03983) or no change."""
    warmup_steps = round(settings.warmup * steps)
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    if settings.schedule == "constant":
        return settings.lr
    return settings.lr * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps))) / 2


def size_of_epoch(epoch: int, settings: Settings) -> int:
    """Side of the training pictures: from `grow_from * size` evenly to `size`, in steps of 16 pixels."""
    done = epoch / (settings.epochs - 1) if settings.epochs > 1 else 1.0
    side = settings.size * (settings.grow_from + done * (1 - settings.grow_from))
    return settings.size if settings.size - side < 8 else max(32, 16 * round(side / 16))


@torch.no_grad()
def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """ema <- decay * ema + (1 - decay) * network; early on it forgets faster, so that it keeps up."""
    decay = min(decay, (1 + step) / (10 + step))
    averaged: list[list[Tensor]] = [[], []]
    for mean, value in zip(ema.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            averaged[0].append(mean)
            averaged[1].append(value)
        else:
            mean.copy_(value)  # batch norm counts its batches
    get_ema_multi_avg_fn(decay)(*averaged, None)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict]:
    """Kernels and matrices are decayed; biases and batch norm's scales, which have one dimension, are not."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def main() -> None:
    """Set up, train, save."""
    from classifier.records import Records  # not at the top: processes that open pictures do without TensorBoard

    settings, saved = read_settings(__doc__)
    size = settings.batch_size

    # --- a new run, or where an earlier one stopped
    began = time.strftime("%Y%m%d-%H%M%S")
    run = {
        "name": settings.name or f"{settings.model}-{began}",
        "logs": str(LOGS / settings.model / began),
        "step": 0,  # steps made
        "totals": [0.0, 0, 0, 0.0],  # of the epoch under way: sum of losses, correct pictures, pictures, seconds
        "minutes": 0.0,  # of training, in all finished epochs
        "history": [],  # a dictionary per finished epoch
    }
    if saved:
        run = saved.resume
    best_path, last_path = MODULE / f"{run['name']}.pth", MODULE / f"{run['name']}{checkpoint.LAST}"
    taken = [str(path) for path in (best_path, last_path) if path.exists()]
    if taken and not (saved and saved.path.resolve() == last_path.resolve()):
        raise UserError(
            f"{' and '.join(taken)} would be overwritten. Choose another --name, or --resume {quoted(last_path)}"
        )

    # --- network
    find_device(settings.device)  # a wrong one is told before the pictures are looked at
    root, kind = checks.find_pictures(settings.data)
    pictures = data.with_digests(data.read_folder(root / "train"))
    torch.manual_seed(settings.seed)
    network = MODELS[settings.model](num_classes=len(pictures.classes))
    checks.check_disk(network, MODULE)
    compute = choose(settings.device, settings.precision, network, settings.size, True, run.get("format", ""))
    run["format"] = compute.format  # a resumed run goes on with it, whatever a trial would show then
    network = network.to(compute.device, memory_format=compute.memory_format)
    ema = copy.deepcopy(network)  # the average of the weights over time: this is what is scored and saved
    groups = parameter_groups(network, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=compute.device.type != "mps")
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
    forward = torch.compile(network) if settings.compile else network

    # --- pictures
    training, validation = data.split_validation(pictures, settings.val)
    checks.check_pictures(root, training, settings)
    augment = Augment() if settings.augment == "on" else None
    enlarge, margin = (settings.enlarge, MARGIN) if augment else (1, 1)
    mean_std = NORMALIZATIONS[settings.normalize]
    preprocess = Preprocess(round(settings.size * enlarge), settings.resize, *mean_std)  # for whole pictures
    seen = replace(preprocess, size=round(settings.size * margin))  # for those that crops are cut from
    ready = [
        data.kept_ready(part, pictures, prepare, root / ".cache", compute.device, settings.workers)
        if settings.cache
        else data.Pictures(part, prepare)
        for part, prepare in ((training, seen), (validation, preprocess))
    ]
    order = data.EpochOrder(len(training), settings.seed)
    train_batches = data.loader(ready[0], size, settings.workers, order, drop_last=True)
    val_batches = data.loader(ready[1], size, settings.workers)

    def training_input(pixels: Tensor, side: int, step: int) -> Tensor:  # (N, 3, S, S) uint8 -> (N, 3, side, side)
        # random numbers depend on seed and step alone (dropout's too), so there is no random state to save
        generator = torch.manual_seed(settings.seed * 1_000_003 + step)
        if augment:
            pixels = augment(scaled(pixels, round(side * MARGIN)), side, generator)
        return preprocess.normalize(scaled(pixels, side)).contiguous(memory_format=compute.memory_format)

    epoch_steps = len(training) // size
    steps = settings.epochs * epoch_steps
    if saved:
        checks.check_resumed(saved, training, settings)
        network.load_state_dict(run.pop("network"))
        checkpoint.restore(optimizer, run.pop("optimizer"))
        ema.load_state_dict(saved.state_dict)
        if scale := run.pop("scaler"):  # empty if the run did without
            scaler.load_state_dict(scale)
    described = Checkpoint(
        settings.model,
        training.classes,
        preprocess,
        state_dict={},
        data={
            "root": str(root), "kind": kind, "train": len(training), "val": len(validation),
            "fingerprint": training.fingerprint(),
        },
        settings=vars(settings) | {"data": str(root), "name": run["name"], "resume": ""},
    )  # fmt: skip

    def save_last() -> None:
        weights = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        checkpoint.save(replace(described, state_dict=ema.state_dict(), resume=run | weights), last_path)

    parameters = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"{settings.model}: {parameters:.1f} million parameters, {len(training.classes)} classes")
    for name, count in training.counts().items():
        print(f"  {name}: {count:,} {kind} to train with, {validation.counts()[name]:,} to choose the best epoch with")
    print(
        f"{settings.epochs} epochs of {epoch_steps} steps, each of {size} pictures, "
        f"{size_of_epoch(0, settings)} to {settings.size} pixels wide"
    )
    print(f"on {compute}")
    if saved:
        print(f"going on after step {run['step']} of {steps}")
    sys.stdout.flush()

    # --- the loop
    records = Records(Path(run["logs"]), run["step"])
    shown = torch.linspace(0, len(validation) - 1, min(PREDICTIONS, len(validation))).long().tolist()
    shown_pixels = data.pixels_of(ready[1], shown)
    stopping = stop_on_signal()

    def stop_if_asked() -> None:
        if stopping:
            records.close()
            save_last()
            print(f"\nstopped after step {run['step']} of {steps}, and saved. To go on:")
            print(f"  python train.py --resume {quoted(last_path)}")
            sys.exit(128 + stopping[0])

    with saving_on_failure(save_last, last_path, stop_if_asked):
        for epoch in range(len(run["history"]), settings.epochs):
            stop_if_asked()
            order.epoch, order.start = epoch, run["totals"][2]
            bar = tqdm(total=epoch_steps * size, initial=order.start, unit="img", leave=False, disable=None)
            bar.set_description_str(f"epoch {epoch + 1}/{settings.epochs}")
            network.train()
            side = size_of_epoch(epoch, settings)
            clock = time.perf_counter()
            for pixels, labels in data.on_device(train_batches, compute.device):
                rate = learning_rate(run["step"], steps, settings)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x = training_input(pixels, side, run["step"])  # (N, 3, side, side)
                if run["step"] == 0:
                    records.beginning(network, vars(settings), preprocess.denormalize(x))
                with compute.autocast():
                    logits = forward(x)  # (N, classes)
                logits = logits.float()
                optimizer.zero_grad()
                scaler.scale(F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)).backward()
                loss = metrics.loss(logits.detach(), labels)  # without smoothing, so that it compares with validation
                accuracy = metrics.accuracy(logits, labels)
                if not math.isfinite(loss):
                    raise UserError(f"The loss became {loss} in step {run['step'] + 1}. A smaller --lr may help.")
                scaler.step(optimizer)
                scaler.update()
                update_ema(ema, network, settings.ema, run["step"])

                run["step"] += 1
                clock, before = time.perf_counter(), clock
                made = (loss * size, round(accuracy * size), size, clock - before)
                run["totals"] = [a + b for a, b in zip(run["totals"], made, strict=True)]
                total_loss, correct, count, seconds = run["totals"]
                records.step(run["step"], loss, accuracy, rate)
                bar.set_postfix_str(f"loss {total_loss / count:.3f}, accuracy {correct / count:.1%}, lr {rate:.1e}")
                bar.update(size)
                if stopping:
                    break
            bar.close()
            stop_if_asked()

            logits, labels = metrics.infer(
                prepared(ema, compute), data.on_device(val_batches, compute.device), preprocess
            )
            if not logits.isfinite().all():
                raise UserError(f"The weights became infinite in epoch {epoch + 1}. A smaller --lr may help.")
            total_loss, correct, count, seconds = run["totals"]
            run["minutes"] += seconds / 60
            entry = {
                "epoch": epoch + 1,
                "minutes": run["minutes"],
                "train": {"loss": total_loss / count, "accuracy": correct / count},
                "val": {"loss": metrics.loss(logits, labels), "accuracy": metrics.accuracy(logits, labels)},
                "size": side,
                "images_per_second": count / seconds,
            }
            run["history"].append(entry)
            run["totals"] = [0.0, 0, 0, 0.0]
            best = metrics.best_epoch(run["history"])
            if best is entry:
                scores = {
                    "val": entry["val"] | {"epoch": epoch + 1, "count": len(validation)},
                    "history": run["history"],
                }
                weights = checkpoint.in_half(ema.state_dict())
                checkpoint.save(replace(described, state_dict=weights, scores=scores), best_path)
            save_last()
            train, val = entry["train"], entry["val"]
            left = run["minutes"] / (epoch + 1) * (settings.epochs - epoch - 1)
            print(
                f"epoch {epoch + 1:>{len(str(settings.epochs))}}/{settings.epochs}"
                f"   train loss {train['loss']:.3f}, accuracy {train['accuracy']:.1%}"
                f"   val loss {val['loss']:.3f}, accuracy {val['accuracy']:.1%}{'*' if best is entry else ' '}"
                f"   {entry['images_per_second']:,.0f} images/s, {left:.0f} min left",
                flush=True,
            )
            records.epoch(epoch + 1, run["step"], entry)
            truth, predicted = ([training.classes[i] for i in values[shown]] for values in (labels, logits.argmax(1)))
            records.predictions(epoch + 1, shown_pixels, truth, predicted)

    if best_path.exists():
        checkpoint.add_scores(best_path, "history", run["history"])
    records.end(vars(settings), best)
    print(
        f"\nbest: epoch {best['epoch']} (*), {best['val']['accuracy']:.2%} of {len(validation):,} validation {kind}; "
        f"{run['minutes']:.1f} minutes of training\n"
        f"  {best_path}   the weights of that epoch\n"
        f"  {last_path}   the state at the end\n"
        f"  {run['logs']}   for TensorBoard\n"
        "next:\n"
        f"  python evaluate.py {quoted(best_path)}\n"
        f"  python app.py {quoted(best_path)}\n"
        f"  tensorboard --logdir {LOGS}"
    )


if __name__ == "__main__":
    cli.run(main)
