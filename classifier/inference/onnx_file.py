"""The .onnx that export.py writes, read as a .pth is, and computed by onnxruntime.

Its metadata has under "checkpoint" what a .pth has beside weights and OOD statistics, which are in the graph. Its
outputs are "probabilities", "logits", "features" (the input of the last linear layer) and, where the network has them,
"unlike", the OOD score less its threshold, (N,), and "maps" as in cam.py.
"""

import json
from pathlib import Path

import torch

from classifier import checkpoint as checkpoints
from classifier import device
from classifier.checkpoint import UNSTATED, Checkpoint, CheckpointError, Stated
from classifier.device import Compute, Precision

# OpenVINO's provider cannot load the file, and OpenVINO by itself is no faster with ResNet in 8 bits
PROVIDERS = ["CPUExecutionProvider"]
LACKS = {
    "unlike": "that every image shows one of the classes: the file has no OOD statistics",
    "maps": "it has no heat maps",
}


def load(path: Path, stated: Stated = UNSTATED) -> Checkpoint:
    """Read a .pth as `checkpoint.load` does, or an .onnx of export.py, whose `session` takes the place of weights.

    Raises CheckpointError also where onnxruntime is missing, or where another program wrote the .onnx.
    """
    if path.suffix.lower() != ".onnx" or not path.is_file():
        return checkpoints.load(path, stated=stated)
    try:
        path.open("rb").close()  # onnxruntime does not say why it cannot
    except OSError as error:
        raise CheckpointError("{file} cannot be read: {reason}.", file=path, reason=error.strerror) from error
    return from_session(path, path, stated)


def from_session(path: Path, content: Path | bytes, stated: Stated = UNSTATED) -> Checkpoint:
    """Return the checkpoint of an .onnx, given as its path or content, with as many threads as PyTorch has."""
    try:
        import onnxruntime  # an extra
    except ImportError:
        message = "{file} needs onnxruntime, which is missing here: pip install -r requirements-export.txt"
        raise CheckpointError(message, file=path) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3  # errors only
    try:
        session = onnxruntime.InferenceSession(content, options, providers=PROVIDERS)
        names = {output.name for output in session.get_outputs()}
        values = json.loads(session.get_modelmeta().custom_metadata_map["checkpoint"])
        checkpoint = checkpoints.from_content(path, values, stated, weights=False)
    except CheckpointError:
        raise
    except Exception as error:  # onnxruntime's own are of many kinds
        message = "{file} is damaged, or export.py did not write it, or an earlier one. Again: python export.py WEIGHTS"
        raise CheckpointError(message, file=path) from error
    checkpoint.path, checkpoint.session, checkpoint.named = path, session, values.get("named") is not False
    checkpoint.ood_stats = {"threshold": 0.0} if "unlike" in names else {}
    lacks = [words for name, words in LACKS.items() if name not in names]
    checkpoint.assumed = "; ".join(filter(None, [str(values.get("assumed", "")), *lacks]))
    return checkpoint


def select_compute(checkpoint: Checkpoint, chosen: str, precision: Precision) -> Compute:
    """Return what `device.select_compute` does; an ONNX file has a format of its own, and runs on the processor."""
    if not checkpoint.session:
        return device.select_compute(chosen, precision)
    notes = checkpoint.session.get_modelmeta().custom_metadata_map
    dtype = torch.int8 if notes.get("precision") == "int8" else torch.float32
    return Compute(torch.device("cpu"), dtype, torch.contiguous_format, "as in the file; onnxruntime")
