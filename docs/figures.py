"""Make the figures and the numbers of how-it-works.md and how-it-works.zh-CN.md.

    python -m docs.figures              into docs/how-it-works/, and prints the numbers
    python -m docs.figures FOLDER       into another folder, to compare

Expected: what docs/how-it-works/numbers.json says, on another machine about the same; 11 minutes of one core.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor, nn

from classifier import checkpoint
from classifier.data.transforms import CROP_MARGIN, resize_batch
from classifier.evaluation.plots import COLORS, FAINT, INK, styled
from docs import experiments
from docs.drawings import draw
from docs.experiments import BLOCKS, OPTIONS, RATES, SEEDS, SIZE, STARTS, drawings, normalize
from resnet import resnet18
from zoo import MODELS
from zoo.table import layer_table

REPOSITORY = Path(__file__).resolve().parents[1]
# layers that the size formula is tried on, one of each sort
SIZED = (
    ("resnet18", "conv1"), ("resnet18", "maxpool"), ("resnet18", "layer1.0.conv1"), ("resnet18", "layer2.0.conv1"),
    ("resnet18", "layer2.0.downsample.0"), ("alexnet", "features.0"), ("alexnet", "features.2"),
    ("vgg16", "features.4"), ("googlenet", "maxpool1"),
)  # fmt: skip
SEEN = ("conv1", "layer1", "layer2", "layer3")  # parts of ResNet-18 whose middle value sits on pixel MIDDLE of 224
MIDDLE = 112


def sizes() -> list[list[float]]:
    """A row per layer: side of its input, kernel, stride, padding, (W - K + 2P) / S + 1, side of its output."""
    rows = {}

    def note(key: tuple[str, str], layer: nn.Module, x: Tensor, output: Tensor) -> None:
        values = (layer.kernel_size, layer.stride, layer.padding)
        kernel, stride, padding = (value if isinstance(value, int) else value[0] for value in values)
        side = x.shape[-1]
        rows[key] = [side, kernel, stride, padding, (side - kernel + 2 * padding) / stride + 1, output.shape[-1]]

    with torch.device("meta"):  # shapes without numbers
        networks = {model: MODELS[model]().eval() for model, _ in SIZED}
        for key in SIZED:
            layer = networks[key[0]].get_submodule(key[1])
            layer.register_forward_hook(lambda layer, x, output, key=key: note(key, layer, x[0], output))
        for network in networks.values():
            network(torch.zeros(1, 3, 224, 224))
    return [rows[key] for key in SIZED]


def fields() -> list[int]:
    """The receptive field of each part in SEEN, by the formula."""
    rows = layer_table(resnet18(), 224)
    return [max(row.receptive_field for row in rows if row.name.startswith(name)) for name in SEEN]


def seen(network: nn.Module, x: Tensor) -> list[Tensor]:
    """For each part in SEEN, (224, 224): how much the middle of its map depends on each pixel.

    That is the gradient of the middle value, all channels added; its size, averaged over images and colours.
    """
    middles = []
    for name in SEEN:
        network.get_submodule(name).register_forward_hook(
            lambda _, x, output: middles.append(output[:, :, output.shape[2] // 2, output.shape[3] // 2].sum())
        )
    network.eval().forward_features(x.requires_grad_())
    return [torch.autograd.grad(middle, x, retain_graph=True)[0].abs().mean((0, 1)) for middle in middles]


def side_of_most(gradient: Tensor, share: float = 0.9) -> int:
    """Side of the smallest square around the middle that holds this share of the gradient."""
    away = (torch.arange(len(gradient)) - MIDDLE).abs()
    rings = torch.bincount(torch.maximum(away[:, None], away).flatten(), gradient.flatten())
    return 2 * int((rings.cumsum(0) < share * rings.sum()).sum()) + 1


# ---- figures


def tidy(axes: Axes, title: str, **labels: str) -> None:
    """Title on the left, no frame, faint lines to read values by."""
    axes.set_title(title, loc="left")
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)


def band(axes: Axes, values: np.ndarray, color: str, **options) -> None:
    """(seeds, steps): the mean as a line, lowest to highest as a band."""
    steps = range(1, values.shape[1] + 1)
    axes.fill_between(steps, values.min(0), values.max(0), color=color, alpha=0.25, lw=0)
    axes.plot(steps, values.mean(0), color=color, lw=1.8, **options)


@styled()
def receptive_figure(fresh: list[Tensor], trained: list[Tensor]) -> Figure:
    """What the middle value of four maps sees, and the square of the formula around it."""
    figure = Figure(figsize=(8.8, 4.7), layout="constrained")
    panels = figure.subplots(2, len(SEEN))
    for row, gradients, name in zip(panels, (fresh, trained), ("fresh weights", "trained weights"), strict=True):
        row[0].set_ylabel(name, fontsize=11)
        for axes, gradient, field in zip(row, gradients, fields(), strict=True):
            shown = (gradient / gradient.max()).sqrt()  # the root, so that faint parts show
            axes.imshow(shown.numpy(), cmap="inferno")
            corner = MIDDLE - field / 2
            axes.add_patch(Rectangle((corner, corner), field, field, fill=False, color="white", lw=1))
            axes.set(xticks=[], yticks=[])
    for axes, layer, field in zip(panels[0], SEEN, fields(), strict=True):
        axes.set_title(f"{layer}: {field} x {field}", loc="left")
    return figure


@styled()
def edge_figure() -> Figure:
    """A drawing, its changes to the right and downwards, and the length of both together."""
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    image = torch.from_numpy(np.array(draw("test", "cat", 1).convert("L"))) / 255
    right, down = F.conv2d(image[None, None], torch.stack([sobel, sobel.T])[:, None], padding=1)[0]
    figure = Figure(figsize=(8.8, 2.5), layout="constrained")
    panels = [
        (image, "gray", 0, 1, "image"),
        (right, "RdBu", -2, 2, "change to the right"),
        (down, "RdBu", -2, 2, "change downwards"),
        ((right**2 + down**2).sqrt(), "gray", 0, 2, "both together"),
    ]
    for axes, (values, colors, low, high, title) in zip(figure.subplots(1, 4), panels, strict=True):
        axes.imshow(values.numpy(), cmap=colors, vmin=low, vmax=high)
        axes.set_title(title, loc="left")
        axes.axis("off")
    return figure


@styled()
def batch_norm_figure(pixels: Tensor) -> Figure:
    """Three channels of ResNet-18's first convolution before and after batch norm, and the variance that it keeps."""
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(64)
    with torch.no_grad():
        before = resnet18().conv1(normalize(pixels))
        after = bn(before)
        bn.reset_running_stats()
        kept = [bn.running_var.clone()]
        for _ in range(60):
            bn(before[torch.randperm(len(before))[:16]])
            kept.append(bn.running_var.clone())
    variance = before.var((0, 2, 3))
    channels = variance.argsort()[[0, 40, 63]]  # the narrowest, a middling one and the widest

    figure = Figure(figsize=(8.8, 2.8), layout="constrained")
    panels = figure.subplots(1, 3)
    for channel, color in zip(channels, COLORS, strict=False):
        for axes, maps in zip(panels, (before, after), strict=False):
            bins = np.linspace(-4, 4, 81)
            axes.hist(maps[:, channel].flatten().numpy(), bins, density=True, histtype="step", color=color, lw=1.5)
        panels[2].plot((torch.stack(kept)[:, channel] / variance[channel]).numpy(), color=color, lw=1.8)
    panels[2].axhline(1, color=FAINT, lw=1)
    tidy(panels[0], "before batch norm", xlabel="value", ylabel="density")
    tidy(panels[1], "after", xlabel="value")
    tidy(panels[2], "running variance / variance", xlabel="batches", yscale="log")
    panels[2].yaxis.set_major_formatter("{x:g}")
    return figure


@styled()
def residual_figure(gradients: dict, losses: dict[str, np.ndarray]) -> Figure:
    """Gradients over the layers for three ways to start, and the loss of the first steps with batch norm.

    Args:
        gradients: start -> kind -> (seeds, layers). losses: kind -> (seeds, steps).
    """
    figure = Figure(figsize=(8.8, 5.4), layout="constrained")
    panels = figure.subplots(2, 2).flatten()
    for kind, color in zip(BLOCKS, COLORS, strict=False):
        for axes, start in zip(panels, STARTS, strict=False):
            band(axes, gradients[start][kind], color, label=kind)
            tidy(axes, start, xlabel="layer", ylabel="gradient / weights", yscale="log")
        smooth = np.apply_along_axis(np.convolve, 1, losses[kind], np.ones(5) / 5, "valid")  # single batches jump
        band(panels[3], smooth, color, label=kind)
    tidy(panels[3], "batch norm, training", xlabel="step", ylabel="loss, mean of 5 steps")
    panels[0].legend(frameon=False)
    return figure


@styled()
def training_figure(accuracies: dict[str, np.ndarray]) -> Figure:
    """Test accuracy over the epochs: each measure against none of them. Name -> (seeds, epochs)."""
    figure = Figure(figsize=(8.8, 4.8), layout="constrained")
    panels = figure.subplots(2, 3, sharey=True).flatten()
    none, *names = accuracies
    for axes, name in zip(panels, names, strict=False):
        band(axes, 100 * accuracies[none], FAINT)
        band(axes, 100 * accuracies[name], COLORS[0])
        tidy(axes, name, xlabel="epoch")
    for axes in panels[::3]:
        axes.set_ylabel("test accuracy, %")
    panels[5].axis("off")
    for i, (text, color) in enumerate([("none of them", FAINT), ("with it", COLORS[0]), ("lines: mean of 3 seeds", INK),
                                       ("bands: lowest to highest", INK)]):  # fmt: skip
        panels[5].text(0.05, 0.8 - 0.15 * i, text, color=color, transform=panels[5].transAxes)
    return figure


def save(figure: Figure, path: Path) -> None:
    """A PNG of at most 64 colours, which makes it small."""
    figure.savefig(path, dpi=100)
    Image.open(path).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


# ---- sections: each writes its figures and returns its tables


def see(folder: Path) -> dict[str, list]:
    """Sizes and receptive fields."""
    x = normalize(drawings("test", 8, 224)[0])
    torch.manual_seed(0)
    fresh = seen(resnet18(), x)
    trained = seen(checkpoint.load(REPOSITORY / "module" / "catdog-resnet18.pth").network(), x)
    save(receptive_figure(fresh, trained), folder / "receptive-field.png")
    squares = [[side_of_most(gradient) for gradient in gradients] for gradients in (fresh, trained)]
    return {"sizes": sizes(), "fields": [list(row) for row in zip(fields(), *squares, strict=True)]}


def shortcuts(folder: Path, pixels: Tensor, labels: Tensor) -> dict[str, list]:
    """Plain against residual networks of 34 layers, on (N, 3, S, S) uint8 images."""
    x = normalize(resize_batch(pixels, SIZE))
    gradients = {start: {} for start in STARTS}
    losses = {rate: {} for rate in RATES}
    for kind, block in BLOCKS.items():
        for start in STARTS:
            networks = (experiments.thirty_four_layers(block, start, seed) for seed in SEEDS)
            found = [experiments.gradients(network, x[:64], labels[:64]) for network in networks]
            gradients[start][kind] = np.array(found)
        for rate in RATES:
            losses[rate][kind] = np.array([experiments.losses(block, rate, seed, x, labels) for seed in SEEDS])
    save(residual_figure(gradients, losses[RATES[0]]), folder / "residual.png")
    tables = {"gradients": [], "losses": []}
    for start in STARTS:
        tables["gradients"].append([value for kind in BLOCKS for value in gradients[start][kind].mean(0)[[0, -1]]])
    for rate in RATES:
        ends = [losses[rate][kind][:, -10:].mean(1) for kind in BLOCKS]  # of each seed
        tables["losses"].append([value for end in ends for value in (end.mean(), end.min(), end.max())])
    return tables


def measures(folder: Path, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> dict[str, list]:
    """What each measure against learning by heart does to a small training."""
    accuracies, rows = {}, []
    for name, options in OPTIONS.items():
        runs = [experiments.train_small(train, test, seed, **options) for seed in SEEDS]
        accuracies[name] = found = np.array([run["accuracies"] for run in runs])
        last, swing = found[:, -1], found[:, -5:].std(1).mean()
        others = [np.mean([run[key] for run in runs]) for key in ("loss", "by heart")]
        rows.append([last.mean(), last.min(), last.max(), swing, *others])
    save(training_figure(accuracies), folder / "training.png")
    return {"training": rows}


def main() -> None:
    """Make and measure everything."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "how-it-works"
    folder.mkdir(parents=True, exist_ok=True)
    train, test = drawings("train", 384, round(SIZE * CROP_MARGIN)), drawings("test", 400, SIZE)
    few = [values[:192] for values in train]
    save(edge_figure(), folder / "edges.png")
    save(batch_norm_figure(few[0]), folder / "batch-norm.png")
    tables = {}
    for section in (lambda: see(folder), lambda: shortcuts(folder, *few), lambda: measures(folder, train, test)):
        found = section()
        tables |= found
        print(json.dumps(found, indent=1, default=float), flush=True)
    text = json.dumps(tables, indent=1, default=float)
    (folder / "numbers.json").write_text(text + "\n", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
