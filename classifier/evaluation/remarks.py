"""What a reader has to know beside a score: whether the images are really new to the network, and more of the kind."""

from classifier.checkpoint import Checkpoint
from classifier.data.image_folder import ImageFolder
from classifier.evaluation.selection import Part, is_part


def remarks(checkpoint: Checkpoint, folder: ImageFolder, part: Part) -> list[str]:
    """Return what belongs beside a score on these images, a sentence each."""
    found = [folder.corrected] if folder.corrected else []
    if missing := [name for name, count in folder.counts().items() if not count]:
        found.append(f"There are no images of {', '.join(missing)}.")
    if checkpoint.data.get("kind") == "drawings":
        found.append("The network was trained on drawings, not on photographs.")
    if part == "test" and is_part(checkpoint, folder, "train"):
        found.append(
            "The network was trained on these images; accuracy on new ones will be lower. --part val evaluates its "
            "validation images."
        )
    if part == "val" or is_part(checkpoint, folder, "val"):
        found.append(
            "The best epoch and the temperature were chosen on these images; expect slightly less on new ones."
        )
        if (weights := checkpoint.settings.get("weights")) not in (None, "", "imagenet"):
            found.append(f"Training started from {weights}, which may have been trained on some of these images.")
    return found
