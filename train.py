"""Train an image classifier on DATA/train/<class>/*; the epoch with the best validation accuracy is kept.

    python train.py                                     ResNet-18 on dataset/train/<class>/*
    python train.py --model resnet34 --epochs 20
    python train.py --weights module/catdog-resnet18.pth --data flowers     start from trained weights
    python train.py --weights imagenet --freeze         train only the last layer
    python train.py --teacher module/NAME.pth           learn its answers in place of the labels
    python train.py --recipe quick                      or long, or classic: a published baseline, for comparison
    python train.py --resume module/NAME.last.pth       resume a run, bit for bit; auto: the newest unfinished one
    torchrun --nproc-per-node=8 train.py                --batch-size is divided among the processes: docs/scaling.md

Expected: on 18,995 photographs of cats and dogs, two cores (AMD EPYC, bfloat16) and no GPU, --recipe long --val 0.05:
97.8% accuracy on 2,000 test images after 106 minutes; on the 540 drawings: 120 of 120 after ten epochs, about a minute.
"""

import contextlib
import copy
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from classifier import checkpoint, cli, distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder, loaders
from classifier.device import Compute, select_compute
from classifier.evaluation import metrics
from classifier.inference.calibration import fit_ood
from classifier.inference.predictor import optimize_for_inference
from classifier.training import datasets, report
from classifier.training.config import TrainConfig
from classifier.training.optim import (
    batch_scores,
    ema_decay_at,
    image_size_at,
    lr_at,
    param_groups,
    set_lr,
    train_mode,
    training_loss,
)
from classifier.training.report import TensorBoard, catch_signals, explain_errors, stop_run
from classifier.training.run import Run, Saver, check_image_size, open_run
from zoo import MODELS


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, begin or resume the run, train."""
    with distributed.process_group(), contextlib.ExitStack() as stack:
        train(*distributed.run_on_main_and_broadcast(lambda: open_run(__doc__, argv, stack)))


def train(cfg: TrainConfig, run: Run) -> None:
    """Set up, train, save."""
    state, saved = run.state, run.saved

    # ---- data
    compute = select_compute(cfg.device, cfg.precision, state.format)
    found = datasets.read(cfg, saved)
    classes, steps_per_epoch = found.training.classes, found.steps
    class_weights = image_folder.class_weights(found.training).to(compute.device) if cfg.balance == "weights" else None

    # ---- model
    torch.manual_seed(cfg.seed)
    model = MODELS[cfg.model](num_classes=len(classes))
    check_image_size(model, cfg)
    origin = saved  # of --weights: how images are normalized
    if cfg.weights:
        from classifier.training import pretrained  # not at the top: rarely needed

        origin = saved or pretrained.load(model, cfg, classes)
    if cfg.freeze:
        from classifier.training import frozen

        frozen.freeze(model)
    model = model.to(compute.device, memory_format=compute.memory_format)
    ema = copy.deepcopy(model)  # the moving average of the weights, which is validated and saved
    model = distributed.synchronize_batch_norm(model) if cfg.sync_bn else model

    # ---- batches
    data = datasets.build_loaders(found, origin, cfg, compute)
    if cfg.teacher:
        from classifier.training import teacher

        answers = teacher.load(cfg, state, classes, data.preprocess, compute)

    # ---- optimizer
    groups = param_groups(model, cfg.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr, fused=compute.device.type != "mps")
    scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.dtype == torch.float16)
    ddp_model = distributed.data_parallel(torch.compile(model) if cfg.compile else model)

    # ---- saving, logging, signals
    report.print_start(cfg, run, model, found, origin, compute)
    settings = vars(cfg) | {"name": run.name, "resume": "", "batch_size": found.batch_size}
    meta = Checkpoint(cfg.model, classes, data.preprocess, {}, data=found.summary(), settings=settings)
    parts = {"network": model, "optimizer": optimizer, "scaler": scaler}
    board = TensorBoard(Path(state.logs), state.step) if distributed.IS_MAIN else distributed.NullLogger()
    saver = Saver(run, meta, ema, parts, board.flush, math.inf if found.is_sharded else cfg.save_every)
    state.format, run.saved = compute.format, None
    if saved:
        saver.restore(saved)
    else:
        saver.save()  # a folder that cannot be written to is reported before the work
    signals = catch_signals()

    with explain_errors(run):
        for epoch in range(len(state.history), cfg.epochs):
            # ---- train one epoch
            image_size = image_size_at(epoch, cfg)
            train_mode(model, cfg)
            if cfg.fits_last_layer:
                state.add_step(*frozen.fit_last_layer(model, ema, data, compute, class_weights))
            data.start_epoch(epoch, state.step - epoch * steps_per_epoch)
            batches = loaders.on_device(data.train, compute.device)
            bar = report.progress_bar(f"epoch {epoch + 1}/{cfg.epochs}", state, len(found.training))
            while state.step < (epoch + 1) * steps_per_epoch and not cfg.fits_last_layer:
                start, step, lr = time.perf_counter(), state.step, lr_at(state.step, cfg.epochs * steps_per_epoch, cfg)
                set_lr(optimizer, lr)
                sums = torch.zeros(3, dtype=torch.float64)  # losses, correct predictions, signals
                batch_size = data.step_size(step - epoch * steps_per_epoch)  # in all processes together
                for micro_step in range(cfg.accumulate):
                    images, labels = next(batches)  # uint8 (N, 3, S, S), (N,)
                    index = distributed.RANK * cfg.accumulate + micro_step
                    first = loaders.even_part(batch_size, data.parts, index).start  # of these in the step's batch
                    seed = cfg.seed * 1_000_003 + step
                    x, targets = data.training_input(images, labels, image_size, seed, first, batch_size)
                    if step == micro_step == 0:
                        board.add_start(model, settings, data.preprocess.denormalize(x))
                    ddp_model.require_backward_grad_sync = micro_step == cfg.accumulate - 1  # all-reduce once
                    with compute.autocast():
                        outputs = ddp_model(x)  # logits (N, classes); of GoogLeNet in training three of them
                    wanted = answers(x) if cfg.teacher else targets
                    loss = training_loss(outputs, wanted, cfg.label_smoothing, class_weights)
                    share = len(x) * distributed.WORLD_SIZE / batch_size  # DDP averages over the processes
                    scaler.scale(loss * share).backward()
                    sums[:2] += batch_scores(outputs, targets)
                sums[2] = len(signals)
                loss_sum, correct, stop = distributed.all_reduce_sum(sums).tolist()
                if not math.isfinite(loss_sum):
                    raise UserError(f"The loss is {loss_sum} in step {step + 1}. Try a smaller --lr in a new run.")
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                average = get_ema_multi_avg_fn(ema_decay_at(step, cfg))  # AveragedModel would wait for the GPU
                average([*ema.parameters()], [*model.parameters()], None)

                state.add_step(loss_sum, correct, batch_size, time.perf_counter() - start)
                board.add_step(state.step, loss_sum / batch_size, correct / batch_size, lr)
                report.update_bar(bar, state, lr)
                if stop:
                    stop_run(run, saver, board, signals)
                saver.save_if_due()
            batches.close()
            bar.close()

            # ---- validate the averaged weights, keep the best
            datasets.update_batch_norm(ema, cfg, data, compute)
            val_batches = loaders.on_device(data.val, compute.device)
            own = metrics.infer(optimize_for_inference(ema, compute), val_batches, data.preprocess)
            logits, labels = (distributed.gather_strided(part, len(found.validation)) for part in own)
            if not logits.isfinite().all():
                raise UserError(f"The weights became infinite in epoch {epoch + 1}. Try a smaller --lr in a new run.")
            val = {"loss": metrics.loss(logits, labels), "accuracy": metrics.accuracy(logits, labels)}
            entry = state.close_epoch(image_size, distributed.broadcast_object(val))
            board.add_epoch(state.step, entry)
            board.add_predictions(epoch + 1, data.pixels, own[0][data.shown], own[1][data.shown], classes)
            if state.best is entry:
                saver.keep_best(logits, labels)
            saver.save_if_due(epoch_ended=True)
            print(report.epoch_line(entry, state.best, cfg.epochs), flush=True)
        finish(cfg, run, found, compute, saver, board)


def finish(
    cfg: TrainConfig, run: Run, found: datasets.TrainingSet, compute: Compute, saver: Saver, board: TensorBoard
) -> None:
    """Fit what recognizes images unlike the training images, and write both files a last time."""
    saver.save()
    if distributed.IS_MAIN and run.best_path.exists():
        ood_stats = fit_ood(checkpoint.load(run.best_path), compute, found.training, found.validation)
        checkpoint.amend(run.best_path, scores={"history": run.state.history}, ood_stats=ood_stats)
    run.state.done = True
    board.add_end(saver.meta.settings, run.state.best)
    saver.save()
    board.flush(close=True)
    report.print_end(run, found)
    distributed.broadcast_object(None)  # the other processes wait for the main one


if __name__ == "__main__":
    cli.run(main)
