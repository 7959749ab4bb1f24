"""What a network says of one uploaded image or of many, for the page and for programs."""

import csv
import io
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from classifier.cli import UserError, no_formula
from classifier.data.formats import ImageError
from classifier.data.images import load_image
from classifier.inference.cam import overlay
from classifier.inference.predictor import Prediction
from classifier.prediction import sources
from webui.models import Loaded

MAX_IMAGES = 500  # at once
MAX_IMAGE_MB, MAX_ZIP_MB = 20, 500  # of one upload; the page states both, and script.js checks them before sending
NEITHER = "neither"  # in place of a class, for programs, spreadsheets and feedback
MAX_CAMS = 5  # most probable classes with a class activation map, which the page shows; programs get all classes
BATCH_SIZE = 32
CLEAR_MARGIN = 0.2  # in probability, of the first class over the second: with two classes, 60 to 40


class Upload(NamedTuple):
    """A file in Gradio's upload folder, and what the visitor calls it."""

    path: str
    name: str


@dataclass
class Answer:
    """What a network says of one image."""

    probabilities: dict[str, float]  # by class, the most probable first
    is_ood: bool  # unlike the training images, so none of the classes
    thumbnail: Image.Image | None
    cams: dict[str, bytes] = field(default_factory=dict)  # by class, PNGs to lay over the image
    seconds: float = 0.0

    @property
    def best(self) -> str:
        """The most probable class."""
        return next(iter(self.probabilities))

    @property
    def verdict(self) -> str:
        """ "sure", "not sure" or "neither"."""
        if self.is_ood:
            return NEITHER
        first, second = [*self.probabilities.values(), 0.0][:2]
        return "sure" if first >= 0.5 and first - second >= CLEAR_MARGIN else "not sure"

    @property
    def label(self) -> str:
        """The answer: a class, or "neither"."""
        return NEITHER if self.is_ood else self.best

    def to_json(self) -> dict:
        """Return what programs get: {"label": "cat", "verdict": "sure", "confidences": [{"label": ...}, ...], ...}.

        Of an image that is "neither", the confidences are what they would be if it were one of the classes.
        """
        confidences = [{"label": label, "confidence": value} for label, value in self.probabilities.items()]
        timing = {"milliseconds": round(1000 * self.seconds, 1)}
        return {"label": self.label, "verdict": self.verdict, "confidences": confidences} | timing


Row = tuple[str, Answer | UserError]  # an image's name, and the answer or why there is none


def classify(loaded: Loaded, path: str, thumbnail: int = 0) -> Answer:
    """Return the answer to one image with activation maps, and a copy of at most `thumbnail` pixels a side (0: none).

    Raises ImageError where the image cannot be read.
    """
    start = time.perf_counter()
    size, pixels, small = _open(loaded, path, thumbnail)
    prediction, maps = loaded.predict(pixels.unsqueeze(0).to(loaded.compute.device))
    answer, classes = _answer(loaded, prediction, 0, small), loaded.checkpoint.classes
    for name in itertools.islice(answer.probabilities, MAX_CAMS):
        answer.cams[name] = overlay(maps[0, classes.index(name)], loaded.checkpoint.preprocess, size)
    answer.seconds = time.perf_counter() - start
    return answer


def classify_many(loaded: Loaded, uploads: Sequence[Upload], thumbnail: int = 0) -> Iterator[list[Row]]:
    """Yield rows for each upload and each image in a zip, some at a time, in their order; at most MAX_IMAGES + 1."""
    names, images, unusable = dict(uploads), [], {}
    for path in (upload.path for upload in uploads):
        try:
            images += sources.find_images([path])[0].values()
        except UserError as error:  # a zip without images, or a damaged one
            images.append(sources.UnlabelledImage(path, path))
            unusable[path] = error

    def read(source: str | bytes) -> tuple[Tensor, Image.Image | None, float]:
        start = time.perf_counter()
        if source in unusable:
            raise unusable[source]
        check_size(source)
        return *_open(loaded, source, thumbnail)[1:], time.perf_counter() - start

    for batch in sources.load_batches(images[: MAX_IMAGES + 1], read, BATCH_SIZE, workers=2):
        readable = [found[0] for _, found in batch if not isinstance(found, UserError)]
        start = time.perf_counter()
        if readable:
            prediction, _ = loaded.predict(torch.stack(readable).to(loaded.compute.device))
            seconds = (time.perf_counter() - start) / len(readable)
        index, rows = itertools.count(), []
        for image, found in batch:
            if not isinstance(found, UserError):
                _pixels, small, decoding = found
                found = _answer(loaded, prediction, next(index), small)
                found.seconds = decoding + seconds
            rows.append((names[image.file] + image.name.removeprefix(image.file), found))
        yield rows


def to_csv(rows: Sequence[Row], classes: Sequence[str]) -> str:
    """Return rows for a spreadsheet: file, answer, probability of each class, note."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(("file", "answer", *map(no_formula, classes), "note"))
    for name, answer in rows:
        if isinstance(answer, UserError):
            writer.writerow((no_formula(name), "", *[""] * len(classes), str(answer)))
            continue
        notes = {NEITHER: f"unlike the training images; if it were one of the classes: {answer.best}", "sure": ""}
        probabilities = (f"{answer.probabilities[name]:.5g}" for name in classes)
        note = notes.get(answer.verdict, answer.verdict)
        writer.writerow((no_formula(name), no_formula(answer.label), *probabilities, note))
    return "\ufeff" + file.getvalue()


def check_size(source: str | bytes) -> None:
    """Raise ImageError for an image, as a path or as bytes, that is larger than MAX_IMAGE_MB."""
    if (len(source) if isinstance(source, bytes) else Path(source).stat().st_size) > MAX_IMAGE_MB << 20:
        raise ImageError("is larger than {limit} MB, the most for one image", limit=MAX_IMAGE_MB)


def _open(loaded: Loaded, source: str | bytes, thumbnail: int) -> tuple[tuple, Tensor, Image.Image | None]:
    """Return the size of the upright image, its pixels (3, H, W) for the network, and the small copy."""
    preprocess = loaded.checkpoint.preprocess
    image = load_image(source, preprocess.size)
    size, pixels = image.size, preprocess.pixels(image)
    if thumbnail:
        image.thumbnail((thumbnail, thumbnail))
    return size, pixels, image if thumbnail else None


def _answer(loaded: Loaded, prediction: Prediction, index: int, thumbnail: Image.Image | None) -> Answer:
    probabilities = zip(loaded.checkpoint.classes, prediction.probabilities[index].tolist(), strict=True)
    return Answer(dict(sorted(probabilities, key=lambda item: -item[1])), bool(prediction.is_ood[index]), thumbnail)
