"""Train a network on folders of pictures.

    python train.py                                     ResNet-18 on dataset/train/<class>/*
    python train.py --model resnet34 --epochs 20
    python train.py --weights module/catdog-resnet18.pth --data flowers     go on from weights that know something
    python train.py --weights imagenet --freeze         only the last layer learns
    python train.py --recipe quick                      or long, or classic: a published baseline, for comparison
    python train.py --resume module/NAME.last.pth       go on where a run stopped

Expected: on 18,995 photographs of cats and dogs, two cores (AMD EPYC, bfloat16) and no GPU, --recipe long: 97.8% of
2,000 test pictures right after 106 minutes; on the 540 drawings: ten epochs in half a minute, 117 of 120.
"""

import copy
import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import v2
from tqdm import tqdm

from classifier import checkpoint, checks, cli, data, finetune, folders, learning_rate_finder, metrics
from classifier.augment import MARGIN, Augment, scaled
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.device import find_device
from classifier.inference import prepared
from classifier.novelty import fit_novelty
from classifier.optimization import parameter_groups, training_loss, update_ema
from classifier.precision import choose
from classifier.preprocess import NORMALIZATIONS
from classifier.schedule import learning_rate, size_of_epoch
from classifier.settings import read_settings
from classifier.stopping import saving_on_failure, stop_on_signal
from classifier.text import quoted
from zoo import MODELS

MODULE, LOGS = Path("module"), Path("logs")
PREDICTIONS = 24  # validation pictures shown in TensorBoard
MIXES = {"off": (), "mixup": (v2.MixUp,), "cutmix": (v2.CutMix,), "both": (v2.MixUp, v2.CutMix)}


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
    pictures = folders.with_digests(folders.read_folder(root / "train"))
    torch.manual_seed(settings.seed)
    network = MODELS[settings.model](num_classes=len(pictures.classes))
    checks.check_sizes(network, settings)
    checks.check_disk(network, MODULE)
    origin = saved  # of the weights
    if settings.weights and not saved:
        origin = finetune.read_beginning(settings.weights, settings.model)
        print(finetune.begin(network, origin, pictures.classes))
    compute = choose(settings.device, settings.precision, network, settings.size, True, run.get("format", ""))
    run["format"] = compute.format  # a resumed run goes on with it, whatever a trial would show then
    network = network.to(compute.device, memory_format=compute.memory_format)
    compiled = torch.compile(network) if settings.compile else network
    ema = copy.deepcopy(network)  # the average of the weights over time: this is what is scored and saved
    groups = parameter_groups(network, settings.weight_decay, settings.early_lr)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=compute.device.type != "mps")
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)

    # --- pictures
    training, validation = folders.split_validation(pictures, settings.val, settings.fold)
    checks.check_pictures(root, training, settings)
    augment = Augment(cover=settings.cover) if settings.augment == "on" else None
    kinds = [mixing(num_classes=len(training.classes)) for mixing in MIXES[settings.mix]]
    mix = v2.RandomChoice(kinds) if kinds else None
    enlarge, margin = (settings.enlarge, MARGIN) if augment else (1, 1)
    looks = origin.preprocess if settings.normalize == "weights" else NORMALIZATIONS[settings.normalize]
    preprocess = replace(looks, size=round(settings.size * enlarge), resize=settings.resize)  # for whole pictures
    seen = replace(preprocess, size=round(settings.size * margin))  # for those that crops are cut from
    ready = [
        data.kept_ready(part, pictures, prepare, root / ".cache", compute.device, settings.workers)
        if settings.cache
        else data.Pictures(part, prepare)
        for part, prepare in ((training, seen), (validation, preprocess))
    ]
    scarcity = folders.scarcity(training)  # (classes,)
    chances = scarcity[training.labels] if settings.balance == "sampling" else None
    class_weights = scarcity.to(compute.device) if settings.balance == "weights" else None
    order = data.EpochOrder(len(training), settings.seed, chances)
    batches = {
        "train": data.loader(ready[0], size, settings.workers, order, drop_last=True),
        "val": data.loader(ready[1], size, settings.workers),
    }

    def training_input(pixels: Tensor, labels: Tensor, side: int, step: int) -> tuple[Tensor, Tensor]:
        """(N, 3, S, S) uint8, (N,) -> (N, 3, side, side), (N,) or, of mixed pictures, shares (N, classes)."""
        # random numbers depend on seed and step alone (dropout's too), so there is no random state to save
        generator = torch.manual_seed(settings.seed * 1_000_003 + step)
        if pixels.ndim == 2:  # features, which nothing changes
            return pixels, labels
        if augment:
            pixels = augment(scaled(pixels, round(side * MARGIN)), side, generator)
        x = preprocess.normalize(scaled(pixels, side)).contiguous(memory_format=compute.memory_format)
        return mix(x, labels) if mix else (x, labels)

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
            "root": root.as_posix(), "kind": kind, "train": len(training), "val": len(validation),
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
    if training.corrected:
        print(f"  {training.corrected}")
    if uneven := folders.uneven(training):
        print(f"{uneven}; --balance {settings.balance}")
    print(
        f"{settings.epochs} epochs of {epoch_steps} steps, each of {size} pictures, "
        f"{size_of_epoch(0, settings)} to {settings.size} pixels wide"
    )
    print(f"on {compute}")
    if settings.freeze:
        until = f"for {settings.unfreeze_after} epochs" if settings.unfreeze_after else "to the end"
        print(f"only the last layer learns, {until}")
    if saved:
        print(f"going on after step {run['step']} of {steps}")
    sys.stdout.flush()

    # --- one step
    def train_step(forward: Callable, x: Tensor, targets: Tensor, rate: float) -> tuple[Tensor, float]:
        """The logits (N, classes) before it, and their loss without smoothing, so that it compares with validation."""
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        with compute.autocast():
            outputs = forward(x)  # (N, classes); of GoogLeNet in training three of them
        optimizer.zero_grad()
        scaler.scale(training_loss(outputs, targets, settings.label_smoothing, class_weights)).backward()
        logits = (outputs[0] if isinstance(outputs, tuple) else outputs).detach().float()
        loss = metrics.loss(logits, targets)
        if not math.isfinite(loss):
            raise UserError(f"The loss became {loss} in step {run['step'] + 1}. A smaller --lr may help.")
        scaler.step(optimizer)
        scaler.update()
        return logits, loss

    if settings.find_lr:
        finetune.freeze(network, settings.freeze)
        coming = (batch for _ in iter(int, 1) for batch in data.on_device(batches["train"], compute.device))
        learning_rate_finder.report(
            lambda rate: train_step(compiled, *training_input(*next(coming), settings.size, 0), rate)[1],
            Path(run["logs"]),
        )
        return

    # --- the loop
    records = Records(Path(run["logs"]), run["step"])
    shown = torch.linspace(0, len(validation) - 1, min(PREDICTIONS, len(validation))).long().tolist()
    shown_pixels = data.pixels_of(ready[1], shown)
    kept: dict = {}  # of a frozen network, features instead of pictures
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
            frozen = settings.freeze and not 0 < settings.unfreeze_after <= epoch
            finetune.freeze(network, frozen)
            learner, average = (finetune.last_layer(net) if frozen else net for net in (network, ema))
            source, forward = batches, compiled
            if frozen and not augment and not mix:  # then each picture looks the same in every epoch
                if not kept:
                    parts = [finetune.features(network, part, preprocess, compute, settings.workers) for part in ready]
                    kept["train"] = data.loader(parts[0], size, order=order, drop_last=True)
                    kept["val"] = data.loader(parts[1], size)
                source, forward = kept, learner
            order.epoch, order.start = epoch, run["totals"][2]
            bar = tqdm(total=epoch_steps * size, initial=order.start, unit="img", leave=False, disable=None)
            bar.set_description_str(f"epoch {epoch + 1}/{settings.epochs}")
            side = size_of_epoch(epoch, settings)
            clock = time.perf_counter()
            for pixels, labels in data.on_device(source["train"], compute.device):
                rate = learning_rate(run["step"], steps, settings)
                x, targets = training_input(pixels, labels, side, run["step"])  # (N, 3, side, side)
                if run["step"] == 0:
                    seen_now = preprocess.denormalize(x) if x.ndim == 4 else shown_pixels / 255
                    records.beginning(network, vars(settings), seen_now)
                logits, loss = train_step(forward, x, targets, rate)
                update_ema(average, learner, settings.ema, run["step"])

                run["step"] += 1
                accuracy = metrics.accuracy(logits, targets if targets.ndim == 1 else targets.argmax(1))
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

            predict = torch.inference_mode()(average) if source is kept else prepared(ema, compute)
            logits, labels = metrics.infer(
                predict, data.on_device(source["val"], compute.device), None if source is kept else preprocess
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
                temperature = metrics.fit_temperature(logits, labels)
                scored = replace(described, state_dict=weights, scores=scores, temperature=temperature)
                checkpoint.save(scored, best_path)
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
            if 0 < settings.patience <= epoch + 1 - best["epoch"]:
                print(f"no better for {settings.patience} epochs, so this is the end (--patience)")
                break

    if best_path.exists():
        chosen = checkpoint.load(best_path)
        known = fit_novelty(chosen, compute, training, validation)  # to tell what is unlike all of these pictures
        checkpoint.amend(best_path, scores={"history": run["history"]}, novelty=known)
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
