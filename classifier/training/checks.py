"""Can this run start? What would only go wrong later is found before the first batch."""

import shutil
from pathlib import Path

from torch import nn

from classifier import distributed
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.drawings import draw_sample_set, holds_sample_set
from classifier.data.images import has_image_extension
from classifier.training.config import Settings
from classifier.training.schedules import size_of_epoch


def find_images(folder: str) -> tuple[Path, str]:
    """(folder that holds train/, what is in it): the user's images, or the drawings where there are none yet."""
    root = Path(folder)
    if folder != Settings.data or image_folder.has_images(root / "train"):
        return root, "drawings" if holds_sample_set(root) else "images"
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
    draw_sample_set(root / "sample")
    return root / "sample", "drawings"


def check_images(
    root: Path, training: image_folder.ImageFolder, validation: image_folder.ImageFolder, settings: Settings
) -> None:
    """What would only go wrong later: classes that differ from the test images', a batch larger than the set."""
    if len(validation) < distributed.WORLD_SIZE:
        raise UserError(f"{distributed.WORLD_SIZE} processes are too many for {len(validation)} validation images.")
    classes = image_folder.class_names(root / "test")
    if classes and classes != training.classes:
        raise UserError(
            f"{root / 'train'} has the classes {', '.join(training.classes)}, but {root / 'test'} has "
            f"{', '.join(classes)}. They have to be the same folders."
        )
    if settings.batch_size > len(training):
        raise UserError(
            f"--batch-size is {settings.batch_size}, but there are {len(training)} images to train with. "
            f"Add images, or use --batch-size {max(2, len(training) // 8)}."
        )


def check_same(fingerprint: str) -> None:
    """Raise a UserError where several processes do not see the same images, as machines with a disk each may not."""
    if len(set(distributed.all_gather_object(fingerprint))) > 1:
        raise UserError(
            "The processes do not see the same images. Every machine needs the same ones in the same places; compare "
            "their folders, corrections.csv and duplicates.csv."
        )


def check_sizes(network: nn.Module, settings: Settings) -> None:
    """Raise a UserError where the run's smallest images are too small for the network's poolings."""
    smallest, first = getattr(network, "smallest", 1), size_of_epoch(0, settings)
    if first < smallest:
        raise UserError(
            f"{settings.model} needs images of at least {smallest} pixels, and this run begins with {first}. "
            f"Use a --size of at least {smallest}, and --grow-from 1."
        )


def check_disk(network: nn.Module, folder: Path) -> None:
    """Raise a UserError where the run's weights would not fit into `folder`."""
    # once in NAME.pth, four times in NAME.last.pth (average, network, Adam's two), and copies of both while writing
    needed = 10 * sum(value.numel() * value.element_size() for value in network.state_dict().values())
    folder.mkdir(exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(f"The weights need {needed / 1e6:.0f} MB in {folder}, but {free / 1e6:.0f} MB are free.")


def check_resumed(saved: Checkpoint, training: image_folder.ImageFolder, settings: Settings) -> None:
    """Raise a UserError where going on would not be the same run."""
    if len(saved.resume["history"]) >= settings.epochs and saved.resume.get("done", True):
        raise UserError(
            f"{saved.path} has finished its {settings.epochs} epochs. --epochs {2 * settings.epochs} would train it "
            "further, with a learning rate and a size that take their course over all of them."
        )
    if saved.data["fingerprint"] != training.fingerprint():
        raise UserError(
            f"{saved.path} learned from other images or classes than {training.root} holds now: from "
            f"{saved.data['train']:,} then, {len(training):,} now. Bring them back (corrections.csv counts, too), or "
            "start a new run."
        )
