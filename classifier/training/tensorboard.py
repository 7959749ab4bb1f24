"""What a run leaves in TensorBoard: `logs/<model>/<time>/train` and `.../val`.

Training and validation are two runs with the same tags, so their curves share a chart; so do those of other networks.
"""

import contextlib
import copy
import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from classifier.evaluation import plots

NAME = "events.out.tfevents"  # begins the names of the files; the second of their making follows, and orders them


class Records:
    """The two writers of one run.

    Args:
        folder: `logs/<model>/<time>`.
        step: number of training steps already recorded there; what comes after it goes.
        epochs: number of epochs already recorded there, likewise.
    """

    def __init__(self, folder: Path, step: int = 0, epochs: int | None = None):
        self.parts = [folder / "train", folder / "val"]
        for part in self.parts:
            _take_back(part, step, step if epochs is None else epochs)
        # the step at which a page that is open already drops what it shows: it does not look at old files again
        purge = step + 1 if any(part.is_dir() for part in self.parts) else None
        self.train, self.val = (SummaryWriter(str(part), purge_step=purge) for part in self.parts)
        threading.excepthook = _without_write_errors

    def beginning(self, network: nn.Module, settings: dict, seen: Tensor) -> None:
        """The settings, `seen` (N, 3, H, W) in 0..1: images as training sees them, and the network's graph."""
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
        """Validation images (N, 3, H, W) uint8 with what the network says and what is true."""
        wrong = [a != b for a, b in zip(predicted, truth, strict=True)]
        titles = [f"{a}\nis {b}" if a != b else a for a, b in zip(predicted, truth, strict=True)]
        self.val.add_figure("pictures/predictions", plots.contact_sheet(pixels, titles, wrong=wrong), epoch)

    def end(self, settings: dict, best: dict) -> None:
        """The settings beside the best epoch's scores, for the HPARAMS tab; closes the writers."""
        plain = {key: value if isinstance(value, (int, float, str)) else str(value) for key, value in settings.items()}
        scores = {"best/val accuracy": best["val"]["accuracy"], "best/val loss": best["val"]["loss"]}
        self.train.add_hparams(plain, scores, run_name=".")
        self.close()

    def flush(self) -> None:
        """Bring what is recorded to the disk: before each save, so that no saved step is without its points.

        Raises OSError where the disk is full or gone.
        """
        for writer, part in zip((self.train, self.val), self.parts, strict=True):
            writer.flush()
            descriptor = os.open((_files(part) or [part / NAME])[-1], os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Write out what is buffered. What a full disk does not take is told and left out: the weights matter more."""
        try:
            self.train.close()
            self.val.close()
        except OSError as error:
            print(f"{self.parts[0].parent} lacks the last curve points ({error.strerror or error}).", flush=True)


def new_folder(folder: Path) -> Path:
    """Make the folder `logs/<model>/<time>`; with -2, -3 ... behind its name where a run of that second has it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    names = (folder.with_name(f"{folder.name}-{i}") if i > 1 else folder for i in range(1, 1000))
    for place in names:
        with contextlib.suppress(FileExistsError):
            place.mkdir()
            return place
    raise FileExistsError(f"{folder} and 998 others are taken")


def _files(part: Path) -> list[Path]:
    """The event files, in the order in which TensorBoard reads them."""
    return sorted(part.glob(f"{NAME}.*"))


def _take_back(part: Path, step: int, epochs: int) -> None:
    """Remove what was recorded after the last save, which will come again, and let the files sort before a new one.

    TensorBoard's own way, a purge at a step, is not enough: on the charts by epoch, x is no step.
    """
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    validated: Counter[str] = Counter()  # points of validation, one per epoch, on the charts by step

    def stays(event: Event) -> bool:
        if event.HasField("graph_def") or event.HasField("tagged_run_metadata"):
            return step > 0
        for value in event.summary.value:
            kind = value.tag.split("/")[0]
            last = {"step": step, "epoch": epochs, "best": -1, "_hparams_": -1}.get(kind, epochs if step else -1)
            validated[value.tag] += part.name == "val" and kind == "step"
            if event.step > last or validated[value.tag] > epochs:
                return False
        return True

    files = _files(part)
    with contextlib.suppress(OSError):  # Windows changes no file that a page has open; its points then show twice
        for file in files:
            records = list(RawEventFileLoader(str(file)).Load())
            kept = [record for record in records if stays(Event.FromString(record))]
            if len(kept) < len(records):
                shorter = file.with_name(".shorter")  # a name that TensorBoard does not read
                with shorter.open("wb") as content:
                    writer = RecordWriter(content)
                    for record in kept:
                        writer.write(record)
                shorter.replace(file)
        # after a clock was set back, or within a second, a new file would sort before these
        if files and int(files[-1].name.split(".")[3]) >= int(time.time()):
            for place, file in enumerate(files):
                parts = file.name.split(".")
                file.rename(file.with_name(".".join([*parts[:3], f"{place:010d}", *parts[4:]])))


def _without_write_errors(failure: threading.ExceptHookArgs) -> None:
    """A writer's thread that meets a full disk ends; the next call raises what it met. No need to print it as well."""
    if not (issubclass(failure.exc_type, OSError) and type(failure.thread).__name__ == "_AsyncWriterThread"):
        threading.__excepthook__(failure)
