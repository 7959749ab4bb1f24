"""Train a network on folders of images.

    python train.py                                     ResNet-18 on dataset/train/<class>/*
    python train.py --model resnet34 --epochs 20
    python train.py --weights module/catdog-resnet18.pth --data flowers     go on from weights that know something
    python train.py --weights imagenet --freeze         only the last layer learns
    python train.py --recipe quick                      or long, or classic: a published baseline, for comparison
    python train.py --resume module/NAME.last.pth       go on where a run stopped; auto: the newest unfinished one
    torchrun --nproc-per-node=8 train.py                eight processes share each step: see docs/scaling.md

Expected: on 18,995 photographs of cats and dogs, two cores (AMD EPYC, bfloat16) and no GPU, --recipe long --val 0.05:
97.8% of 2,000 test images right after 106 minutes; on the 540 drawings: ten epochs in half a minute, 118 of 120.
"""

import contextlib
import copy
import gc
import math
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from classifier import checkpoint, cli, distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder, loaders
from classifier.data.transforms import CROP_MARGIN, NORMALIZATIONS, Augment, TrainingInput
from classifier.device import select_compute, select_device
from classifier.evaluation import metrics
from classifier.inference.calibration import fit_ood, fit_temperature
from classifier.inference.predictor import optimize_for_inference
from classifier.text import quoted
from classifier.training import checks, datasets, learning_rate_finder, messages, pretrained, run_state, runs
from classifier.training.config import AUTO, Settings, read_settings
from classifier.training.optim import parameter_groups, training_loss, update_ema
from classifier.training.schedules import learning_rate, size_of_epoch
from classifier.training.stopping import WholeSteps, saving_on_failure, stop_on_signal
from zoo import MODELS

MODULE, LOGS = Path("module"), Path("logs")


def main() -> None:
    """Read the command line, find the run to go on with, train."""
    with distributed.process_group(), contextlib.ExitStack() as held:
        train(*distributed.run_on_main_and_broadcast(lambda: what_to_train(held)))


def what_to_train(held: contextlib.ExitStack) -> tuple[Settings, Checkpoint | None, dict]:
    """The settings, the state to go on from or None, and the run; nobody else writes to its place while `held`."""
    before = runs.states(MODULE)
    settings, saved = read_settings(__doc__)
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"  # by torchrun, with the same command
    if settings.resume == AUTO or (restarted and not saved):
        saved = runs.unfinished(MODULE, settings)
    run = saved.resume if saved else runs.new(settings, LOGS)
    held.enter_context(runs.reserved(run, saved, MODULE, before))
    return settings, saved, run


def train(settings: Settings, saved: Checkpoint | None, run: dict) -> None:
    """Set up, train, save."""
    # not at the top: processes that open images do without TensorBoard
    from classifier.training.tensorboard import Records, new_folder

    size, first = settings.batch_size, distributed.IS_MAIN
    best_path, last_path = runs.places(run, MODULE)

    # --- network
    select_device(settings.device)  # a wrong one is told before the images are looked at
    with distributed.local_main_process_first():
        found = datasets.read(settings)
    training, validation = found.training, found.validation
    fingerprint = training.fingerprint()
    checks.check_same(fingerprint + validation.fingerprint())
    torch.manual_seed(settings.seed)
    network = MODELS[settings.model](num_classes=len(training.classes))
    checks.check_sizes(network, settings)
    checks.check_disk(network, MODULE)
    origin = saved  # of the weights
    if settings.weights and not saved:
        with distributed.local_main_process_first():
            origin = pretrained.load_pretrained(settings.weights, settings.model)
        print(pretrained.begin(network, origin, training.classes))
    compute = select_compute(settings.device, settings.precision, run["format"])
    run["format"] = compute.format  # a resumed run goes on with it, whatever a trial would show then
    processes, run["processes"] = run.get("processes", distributed.WORLD_SIZE), distributed.WORLD_SIZE
    network = network.to(compute.device, memory_format=compute.memory_format)
    ema = copy.deepcopy(network)  # the average of the weights over time: this is what is scored and saved
    if settings.sync_bn:
        network = distributed.synchronize_batch_norm(network)
    compiled = torch.compile(network) if settings.compile else network
    groups = parameter_groups(network, settings.weight_decay, settings.early_lr)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, fused=compute.device.type != "mps")
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)

    # --- images
    augment = Augment(min_area=settings.crop, erasing=settings.cover) if settings.augment == "on" else None
    enlarge, margin = (settings.enlarge, CROP_MARGIN) if augment else (1, 1)
    looks = origin.preprocess if settings.normalize == "weights" else NORMALIZATIONS[settings.normalize]
    preprocess = replace(looks, size=round(settings.size * enlarge), resize=settings.resize)  # for whole images
    seen = replace(preprocess, size=round(settings.size * margin))  # for those that crops are cut from
    batches = datasets.batches(found, seen, preprocess, settings, compute.device)
    prepare = TrainingInput(augment, settings.mix, len(training.classes), preprocess, compute.memory_format)
    class_weights = image_folder.class_weights(training).to(compute.device) if settings.balance == "weights" else None

    epoch_steps = len(training) // size
    steps = settings.epochs * epoch_steps
    if saved:
        checks.check_resumed(saved, training, settings)
        network.load_state_dict(run.pop("network"))
        run_state.restore(optimizer, run.pop("optimizer"))
        ema.load_state_dict(saved.state_dict)
        if scale := run.pop("scaler"):  # empty if the run did without
            scaler.load_state_dict(scale)
    described = Checkpoint(
        settings.model,
        training.classes,
        preprocess,
        state_dict={},
        data={
            "root": found.root, "kind": found.kind, "train": len(training), "val": len(validation),
            "fingerprint": fingerprint,
        },
        settings=vars(settings) | {"name": run["name"], "resume": ""},
    )  # fmt: skip

    whole = WholeSteps(network)

    def state() -> Checkpoint:
        whole.undo()
        try:
            records.flush()  # what is saved is recorded on the disk, too
        except OSError as error:  # weights are worth more than curves
            print(f"\nThe curves could not be written: {error.strerror or error}.", flush=True)
        weights = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "scaler": scaler.state_dict()}
        return replace(described, state_dict=ema.state_dict(), resume=run | weights)

    saves = runs.Saves(best_path, last_path, settings.save_every, state) if first else distributed.NullLogger()

    messages.announce(settings, network, found, compute)
    if saved:
        changed = messages.changes(saved, settings, processes)
        print(f"going on after step {run['step']} of {steps}" + f"; changed: {changed}" * bool(changed), flush=True)

    # --- one step
    records = distributed.NullLogger()
    if first and not settings.find_lr:
        run["logs"] = run["logs"] if saved else new_folder(Path(run["logs"])).as_posix()
        records = Records(Path(run["logs"]), run["step"], len(run["history"]))
    stopping = [] if settings.find_lr else stop_on_signal()

    def train_step(forward: nn.Module, coming: Iterator, side: int, rate: float) -> tuple[float, float, bool]:
        """Loss without smoothing, so that it compares with validation, accuracy, and whether a signal says to stop."""
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        optimizer.zero_grad()
        sums = [0.0, 0.0, float(len(stopping))]  # of losses, of correct images, of signals
        for part in range(settings.accumulate):
            pixels, labels = next(coming)
            place = (distributed.RANK * settings.accumulate + part) * len(labels)  # of these images in the step
            x, targets = prepare(pixels, labels, side, settings.seed * 1_000_003 + run["step"], place, size)
            if run["step"] == part == 0:
                seen_now = preprocess.denormalize(x) if x.ndim == 4 else batches.pixels / 255
                records.beginning(network, vars(settings), seen_now)
            with contextlib.nullcontext() if part == settings.accumulate - 1 else distributed.no_sync(forward):
                with compute.autocast():
                    outputs = forward(x)  # (N, classes); of GoogLeNet in training three of them
                loss = training_loss(outputs, targets, settings.label_smoothing, class_weights)
                scaler.scale(loss / settings.accumulate).backward()
            logits = (outputs[0] if isinstance(outputs, tuple) else outputs).detach().float()
            labels = targets if targets.ndim == 1 else targets.argmax(1)
            sums[0] += metrics.loss(logits, targets) * len(x)
            sums[1] += metrics.accuracy(logits, labels) * len(x)
        loss, correct, stop = distributed.all_reduce_sum(torch.tensor(sums, dtype=torch.float64)).tolist()
        if not math.isfinite(loss) and not settings.find_lr:  # a trial shows where that begins
            raise UserError(f"The loss became {loss} in step {run['step'] + 1}. A smaller --lr may help.")
        whole.changing = True
        scaler.step(optimizer)
        scaler.update()
        return loss / size, correct / size, stop > 0

    if settings.find_lr:
        pretrained.freeze(network, settings.freeze)
        coming = (batch for _ in iter(int, 1) for batch in loaders.on_device(batches.train, compute.device))
        learning_rate_finder.report(
            lambda rate: train_step(compiled, coming, settings.size, rate)[0], Path(run["logs"])
        )
        return

    # --- the loop
    def stop_if_asked(asked: float) -> None:
        if not asked:
            return
        saves.now()
        records.close()
        print(f"\nstopped after step {run['step']} of {steps}, and saved. To go on:")
        print(f"  python train.py --resume {quoted(last_path)}")
        sys.exit(128 + (stopping or [signal.SIGTERM])[0])

    kept = None  # of a frozen network, features instead of images
    forward, learns = None, None  # what is trained, and which part of it
    best = metrics.best_epoch(run["history"]) if run["history"] else None
    if not saved:
        saves.now()  # where it cannot be written to, that is told before the work; and a killed run is found again
    with saving_on_failure(saves.now, last_path, lambda: stop_if_asked(len(stopping))):
        for epoch in range(len(run["history"]), settings.epochs):
            frozen = settings.freeze and not 0 < settings.unfreeze_after <= epoch
            pretrained.freeze(network, frozen)
            learner, average = (pretrained.last_layer(net) if frozen else net for net in (network, ema))
            if frozen and prepare.constant and batches.ready:  # then each image looks the same in every epoch
                kept = kept or datasets.features(batches, network, preprocess, compute, settings.workers)
            source = kept if frozen and kept else batches
            if learns != (frozen, source is kept):
                learns, forward = (frozen, source is kept), None
                gc.collect()  # what averaged other gradients goes before the next one
                forward = distributed.data_parallel(learner if source is kept else compiled)
            source.order.epoch, source.order.start = epoch, run["totals"][2]
            bar = tqdm(
                total=epoch_steps * size,
                initial=run["totals"][2],
                unit="img",
                leave=False,
                disable=distributed.DISABLE_TQDM,
            )
            bar.set_description_str(f"epoch {epoch + 1}/{settings.epochs}")
            side = size_of_epoch(epoch, settings)
            clock, asked = time.perf_counter(), 0.0
            with contextlib.closing(loaders.on_device(source.train, compute.device)) as coming:
                while run["step"] < (epoch + 1) * epoch_steps:
                    rate = learning_rate(run["step"], steps, settings)
                    whole.begin()
                    loss, accuracy, asked = train_step(forward, coming, side, rate)
                    update_ema(average, learner, settings.ema, run["step"])

                    run["step"] += 1
                    clock, before = time.perf_counter(), clock
                    made = (loss * size, round(accuracy * size), size, clock - before)
                    run["totals"] = [a + b for a, b in zip(run["totals"], made, strict=True)]
                    total_loss, correct, count, _ = run["totals"]
                    records.step(run["step"], loss, accuracy, rate)
                    whole.end()
                    bar.set_postfix_str(f"loss {total_loss / count:.3f}, accuracy {correct / count:.1%}, lr {rate:.1e}")
                    bar.update(size)
                    if asked:
                        break
                    saves.if_due()
            bar.close()
            stop_if_asked(asked)

            distributed.broadcast_buffers(ema)
            predict = torch.inference_mode()(average) if source is kept else optimize_for_inference(ema, compute)
            own_logits, own_labels = metrics.infer(
                predict, loaders.on_device(source.val, compute.device), None if source is kept else preprocess
            )
            logits, labels = (distributed.gather_strided(part, len(validation)) for part in (own_logits, own_labels))
            if not logits.isfinite().all():
                raise UserError(f"The weights became infinite in epoch {epoch + 1}. A smaller --lr may help.")
            whole.changing = True
            entry = runs.close_epoch(run, side, logits, labels)
            entry["val"] = distributed.broadcast_object(
                entry["val"]
            )  # other machines may round otherwise, and decide so
            best = metrics.best_epoch(run["history"])
            if best is entry and first:
                scores = {
                    "val": entry["val"] | {"epoch": epoch + 1, "count": len(validation)},
                    "history": list(run["history"]),
                }
                weights = checkpoint.in_half(ema.state_dict())
                temperature = fit_temperature(logits, labels)
                saves.best = replace(described, state_dict=weights, scores=scores, temperature=temperature)
            records.epoch(epoch + 1, run["step"], entry)
            truth, predicted = (
                [training.classes[i] for i in values[batches.shown]] for values in (own_labels, own_logits.argmax(1))
            )
            records.predictions(epoch + 1, batches.pixels, truth, predicted)
            whole.end()
            saves.if_due(epoch_ended=True)
            print(messages.summary(entry, best, settings.epochs), flush=True)
            if 0 < settings.patience <= epoch + 1 - best["epoch"]:
                print(f"no better for {settings.patience} epochs, so this is the end (--patience)")
                break
            stop_if_asked(distributed.all_reduce_sum(torch.tensor(float(len(stopping)))).item())

    # --- the end
    if not first:
        distributed.broadcast_object(None)  # the first process is not through yet
        return
    with saving_on_failure(saves.now, last_path, lambda: None):
        saves.write_best()
        if best_path.exists():
            chosen = checkpoint.load(best_path)
            known = fit_ood(chosen, compute, training, validation)  # to tell what is unlike all of these images
            checkpoint.amend(best_path, scores={"history": run["history"]}, ood_stats=known)
    run["done"] = True
    saves.now()
    records.end(vars(settings), best)
    distributed.broadcast_object(None)
    print(messages.farewell(run, best, found, best_path, last_path))


if __name__ == "__main__":
    cli.run(main)
