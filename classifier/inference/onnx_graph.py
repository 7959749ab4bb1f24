"""A network as ONNX: its graph from an image of any size to the answers, in float32 or in 8 bits.

It needs the packages of requirements-export.txt, so only functions of export.py import it.
"""

import hashlib
import json
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import compose, numpy_helper, parser
from torch import Tensor, nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference.predictor import ood_score, optimized, split_network

CPU = Compute(torch.device("cpu"), torch.float32, torch.contiguous_format)
WEIGHT_STEPS = 2**22  # in which Pillow's resize counts the weights of pixels
IN_8_BITS = ["Conv", "Gemm", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "Concat"]  # layers, and what joins them


class ExportedNetwork(nn.Module):
    """The way from pixels, (N, 3, size, size) float32 in 0..255, to the outputs that are named in `names`."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.network, last_layer = optimized(checkpoint.network(), CPU)
        self.trunk, self.head = split_network(self.network, last_layer)
        self.checkpoint, self.map_weights = checkpoint, None
        if hasattr(self.network, "forward_features"):
            last_map = self.trunk(torch.rand(1, 3, *[checkpoint.preprocess.size] * 2))[0]
            mean, weight = last_map.mean((2, 3)), getattr(last_layer, "weight", torch.empty(0))
            if weight.shape[1:] == mean.shape[1:] and torch.allclose(self.head(last_map)[1], mean, 1e-3):  # see cam.py
                self.map_weights = (weight - weight.mean(0))[..., None, None]
        self.names = ["probabilities", "logits", "features", *["unlike"] * bool(checkpoint.ood_stats)]
        self.names += ["maps"] * (self.map_weights is not None)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:  # noqa: D102
        last_map, means = self.trunk(self.checkpoint.preprocess.normalize(pixels))
        logits, head_input = self.head(last_map)
        outputs = [(logits / self.checkpoint.temperature).softmax(1), logits, head_input]
        if stats := self.checkpoint.ood_stats:
            outputs.append(ood_score(stats, [*means, head_input]) - stats["threshold"])
        if self.map_weights is not None:
            outputs.append(F.conv2d(last_map, self.map_weights))
        return tuple(outputs)


class Resize(nn.Module):
    """What `Preprocess.pixels` does, by operations of ONNX: (N, H, W, 3) uint8 -> (N, 3, size, size) float32."""

    def __init__(self, preprocess: Preprocess):
        super().__init__()
        self.preprocess = preprocess

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        preprocess = self.preprocess
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
        return x.float()


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


def exported(module: nn.Module, example: Tensor, dynamic: dict[int, str], names: list[str]) -> onnx.ModelProto:
    """Return a module of one input, which is called names[0], as its outputs are by the other names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's about itself
        program = torch.onnx.export(
            module.eval().requires_grad_(False),
            (example,),
            dynamo=True,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_shapes=(dynamic,),
            verbose=False,
        )
    model = program.model_proto  # a new one each time
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")  # lines and folders of this machine, from which each came
    return model


def network_model(checkpoint: Checkpoint) -> onnx.ModelProto:
    """Return the network from "pixels", (N, 3, size, size) float32 in 0..255, to its outputs, weights in float32."""
    network, size = ExportedNetwork(checkpoint), checkpoint.preprocess.size
    return exported(network, torch.zeros(2, 3, size, size), {0: "pictures"}, ["pixels", *network.names])


def quantized(model: onnx.ModelProto, batches: Iterable[Tensor]) -> onnx.ModelProto:
    """Return a `network_model` whose layers before the last one compute with 8 bits.

    What the layers give for these pixels (N, 3, size, size) decides on the steps. Weights have 7 bits and steps of
    their own in each channel: processors without VNNI add pairs of products in 16 bits, which 8 bits would overflow.
    Those of depthwise convolutions, where each product is added in 32 bits, have 8: EfficientNet needs them.
    """
    from onnxruntime import quantization

    wanted, names, all_bits = {"logits"}, [], {}
    sizes = {values.name: list(values.dims) for values in model.graph.initializer}
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            names += [node.name] * (node.op_type in IN_8_BITS and "logits" not in node.output)
            if node.op_type == "Conv" and sizes.get(node.input[1], [0, 0])[1] == 1:
                all_bits[node.input[1]] = [{"axis": 0, "reduce_range": False}]

    class Reader(quantization.CalibrationDataReader):
        inputs = ({"pixels": pixels.float().numpy()} for pixels in batches)

        def get_next(self) -> dict | None:
            return next(self.inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model.SerializeToString())
        quantization.quantize_static(
            source,
            target,
            Reader(),
            op_types_to_quantize=IN_8_BITS,
            nodes_to_quantize=names,
            per_channel=True,
            reduce_range=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            extra_options={"TensorQuantOverrides": all_bits},
        )
        return onnx.load(target)


def shift_threshold(model: onnx.ModelProto, by: float) -> None:
    """Subtract a number from the output "unlike" of a `network_model`, in place."""
    (node,) = (node for node in model.graph.node if "unlike" in node.output)
    (threshold,) = (values for values in model.graph.initializer if values.name == node.input[1])
    threshold.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(threshold) + np.float32(by), threshold.name))


@lru_cache(1)
def resize_nodes(preprocess: Preprocess) -> onnx.GraphProto:
    """Return the graph from "picture", (N, H, W, 3) uint8, to "pixels"; images of the right size pass unchanged."""
    example = torch.zeros(2, 40, 50, 3, dtype=torch.uint8)  # its size does not matter
    dynamic = {0: "pictures", 1: "height", 2: "width"}
    graph = exported(Resize(preprocess), example, dynamic, ["picture", "resized"]).graph
    compose.add_prefix_graph(graph, "resize_", inplace=True, rename_inputs=False)
    del graph.input[:]
    text = """resize (uint8[pictures, height, width, 3] picture) => (float[pictures, 3, SIDE, SIDE] pixels)
        <int64[2] size = {SIDE, SIDE}> {
            sides = Shape <start = 1, end = 3> (picture)
            equal = Equal (sides, size)
            integers = Cast <to = 6> (equal)
            least = ReduceMin <keepdims = 0> (integers)
            ready = Cast <to = 9> (least)
            pixels = If (ready) <
                then_branch = pass () => (float[pictures, 3, SIDE, SIDE] passed) {
                    turned = Transpose <perm = [0, 3, 1, 2]> (picture)
                    passed = Cast <to = 1> (turned)
                },
                else_branch = resize () => (float resized) {resized = Identity (pixels)}  # in its place comes `graph`
            >
        }"""
    whole = parser.parse_graph(text.replace("SIDE", str(preprocess.size)))
    next(part for part in whole.node[-1].attribute if part.name == "else_branch").g.CopyFrom(graph)
    return whole


def onnx_bytes(model: onnx.ModelProto, checkpoint: Checkpoint, precision: str = "float32") -> bytes:
    """Return the content of an .onnx: a `network_model` behind the resize, and what the checkpoint knows."""
    model, resizing = onnx.ModelProto.FromString(model.SerializeToString()), resize_nodes(checkpoint.preprocess)
    graph, layers = model.graph, list(model.graph.node)
    del graph.node[:], graph.input[:]
    graph.input.extend(resizing.input)
    graph.initializer.extend(resizing.initializer)
    graph.node.extend([*resizing.node, *layers])
    content = checkpoints.content_of(replace(checkpoint, state_dict={}, resume={}, ood_stats={}))
    content |= {"named": checkpoint.named, "assumed": checkpoint.assumed}
    notes = {
        "classes": json.dumps(checkpoint.classes, ensure_ascii=False),
        "model": checkpoint.model,
        "size": str(checkpoint.preprocess.size),
        "resize": checkpoint.preprocess.resize,
        "sha256": hashlib.sha256(checkpoint.path.read_bytes()).hexdigest(),
        "precision": precision,
        "checkpoint": json.dumps(content),
    }
    del model.metadata_props[:]
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()
