"""Write a network as ONNX, for programs that have no PyTorch: an image goes in, probabilities come out.

    pip install -r requirements-export.txt                 once
    python export.py                                       the newest weights in module/, as module/<their name>.onnx
    python export.py module/flowers.pth --output f.onnx    others, to another place

    input     picture         uint8 (N, H, W, 3)           N images of one size, any size: RGB, upright, 0..255
    output    probabilities   float32 (N, classes)         softmax of the logits, divided by the temperature
    metadata  classes         JSON, in the order of the probabilities; and model, size, resize, sha256 of the weights

Resizing, cropping and normalization are inside, so a program only has to decode images; what this prints at the end
shows how. The pixels are exactly those of Pillow, with which the network was trained; ONNX's own Resize gives others,
by up to 13 of 255. Before the file is written, its answers are compared with the network's on generated images.
"""

import hashlib
import inspect
import json
import logging
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import cli
from classifier.checkpoint import Checkpoint, Stated
from classifier.cli import UserError, plural
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.files import atomic_write
from classifier.inference.predictor import build_predictor, fold_batch_norm

EXAMPLES = 16  # generated images that the file's answers are checked with
TOLERANCE = 0.0005  # between a probability of the file and the network's
WEIGHT_STEPS = 2**22  # in which Pillow's resize counts the weights of pixels

SNIPPET = """\
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

{decode}
session = onnxruntime.InferenceSession({model})
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
(probabilities,) = session.run(["probabilities"], {{"picture": decode("image.jpg", {side})[None]}})
print(classes[probabilities[0].argmax()], probabilities[0].max())
"""


def decode(file, side):
    """Return an image as training saw it, (height, width, 3); in rare formats, an error: save it as PNG or JPEG."""
    image = Image.open(file, formats=["JPEG", "PNG", "GIF", "WEBP"])
    if "icc_profile" in image.info and image.mode == "CMYK":
        raise ValueError("colours of a printer: convert this image to RGB first")
    image.draft(None, (side, side))  # large JPEGs are decoded at a fraction of their size, which is faster
    image = ImageOps.exif_transpose(image)  # upright
    if image.mode[0] == "I":  # 16-bit grey
        grey = np.asarray(image).astype(np.int64)
        grey[grey == image.info.get("transparency")] = 65535
        image = Image.fromarray((grey // 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:  # on white
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


@dataclass
class Settings:
    """The command line."""

    weights: conf.Positional[Annotated[Path | None, conf.arg(metavar="[WEIGHTS]")]] = None
    """A .pth; without one, the newest in module/."""
    output: Annotated[Path | None, conf.arg(metavar="FILE")] = None
    """The .onnx to write; without one, the weights' name and folder."""
    overwrite: bool = False
    """Replace an existing file."""
    stated: Annotated[Stated, conf.arg(name="")] = checkpoints.UNSTATED


class ExportedNetwork(nn.Module):
    """The way from a decoded image to its probabilities: (N, H, W, 3) uint8 -> (N, classes) float32."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.network = fold_batch_norm(checkpoint.network())
        self.preprocess, self.temperature = checkpoint.preprocess, checkpoint.temperature

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        x = self.preprocess.normalize(resize(image, self.preprocess))
        return (self.network(x) / self.temperature).softmax(1)


def resize(image: Tensor, preprocess: Preprocess) -> Tensor:
    """Return what `Preprocess.pixels` does, by operations of ONNX: (N, H, W, 3) uint8 -> (N, 3, size, size) float64."""
    size, (height, width) = preprocess.size, image.shape[1:3]
    side = torch.sym_min(height, width)
    kept = (side, side) if preprocess.resize == "crop" else (width, height)
    filled = preprocess.filled(width, height) if preprocess.resize == "pad" else (size, size)
    columns = resize_weights(width, kept[0], size, filled[0], dim=0)
    rows = resize_weights(height, kept[1], size, filled[1], dim=1)
    x = image.permute(0, 3, 1, 2).double()  # (N, 3, H, W); the sums have too many digits for float32
    x = round_to_pixels(x @ columns)  # (N, 3, H, size), as in Pillow
    x = round_to_pixels(rows @ x)
    if preprocess.resize == "pad":
        inside = (rows.sum(1, keepdim=True) > 0) & (columns.sum(0) > 0)
        x = torch.where(inside, x, torch.tensor(preprocess.bar_color).double().view(3, 1, 1))
    return x


def round_to_pixels(sums: Tensor) -> Tensor:
    """Round sums in 1 / WEIGHT_STEPS to integers in 0..255, halves upwards."""
    return (sums / WEIGHT_STEPS + 0.5).floor().clamp(0, 255)


def resize_weights(length: int, kept: int, size: int, filled: int, dim: int) -> Tensor:
    """Return the weight of each old pixel in each new one, along one side of an image: float64, in 1 / WEIGHT_STEPS.

    `kept` of `length` old pixels become `filled` of `size` new ones, both in the middle; other new ones get nothing.
    As in Pillow (src/libImaging/Resample.c), a triangle around the middle of each new pixel widens where the image gets
    smaller, so that each old pixel counts.
    `dim` is that of the old pixels in the result: older versions of onnxruntime cannot transpose float64.
    """
    old, new = torch.arange(length).unsqueeze(1 - dim), torch.arange(size).unsqueeze(dim)
    new = new - (size - filled) // 2
    # from the middle of a new pixel to that of an old one, in 1 / (2 * filled) old pixels: integers, so exact
    distance = (filled * (2 * old + 1 - (length - kept)) - (2 * new + 1) * kept).abs()
    weight = (1 - distance.double() / (2 * torch.sym_max(kept, filled))).clamp(min=0)
    weight = (weight / weight.sum(dim, keepdim=True) * WEIGHT_STEPS).round()
    return torch.where((new >= 0) & (new < filled), weight, 0)


def main(args: Sequence[str] | None = None) -> None:
    """Export, check, and print how to use the file."""
    settings = cli.parse(Settings, __doc__.split("\n")[0], args)
    need_packages()
    path = settings.weights or checkpoints.newest(Path("module"))
    checkpoint = checkpoints.load(path, stated=settings.stated)
    target = settings.output or path.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise UserError(f"--output {target} has to end in .onnx.")
    if target.exists() and not settings.overwrite:
        raise UserError(f"{target} exists already. Choose another name with --output, or replace it with --overwrite.")
    preprocess, classes = checkpoint.preprocess, plural(len(checkpoint.classes), "class", "classes")
    print(f"weights    {path}")
    print(f"network    {checkpoint.model}, {classes}, {preprocess.size} x {preprocess.size} ({preprocess.resize})")
    if checkpoint.assumed:
        print(f"assumed    {checkpoint.assumed}")

    try:
        with atomic_write(target) as file:  # opened before the work, so that a read-only folder shows at once
            content = onnx_bytes(checkpoint)
            difference = largest_difference(content, checkpoint)
            if not difference <= TOLERANCE:  # or NaN
                raise UserError(
                    f"Nothing is written: the ONNX of {path} differs from the network by {difference:.2g} in a "
                    f"probability, where {TOLERANCE} is allowed. Another version may do better: "
                    "pip install --upgrade -r requirements-export.txt"
                )
            file.write(content)
    except OSError as error:
        message = f"{target} cannot be written ({error.strerror or error}). Choose another place with --output."
        raise UserError(message) from error
    print(f"written    {target}, {len(content) / 1e6:.1f} MB")
    print(f"checked    on {EXAMPLES} generated images: probabilities differ by at most {difference:.1g}")
    print("\nTo use it, in a program that has onnxruntime and Pillow (pip install onnxruntime pillow):\n")
    model = json.dumps(target.as_posix(), ensure_ascii=False)
    snippet = SNIPPET.format(decode=inspect.getsource(decode), model=model, side=2 * preprocess.size)
    print(textwrap.indent(snippet, "    "))


def need_packages() -> None:
    """Raise UserError where a package is missing that only this script needs; silence those that are there."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"export.py needs packages that are missing here ({error}): pip install -r requirements-export.txt"
        ) from None
    onnxruntime.set_default_logger_severity(3)  # errors only
    for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)


def onnx_bytes(checkpoint: Checkpoint) -> bytes:
    """Return the network as the content of an .onnx, weights in float32."""
    image = torch.zeros(2, 40, 50, 3, dtype=torch.uint8)  # its size does not matter
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        program = torch.onnx.export(
            ExportedNetwork(checkpoint).eval().requires_grad_(False),
            (image,),
            dynamo=True,
            input_names=["picture"],
            output_names=["probabilities"],
            dynamic_shapes={"image": {0: "pictures", 1: "height", 2: "width"}},
            verbose=False,
        )
    model = program.model_proto
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")  # lines and folders of this machine, from which each came
    notes = {
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "model": checkpoint.model,
        "size": str(checkpoint.preprocess.size),
        "resize": checkpoint.preprocess.resize,
        "sha256": hashlib.sha256(checkpoint.path.read_bytes()).hexdigest(),
    }
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def largest_difference(content: bytes, checkpoint: Checkpoint) -> float:
    """Return the largest difference between probabilities from onnxruntime and from our predictor, both in float32."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    predict = build_predictor(checkpoint, Compute(torch.device("cpu"), torch.float32, torch.contiguous_format))
    random, differences = np.random.default_rng(0), []
    for n in range(EXAMPLES // 2):  # two at a time, so that a mix-up would show; of several proportions
        blocks = random.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
        pair = blocks.repeat(50, axis=1).repeat(60 - 7 * n, axis=2)
        expected = predict(torch.stack([checkpoint.preprocess.pixels(Image.fromarray(image)) for image in pair]))
        (found,) = session.run(["probabilities"], {"picture": pair})
        differences.append(np.abs(found - expected.probabilities.numpy()).max())
    return float(np.max(differences))


if __name__ == "__main__":
    cli.run(main)
