"""An image that is too small for a network gets a sentence, not an error from deep inside."""

from torch import Tensor, nn


def check_size(network: nn.Module, inputs: tuple[Tensor]) -> None:
    """A forward pre-hook of networks whose poolings leave nothing of images below `network.smallest` pixels.

    Raises:
        ValueError: the images (N, 3, H, W) are smaller than that.
    """
    height, width = inputs[0].shape[-2:]
    if min(height, width) < network.smallest:
        raise ValueError(
            f"{type(network).__name__} needs images of at least {network.smallest} x {network.smallest} pixels; "
            f"these have {width} x {height}."
        )
