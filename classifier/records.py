"""What a run leaves in TensorBoard: `logs/<model>/<time>/train` and `.../val`.

Training and validation are two runs with the same tags, so their curves share a chart; so do those of other networks.
"""

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from classifier import plots


class Records:
    """The two writers of one run.

    Args:
        folder: `logs/<model>/<time>`.
        step: number of training steps already recorded there; what comes after it is replaced.
    """

    def __init__(self, folder: Path, step: int = 0):
        purge = step + 1 if step else None
        self.train = SummaryWriter(str(folder / "train"), purge_step=purge)
        self.val = SummaryWriter(str(folder / "val"), purge_step=purge)

    def beginning(self, network: nn.Module, settings: dict, seen: Tensor) -> None:
        """The settings, `seen` (N, 3, H, W) in 0..1: pictures as training sees them, and the network's graph."""
        table = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
        self.train.add_text("settings", f"| setting | value |\n| --- | --- |\n{table}")
        self.train.add_image("pictures/augmented", make_grid(seen[:32].cpu(), nrow=8))
        with warnings.catch_warnings():  # the tracer that draws the graph warns of its own future
            warnings.simplefilter("ignore")
            self.train.add_graph(copy.deepcopy(network).cpu().eval(), torch.zeros(1, *seen.shape[1:]))

    def step(self, step: int, loss: float, accuracy: float, learning_rate: float) -> None:
        """One training step."""
        self.train.add_scalar("step/loss", loss, step)
        self.train.add_scalar("step/accuracy", accuracy, step)
        self.train.add_scalar("step/learning rate", learning_rate, step)

    def epoch(self, epoch: int, step: int, entry: dict) -> None:
        """One epoch; `entry` is what the .pth keeps of it. Validation goes on the charts by step as well."""
        for writer, part in ((self.train, "train"), (self.val, "val")):
            for name in ("loss", "accuracy"):
                writer.add_scalar(f"epoch/{name}", entry[part][name], epoch)
        for name in ("loss", "accuracy"):
            self.val.add_scalar(f"step/{name}", entry["val"][name], step)
        self.train.add_scalar("epoch/images per second", entry["images_per_second"], epoch)

    def predictions(self, epoch: int, pixels: Tensor, truth: Sequence[str], predicted: Sequence[str]) -> None:
        """Validation pictures (N, 3, H, W) uint8 with what the network says and what is true."""
        wrong = [a != b for a, b in zip(predicted, truth, strict=True)]
        titles = [f"{a}\nis {b}" if a != b else a for a, b in zip(predicted, truth, strict=True)]
        self.val.add_figure("pictures/predictions", plots.contact_sheet(pixels, titles, wrong=wrong), epoch)

    def end(self, settings: dict, best: dict) -> None:
        """The settings beside the best epoch's scores, for the HPARAMS tab; closes the writers."""
        plain = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}
        scores = {"best/val accuracy": best["val"]["accuracy"], "best/val loss": best["val"]["loss"]}
        self.train.add_hparams(plain, scores, run_name=".")
        self.close()

    def close(self) -> None:
        """Write out what is buffered."""
        self.train.close()
        self.val.close()
