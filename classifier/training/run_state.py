"""What train.py goes on with, in NAME.last.pth beside the weights: is it whole, and back into the optimizer with it."""

import torch

from classifier.checkpoint import LAST, Checkpoint, CheckpointError, shapes, shapes_of

KINDS = {"name": str, "logs": str, "format": str, "step": int, "totals": list, "minutes": (int, float), "history": list}
KINDS |= {"network": dict, "optimizer": dict, "scaler": dict}


def check(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError where what train.py needs to go on is missing, or is not what it should be."""
    state, path = checkpoint.resume, checkpoint.path
    try:
        for name, kind in KINDS.items():
            if not isinstance(state[name], kind):
                raise TypeError(f"{name} is a {type(state[name]).__name__}")
        if path and path.name != state["name"] + LAST:  # the name decides where the run writes
            raise CheckpointError(f"{path} is of the run {state['name']!r}: its name has to be {state['name']}{LAST}.")
        if not all(isinstance(value, (int, float)) for value in state["totals"]) or len(state["totals"]) != 4:
            raise TypeError("totals are four numbers")
        for entry in state["history"]:
            numbers = [entry[name] for name in ("epoch", "minutes", "size", "images_per_second")]
            numbers += [entry[part][name] for part in ("train", "val") for name in ("loss", "accuracy")]
            if not all(isinstance(value, (int, float)) for value in numbers):
                raise TypeError("history holds what is no number")
        if shapes(state["network"]) != shapes_of(checkpoint.model, len(checkpoint.classes)):
            raise ValueError("network has other shapes")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be gone on with ({error}). Start a new run.") from error


def restore(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Load a saved state; in memory its means lie as their parameters do, which the fused step takes for granted.

    Raises:
        CheckpointError: it is that of other parameters.
    """
    try:
        optimizer.load_state_dict(state)
        for parameter, values in optimizer.state.items():
            for name, value in values.items():
                if value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter).copy_(value)
                elif value.ndim:
                    raise ValueError(f"{name} is of another shape than its parameter")
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"The optimizer's state does not fit the network ({error}). Start a new run.") from error
