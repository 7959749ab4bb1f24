"""What the network says of one image or of many, and where it looked."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image

from classifier.cli import UserError
from classifier.data.images import load_image
from classifier.inference.cam import overlay
from classifier.inference.predictor import Prediction
from classifier.prediction.sources import find_images, load_batches
from webui.models import Loaded
from webui.uploads import Upload

MANY = 500  # images at once
SHOWN = 5  # classes in an answer, each with its heat map; programs get all of them
BATCH = 32  # images at a time
CLEARLY = 0.2  # by which the first class has to be more probable than the second; with two classes, 60 to 40


@dataclass
class Answer:
    """What is known of one image."""

    probabilities: dict[str, float]  # of each class, the most probable first
    unlike: bool  # of none of the classes: unlike the images it learned from
    heat: dict[str, bytes]  # of the first classes, PNGs to lay over the image
    thumbnail: Image.Image | None = None
    seconds: float = 0.0

    @property
    def best(self) -> str:
        """The most probable class."""
        return next(iter(self.probabilities))

    @property
    def verdict(self) -> str:
        """sure, not sure, or neither."""
        first, second = [*self.probabilities.values(), 0.0][:2]
        if self.is_ood:
            return "neither"
        return "sure" if first >= 0.5 and first - second >= CLEARLY else "not sure"


def ask(loaded: Loaded, path: str, thumbnail: int = 0) -> Answer:
    """The answer to one image, with heat maps; `thumbnail`: longer side of a small copy, in pixels.

    Raises:
        ImageError: it cannot be read.
    """
    start = time.perf_counter()
    preprocess = loaded.checkpoint.preprocess
    image = load_image(path, preprocess.size)
    answers, maps = loaded.look(preprocess.pixels(image).unsqueeze(0).to(loaded.compute.device))
    answer = _answer(loaded, answers, 0)
    places = [loaded.checkpoint.classes.index(name) for name in list(answer.probabilities)[:SHOWN]]
    answer.heat = {
        loaded.checkpoint.classes[place]: overlay(maps[0, place], preprocess, image.size) for place in places
    }
    answer.seconds = time.perf_counter() - start
    answer.thumbnail = _small(image, thumbnail)
    return answer


def ask_many(loaded: Loaded, uploads: Sequence[Upload], thumbnail: int = 0) -> Iterator[list[tuple[str, Answer | str]]]:
    """(name, answer or why there is none) of each upload and each image in a zip, some at a time, in their order."""
    names = {upload.path: upload.name for upload in uploads}
    preprocess = loaded.checkpoint.preprocess

    def open_one(source: str | bytes) -> tuple[torch.Tensor, Image.Image | None]:
        image = load_image(source, preprocess.size)
        return preprocess.pixels(image), _small(image, thumbnail)

    images = []
    for upload in uploads:
        try:
            images += find_images([upload.path])[0].values()
        except UserError as error:  # a zip that is damaged, hostile or without images
            yield [(upload.name, str(error).removeprefix(f"{upload.path} ").removeprefix(f"{upload.path}: "))]
    for batch in load_batches(images, open_one, BATCH, workers=2):
        opened = [found for _, found in batch if not isinstance(found, UserError)]
        if opened:
            answers, _ = loaded.look(torch.stack([pixels for pixels, _ in opened]).to(loaded.compute.device))
        rows, place = [], 0
        for image, found in batch:
            name = names[image.file] + image.name.removeprefix(image.file)
            if isinstance(found, UserError):
                rows.append((name, str(found).removeprefix(f"{image.file} ").removeprefix(f"{image.file}: ")))
                continue
            answer = _answer(loaded, answers, place)
            answer.thumbnail = found[1]
            place += 1
            rows.append((name, answer))
        yield rows


def _answer(loaded: Loaded, answers: Prediction, place: int) -> Answer:
    probabilities = zip(loaded.checkpoint.classes, answers.probabilities[place].tolist(), strict=True)
    return Answer(dict(sorted(probabilities, key=lambda pair: -pair[1])), bool(answers.is_ood[place]), {})


def _small(image: Image.Image, side: int) -> Image.Image | None:
    if not side:
        return None
    image.thumbnail((side, side))
    return image
