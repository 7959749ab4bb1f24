"""The networks that the page offers: which, in which order, loaded when, files that change; and images to try."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import SHIPPED, Checkpoint, Stated
from classifier.cli import UserError
from classifier.data import sample_set
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
from classifier.inference.predictor import build_predictor
from tests.conftest import make_images
from tests.tiny import Tiny
from webui.examples import examples, thumbnail
from webui.i18n import Translator
from webui.models import Models
from zoo import MODELS

PIXELS = torch.arange(192, dtype=torch.uint8).view(1, 3, 8, 8)
OURS = SHIPPED[0].removesuffix(".pth")


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Where the weights are: of a network small enough to be loaded a hundred times."""
    monkeypatch.setitem(MODELS, "tiny", Tiny)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "module"


def models(folder, first=None):
    return Models(folder, first, "cpu", "fp32")


def save(path, age=0, scores=None, kind="images", classes=("cat", "dog"), seed=0):
    """Save weights with a time of change `age` seconds ago."""
    torch.manual_seed(seed)
    weights = MODELS["tiny"](len(classes)).state_dict()
    checkpoint = Checkpoint("tiny", list(classes), Preprocess(size=8), weights, scores or {}, {"kind": kind})
    checkpoints.save(checkpoint, path)
    os.utime(path, (time.time() - age,) * 2)
    return path


def scored(accuracy, count=1000, part="test"):
    return {part: {"accuracy": accuracy, "count": count}}


def answer(loaded):
    return loaded.predict(PIXELS)[0].logits


def test_the_newest_come_first_with_their_scores_as_they_are_now(folder):
    save(folder / "old.pth", 300, scored(0.978, 2000) | scored(0.9, part="val"))
    save(folder / "middle.pth", 200, scored(0.924, 1500, "val"))
    save(folder / "new.pth", 100)
    save(folder / "drawn.pth", 50, scored(0.975, 120), kind="drawings")
    save(folder / "new.last.pth", 10)
    save(folder / "._new.pth", 5)  # as macOS leaves on other disks
    found = models(folder)
    assert [title for title, _ in found.titles(Translator())] == [
        "drawn: 97.5% accuracy on 120 test images (drawings)",
        "new: not tested",
        "middle: 92.4% accuracy on 1,500 validation images",
        "old: 97.8% accuracy on 2,000 test images",
    ]
    checkpoints.amend(folder / "new.pth", scores=scored(0.9))  # as evaluate.py does, which keeps the date
    assert found.titles(Translator())[1][0] == "new: 90.0% accuracy on 1,000 test images"


def test_files_that_cannot_be_loaded_are_listed_with_the_reason(folder, tmp_path):
    good = save(folder / "good.pth", 10)
    (folder / "damaged.pth").write_bytes(good.read_bytes()[:3000])
    (folder / "broken.pth").symlink_to(folder / "nothing") if os.name != "nt" else (folder / "broken.pth").mkdir()
    content = torch.load(good, weights_only=True)
    content["state_dict"]["fc.bias"][0] = torch.nan
    torch.save(content, folder / "nan.pth")
    listed = {name: title for title, name in models(folder).titles(Translator())}
    assert listed.pop("good") == "good: not tested"
    expected = {"damaged": "is damaged", "broken": "", "nan": "holds weights that are not numbers"}
    assert listed.keys() == expected.keys()
    for name, reason in expected.items():
        assert listed[name].startswith(f"{name}.pth {reason}") and str(tmp_path) not in listed[name]
    assert models(folder).best() == "good"
    good.rename(folder / "gold.txt")
    with pytest.raises(UserError, match=r"(damaged|broken|nan)\.pth "):
        models(folder).best()
    with pytest.raises(UserError, match=r"missing\.pth does not exist") as caught:
        models(folder, folder / "missing.pth").get("missing")
    sentence = Translator().error(caught.value)
    assert "Near it: " in sentence and str(tmp_path) not in sentence


def test_weights_from_elsewhere_keep_their_name_and_what_the_command_line_says_is_said_of_them_only(folder, tmp_path):
    save(folder / "run.pth", 100)
    for path in (tmp_path / "elsewhere" / "run.pth", folder / "other.pth"):
        path.parent.mkdir(exist_ok=True)
        torch.save({"model": Tiny(2).state_dict()}, path)
    found = Models(folder, tmp_path / "elsewhere" / "run.pth", "cpu", "fp32", Stated(image_size=64, classes="a,b"))
    assert {name: (one.preprocess.size, one.classes) for name, one in found.found().items()} == {
        "run": (64, ["a", "b"]),
        "other": (224, ["class 0", "class 1"]),
        (folder / "run.pth").as_posix(): (8, ["cat", "dog"]),
    }
    assert found.best() == "run" and found.get("run").checkpoint.classes == ["a", "b"]
    assert list(models(folder, folder / ".." / "module" / "run.pth").found()) == ["other", "run"]


@pytest.mark.parametrize(
    ("files", "best"),
    [
        ({"plain": None, OURS: {}}, OURS),  # a plain state_dict does not say which classes
        ({"a": {"scores": scored(1.0, 20)}, "b": {"scores": scored(0.97)}}, "b"),  # 20 images promise little
        ({"a": {}, "b": {"scores": scored(0.6)}}, "b"),
        ({"a": {"kind": "drawings", "scores": scored(1.0)}, "b": {"scores": scored(0.6)}}, "b"),
        ({"own": {"scores": scored(0.8, part="val")}, OURS: {"scores": scored(0.98)}}, "own"),
        ({"flowers": {"scores": scored(0.8), "classes": ("rose", "tulip")}, "cats": {"scores": scored(0.98)}},
         "flowers"),  # scores on other images say nothing of these
    ],
)  # fmt: skip
def test_the_best(files, best, folder):
    for age, (name, options) in enumerate(files.items()):
        path = save(folder / f"{name}.pth", age, **(options or {}))
        if options is None:
            torch.save(Tiny(2).state_dict(), path)
    assert models(folder).best() == best


def test_a_network_is_loaded_once_and_again_when_its_file_is_replaced_while_requests_under_way_finish(folder):
    path = save(folder / "run.pth", 100, seed=0)
    found = models(folder)
    with ThreadPoolExecutor(8) as pool:
        (before,) = {id(loaded): loaded for loaded in pool.map(lambda _: found.get("run"), range(16))}.values()
    old = answer(before)
    assert found.get("run") is before and not before.checkpoint.state_dict
    expected = build_predictor(checkpoints.load(path), select_compute("cpu", "fp32"))(PIXELS).logits
    torch.testing.assert_close(old, expected)
    save(path, 50, seed=1)
    assert not torch.equal(answer(found.get("run")), old)
    assert torch.equal(answer(before), old)
    path.write_bytes(path.read_bytes()[:3000])  # somebody is copying
    with pytest.raises(UserError, match=r"run\.pth is damaged"):
        found.get("run")
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="There is no model called run here"):
        found.get("run")


def test_no_name_is_a_path(folder, tmp_path):
    for path in (folder / "run.pth", folder / "run.last.pth", tmp_path / "secret.pth"):
        save(path)
    for name in ("../secret", "/etc/passwd", "module/run.pth", "run.pth", "run.last", "", "x" * 9999):
        with pytest.raises(UserError, match="There is no model called") as caught:
            models(folder).get(name)
        assert len(str(caught.value)) < 120


class Own(nn.Linear):
    """A network that has `forward` and no more; with more than two classes it fails."""

    def forward(self, x):
        if self.out_features > 2:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nat a thousand places")
        return super().forward(x.mean((2, 3)))


def test_a_network_of_ones_own_needs_no_more_than_forward_and_one_that_fails_is_one_sentence(folder, monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", lambda num_classes: Own(3, num_classes))
    save(folder / "run.pth")
    prediction, maps = models(folder).get("run").predict(PIXELS)
    assert prediction.logits.shape == (1, 2) and not maps.any()
    save(folder / "fails.pth", classes=("a", "b", "c"))
    with pytest.raises(UserError, match=r"fails\.pth cannot be used here \(mat1 and mat2 .* multiplied\)\.$"):
        models(folder).get("fails")


def examples_of(**data):
    return examples(Checkpoint("tiny", ["cat", "dog"], Preprocess(), {}, data=data))


def test_test_images_of_known_classes_alternate_as_examples_and_none_is_from_elsewhere(tmp_path, monkeypatch):
    assert examples_of() == []
    make_images(Path("dataset/test"), {"cat": 6, "dog": 6, "cow": 6})
    Path("dataset/test/cat/notes.txt").write_text("no image")
    assert thumbnail(Path("dataset/test/cat/notes.txt")).getpixel((0, 0)) == (128, 128, 128)
    assert [path.parent.name for path in examples_of()] == ["cat", "dog"] * 4
    make_images(Path("photos/test"), {"cat": 6, "dog": 6})
    assert [path.parts[0] for path in examples_of(root="photos")] == ["photos"] * 8  # what it was trained on
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    for root in (str(tmp_path / "photos"), "../photos", 7, None, "", "no\0where"):  # not from elsewhere
        assert examples_of(root=root) == []


def test_drawings_are_examples_for_networks_that_learned_drawings():
    """The first click is right: of a fresh clone, too, whose weights have learned photographs."""
    sample_set.unpack(Path("dataset/sample"))
    sample_set.unpack(Path("dataset"))
    assert examples_of() == examples_of(root="dataset", kind="pictures") == []
    drawn = examples_of(root="dataset/sample", kind="drawings")
    assert [path.parts[:3] for path in drawn] == [("dataset", "sample", "test")] * 8
    make_images(Path("dataset/test"), {"cat": 6, "dog": 6})
    assert len(examples_of()) == 8 and examples_of(root="elsewhere", kind="drawings") == []  # nor photographs for these
