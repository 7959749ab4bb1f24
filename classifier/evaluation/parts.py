"""Which labelled images are networks judged on, and have they learned from them?

A network is judged on images that it did not learn from: the test images, or those training images that its run
set aside. Only there does its doubt about a label mean something: a network that was taught a wrong label repeats it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.image_folder import ImageFolder
from classifier.data.images import has_image_extension

Part = Literal["test", "val"]
DRAWINGS = "drawings"  # the kind of images that the built-in sample set holds


def images(weights: Sequence[Checkpoint], part: Part, chosen: Path | None) -> ImageFolder:
    """The images that all of `weights` are judged on, with the folder's own order of classes.

    Args:
        weights: one or several networks.
        part: "test", or "val" for those training images that the runs set aside.
        chosen: where the images are; None: where the weights say.

    Raises:
        UserError: no such images, not the same for all weights, or not known which ones were set aside.
    """
    roots = [_place(checkpoint, part, chosen) for checkpoint in weights]
    if len({root.resolve() for root in roots}) > 1:
        raise UserError(
            f"These weights belong to different images, {' and '.join(sorted(map(str, set(roots))))}. "
            "Say with --data DIR which they shall be compared on."
        )
    folder = image_folder.read_folder(roots[0])
    if part == "test":
        return folder
    readings = [folder]
    if folder.corrected:  # the run may be older than the corrections
        readings.append(image_folder.read_folder(roots[0], corrected=False))
    aside = [_set_aside(readings, checkpoint) for checkpoint in weights]
    if any(other.paths != aside[0].paths for other in aside):
        raise UserError(
            "The runs of these weights set different images aside, so each learned from some that another is to be "
            "judged on. Judge them one by one."
        )
    return aside[0]


def _set_aside(readings: Sequence[ImageFolder], checkpoint: Checkpoint) -> ImageFolder:
    """Those of the training images that the weights did not learn from: the run's validation images.

    What the files contain decides which ones these are, so they are found again wherever they lie. That they are the
    same is certain where those left to learn from have the fingerprint that the .pth notes.

    Args:
        readings: the training images, with digests, as they are labelled now; then as they may have been.
        checkpoint: says what share was set aside.

    Returns:
        Images of the first reading.
    """
    share, fingerprint = checkpoint.settings.get("val"), checkpoint.data.get("fingerprint")
    if not isinstance(share, float) or not 0 < share < 1 or not fingerprint:
        raise UserError(
            f"{checkpoint.path} does not say which images were set aside in its training, so there are none that it "
            "surely did not learn from. Train again, or judge it on test images, without --part val."
        )
    now = readings[0]
    for folder in readings:
        training, validation = image_folder.split_validation(folder, share, checkpoint.settings.get("fold", 1))
        if training.fingerprint() == fingerprint:
            aside = set(validation.paths)
            return now.subset([i for i, path in enumerate(now.paths) if path in aside])
    then = " + ".join(f"{checkpoint.data.get(part, 0):,}" for part in ("train", "val"))
    raise UserError(
        f"{now.root} is not as it was when {checkpoint.path} was trained: {then} images then, {len(now):,} now, or "
        "others, or other labels. So which of them it learned from is no longer known. Train again, or say with "
        "--data DIR where the images of that time are."
    )


def learned_from(checkpoint: Checkpoint, folder: ImageFolder, part: Part) -> bool:
    """Whether these are the training images of the weights, as far as the .pth says."""
    own = _own(checkpoint)
    return part != "val" and own is not None and (own / "train").resolve() == folder.root.resolve()


def own_test(checkpoint: Checkpoint, folder: ImageFolder) -> bool:
    """Whether these are the test images that belong to the weights' own training images."""
    own = _own(checkpoint)
    return own is not None and (own / "test").resolve() == folder.root.resolve()


def remarks(checkpoint: Checkpoint, folder: ImageFolder, part: Part) -> list[str]:
    """What belongs beside a score on these images, a sentence each."""
    found = [folder.corrected] if folder.corrected else []
    if checkpoint.data.get("kind") == DRAWINGS:
        found.append(f"Of a network that learned from {DRAWINGS}, not from photographs.")
    if learned_from(checkpoint, folder, part):
        found.append("Of images that it learned from: new ones will be harder. --part val takes those it did not.")
    if part == "val":
        found.append("Of images that chose the best epoch and the temperature: new ones will be a little harder.")
        if (beginning := checkpoint.settings.get("weights")) not in (None, "", "imagenet"):
            found.append(f"Its run began with {beginning}, which may have learned from some of them.")
    return found


def match_classes(folder: ImageFolder, checkpoint: Checkpoint) -> tuple[ImageFolder, str]:
    """The folder with its labels in the order of the logits, by class name; and what had to be assumed.

    A plain state_dict has no names: with as many classes as there are sub-folders it takes their sorted names.

    Raises:
        UserError: the classes of the folder are not those of the weights.
    """
    known = checkpoint.classes
    if checkpoint.assumed and len(known) == len(folder.classes):
        return folder, f"{checkpoint.assumed}; class names from the folder, in order: {brief(folder.classes)}"
    if set(known) != set(folder.classes) or len(known) != len(folder.classes):
        raise UserError(
            f"{checkpoint.path} knows {len(known)} classes ({brief(known)}), but {folder.root} has "
            f"{len(folder.classes)} ({brief(folder.classes)}). Their names have to be the same: rename or add folders, "
            "or score other images with --data DIR."
        )
    return folder.with_classes(known), checkpoint.assumed


def brief(names: Sequence[str]) -> str:
    """The names, separated by commas; of many only the first."""
    return ", ".join(names[:10]) + (f", ... and {len(names) - 10} more" if len(names) > 10 else "")


def test_folder(folder: Path) -> Path:
    """`folder`/test where `folder` is split into train and test, otherwise `folder`.

    A folder named train or test with images right in it is a class of that name, not a part.
    """
    for part in (folder / "train", folder / "test"):
        if part.is_dir() and not any(has_image_extension(path.name) for path in part.iterdir()):
            return folder / "test"
    return folder


def _place(checkpoint: Checkpoint, part: Part, chosen: Path | None) -> Path:
    own = _own(checkpoint)
    if part == "val":
        if not chosen and not own:
            raise UserError(f"{checkpoint.path} does not say what it was trained with. Say it with --data DIR.")
        train = (chosen or own) / "train"
        if not chosen and not train.is_dir():
            raise UserError(
                f"{checkpoint.path} belongs to {train}, which does not exist. Say with --data DIR where it is."
            )
        return train if train.is_dir() else chosen  # which may be the training images themselves
    if own and not chosen and not (own / "test").is_dir():
        raise UserError(
            f"{checkpoint.path} belongs to {own / 'test'}, which does not exist. Score other images with --data DIR."
        )
    return test_folder(chosen) if chosen else (own or Path("dataset")) / "test"


def _own(checkpoint: Checkpoint) -> Path | None:
    """The folder of the images that the weights were trained with, where the .pth says so."""
    root = checkpoint.data.get("root")
    return Path(root) if isinstance(root, str) else None
