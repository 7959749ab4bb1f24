"""The layers of a network as a table: output size, parameters, multiply-adds, receptive field.

The network is traced into a graph (torch.fx) and run once, so the table shows what happens in `forward`, shortcuts and
branches included.
"""

import argparse
import math
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from zoo import MODELS, unknown


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
    """Return a row for each layer, or for each block of layers, in the order of execution, for a (3, size, size) image.

    Parameters and multiply-adds add up to those of the network in evaluation mode; what only training uses (GoogLeNet's
    auxiliary classifiers) is not counted.
    """
    graph = fx.symbolic_trace(model.eval())
    ShapeProp(graph).propagate(torch.zeros(1, 3, size, size))
    fields: dict[fx.Node, tuple[int, int]] = {}  # node -> (receptive field, image pixels from one value to the next)
    rows: dict[str, Row] = {}
    for node in graph.graph.nodes:
        # where branches meet (+, cat), an output value sees as much as the widest of them
        field, jump = max((fields[source] for source in node.all_input_nodes), default=(1, 1))
        shape = tuple(node.meta["tensor_meta"].shape[1:])
        before = tuple(node.all_input_nodes[0].meta["tensor_meta"].shape[1:]) if node.all_input_nodes else shape
        name = _block_of(node, model)
        if node.op == "call_module":
            layer = graph.get_submodule(node.target)
            kernel, stride = _window(layer, before, shape)
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


def _block_of(node: fx.Node, model: nn.Module) -> str:
    """Return the name of the outermost block around a node; a plain nn.Sequential does not count as one."""
    names = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    names += [node.target] if node.op == "call_module" else []
    return next((name for name in names if name and type(model.get_submodule(name)) is not nn.Sequential), "")


def _window(layer: nn.Module, before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, int]:
    """Return a layer's kernel size and stride along one side, (1, 1) where it works on each value by itself."""
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        ratio = before[-1] / after[-1]
        return math.ceil(ratio), max(1, int(ratio))
    if isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride = (value if isinstance(value, int) else value[0] for value in (layer.kernel_size, layer.stride))
        return kernel, stride
    return 1, 1


def render(name: str, rows: list[Row], size: int) -> str:
    """Return the table as text, with a line wherever the map gets smaller and the totals at the end."""
    header = f"{'layer':<24}{'kind':<20}{'output':>16}{'parameters':>14}{'multiply-adds':>16}{'receptive field':>17}"
    lines = [f"{name}, one {size} x {size} image", "", header]
    side = None
    for row in rows:
        if row.shape[1:] != side:
            lines.append("-" * len(header))
            side = row.shape[1:]
        shape = " x ".join(map(str, row.shape))
        counts = f"{row.parameters:>14,}{row.multiply_adds:>16,}{row.receptive_field:>17}"
        lines.append(f"{row.name:<24}{row.kind:<20}{shape:>16}{counts}")
    parameters, multiply_adds = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    return "\n".join([*lines, "-" * len(header), f"{'total':<60}{parameters:>14,}{multiply_adds:>16,}"])


def main() -> None:
    """Run the command line of `python resnet.py` and `python -m zoo`."""
    parser = argparse.ArgumentParser(description="Print the layers of a network as a table.")
    parser.add_argument("model", nargs="?", default="resnet18", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels (default: 224)")
    parser.add_argument("--classes", type=int, default=1000, help="number of classes (default: 1000)")
    arguments = parser.parse_args()
    if arguments.model not in MODELS:
        parser.error(unknown(arguments.model))
    if arguments.classes < 1:
        parser.error(f"--classes is {arguments.classes}; it has to be at least 1")
    network = MODELS[arguments.model](num_classes=arguments.classes)
    smallest = getattr(network, "smallest", 1)
    if arguments.size < smallest:
        parser.error(f"--size is {arguments.size}; {arguments.model} needs images of at least {smallest} pixels")
    print(render(arguments.model, layer_table(network, arguments.size), arguments.size))
