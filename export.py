"""Write a network as ONNX, for programs that have no PyTorch: an image goes in, probabilities come out.

    pip install -r requirements-export.txt                 once
    python export.py                                       the newest weights in module/, as module/<their name>.onnx
    python export.py module/flowers.pth --output f.onnx    others, to another place
    python export.py --int8                                in 8 bits, which is faster on laptops, as <name>-int8.onnx

    input     picture         uint8 (N, H, W, 3)           N images of one size, any size: RGB, upright, 0..255
    output    probabilities   float32 (N, classes)         softmax of the logits, divided by the temperature
              logits          float32 (N, classes)
              features        float32 (N, D)               the input of the last linear layer
              unlike          float32 (N,)                 above 0: unlike the training images, so none of the classes
              maps            float32 (N, classes, h, w)   heat maps: by how much each place speaks for each class
    metadata  classes         JSON, in the order of the probabilities; and model, size, resize, sha256 of the weights

There is no `unlike` where the weights have no OOD statistics, no `maps` where several layers follow the last map.

Resizing, cropping and normalization are inside, so a program only has to decode images; what this prints at the end
shows how. The pixels are exactly those of Pillow, with which the network was trained; ONNX's own Resize gives others,
by up to 13 of 255. Before the file is written, its answers are compared with the network's on generated images.
"""

import inspect
import io
import json
import logging
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tyro import conf

from classifier import checkpoint as checkpoints
from classifier import cli
from classifier.checkpoint import Checkpoint, Stated
from classifier.cli import UserError, plural, quoted
from classifier.data import image_folder, loaders
from classifier.data.image_folder import ImageFolder
from classifier.device import Compute
from classifier.evaluation import comparison, metrics
from classifier.evaluation.report import EvalResult
from classifier.evaluation.selection import select_images
from classifier.files import atomic_write
from classifier.inference import onnx_file
from classifier.inference.calibration import balanced_subset
from classifier.inference.predictor import build_predictor

CPU = Compute(torch.device("cpu"), torch.float32, torch.contiguous_format)
EXAMPLES = 16  # generated images that the file's answers are checked with
TOLERANCE = 0.0005  # between a probability of the file and the network's
DECIDING = 200  # images that decide on the steps of 8 bits
MAX_LOSS = 0.005  # of accuracy, from which on 8 bits are called worse
BATCH_SIZE = 32

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
    int8: bool = False
    """Compute with 8 bits, which is faster without a GPU; compares the accuracy with that of float32 on test images, or
    without any on validation images. Writes <weights>-int8.onnx."""
    data: Annotated[Path | None, conf.arg(metavar="DIR")] = None
    """For --int8: holds train/<class>/* and test/<class>/*; by default the folder that the network was trained on."""
    stated: Annotated[Stated, conf.arg(name="")] = checkpoints.UNSTATED


def main(args: Sequence[str] | None = None) -> None:
    """Export, check, and print how to use the file."""
    settings = cli.parse(Settings, __doc__.split("\n")[0], args)
    need_packages()
    from classifier.inference import onnx_graph  # needs them

    path = settings.weights or checkpoints.newest(Path("module"))
    checkpoint = checkpoints.load(path, stated=settings.stated)
    target = settings.output or path.with_name(f"{path.stem}{'-int8' * settings.int8}.onnx")
    if target.suffix != ".onnx":
        raise UserError(f"--output {target} has to end in .onnx.")
    if target.exists() and not settings.overwrite:
        raise UserError(f"{target} exists already. Choose another name with --output, or replace it with --overwrite.")
    preprocess, classes = checkpoint.preprocess, plural(len(checkpoint.classes), "class", "classes")
    print(f"weights    {path}")
    print(f"network    {checkpoint.model}, {classes}, {preprocess.size} x {preprocess.size} ({preprocess.resize})")
    images = select(checkpoint, settings.data) if settings.int8 else None
    try:
        with atomic_write(target) as file:  # opened before the work, so that a read-only folder shows at once
            model = onnx_graph.network_model(checkpoint)
            content = onnx_graph.onnx_bytes(model, checkpoint)
            written = onnx_file.from_session(target, content)
            difference = largest_difference(written, checkpoint)
            if not difference <= TOLERANCE:  # or NaN
                raise UserError(
                    f"Nothing is written: the ONNX of {path} differs from the network by {difference:.2g} in a "
                    f"probability, where {TOLERANCE} is allowed. Another version may do better: "
                    "pip install --upgrade -r requirements-export.txt"
                )
            if written.assumed:
                print(f"assumed    {written.assumed}")
            if images:
                content = in_8_bits(model, checkpoint, content, *images)
            file.write(content)
    except OSError as error:
        message = f"{target} cannot be written ({error.strerror or error}). Choose another place with --output."
        raise UserError(message) from error
    print(f"written    {target}, {len(content) / 1e6:.1f} MB")
    if not settings.int8:
        images = f"{EXAMPLES} generated images and {len(example_files())} files of different kinds"
        print(f"checked    on {images}: probabilities differ by at most {difference:.1g}")
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
    for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export", "root"):  # the last for quantization
        logging.getLogger(name).setLevel(logging.ERROR)


def select(checkpoint: Checkpoint, data: Path | None) -> tuple[ImageFolder, str, ImageFolder]:
    """Return images that decide on the steps of 8 bits, and what the accuracy is measured on: its part and images.

    The first are validation images; where these are not known, training images. Raises UserError without images.
    """
    part, (images,) = select_images([checkpoint], "auto", data)
    try:
        _, (deciding,) = select_images([checkpoint], "val", data)
    except UserError:
        root = data or Path(checkpoint.data.get("root") or "dataset")
        deciding = image_folder.read_folder(root / "train", classes=images.classes)
    return balanced_subset(deciding, DECIDING), part, balanced_subset(images)


def in_8_bits(
    model: object, checkpoint: Checkpoint, content: bytes, deciding: ImageFolder, part: str, images: ImageFolder
) -> bytes:
    """Return the .onnx in 8 bits, and print how its accuracy compares with that of `content`, the one in float32.

    `model` is the checkpoint's `onnx_graph.network_model`; the last three are from `select`.
    """
    from classifier.inference import onnx_graph  # needs packages of its own

    def batches(folder: ImageFolder) -> Iterator[tuple[Tensor, Tensor]]:
        dataset = loaders.ImageDataset(folder, checkpoint.preprocess, torch.get_num_threads())
        return loaders.on_device(loaders.loader(dataset, BATCH_SIZE), CPU.device)

    def unlike(written: bytes) -> Tensor:  # of the images that decide, from the largest on
        session = onnx_file.from_session(checkpoint.path, written).session
        pixels = (pixels.permute(0, 2, 3, 1).contiguous().numpy() for pixels, _ in batches(deciding))
        scores = np.concatenate([session.run(["unlike"], {"picture": values})[0] for values in pixels])
        return torch.from_numpy(scores).sort(descending=True).values

    print(f"8 bits     by {plural(len(deciding), 'image')} of {deciding.root}", flush=True)
    model = onnx_graph.quantized(model, (pixels for pixels, _ in batches(deciding)))
    if checkpoint.ood_stats:  # rounding makes every image a little unusual: as many stay unlike as in float32
        before, after = unlike(content), unlike(onnx_graph.onnx_bytes(model, checkpoint))
        count = int((before > 0).sum())
        beside = slice(max(0, count - 1), count + 1)  # the last one that is unlike, and the first that is not
        onnx_graph.shift_threshold(model, (after[beside].mean() - before[beside].mean()).item())
    contents = {"float32": content, "int8": onnx_graph.onnx_bytes(model, checkpoint, "int8")}
    results, neither, labels = [], [], torch.tensor(images.labels)
    for name, written in contents.items():
        predict = build_predictor(onnx_file.from_session(checkpoint.path, written), CPU)
        answers = [predict(pixels) for pixels, _ in batches(images)]
        logits = torch.cat([answer.logits for answer in answers])
        neither.append(sum(answer.is_ood.sum().item() for answer in answers))
        scores = metrics.score(logits, labels, images.classes, checkpoint.temperature)
        results.append(EvalResult(name, scores, [], logits, labels))
    before, after = (result.report["accuracy"] for result in results)
    (verdict,) = comparison.verdicts(results)
    kind = "test images" if part == "test" else "validation images (there are no test images)"
    print(f"accuracy   {before:.2%} in float32, {after:.2%} in 8 bits, on {len(images):,} {kind} of {images.root}")
    print(f"           {verdict['words']}")
    if checkpoint.ood_stats:
        print(f"neither    {neither[0]:,} of them in float32, {neither[1]:,} in 8 bits")
    if before - after > MAX_LOSS or (verdict["real"] and after < before):
        print(f"WORSE      8 bits lose {before - after:.2%}. Use float32: python export.py {quoted(checkpoint.path)}")
    scores = {"history": checkpoint.scores.get("history", []), part: results[1].report | {"neither": neither[1]}}
    return onnx_graph.onnx_bytes(model, replace(checkpoint, scores=scores), "int8")


def largest_difference(written: Checkpoint, checkpoint: Checkpoint) -> float:
    """Return the largest difference between probabilities from an ONNX file and from our predictor, both in float32.

    Images of several sizes, and files as `decode`, which is printed for use with the ONNX file, reads them.
    """
    predict = build_predictor(checkpoint, CPU)
    random, differences = np.random.default_rng(0), []
    for n in range(EXAMPLES // 2):  # two at a time, so that a mix-up would show; of several proportions
        blocks = random.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
        pair = blocks.repeat(50, axis=1).repeat(60 - 7 * n, axis=2)
        expected = predict(torch.stack([checkpoint.preprocess.pixels(Image.fromarray(image)) for image in pair]))
        (found,) = written.session.run(["probabilities"], {"picture": pair})
        differences.append(np.abs(found - expected.probabilities.numpy()).max())
    for file in example_files():
        expected = predict(checkpoint.preprocess.read(file)[None])
        image = decode(io.BytesIO(file), 2 * checkpoint.preprocess.size)
        (found,) = written.session.run(["probabilities"], {"picture": image[None]})
        differences.append(np.abs(found - expected.probabilities.numpy()).max())
    return float(np.max(differences))


def example_files() -> list[bytes]:
    """Return an image as files of the kinds that programs decode differently: modes, transparency, turned by EXIF."""
    blocks = np.random.default_rng(1).integers(0, 256, (6, 5, 4), dtype=np.uint8).repeat(20, 0).repeat(30, 1)
    rgba, turned = Image.fromarray(blocks), Image.Exif()
    turned[0x0112] = 6
    grey = Image.fromarray(blocks[..., 0].astype(np.uint16) * 257)  # 16 bits
    files = []
    for image, kind, options in (
        (grey, "PNG", {}), (grey, "PNG", {"transparency": grey.getpixel((0, 0))}), (rgba.convert("LA"), "PNG", {}),
        (rgba, "WEBP", {"lossless": True}), (rgba.convert("P"), "GIF", {"transparency": 3}),
        (rgba.convert("CMYK"), "JPEG", {}), (rgba.convert("RGB"), "JPEG", {"exif": turned}),
    ):  # fmt: skip
        image.save(file := io.BytesIO(), kind, **options)
        files.append(file.getvalue())
    return files


if __name__ == "__main__":
    cli.run(main)
