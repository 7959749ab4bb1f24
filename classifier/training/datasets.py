"""The images of a training run: which are trained on, which validate, and their batches."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from classifier import distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder, loaders
from classifier.data.image_folder import ImageFolder
from classifier.data.images import has_image_extension
from classifier.data.transforms import CROP_MARGIN, Preprocess
from classifier.text import plural
from classifier.training.config import TrainConfig

SHOWN = 24  # validation images in TensorBoard


@dataclass
class TrainingSet:
    """Labelled images: those to train on and those that choose the best epoch.

    Attributes:
        root: the folder or URL that holds train/.
        kind: what the images are called, "images" or "drawings".
        training, validation: folders, or shards.
    """

    root: str
    kind: str
    training: ImageFolder  # or ShardedImages, which have what is needed of it
    validation: ImageFolder

    @property
    def is_sharded(self) -> bool:
        """Whether the images come from shards, which have no position inside an epoch to resume at."""
        return not isinstance(self.training, ImageFolder)

    def summary(self) -> dict:
        """Return what a .pth says of them."""
        counts = {"train": len(self.training), "val": len(self.validation)}
        return {"root": self.root, "kind": self.kind, **counts, "fingerprint": self.training.fingerprint()}


def read(cfg: TrainConfig, saved: Checkpoint | None = None) -> TrainingSet:
    """Return the images that --data names.

    Raises:
        UserError: there are none, too few, not those of the other processes or of the run to resume (`saved`), or
            classes other than the test images'.
    """
    with distributed.local_main_process_first():  # where there are no images, the first process draws some
        if image_folder.is_shards(cfg.data):
            from classifier.data import shards  # not at the top: rarely needed

            training, validation = shards.train_and_val(cfg.data, cfg.val, cfg.fold)
            found = TrainingSet(training.parent, "images", training, validation)
        else:
            root, kind = _find_images(cfg.data)
            found = TrainingSet(root.as_posix(), kind, *image_folder.train_and_val(root, cfg.val, cfg.fold))
    training, validation = found.training, found.validation
    if len(validation) < distributed.WORLD_SIZE:
        raise UserError(
            f"{distributed.WORLD_SIZE} processes are too many for {plural(len(validation), 'validation image')}."
        )
    classes = image_folder.class_names(Path(found.root, "test"))
    if further := sorted(set(classes) - set(training.classes)):
        raise UserError(
            f"{found.root}/test has classes that {found.root}/train does not have: {', '.join(further)}. The folders "
            f"there have to be {', '.join(training.classes)}."
        )
    if cfg.batch_size > len(training):
        raise UserError(
            f"--batch-size is {cfg.batch_size}, but there are {plural(len(training), 'image')} to train on. "
            f"Add images, or use --batch-size {max(2, len(training) // 8)}."
        )
    if len(set(distributed.all_gather_object(training.fingerprint() + validation.fingerprint()))) > 1:
        raise UserError(
            "The processes do not see the same images. Every machine needs the same ones in the same places; compare "
            "their folders, corrections.csv and duplicates.csv."
        )
    if saved and saved.data["fingerprint"] != training.fingerprint():
        raise UserError(
            f"{found.root} does not hold the images that {saved.path} was trained on: {saved.data['train']:,} training "
            f"images then, {len(training):,} now, or others, or other labels (corrections.csv counts). If they were "
            f"moved, say where to with --data DIR; otherwise start a new run: --weights {saved.path}"
        )
    return found


def _find_images(data: str) -> tuple[Path, str]:
    """Return the folder that holds train/ and what is in it: images, or drawings where there are no images yet."""
    root = Path(data)
    if data != TrainConfig.data or image_folder.has_images(root / "train"):
        from_drawing = (root / "train" / "cat" / "cat.0.png").is_file() and _drawings().holds_sample_set(root)
        return root, "drawings" if from_drawing else "images"
    others = [path for path in root.glob("[!.]*") if path.name != "sample"]
    misplaced = sorted(path.name for path in others if path.is_dir() and any(map(has_image_extension, path.rglob("*"))))
    if misplaced:
        raise UserError(
            f"{root} has images in {', '.join(misplaced)}, but they belong in {root / 'train'}/<class>/.\n"
            f"Move them elsewhere and let python prepare.py FOLDER sort them into {root}."
        )
    print(
        f"{root} holds no photographs yet, so this run learns from drawings of cats and dogs, {root / 'sample'}.\n"
        "For photographs:  python prepare.py --download        Microsoft's 25,000 cats and dogs (825 MB)\n"
        "                  python prepare.py FILE_OR_FOLDER    Kaggle's train.zip, or images of your own\n",
        flush=True,
    )
    _drawings().draw_sample_set(root / "sample")
    return root / "sample", "drawings"


def _drawings() -> ModuleType:
    from classifier.data import drawings  # not at the top: rarely needed

    return drawings


@dataclass
class Loaders:
    """This process's share of the images, in batches (uint8 (N, 3, S, S), labels (N,)).

    Attributes:
        preprocess: of whole images; the network sees them so in validation.
        train: micro-batches; call `start_epoch` before each pass.
        train_once: every training image of this process once.
        val: validation images.
        shown, pixels: indices of some of the validation images, and these, (n, 3, size, size) uint8.
        sampler: of `train`; None with shards.
    """

    preprocess: Preprocess
    train: Iterable[tuple[Tensor, Tensor]]
    train_once: Iterable[tuple[Tensor, Tensor]]
    val: Iterable[tuple[Tensor, Tensor]]
    shown: list[int]
    pixels: Tensor
    sampler: loaders.ResumableSampler | None = None

    def start_epoch(self, epoch: int, images: int) -> None:
        """Let the next pass through `train` be of this epoch, after its first `images` in all processes."""
        if self.sampler is not None:
            self.sampler.epoch, self.sampler.start = epoch, images
        else:
            self.train.dataset.set_epoch(epoch)


def build_loaders(found: TrainingSet, normalization: Preprocess, cfg: TrainConfig, device: torch.device) -> Loaders:
    """Return the batches of a run.

    Args:
        found: from `read`.
        normalization: mean, std and interpolation; sizes come from `cfg`.
        cfg: of the run.
        device: where the images are needed; those that fit stay in a GPU's memory.

    Raises:
        ImageError: an image cannot be read.
    """
    enlarge, margin = (cfg.enlarge, CROP_MARGIN) if cfg.augment == "on" else (1, 1)
    preprocess = replace(normalization, size=round(cfg.size * enlarge), resize=cfg.resize)
    train_preprocess = replace(preprocess, size=round(cfg.size * margin))  # of images that crops are cut from
    micro_batch = cfg.batch_size // distributed.WORLD_SIZE // cfg.accumulate
    if found.is_sharded:
        from classifier.data import shards  # not at the top: rarely needed

        batches = len(found.training) // cfg.batch_size * cfg.accumulate
        train = shards.train_loader(found.training, train_preprocess, micro_batch, batches, cfg.seed, cfg.workers)
        val = shards.val_loader(found.validation, preprocess, cfg.batch_size, cfg.workers)
        pixels = loaders.checked(next(iter(val)))[0][:SHOWN]  # of the same pass: the order depends on the workers
        if remark := train.dataset.remark():
            print(remark)
        return Loaders(preprocess, train, train, val, list(range(len(pixels))), pixels)
    training, validation = (
        loaders.cached_dataset(part, prepare, Path(found.root, ".cache"), device, cfg.workers)
        if cfg.cache
        else loaders.ImageDataset(part, prepare)
        for part, prepare in ((found.training, train_preprocess), (found.validation, preprocess))
    )
    sampler = loaders.ResumableSampler(len(training), cfg.seed, cfg.batch_size)
    own_training, own = (distributed.shard(range(len(part))) for part in (training, validation))
    shown = torch.linspace(0, len(own) - 1, min(SHOWN, len(own))).long().tolist()
    return Loaders(
        preprocess,
        loaders.loader(training, micro_batch, cfg.workers, sampler, drop_last=True),
        loaders.loader(training, cfg.batch_size, cfg.workers, own_training),
        loaders.loader(validation, cfg.batch_size, cfg.workers, own),
        shown,
        loaders.images_of(validation, [own[i] for i in shown]),
        sampler,
    )
