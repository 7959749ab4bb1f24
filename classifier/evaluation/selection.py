"""Which labelled images a network is evaluated on: test images, or the validation images of its training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.image_folder import ImageFolder
from classifier.data.images import has_image_extension
from classifier.text import plural, shorten

Part = Literal["test", "val"]
MAX_COLUMNS = 120  # of a list of classes in a message


def select_images(checkpoints: Sequence[Checkpoint], part: Part, data: Path | None) -> list[ImageFolder]:
    """Return for each network the same images in the same order, with labels in the order of its logits.

    Args:
        checkpoints: one or several networks.
        part: "test", or "val" for the validation images of their runs.
        data: where the images are; None: where the checkpoints say.

    Raises:
        UserError: no such images, others for each network, classes that a network does not have, or a folder that is
            no longer as it was in training, so that the validation images are not known.
    """
    roots = [_root(checkpoint, part, data) for checkpoint in checkpoints]
    if len({root.resolve() for root in roots}) > 1:
        raise UserError(
            f"These networks were trained on different folders: {', '.join(sorted(map(str, set(roots))))}. "
            "Choose the images to compare them on with --data DIR."
        )
    select = _validation_images if part == "val" else _test_images
    folders = [select(roots[0], checkpoint) for checkpoint in checkpoints]
    if any(folder.paths != folders[0].paths for folder in folders):
        raise UserError(
            "The runs of these networks have different validation images, so each was trained on some of the other's. "
            "Evaluate them one by one."
        )
    return folders


def run_root(checkpoint: Checkpoint) -> Path | None:
    """Return the folder of the images that the network was trained on, where the .pth says so."""
    root = checkpoint.data.get("root")
    return Path(root) if isinstance(root, str) else None


def is_part(checkpoint: Checkpoint, folder: ImageFolder, part: str) -> bool:
    """Whether `folder` is train/, val/ or test/ of the images that the network was trained on."""
    root = run_root(checkpoint)
    return root is not None and (root / part).resolve() == folder.root.resolve()


def test_folder(folder: Path) -> Path:
    """Return `folder`/test where `folder` is split into train and test, otherwise `folder`.

    A folder named train or test with images right in it is a class of that name, not a part.
    """
    for part in (folder / "train", folder / "test"):
        if part.is_dir() and not any(has_image_extension(path.name) for path in part.iterdir()):
            return folder / "test"
    return folder


def _root(checkpoint: Checkpoint, part: Part, data: Path | None) -> Path:
    root = run_root(checkpoint)
    if part == "test":
        if data:
            return test_folder(data)
        images = (root or Path("dataset")) / "test"
    else:
        if data:
            return data.parent if data.name == "train" and not (data / "train").is_dir() else data
        if not root:
            raise UserError(
                f"{checkpoint.path} does not say which images it was trained on. Name their folder with --data DIR."
            )
        images = root / "train"
    if root and not images.is_dir():
        raise UserError(
            f"{checkpoint.path} was trained on {root}, but {images} does not exist. Name another with --data DIR."
        )
    return images if part == "test" else root


def _test_images(root: Path, checkpoint: Checkpoint) -> ImageFolder:
    known, found = checkpoint.classes, image_folder.class_names(root)
    unnamed = bool(checkpoint.assumed)  # a plain state_dict, whose classes get the names of the folders
    if found and (len(known) != len(found) if unnamed else not set(found) <= set(known)):
        raise UserError(
            f"{checkpoint.path} has {len(known)} classes ({_listed(known)}), but {root} has {len(found)} "
            f"({_listed(found)}). Rename the folders so that the names agree, or evaluate other images with --data DIR."
        )
    return image_folder.read_folder(root, classes=found if unnamed else known)


def _validation_images(root: Path, checkpoint: Checkpoint) -> ImageFolder:
    """Return DATA/val, or the same split of DATA/train as in training, checked by the fingerprint in the .pth."""
    share, fold = checkpoint.settings.get("val"), checkpoint.settings.get("fold", 1)
    fingerprint, count = checkpoint.data.get("fingerprint"), checkpoint.data.get("val")
    if not isinstance(share, float) or not 0 < share < 1 or not isinstance(fingerprint, str):
        raise UserError(
            f"{checkpoint.path} does not say which images were its validation images. Train again, or evaluate it on "
            "test images, without --part val."
        )
    if not fingerprint.startswith(image_folder.FINGERPRINT):
        raise UserError(
            f"{checkpoint.path} was trained by an earlier version, which chose other validation images, so "
            "it is not known which ones they were. Train again, or evaluate it on test images, without --part val."
        )
    for corrected in (True, False):  # the run may be older than the corrections
        training, validation = image_folder.train_and_val(root, share, fold, corrected)
        if training.fingerprint() == fingerprint and len(validation) == count:
            held_out = set(validation.paths)
            today = image_folder.read_folder(validation.root, classes=checkpoint.classes)
            return today.subset([i for i, path in enumerate(today.paths) if path in held_out])
    raise UserError(
        f"{root} has changed since {checkpoint.path} was trained on it: files were added, removed, replaced or "
        f"relabelled ({plural(len(training) + len(validation), 'image')} now). So it is not known which ones it was "
        "trained on. Train again, or name a copy of the images from that time with --data DIR."
    )


def _listed(classes: Sequence[str]) -> str:
    return shorten(", ".join(classes), MAX_COLUMNS)
