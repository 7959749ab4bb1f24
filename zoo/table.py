"""The layers of a network as a table: output size, parameters, multiply-adds, receptive field.

The network is traced into a graph (torch.fx) and run once, so the table shows what really happens in `forward`,
shortcuts and branches included, and works for any network that can be traced.
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
    receptive_field: int = 1  # pixels of the image, along one side, that one output value can see


def layer_table(model: nn.Module, size: int) -> list[Row]:
    """What each layer does to one (3, size, size) image; the layers of a block are one row.

    Args:
        model: any network that torch.fx can trace and that takes (1, 3, size, size).
        size: the image's side in pixels.

    Returns:
        Rows in the order of execution. Parameters and multiply-adds add up to those of the network as it answers;
        what only training uses (GoogLeNet's auxiliary classifiers) is not among them.
    """
    graph = fx.symbolic_trace(model.eval())
    ShapeProp(graph).propagate(torch.zeros(1, 3, size, size))
    fields: dict[fx.Node, tuple[int, int]] = {}  # node -> (receptive field, image pixels from one value to the next)
    rows: dict[str, Row] = {}
    for node in graph.graph.nodes:
        # where branches meet (+, cat), an output value sees as much as the widest of them
        fields[node] = max((fields[source] for source in node.all_input_nodes), default=(1, 1))
        name = _row_of(node, model)
        if node.op == "call_module":
            layer = graph.get_submodule(node.target)
            before = _shape(node.all_input_nodes[0])
            fields[node] = _receptive_field(layer, fields[node], before, _shape(node))
            row = rows.setdefault(name, Row(name, type(model.get_submodule(name)).__name__))
            row.parameters += sum(parameter.numel() for parameter in layer.parameters())
            row.multiply_adds += _multiply_adds(layer, _shape(node))
        elif node.target is torch.flatten:  # the linear layer after it sees all places of the map at once
            field, jump = fields[node]
            fields[node] = field + (_shape(node.all_input_nodes[0])[-1] - 1) * jump, jump
        if name in rows:
            rows[name].shape = _shape(node)
            rows[name].receptive_field = max(rows[name].receptive_field, fields[node][0])
    return list(rows.values())


def _row_of(node: fx.Node, model: nn.Module) -> str:
    """The outermost block around a node, where a plain sequence of layers or blocks does not count as one."""
    stack = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
    names = [*stack, node.target] if node.op == "call_module" else stack
    return next((name for name in names if name and type(model.get_submodule(name)) is not nn.Sequential), "")


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["tensor_meta"].shape[1:])


def _receptive_field(
    layer: nn.Module, before: tuple[int, int], from_shape: tuple[int, ...], to_shape: tuple[int, ...]
) -> tuple[int, int]:
    """(field, jump) after a layer: field + (kernel - 1) * dilation * jump, jump * stride."""
    field, jump = before
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        ratio = from_shape[-1] / to_shape[-1]  # each output is the mean of so many values along one side, rounded up
        kernel, stride, dilation = math.ceil(ratio), max(1, int(ratio)), 1
    elif isinstance(layer, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        kernel, stride, dilation = (_side(getattr(layer, name, 1)) for name in ("kernel_size", "stride", "dilation"))
    else:
        return before
    return field + (kernel - 1) * dilation * jump, jump * stride


def _side(value: int | tuple[int, int]) -> int:
    return value if isinstance(value, int) else value[0]


def _multiply_adds(layer: nn.Module, shape: tuple[int, ...]) -> int:
    """A convolution has H * W * C_out * (C_in / groups) * k * k, a linear layer in * out, the rest next to none."""
    if isinstance(layer, nn.Conv2d):
        return shape[1] * shape[2] * layer.weight.numel()
    return layer.weight.numel() if isinstance(layer, nn.Linear) else 0


def render(name: str, rows: list[Row], size: int) -> str:
    """The table as text, with a line wherever the map gets smaller and the totals at the end."""
    header = f"{'layer':<24}{'kind':<20}{'output':>16}{'parameters':>14}{'multiply-adds':>16}{'receptive field':>17}"
    lines = [f"{name}, one {size} x {size} image", "", header]
    side = None
    for row in rows:
        if row.shape[1:] != side:
            lines.append("-" * len(header))
            side = row.shape[1:]
        shape = " x ".join(map(str, row.shape))
        field = str(row.receptive_field)
        lines.append(f"{row.name:<24}{row.kind:<20}{shape:>16}{row.parameters:>14,}{row.multiply_adds:>16,}{field:>17}")
    parameters, multiply_adds = (sum(getattr(row, key) for row in rows) for key in ("parameters", "multiply_adds"))
    lines += ["-" * len(header), f"{'total':<60}{parameters:>14,}{multiply_adds:>16,}"]
    return "\n".join(lines)


def main() -> None:
    """The command line of `python resnet.py` and `python -m zoo`."""
    parser = argparse.ArgumentParser(description="The layers of a network as a table.")
    parser.add_argument("model", nargs="?", default="resnet18", metavar="NAME", help=", ".join(MODELS))
    parser.add_argument("--size", type=int, default=224, help="the image's side in pixels (default: 224)")
    parser.add_argument("--classes", type=int, default=1000, help="number of classes (default: 1000)")
    arguments = parser.parse_args()
    for option in ("size", "classes"):
        if getattr(arguments, option) < 1:
            parser.error(f"--{option} is {getattr(arguments, option)}, but has to be at least 1")
    if arguments.model not in MODELS:
        parser.error(unknown(arguments.model))
    network = MODELS[arguments.model](num_classes=arguments.classes)
    smallest = getattr(network, "smallest", 1)
    if arguments.size < smallest:
        parser.error(f"--size is {arguments.size}; {arguments.model} needs images of at least {smallest} pixels")
    rows = layer_table(network, arguments.size)
    print(render(arguments.model, rows, arguments.size))
