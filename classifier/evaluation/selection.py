"""Which labelled images a network is evaluated on: test images, or the validation images of its training run."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from classifier.checkpoint import SHIPPED, Checkpoint
from classifier.cli import UserError, quoted
from classifier.data import image_folder
from classifier.data.formats import is_image
from classifier.data.image_folder import ImageFolder

Part = Literal["auto", "test", "val"]


def select_images(
    checkpoints: Sequence[Checkpoint], part: Part, data: Path | None
) -> tuple[Part, list[ImageFolder | UserError]]:
    """Return the part, "test" or "val", and for each network the same images, or why they do not suit it.

    Labels are in the order of the network's logits. The newest network decides on the images, but for those that
    come with the project. "auto" is "test" where there are test images. `data` is where the images are; None: where
    the checkpoints say.

    Raises:
        UserError: there are no such images, classes that the network lacks, or unknown validation images; of several
            networks, for the newest, if they suit none of them.
    """
    ages = [(checkpoint.path.name not in SHIPPED, checkpoint.created) for checkpoint in checkpoints]
    order = sorted(range(len(checkpoints)), key=ages.__getitem__, reverse=True)
    if part == "auto":
        root = data or Path(checkpoints[order[0]].data.get("root") or "dataset")
        only_train = image_folder.has_images(root / "train") and not image_folder.has_images(test_folder(root))
        part = "val" if only_train else "test"
    select = _validation_images if part == "val" else _test_images
    found: dict[int, ImageFolder | UserError] = {}
    chosen = None
    for i in order:
        try:
            found[i] = folder = select(_root(checkpoints[i], part, data), checkpoints[i])
            chosen = chosen or folder
            if folder.paths != chosen.paths:
                raise UserError(f"its images are other ones, of {folder.root}")
        except UserError as error:
            found[i] = error
    if chosen is None:
        raise found[order[0]]
    return part, [found[i] for i in range(len(checkpoints))]


def remarks(checkpoint: Checkpoint, folder: ImageFolder, part: Part) -> list[str]:
    """Return what a reader has to know beside a score on these images, a sentence each."""
    found = [folder.corrected] * bool(folder.corrected)
    if missing := [name for name, count in folder.counts().items() if not count]:
        found.append(f"There are no images of {', '.join(missing)}.")
    if checkpoint.data.get("kind") == "drawings":
        found.append("The network was trained on drawings, not on photographs.")
    if part == "test" and is_part(checkpoint, folder, "train"):
        found.append("The network was trained on these images; accuracy on new ones will be lower (see --part val).")
    found += filter(None, [_leak(checkpoint, folder, part)])
    if part == "val" or is_part(checkpoint, folder, "val"):
        found.append(
            "This is no test score: the epoch and the temperature were chosen on these images; expect slightly less on "
            "new ones."
        )
        may_know = "which may have been trained on some of these images."
        if (weights := checkpoint.settings.get("weights")) not in (None, "", "imagenet"):
            found.append(f"Training started from {weights}, {may_know}")
        if teacher := checkpoint.settings.get("teacher"):
            found.append(f"The network learned the answers of {teacher}, {may_know}")
    return found


def _leak(checkpoint: Checkpoint, folder: ImageFolder, part: Part) -> str:
    """Return a sentence if any of these images are training images, provided that these are still where they were."""
    with contextlib.suppress(UserError):
        if parts := _parts_of_run(Path(checkpoint.data.get("root") or ""), checkpoint):
            return image_folder.leak_remark("validation" if part == "val" else "test", folder, *parts)
    return ""


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
    if not checkpoint.named and len(found) == len(classes):  # a plain state_dict, whose classes get the folders' names
        classes = found
    return image_folder.read_folder(root, classes=classes)


def _validation_images(root: Path, checkpoint: Checkpoint) -> ImageFolder:
    """Return DATA/val, or the same split of DATA/train as in training, checked by the fingerprint in the .pth."""
    if image_folder.is_shards(str(root)):
        raise UserError(f"{root} holds shards. Expected images in folders: {root}/test/<class>/, or --data DIR.")
    if parts := _parts_of_run(root, checkpoint):
        held_out = set(parts[1].paths)
        today = image_folder.read_folder(parts[1].root, classes=checkpoint.classes)
        return today.subset([i for i, path in enumerate(today.paths) if path in held_out])
    val = root / "val"
    there = f" To score it on those of {val}: --data {quoted(val)} --part test" if image_folder.has_images(val) else ""
    raise UserError(
        f"{checkpoint.path} does not say which images of {root} were its validation images: it is from an earlier "
        "version, was trained on others, or files were added, removed, replaced or relabelled since. Train again, name "
        f"a copy of the images from that time with --data DIR, or evaluate it on test images.{there}"
    )


def _parts_of_run(root: Path, checkpoint: Checkpoint) -> tuple[ImageFolder, ImageFolder] | None:
    """Return training and validation images of the network's run; None if `root` has not the same training images."""
    share, fold = checkpoint.settings.get("val"), checkpoint.settings.get("fold", 1)
    recorded = checkpoint.data.get("fingerprint"), checkpoint.data.get("val")
    known = isinstance(share, float) and 0 < share < 1
    for corrected in (True, False) if known else ():  # the run may be older than the corrections
        parts = image_folder.train_and_val(root, share, fold, corrected)
        if (parts[0].fingerprint(), len(parts[1])) == recorded:
            return parts
    return None
