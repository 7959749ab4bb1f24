"""The .pth: what is saved is loaded again, and what is not a .pth is refused without harm."""

import contextlib
import os
import pickle
import random
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.data.transforms import Preprocess
from tests.conftest import REPOSITORY, file_size_limit, same, soon_and_small
from zoo import MODELS


def tiny(num_classes=1000):
    """A network small enough to be saved a hundred times."""
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, num_classes)))


@pytest.fixture
def original(monkeypatch):
    monkeypatch.setitem(MODELS, "tiny", tiny)
    torch.manual_seed(0)
    return Checkpoint(
        "tiny",
        ["猫", "dog", "a bird"],
        Preprocess(size=96, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3)),
        tiny(3).state_dict(),
        scores={"val": {"accuracy": 0.9, "count": 10}, "history": [{"epoch": 1, "val": {"loss": 0.5}}]},
        data={"root": "dataset", "kind": "photographs"},
        settings={"lr": 1e-3, "name": "", "augment": True},
        temperature=1.5,
        ood_stats={"threshold": 2.0},
        resume={"step": 3, "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]}},
    )


@pytest.fixture
def saved(original, tmp_path):
    path = tmp_path / "module" / "run.pth"
    checkpoints.save(original, path)
    return path


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load(path)
    message = str(caught.value)
    assert all(word in message for word in (str(path), *words)) and len(message) < 1000, message
    return message


def test_what_is_saved_is_loaded_and_has_the_keys_that_it_always_had(original, saved):
    loaded = checkpoints.load(saved)
    assert loaded.path == saved and loaded.created and loaded.versions == checkpoints.versions()
    for name in set(vars(original)) - {"state_dict", "path", "created", "versions"}:
        assert getattr(loaded, name) == getattr(original, name), name
    assert same(loaded.state_dict, original.state_dict)
    network = loaded.network()
    assert not network.training and not network.norm.training
    content = torch.load(saved, weights_only=True)
    assert content["format"] == 1 and content["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert content["novelty"] == {"threshold": 2.0}


@pytest.mark.parametrize("name", checkpoints.SHIPPED)
def test_the_files_that_come_with_the_project_are_read(name):
    loaded = checkpoints.load(REPOSITORY / "module" / name)
    assert (f"catdog-{loaded.model}.pth", loaded.classes) == (name, ["cat", "dog"])
    assert loaded.scores["test"]["count"] == 2000 and loaded.temperature != 1 and "threshold" in loaded.ood_stats
    assert loaded.network()(torch.zeros(1, 3, 192, 192)).shape == (1, 2)


def test_amending_keeps_everything_else_and_the_date(original, saved):
    original.created = "2001-09-09T01:46:40+00:00"
    checkpoints.save(original, saved)
    os.utime(saved, (1_000_000_000, 1_000_000_001))
    checkpoints.amend(saved, scores={"test": {"accuracy": 0.75}}, temperature=2.0)
    loaded = checkpoints.load(saved)
    assert loaded.scores == original.scores | {"test": {"accuracy": 0.75}} and loaded.temperature == 2
    assert loaded.created == original.created and saved.stat().st_mtime == 1_000_000_001
    assert same(loaded.state_dict, original.state_dict)


def test_newest(saved):
    folder = saved.parent
    for age, name in enumerate(("last.pth", "old.pth", "run.pth", "run.last.pth", ".half.pth.1.tmp")):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (age, age))
    for name in checkpoints.SHIPPED:
        shutil.copy(folder / "run.pth", folder / name)  # newer, but not the user's
    for name in ("run.pth", "old.pth", "last.pth", *checkpoints.SHIPPED):  # of these the best first
        assert checkpoints.newest(folder).name == name
        (folder / name).unlink()
    for empty in (folder / "nowhere", folder):
        with pytest.raises(CheckpointError, match=r"holds no \.pth yet.*train\.py"):
            checkpoints.newest(empty)


@pytest.mark.parametrize("place", ["module/run.pth", "file/run.pth", "folder"])  # the first on a full disk
def test_a_failed_write_leaves_the_old_file_and_nothing_else(original, saved, tmp_path, place):
    before = saved.read_bytes()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    original.data = {"long": "x" * 10_000}
    with file_size_limit(4096), pytest.raises(CheckpointError, match="could not be written"):
        checkpoints.save(original, tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder", "inside", "module", "run.pth"]
    assert saved.read_bytes() == before


def test_missing_files_get_a_suggestion(saved):
    folder = saved.parent
    with contextlib.suppress(OSError):  # links need rights on Windows
        (folder / "rnu.pth").symlink_to("nowhere")
    for path, near in ((folder / "rnu.pth", saved.name), (folder / "x" / "y.pth", "no .pth")):
        refused(path, "does not exist.", f"Near it: {near}")
    refused(folder, f"is a folder; expected a file of weights. In it: {saved.name}")


def test_files_of_another_kind_or_cut_short(saved):
    whole = saved.read_bytes()
    starts = [whole[: int(share * len(whole))] for share in (0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99)] + [whole[:-1]]
    text = b"# Image classifier\n\nFolders of images in.\n"
    for content in (*starts, b"P", b"PK", b"PK\x03\x04", text, b"\x80\x02", b"\x89PNG\r\n\x1a\n", b"\0" * 99):
        saved.write_bytes(content)
        assert "code" not in refused(saved, "damaged", "is not a .pth")
    ones = torch.ones(3)
    of_names = {"a": 1}, {1: ones}, {"fc.bias": torch.ones(())}, {"fc.bias": ones}, {"model": {"fc.bias": ones}}
    for content in (ones, [ones], {}, "text", *of_names):  # which are not a network's
        torch.save(content, saved)
        refused(saved)


def test_a_flipped_bit_in_a_weight_is_noticed(saved, original):
    whole = bytearray(saved.read_bytes())
    whole[whole.index(original.state_dict["conv.weight"].numpy().tobytes()) + 5] ^= 1
    saved.write_bytes(whole)
    refused(saved, "damaged")


PAIRS = [(i, i) for i in range(4000)]
KEYS = ("format", "model", "classes", "preprocess", "settings", "temperature", "resume", "data")


class Call:
    """Unpickling this calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("way", ["zip", "old", "pickle", "nested", "whole model"])
def test_pickled_code_is_not_run(tmp_path, saved, way):
    path, trace = tmp_path / "x.pth", tmp_path / "trace"
    hostile = Call(os.system, f"echo > {trace}")
    if way == "pickle":
        path.write_bytes(pickle.dumps(hostile))
    elif way == "nested":
        torch.save(torch.load(saved, weights_only=True) | {"settings": {"a": [hostile]}}, path)
    elif way == "whole model":
        torch.save(tiny(), path)
    else:
        torch.save({"weights": hostile}, path, _use_new_zipfile_serialization=way == "zip")
    refused(path, "pickled Python code", "state_dict")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        (["format 2", "Update"], [{"format": 2}]),
        (["resnet19", "resnet18"], [{"model": "resnet19"}]),
        (["2 classes", "weights differ"], [{"classes": ["cat", "dog"]}]),
        (["weights differ"], [{"model": "resnet18"}, {"state_dict": {}}]),
        (["name of a folder"], [{"classes": ["cat", "dog", name]} for name in ("../secret", "a/b", "C:\\x")]),
        (["complete"], [{"state_dict": [1]}, {"preprocess": {"colour": 1}}, {"scores": [1]}, {"novelty": [1]}]),
        (["preprocessing"], [{"preprocess": {"size": 0}}, {"preprocess": {"interpolation": "nearest"}}]),
        ([], [{key: ...} for key in ("model", "classes", "state_dict")]),  # not there
        ([], [{key: value} for key in KEYS for value in (["x"] * 9, torch.ones(3), b"", 10**30, "x" * 10**6)]),
    ],
)
def test_content_that_does_not_fit(saved, words, changes):
    content = torch.load(saved, weights_only=True)
    for change in changes:
        torch.save({key: value for key, value in (content | change).items() if value is not ...}, saved)
        refused(saved, *words)


def nested(kind, depth, width=1):
    """Small in a file and in memory; with two of everything in one another, endless to whoever goes through it."""
    value = kind()
    for _ in range(depth):
        value = kind([value] * width)
    return value


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Call(bytearray, 10**11), "code"),  # 100 GB of zeros
        (lambda: [Call(OrderedDict, PAIRS) for _ in range(9000)], "more"),
        (lambda: nested(list, 40, 2), "more values"),
        (lambda: torch.zeros(1).expand(10**12), "1,000,000,000,000 values that are not there"),
        (lambda: nested(list, 200), "deeper"),
        (lambda: {nested(tuple, 200): 1}, "deeper"),
    ],
    ids=["bytearray", "copies", "doubled", "expanded", "lists", "keys"],
)
def test_what_is_larger_than_it_looks_is_refused(saved, make, words, in_zip):
    content = torch.load(saved, weights_only=True)
    content["scores"] = {"val": make()}
    torch.save(content, saved, _use_new_zipfile_serialization=in_zip)
    with soon_and_small():
        refused(saved, words)


def rewritten(path: Path, change) -> None:
    """The same zip with right checksums, each member (name, content) changed; tensors may be packed."""
    with zipfile.ZipFile(path) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in members:
            new.writestr(name, *change(name, content))


@pytest.mark.parametrize("words", ["deeper", "unpack to more than it is", "code"])
def test_files_that_torch_cannot_write(saved, words):
    whole = saved.read_bytes()
    if words == "deeper":  # keys deeper than Python's stack; Python cannot pickle them, and crashes where it reads them
        saved.write_bytes(b"\x80\x02})" + b"\x85" * 10**6 + b"K\x01s.")
    elif words == "code":  # an old pickle in front, which is what torch.load reads, and a harmless zip behind
        saved.write_bytes(pickle.dumps({"x": Call(bytearray, 10**11)}, 2) + whole)
    else:
        packed = bytes(200_000_000), zipfile.ZIP_DEFLATED
        rewritten(saved, lambda name, content: packed if name.endswith("data/0") else (content, None))
        assert saved.stat().st_size < 1_000_000
    with soon_and_small():
        refused(saved, words)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("right_checksums", [True, False])
def test_files_changed_at_random_are_refused_soon_or_read_as_they_were(saved, original, right_checksums):
    """FUZZ=4000 for as many as were tried before a release."""
    chance, whole = random.Random(0), saved.read_bytes()

    def change(name, content):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 5) if name.endswith(".pkl") else 0):  # instructions of a pickle, and bytes
            at = chance.randrange(len(changed))
            changed[at : at + chance.randint(0, 1)] = bytes([chance.choice(b"\0\xff(t\x85}R02bue])")])
        return (bytes(changed),)

    for _ in range(int(os.environ.get("FUZZ", "100"))):
        saved.write_bytes(whole if right_checksums else change("whole.pkl", whole)[0])
        if right_checksums:
            rewritten(saved, change)
        with contextlib.suppress(CheckpointError), soon_and_small():
            loaded = checkpoints.load(saved)
            assert right_checksums or (loaded.classes, loaded.scores) == (original.classes, original.scores)
            assert right_checksums or same(loaded.state_dict, original.state_dict)
