"""The networks that the page offers: which, in which order, loaded when, and what happens when files change."""

import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import SHIPPED, Checkpoint, Stated
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
from classifier.inference.predictor import build_predictor
from tests.tiny import Tiny
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


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_files_that_cannot_be_loaded_are_listed_with_the_reason(folder, tmp_path):
    good = save(folder / "good.pth", 10)
    (folder / "damaged.pth").write_bytes(good.read_bytes()[:3000])
    (folder / "code.pth").write_bytes(pickle.dumps(Hostile(), protocol=2))
    (folder / "broken.pth").symlink_to(folder / "nothing") if os.name != "nt" else (folder / "broken.pth").mkdir()
    content = torch.load(good, weights_only=True)
    content["state_dict"]["fc.bias"][0] = torch.nan
    torch.save(content, folder / "nan.pth")
    listed = {name: title for title, name in models(folder).titles(Translator())}
    assert listed.pop("good") == "good: not tested"
    expected = {
        "damaged": "damaged.pth is damaged", "code": "code.pth carries pickled Python code",
        "broken": "broken.pth ", "nan": "nan.pth holds weights that are not numbers",
    }  # fmt: skip
    assert listed.keys() == expected.keys()
    for name, reason in expected.items():
        assert listed[name].startswith(reason) and str(tmp_path) not in listed[name]
    assert models(folder).best() == "good" and not (tmp_path / "executed").exists()


def test_weights_from_elsewhere_keep_their_name_and_are_listed_once(folder, tmp_path):
    save(folder / "run.pth", 100)
    elsewhere = save(tmp_path / "elsewhere" / "run.pth", 200)
    found = models(folder, elsewhere)
    assert list(found.found()) == [(folder / "run.pth").as_posix(), "run"]
    assert found.best() == "run" and found.get("run").checkpoint.path == elsewhere
    assert list(models(folder, folder / ".." / "module" / "run.pth").found()) == ["run"]


@pytest.mark.parametrize(
    ("files", "best"),
    [
        ({"plain": None, OURS: {}}, OURS),  # a plain state_dict does not say which classes
        ({"a": {"scores": scored(0.99, part="val")}, "b": {"scores": scored(0.9)}}, "a"),
        ({"a": {"scores": scored(1.0, 20)}, "b": {"scores": scored(0.97)}}, "b"),  # 20 images promise little
        ({"a": {}, "b": {"scores": scored(0.6)}}, "b"),
        ({"a": {"kind": "drawings", "scores": scored(1.0)}, "b": {"scores": scored(0.6)}}, "b"),
        ({"own": {"scores": scored(0.8, part="val")}, OURS: {"scores": scored(0.98)}}, "own"),
        ({"drawn": {"kind": "drawings", "scores": scored(0.99)}, OURS: {"scores": scored(0.98)}}, OURS),
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


def test_without_weights_the_error_says_what_to_do(folder, tmp_path):
    folder.mkdir()
    (folder / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pth is"):
        models(folder).best()
    save(folder / "zebra.pth")
    with pytest.raises(UserError, match=r"missing\.pth does not exist") as caught:
        models(folder, folder / "missing.pth").get("missing")
    sentence = Translator().error(caught.value)
    assert "Near it: text.pth, zebra.pth." in sentence and str(tmp_path) not in sentence


def test_a_network_answers_as_its_file_says_and_is_loaded_once(folder):
    path = save(folder / "run.pth")
    found = models(folder)
    with ThreadPoolExecutor(8) as pool:
        loaded = set(map(id, pool.map(lambda _: found.get("run"), range(16))))
    assert loaded == {id(found.get("run"))}
    expected = build_predictor(checkpoints.load(path), select_compute("cpu", "fp32"))(PIXELS).logits
    torch.testing.assert_close(answer(found.get("run")), expected)
    assert found.get("run").checkpoint.classes == ["cat", "dog"] and not found.get("run").checkpoint.state_dict


def test_a_file_that_is_replaced_is_loaded_again_and_requests_under_way_finish(folder):
    path = save(folder / "run.pth", 100, seed=0)
    found = models(folder)
    before = found.get("run")
    old = answer(before)
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


def test_a_network_of_ones_own_needs_no_more_than_forward(folder, monkeypatch):
    class Own(nn.Linear):
        def forward(self, x):
            return super().forward(x.mean((2, 3)))

    monkeypatch.setitem(MODELS, "tiny", lambda num_classes=1000: Own(3, num_classes))
    save(folder / "run.pth")
    prediction, maps = models(folder).get("run").predict(PIXELS)
    assert prediction.logits.shape == (1, 2) and not maps.any()


def test_a_network_that_fails_at_its_first_answer_is_one_sentence(folder, monkeypatch):
    class Failing(Tiny):
        def forward_head(self, features):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nat a thousand places")

    monkeypatch.setitem(MODELS, "tiny", Failing)
    save(folder / "run.pth")
    with pytest.raises(UserError, match=r"run\.pth cannot be used here \(mat1 and mat2 .* multiplied\)\.$"):
        models(folder).get("run")


def test_what_the_command_line_says_is_said_of_the_first_only(folder, tmp_path):
    folder.mkdir()
    for path in (tmp_path / "first.pth", folder / "other.pth"):
        torch.save({"model": Tiny(2).state_dict()}, path)
    stated = Stated(image_size=64, classes="cat,dog")
    found = Models(folder, tmp_path / "first.pth", "cpu", "fp32", stated)
    assert {name: (one.preprocess.size, one.classes) for name, one in found.found().items()} == {
        "first": (64, ["cat", "dog"]),
        "other": (224, ["class 0", "class 1"]),
    }
    assert found.get("first").checkpoint.classes == ["cat", "dog"]
