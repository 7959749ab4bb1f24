"""The images of a training run: which are trained on, which validate, and their batches."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from classifier import distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError, plural, shorten
from classifier.data import image_folder, loaders
from classifier.data.formats import is_image
from classifier.data.image_folder import ImageFolder
from classifier.data.transforms import CROP_MARGIN, NORMALIZATIONS, Augment, Preprocess, TrainingInput, resize_batch
from classifier.device import Compute
from classifier.training.config import TrainConfig, batch_size_for

SAMPLE = Path(TrainConfig.data, "sample")  # the drawings
BATCH_NORM_IMAGES = 1000  # of training, in all processes together
SHOWN = 24  # validation images in TensorBoard


@dataclass
class TrainingSet:
    """Labelled images: those to train on and those that choose the best epoch."""

    root: str  # folder or URL that holds train/
    kind: str  # "images" or "drawings"
    training: ImageFolder  # or ShardedImages, which have what is needed of it
    validation: ImageFolder
    batch_size: int  # images of a step in all processes together, at most

    @property
    def steps(self) -> int:
        """Steps of an epoch: as few as the batch size allows. Batch norm needs more than one image in each."""
        images = len(self.training)
        return min(math.ceil(images / self.batch_size), images // 2)

    @property
    def is_sharded(self) -> bool:
        """Whether the images come from shards, which have no position inside an epoch to resume at."""
        return not isinstance(self.training, ImageFolder)

    def summary(self) -> dict:
        """Return what a .pth says of them."""
        counts = {"train": len(self.training), "val": len(self.validation)}
        fingerprints = {"fingerprint": self.training.fingerprint(), "val_fingerprint": self.validation.fingerprint()}
        return {"root": self.root, "kind": self.kind, **counts, **fingerprints}


def read(cfg: TrainConfig, saved: Checkpoint | None = None) -> TrainingSet:
    """Return the images that --data names.

    Raises UserError: there are none, too few, other ones than in the other processes or in the run to resume (`saved`),
    or test images of further classes.
    """
    is_shards = image_folder.is_shards(cfg.data)
    if saved and saved.data["kind"] != "drawings" and not is_shards and not Path(cfg.data, "train").is_dir():
        raise UserError(
            f"{saved.path} was trained on {saved.data['root']}, but {cfg.data}/train does not exist. "
            "Say where its images are now with --data DIR."
        )
    with distributed.local_main_process_first():  # where there are no images, the first process writes drawings
        if is_shards:
            from classifier.data import shards  # not at the top: rarely needed

            training, validation = shards.train_and_val(cfg.data, cfg.val, cfg.fold)
            root, kind = training.parent, "images"
        else:
            folder, kind = _find_images(cfg.data)
            training, validation = image_folder.train_and_val(folder, cfg.val, cfg.fold)
            root = folder.as_posix()
    found = TrainingSet(root, kind, training, validation, batch_size_for(len(training), cfg))
    _check_steps(found, cfg)
    if len(validation) < (processes := distributed.WORLD_SIZE):
        raise UserError(f"{plural(len(validation), 'validation image')} cannot be divided among {processes} processes.")
    if further := sorted(set(image_folder.class_names(Path(found.root, "test"))) - set(training.classes)):
        raise UserError(
            f"{found.root}/test has classes that {found.root}/train does not have: {', '.join(further)}. "
            f"Expected {', '.join(training.classes)}."
        )
    if len(set(distributed.all_gather_object(training.fingerprint() + validation.fingerprint()))) > 1:
        raise UserError(
            "The processes do not see the same images. Compare the folders, corrections.csv and duplicates.csv of all "
            "machines."
        )
    now = found.summary() if saved else {}
    if saved and any(saved.data.get(key, value) != value for key, value in now.items() if "fingerprint" in key):
        more = now["train"] + now["val"] - saved.data["train"] - saved.data["val"]
        change = "images were replaced or renamed, or labels changed (corrections.csv counts)"
        if more:
            change = f"{plural(abs(more), 'image')} {'more' if more > 0 else 'fewer'} than then"
        raise UserError(
            f"{found.root} has changed since {saved.path} was written: {change}. A resumed run needs the same images. "
            f"If they are in another folder, name it with --data DIR. To train on the images of {found.root}, start a "
            f"new run from the weights: --weights {saved.path}"
        )
    return found


def leaks(found: TrainingSet, weights: Checkpoint | None) -> list[str]:
    """Return a sentence each if test or validation images are training images, too, or were those of `weights`.

    Images in shards are not compared with each other.
    """
    remarks = []
    if weights and weights.classes == found.training.classes:
        then, count = weights.data, len(found.training) + len(found.validation)
        if (
            then.get("train", 0) + then.get("val", 0) == count
            and then.get("fingerprint") != found.training.fingerprint()
        ):
            remarks.append(
                f"{weights.path} learned from as many images of these classes. If they are these, divided differently "
                "(--val, --fold or an earlier version), it knows some of the validation images, whose accuracy will be "
                "too high: judge by test images, python evaluate.py"
            )
    if not found.is_sharded:
        images = {"test": ImageFolder(Path(found.root, "test"), found.training.classes), "validation": found.validation}
        remarks += [image_folder.leak_remark(part, images[part], found.training, found.validation) for part in images]
    return list(filter(None, remarks))


def _check_steps(found: TrainingSet, cfg: TrainConfig) -> None:
    """Raise a UserError where a step has too few images for all micro-batches."""
    images, parts = len(found.training), distributed.WORLD_SIZE * cfg.accumulate
    if images // found.steps < 2 * parts:
        larger = f"--batch-size {math.ceil(images / (images // (2 * parts)))} or " if images >= 2 * parts else ""
        raise UserError(
            f"{plural(images, 'training image')} in batches of {found.batch_size} cannot be divided into "
            f"{distributed.WORLD_SIZE} (processes) x {cfg.accumulate} (--accumulate) micro-batches of at least 2 "
            f"images. Use {larger}fewer micro-batches."
        )


def _find_images(data: str) -> tuple[Path, str]:
    """Return the folder that holds train/ and what is in it: images, or drawings where there are no images yet."""
    root = Path(data)
    if data != TrainConfig.data or image_folder.has_images(root / "train"):
        return root, "drawings" if root.resolve() == SAMPLE.resolve() else "images"
    entries = [path for path in root.glob("[!.]*") if path != SAMPLE]
    if misplaced := sorted(path.name for path in entries if any(map(is_image, (path, *path.rglob("*"))))):
        raise UserError(
            f"{root} has images in {shorten(', '.join(misplaced), 160)}, but they belong in {root}/train/<class>/.\n"
            f"Move them elsewhere and let python prepare.py FOLDER sort them into {root}."
        )
    print(
        f"{root} holds no photographs yet, so this run learns from drawings of cats and dogs, {SAMPLE}.\n"
        "For photographs:  python prepare.py --download        Microsoft's 25,000 cats and dogs (825 MB)\n"
        "                  python prepare.py FILE_OR_FOLDER    Kaggle's train.zip, or images of your own\n",
        flush=True,
    )
    from classifier.data import sample_set  # not at the top: rarely needed

    sample_set.unpack(SAMPLE)
    return SAMPLE, "drawings"


@dataclass
class Loaders:
    """This process's share of the images, in batches (uint8 (N, 3, S, S), labels (N,))."""

    preprocess: Preprocess  # of whole images; the network sees them so in validation
    training_input: TrainingInput  # makes a micro-batch what the network sees in training
    train: DataLoader  # micro-batches; call `start_epoch` before each pass
    train_once: DataLoader  # training images of this process, each once: all, or those for `update_batch_norm`
    val: DataLoader
    shown: list[int]  # indices of some of the validation images
    pixels: Tensor  # these, (n, 3, size, size) uint8
    parts: int  # micro-batches of a step, in all processes together
    sampler: loaders.ResumableSampler | None = None  # of `train`; None with shards

    def start_epoch(self, epoch: int, steps: int) -> None:
        """Let the next pass through `train` be of this epoch, after its first `steps`."""
        if self.sampler is not None:
            self.sampler.epoch, self.sampler.start = epoch, steps
        else:
            self.train.dataset.set_epoch(epoch)

    def step_size(self, step: int) -> int:
        """Return the number of images that all processes have in this step of an epoch."""
        if self.sampler is not None:
            return len(loaders.even_part(self.sampler.images, self.sampler.steps, step))
        return self.train.batch_size * self.parts


def build_loaders(found: TrainingSet, origin: Checkpoint | None, cfg: TrainConfig, compute: Compute) -> Loaders:
    """Return the batches of a run; images that fit stay in a GPU's memory. Raises ImageError.

    `origin` is what --weights names, or the run to resume: of --normalize weights.
    """
    normalization = origin.preprocess if cfg.normalize == "weights" else NORMALIZATIONS[cfg.normalize]
    enlarge, margin = (cfg.enlarge, CROP_MARGIN) if cfg.augment == "on" else (1, 1)
    preprocess = replace(normalization, size=round(cfg.size * enlarge), resize=cfg.resize)
    train_preprocess = replace(preprocess, size=round(cfg.size * margin))  # of images that crops are cut from
    augment = Augment(min_area=cfg.crop, erasing=cfg.cover) if cfg.augment == "on" else None
    classes, parts = len(found.training.classes), distributed.WORLD_SIZE * cfg.accumulate
    training_input = TrainingInput(augment, cfg.mix, classes, preprocess, compute.memory_format)
    if found.is_sharded:
        from classifier.data import shards  # not at the top: rarely needed

        size = math.ceil(len(found.training) / found.steps / parts)  # of all micro-batches
        batches = found.steps * cfg.accumulate
        train = shards.train_loader(found.training, train_preprocess, size, batches, cfg.seed, cfg.workers)
        val = shards.val_loader(found.validation, preprocess, found.batch_size, cfg.workers)
        pixels = loaders.checked(next(iter(val)))[0][:SHOWN]  # of the same pass: the order depends on the workers
        if remark := train.dataset.remark():
            print(remark)
        return Loaders(preprocess, training_input, train, train, val, list(range(len(pixels))), pixels, parts)
    training, validation = (
        loaders.cached_dataset(part, prepare, Path(found.root, ".cache"), compute.device, cfg.workers)
        if cfg.cache
        else loaders.ImageDataset(part, prepare)
        for part, prepare in ((found.training, train_preprocess), (found.validation, preprocess))
    )
    sampler = loaders.ResumableSampler(len(training), cfg.seed, found.steps, cfg.accumulate)
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(cfg.seed))
    once = range(len(training)) if cfg.fits_last_layer else order[:BATCH_NORM_IMAGES].tolist()
    own_training, own = distributed.shard(once), distributed.shard(range(len(validation)))
    shown = torch.linspace(0, len(own) - 1, min(SHOWN, len(own))).long().tolist()
    return Loaders(
        preprocess,
        training_input,
        loaders.loader(training, workers=cfg.workers, batches=sampler),
        loaders.loader(training, max(2, found.batch_size), cfg.workers, own_training),  # batch norm needs two
        loaders.loader(validation, found.batch_size, cfg.workers, own),
        shown,
        loaders.images_of(validation, [own[i] for i in shown]),
        parts,
        sampler,
    )


def update_batch_norm(model: nn.Module, cfg: TrainConfig, data: Loaders, compute: Compute) -> None:
    """Estimate batch norm's statistics anew, from some training images as the network sees them in validation.

    The moving average has none of its own, and training's belong to other weights, to crops, and to smaller images
    while they grow. Izmailov et al., "Averaging Weights Leads to Wider Optima", 2018.
    With --freeze and --freeze-bn it keeps those that it has.
    """
    if cfg.freeze or cfg.freeze_bn:
        return
    preprocess, batch_size = data.preprocess, data.train_once.batch_size
    count = max(1, BATCH_NORM_IMAGES // distributed.WORLD_SIZE // batch_size)

    def inputs() -> Iterator[Tensor]:
        batches = loaders.on_device(itertools.islice(data.train_once, count), compute.device)
        for i, (images, _) in enumerate(batches):
            if i == 0 or len(images) == batch_size:  # each batch counts as much as any other
                x = preprocess.normalize(resize_batch(images, preprocess.size))
                yield x.contiguous(memory_format=compute.memory_format)

    torch.manual_seed(0)  # of dropout before a batch norm, if a network has such
    with compute.autocast():
        update_bn(inputs(), model)
    model.eval()
    distributed.average_buffers(model)
