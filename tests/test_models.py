"""The weights that the page offers: which, in which order, loaded when, and what becomes of those that change."""

import os
import pickle
import shutil
import threading
import time
from collections import Counter, OrderedDict
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import SHIPPED, Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.inference.predictor import build_predictor
from webui import models
from webui.models import Models
from webui.words import Speaker
from zoo import MODELS

CPU = Compute(torch.device("cpu"), torch.float32, torch.contiguous_format, "", "")
TEST = {"accuracy": 0.9, "count": 1000}


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """A network small enough to be loaded a hundred times, and no trials of formats."""

    def build(num_classes=1000):
        layers = OrderedDict(conv=nn.Conv2d(3, 4, 3), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(1))
        return nn.Sequential(layers | {"fc": nn.Linear(4, num_classes)})

    monkeypatch.setitem(MODELS, "tiny", build)
    monkeypatch.setattr(models, "select_compute", lambda *_: CPU)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "module"


@pytest.fixture
def reads(monkeypatch):
    """How often each file was read."""
    count, load = Counter(), checkpoints.load

    def counted(path):
        count[path.stem] += 1
        return load(path)

    monkeypatch.setattr(checkpoints, "load", counted)
    return count


def save(path, age=0, scores=None, kind="images", classes=("cat", "dog"), seed=0, size=8):
    """Weights written `age` seconds ago."""
    torch.manual_seed(seed)
    network = MODELS["tiny"](num_classes=len(classes))
    data = {"root": "dataset", "kind": kind, "train": 100}
    described = Checkpoint("tiny", list(classes), Preprocess(size=size), network.state_dict(), scores or {}, data)
    checkpoints.save(described, path)
    os.utime(path, (time.time() - age,) * 2)
    return path


def names(found):
    return [choice.name for choice in found.choices()]


def titles(found, say=Speaker()):  # noqa: B008
    return [choice.title(say) for choice in found.choices()]


def pixels(size=8):
    return torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)


# ------------------------------------------------------------------------------------------------------ the list


def test_choices_are_the_newest_first_with_their_scores(folder):
    save(folder / "old.pth", 300, {"test": {"accuracy": 0.978, "count": 2000}, "val": TEST})
    save(folder / "middle.pth", 200, {"val": {"accuracy": 0.924, "count": 1500}})
    save(folder / "new.pth", 100)
    save(folder / "drawn.pth", 50, {"test": {"accuracy": 0.975, "count": 120}}, kind="drawings")
    save(folder / "new.last.pth", 10)
    save(folder / "._new.pth", 5)  # as macOS leaves on other disks
    assert titles(Models(folder)) == [
        "drawn: 97.5% of 120 test images (drawings)",
        "new: not tested",
        "middle: 92.4% of 1,500 validation images",
        "old: 97.8% of 2,000 test images",
    ]


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


def test_files_that_cannot_be_loaded_are_listed_with_the_reason(folder, tmp_path):
    good = save(folder / "good.pth", 10)
    (folder / "damaged.pth").write_bytes(good.read_bytes()[:3000])
    (folder / "text.pth").write_text("no weights")
    (folder / "code.pth").write_bytes(pickle.dumps(Hostile(), protocol=2))
    (folder / "broken.pth").symlink_to(folder / "nothing") if os.name != "nt" else (folder / "broken.pth").mkdir()
    content = torch.load(good, weights_only=True)
    content["state_dict"]["fc.bias"][0] = torch.nan
    torch.save(content, folder / "nan.pth")
    found = Models(folder)
    problems = {choice.name: choice.problem for choice in found.choices()}
    assert problems.pop("good") == ""
    expected = {
        "damaged": "damaged.pth is damaged", "text": "text.pth is", "code": "code.pth carries pickled Python code",
        "broken": "broken.pth ", "nan": "nan.pth holds weights that are not numbers",
    }  # fmt: skip
    assert problems.keys() == expected.keys()
    for name, beginning in expected.items():
        assert problems[name].startswith(beginning), problems[name]
        with pytest.raises(UserError) as caught:
            found.get(name)
        assert str(caught.value) == problems[name]
    assert any(title.startswith("damaged.pth is damaged") for title in titles(found))
    assert found.best() == "good"
    assert not (tmp_path / "executed").exists()


def test_what_files_say_is_remembered_without_their_weights(folder, reads):
    save(folder / "a.pth", 100, {"test": TEST})
    save(folder / "b.pth", 50)
    found = Models(folder)
    for _ in range(3):
        found.choices()
    assert reads == {"a": 1, "b": 1}
    assert all(not choice.checkpoint.state_dict for choice in found.choices())
    checkpoints.amend(folder / "b.pth", scores={"test": TEST})  # as evaluate.py does, which leaves the date
    reads.clear()
    assert titles(found) == ["b: 90.0% of 1,000 test images", "a: 90.0% of 1,000 test images"]
    assert reads == {"b": 1}


def test_weights_from_elsewhere_keep_their_name_and_are_listed_once(folder, tmp_path):
    save(folder / "run.pth", 100)
    elsewhere = save(tmp_path / "elsewhere" / "run.pth", 200)
    found = Models(folder, elsewhere)
    assert names(found) == [(folder / "run.pth").as_posix(), "run"]
    assert found.best() == "run" and found.get("run").path == elsewhere
    assert names(Models(folder, folder / "run.pth")) == ["run"]
    assert names(Models(folder, folder / ".." / "module" / "run.pth")) == ["run"]


def test_strange_scores_are_no_scores(folder):
    for number, strange in enumerate([5, {"accuracy": "much"}, {"accuracy": 3.0, "count": 10}, {"accuracy": 0.5}]):
        save(folder / f"{number}.pth", number, {"test": strange})
    assert titles(Models(folder)) == [f"{number}: not tested" for number in range(4)]


# ------------------------------------------------------------------------------------------------------ the best


def scored(accuracy, count=1000, part="test"):
    return {part: {"accuracy": accuracy, "count": count}}


@pytest.mark.parametrize(
    ("files", "best"),
    [
        ({"a": {"scores": scored(0.9)}, "b": {"scores": scored(0.95)}, "c": {"scores": scored(0.8)}}, "b"),
        ({"a": {"scores": scored(0.99, part="val")}, "b": {"scores": scored(0.9)}}, "a"),
        ({"a": {"scores": scored(1.0, 20)}, "b": {"scores": scored(0.97)}}, "b"),  # 20 images promise little
        ({"a": {}, "b": {"scores": scored(0.6)}}, "b"),
        ({"a": {}, "b": {}}, "a"),
        ({"a": {"kind": "drawings", "scores": scored(1.0)}, "b": {"scores": scored(0.6)}}, "b"),
        ({"own": {"scores": scored(0.8, part="val")}, SHIPPED[:-4]: {"scores": scored(0.98)}}, "own"),
        ({"drawn": {"kind": "drawings", "scores": scored(0.99)}, SHIPPED[:-4]: {"scores": scored(0.98)}}, SHIPPED[:-4]),
        ({"flowers": {"scores": scored(0.8), "classes": ("rose", "tulip")}, "cats": {"scores": scored(0.98)}},
         "flowers"),  # scores on other images say nothing of these
    ],
)  # fmt: skip
def test_the_best(files, best, folder):
    for age, (name, options) in enumerate(files.items()):
        save(folder / f"{name}.pth", age, **options)
    assert Models(folder).best() == best


def test_a_plain_state_dict_comes_after_weights_that_name_their_classes(folder):
    save(folder / SHIPPED, 100)
    torch.save(MODELS["tiny"](num_classes=2).state_dict(), folder / "plain.pth")
    found = Models(folder)
    assert (names(found), found.best()) == (["plain", SHIPPED[:-4]], SHIPPED[:-4])


def test_without_weights_the_error_says_what_to_do(folder):
    with pytest.raises(UserError, match=r"module holds no \.pth yet\. Train a network first: python train\.py"):
        Models(folder.relative_to(folder.parent)).best()
    folder.mkdir()
    (folder / "text.pth").write_text("no weights")
    with pytest.raises(UserError, match=r"text\.pth is"):
        Models(folder).best()
    missing = Models(folder, folder / "missing.pth")
    with pytest.raises(UserError, match=r"missing\.pth does not exist"):
        missing.get(missing.best())


# ---------------------------------------------------------------------------------------------------- the networks


def test_a_network_answers_as_its_file_says_and_holds_its_weights_once(folder):
    path = save(folder / "run.pth")
    expected = checkpoints.load(path)
    loaded = Models(folder).get("run")
    x = pixels()
    torch.testing.assert_close(loaded.look(x).logits, build_predictor(expected, CPU)(x).logits)
    assert loaded.checkpoint.classes == ["cat", "dog"] and not loaded.checkpoint.state_dict


def test_two_requests_at_once_load_once(folder, reads):
    save(folder / "run.pth")
    made, warmed = [], []

    def load(checkpoint, compute):
        made.append(threading.get_ident())
        time.sleep(0.05)
        return lambda x: warmed.append(x.shape)

    found = Models(folder, load=load)
    with ThreadPoolExecutor(8) as pool:
        loaded = list(pool.map(lambda _: found.get("run"), range(16)))
    assert len(made) == 1 and reads == {"run": 1} and len(set(map(id, loaded))) == 1
    assert warmed == [(1, 3, 8, 8)]


def test_the_one_not_asked_for_longest_is_dropped(folder, reads):
    for name in "abc":
        save(folder / f"{name}.pth")
    found = Models(folder, keep=2)
    for name in "abacab":  # c drops b
        found.get(name)
    assert reads == {"a": 1, "b": 2, "c": 1}


def test_a_file_that_is_replaced_is_loaded_anew_and_requests_under_way_finish(folder):
    path = save(folder / "run.pth", 100, seed=0)
    found = Models(folder)
    before, x = found.get("run"), pixels()
    old = before.look(x).logits
    save(path, 50, seed=1)
    after = found.get("run")
    assert after is not before and not torch.equal(after.look(x).logits, old)
    assert torch.equal(before.look(x).logits, old)
    assert found.get("run") is after

    whole = path.read_bytes()
    path.write_bytes(whole[:3000])  # somebody is copying
    with pytest.raises(UserError, match=r"run\.pth is damaged"):
        found.get("run")
    path.write_bytes(whole)
    torch.testing.assert_close(found.get("run").look(x).logits, after.look(x).logits)


def test_a_file_that_vanished_answers_while_it_is_loaded(folder):
    for name in "ab":
        save(folder / f"{name}.pth")
    found = Models(folder, keep=1)
    loaded = found.get("a")
    shutil.rmtree(folder)
    assert found.get("a") is loaded and names(found) == ["a"] and found.best() == "a"
    with pytest.raises(UserError, match="There are no weights called b here"):
        found.get("b")
    assert found.get("a") is loaded


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "module/run.pth", "run.pth", "run.last", "", "x" * 9999])
def test_no_name_is_a_path(name, folder, tmp_path, reads):
    save(folder / "run.pth")
    save(folder / "run.last.pth")
    save(tmp_path / "secret.pth")
    with pytest.raises(UserError, match="There are no weights called") as caught:
        Models(folder).get(name)
    assert len(str(caught.value)) < 120 and not reads


def test_a_network_that_fails_at_its_first_answer_is_one_sentence(folder):
    save(folder / "run.pth")

    def load(checkpoint, compute):
        def look(x):
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied\nat a thousand places")

        return look

    found = Models(folder, load=load)
    with pytest.raises(UserError, match=r"run\.pth cannot answer here \(mat1 and mat2 .* multiplied\)\. Train it"):
        found.get("run")
    assert found.choices()[0].problem.startswith("run.pth cannot answer here")


def test_threads_that_list_and_ask_while_files_change(folder):
    for name in "abcd":
        save(folder / f"{name}.pth")
    found = Models(folder, keep=2)

    def ask(number):
        found.choices()
        return found.get("abcd"[number % 4]).look(pixels()).logits.shape == (1, 2)

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(ask, number) for number in range(200)]
        for number in range(20):
            save(folder / f"{'abcd'[number % 4]}.pth", seed=number)
        assert all(answer.result() for answer in answers)
