"""Which labelled images a network is evaluated on: test images, or the validation images of its training run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.formats import is_image
from classifier.data.image_folder import ImageFolder

Part = Literal["test", "val"]


def select_images(checkpoints: Sequence[Checkpoint], part: Part, data: Path | None) -> list[ImageFolder]:
    """Return for each network the same images in the same order, with labels in the order of its logits.

    `data` is where the images are; None: where the checkpoints say. Raises UserError for no such images, for others of
    each network, for classes that a network lacks, and for validation images that are not known.
    """
    roots = [_root(checkpoint, part, data) for checkpoint in checkpoints]
    select = _validation_images if part == "val" else _test_images
    one_root = len({root.resolve() for root in roots}) == 1
    folders = [select(roots[0], checkpoint) for checkpoint in checkpoints] if one_root else []
    if not one_root or any(folder.paths != folders[0].paths for folder in folders):
        raise UserError(
            f"These networks were not held back the same images of {', '.join(sorted(map(str, set(roots))))}. "
            "Choose test images to compare them on with --data DIR, or evaluate them one by one."
        )
    return folders


def remarks(checkpoint: Checkpoint, folder: ImageFolder, part: Part) -> list[str]:
    """Return what a reader has to know beside a score on these images, a sentence each."""
    found = [folder.corrected] * bool(folder.corrected)
    if missing := [name for name, count in folder.counts().items() if not count]:
        found.append(f"There are no images of {', '.join(missing)}.")
    if checkpoint.data.get("kind") == "drawings":
        found.append("The network was trained on drawings, not on photographs.")
    if part == "test" and is_part(checkpoint, folder, "train"):
        found.append("The network was trained on these images; accuracy on new ones will be lower (see --part val).")
    if part == "val" or is_part(checkpoint, folder, "val"):
        found.append("The epoch and the temperature were chosen on these images; expect slightly less on new ones.")
        if (weights := checkpoint.settings.get("weights")) not in (None, "", "imagenet"):
            found.append(f"Training started from {weights}, which may have been trained on some of these images.")
    return found


def is_part(checkpoint: Checkpoint, folder: ImageFolder, part: str) -> bool:
    """Whether `folder` is train/, val/ or test/ of the images that the network was trained on."""
    root = checkpoint.data.get("root")
    return bool(root) and Path(root, part).resolve() == folder.root.resolve()


def test_folder(folder: Path) -> Path:
    """Return `folder`/test where `folder` is split into train and test, otherwise `folder`.

    A folder named train or test with images right in it is a class of that name, not a part.
    """
    parts = [part for part in (folder / "train", folder / "test") if part.is_dir()]
    split = any(not any(is_image(path) for path in part.iterdir()) for part in parts)
    return folder / "test" if split else folder


def _root(checkpoint: Checkpoint, part: Part, data: Path | None) -> Path:
    """Return the folder of the test images, or the one that holds train/ with the validation images."""
    if data and part == "test":
        return test_folder(data)
    if data:
        return data.parent if data.name == "train" and not (data / "train").is_dir() else data
    root = Path(checkpoint.data.get("root") or "dataset")
    images = root / ("test" if part == "test" else "train")
    if checkpoint.data.get("root") and not images.is_dir():
        raise UserError(
            f"{checkpoint.path} was trained on {root}, but {images} does not exist. Name another with --data DIR."
        )
    return images if part == "test" else root


def _test_images(root: Path, checkpoint: Checkpoint) -> ImageFolder:
    classes, found = checkpoint.classes, image_folder.class_names(root)
    if checkpoint.assumed and len(found) == len(classes):  # a plain state_dict, whose classes get the folders' names
        classes = found
    return image_folder.read_folder(root, classes=classes)


def _validation_images(root: Path, checkpoint: Checkpoint) -> ImageFolder:
    """Return DATA/val, or the same split of DATA/train as in training, checked by the fingerprint in the .pth."""
    share, fold = checkpoint.settings.get("val"), checkpoint.settings.get("fold", 1)
    recorded = checkpoint.data.get("fingerprint"), checkpoint.data.get("val")
    known = isinstance(share, float) and 0 < share < 1
    for corrected in (True, False) if known else ():  # the run may be older than the corrections
        training, validation = image_folder.train_and_val(root, share, fold, corrected)
        if (training.fingerprint(), len(validation)) == recorded:
            held_out = set(validation.paths)
            today = image_folder.read_folder(validation.root, classes=checkpoint.classes)
            return today.subset([i for i, path in enumerate(today.paths) if path in held_out])
    raise UserError(
        f"{checkpoint.path} does not say which images of {root} were its validation images: it is from an earlier "
        "version, or files were added, removed, replaced or relabelled since. Train again, name a copy of the images "
        "from that time with --data DIR, or evaluate it on test images, without --part val."
    )
