"""The layers of a network as a table: output size, parameters, multiply-adds, receptive field.

The network is traced into a graph (torch.fx) and run once, so the table shows what happens in `forward`, shortcuts and
branches included.
"""

import argparse
import itertools
import math
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from zoo import MODELS, unknown

LINE = "{:<24}{:<20}{:>16}{:>14}{:>16}{:>17}"


@dataclass
class Row:
    """One layer, or the layers of one block."""

    name: str
    kind: str
    shape: tuple[int, ...] = ()  # of the output, without the batch dimension
    parameters: int = 0
    multiply_adds: int = 0
    receptive_field: int = 1  # side in image pixels of what one output value depends on


def layer_table(model: nn.Module, size: int) -> list[Row]:
    """Return a row for each layer or block that evaluation uses, in order of execution, for a (3, size, size) image."""
    graph = fx.symbolic_trace(model.eval())
    ShapeProp(graph).propagate(torch.zeros(1, 3, size, size))
    fields: dict[fx.Node, tuple[int, int]] = {}  # node -> (receptive field, image pixels from one value to the next)
    rows: dict[str, Row] = {}
    for node in graph.graph.nodes:
        if "tensor_meta" not in node.meta:  # a number, such as the height that padding depends on
            fields[node] = 1, 1
            continue
        # where branches meet (+, cat), an output value sees as much as the widest of them
        field, jump = max((fields[source] for source in node.all_input_nodes), default=(1, 1))
        shape = tuple(node.meta["tensor_meta"].shape[1:])
        before = tuple(node.all_input_nodes[0].meta["tensor_meta"].shape[1:]) if node.all_input_nodes else shape
        # the outermost block around the node; a plain nn.Sequential does not count as one
        around = [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]
        name = next((path for path in around if type(model.get_submodule(path)) is not nn.Sequential), "")
        if node.op == "call_module":
            layer = graph.get_submodule(node.target)
            kernel, stride = _window(layer, before[-1], shape[-1])
            field, jump = field + (kernel - 1) * jump, jump * stride
            row = rows.setdefault(name, Row(name, type(model.get_submodule(name)).__name__))
            row.parameters += sum(parameter.numel() for parameter in layer.parameters())
            if isinstance(layer, (nn.Conv2d, nn.Linear)):  # each weight is used once per output position
                row.multiply_adds += layer.weight.numel() * math.prod(shape[1:])
        elif node.target is torch.flatten:  # the linear layer after it sees all positions of the map at once
            field += (before[-1] - 1) * jump
        fields[node] = field, jump
        if name in rows:
            rows[name].shape, rows[name].receptive_field = shape, max(rows[name].receptive_field, field)
    return list(rows.values())


def _window(layer: nn.Module, before: int, after: int) -> tuple[int, int]:
    """Return a layer's kernel size and stride along one side, (1, 1) where it works on each value by itself."""
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return math.ceil(before / after), max(1, before // after)
    kernel, stride = getattr(layer, "kernel_size", 1), getattr(layer, "stride", 1)  # a side, or (side, side)
    return (kernel, stride) if isinstance(kernel, int) else (kernel[0], stride[0])


def render(name: str, rows: list[Row], size: int) -> str:
    """Return the table as text, with a line wherever the map gets smaller and the totals at the end."""
    header = LINE.format("layer", "kind", "output", "parameters", "multiply-adds", "receptive field")
    lines = [f"{name}, one {size} x {size} image", "", header]
    for _, part in itertools.groupby(rows, lambda row: row.shape[1:]):
        lines.append("-" * len(header))
        for row in part:
            shape = " x ".join(map(str, row.shape))
            counts = f"{row.parameters:,}", f"{row.multiply_adds:,}", row.receptive_field
            lines.append(LINE.format(row.name, row.kind, shape, *counts))
    totals = (f"{sum(getattr(row, what) for row in rows):,}" for what in ("parameters", "multiply_adds"))
    return "\n".join([*lines, "-" * len(header), LINE.format("total", "", "", *totals, "").rstrip()])


def main() -> None:
    """Run the command line of `python resnet.py` and `python -m zoo`."""
    parser = argparse.ArgumentParser(description="Print the layers of a network as a table.")
    parser.add_argument("model", nargs="?", default="resnet18", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels (default: 224)")
    name, size = vars(parser.parse_args()).values()
    if name not in MODELS:
        parser.error(unknown(name))
    network = MODELS[name]()
    if size < (smallest := getattr(network, "smallest", 1)):
        parser.error(f"--size is {size}; {name} needs images of at least {smallest} pixels")
    print(render(name, layer_table(network, size), size))
