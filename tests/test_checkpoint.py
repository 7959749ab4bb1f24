"""The .pth: what goes in comes out, and what is not one is refused without harm."""

import contextlib
import copy
import errno
import os
import pickle
import random
import shutil
import sys
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.data.transforms import Preprocess
from classifier.training import run_state
from zoo import MODELS


@pytest.fixture
def tiny(monkeypatch):
    """A network small enough to be saved a hundred times."""

    def build(num_classes=1000):
        return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, num_classes)))

    monkeypatch.setitem(MODELS, "tiny", build)
    torch.manual_seed(0)
    return build(num_classes=3)


@pytest.fixture
def original(tiny):
    return Checkpoint(
        "tiny",
        ["猫", "dog", "a bird"],
        Preprocess(size=96, resize="squash", mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3), interpolation="bicubic"),
        tiny.state_dict(),
        scores={"val": {"accuracy": 0.9, "count": 10}, "history": [{"epoch": 1, "val": {"loss": 0.5}}]},
        data={"root": "dataset", "kind": "photographs"},
        settings={"lr": 1e-3, "name": "", "augment": True},
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
    assert all(word in message for word in (str(path), *words)), message
    return message


# ------------------------------------------------------------------------------------------------- what goes in


def test_round_trip(original, saved):
    loaded = checkpoints.load(saved)
    assert loaded.path == saved and loaded.created and loaded.versions == checkpoints.versions()
    for name in ("model", "classes", "preprocess", "scores", "data", "settings", "resume", "assumed"):
        assert getattr(loaded, name) == getattr(original, name), name
    assert list(loaded.state_dict) == list(original.state_dict)
    assert all(torch.equal(loaded.state_dict[name], value) for name, value in original.state_dict.items())
    network = loaded.network()
    assert not network.training and not network.norm.training


def test_a_file_is_read_without_pickled_code(saved):
    content = torch.load(saved, weights_only=True)
    assert content["format"] == 1 and content["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    plain = (dict, list, str, int, float, bool, torch.Tensor)

    def check(value):
        assert type(value) in (*plain, OrderedDict), type(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            check(inner)

    check(content)


def test_what_is_needed_to_resume_comes_back(original, saved):
    optimizer = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    original.resume = {"step": 3, "totals": [0.5, 1, 2], "optimizer": optimizer}
    checkpoints.save(original, saved)
    loaded = checkpoints.load(saved).resume
    assert loaded["step"] == 3 and loaded["totals"] == [0.5, 1, 2]
    assert torch.equal(loaded["optimizer"]["state"][0]["exp_avg"], torch.ones(2))


def test_amending_keeps_everything_else_and_the_date(original, saved):
    os.utime(saved, (1_000_000_000, 1_000_000_001))
    created = checkpoints.load(saved).created
    checkpoints.amend(saved, scores={"test": {"accuracy": 0.75, "interval": [0.5, 0.9]}})
    loaded = checkpoints.load(saved)
    assert loaded.scores == original.scores | {"test": {"accuracy": 0.75, "interval": [0.5, 0.9]}}
    assert loaded.created == created and saved.stat().st_mtime == 1_000_000_001
    assert all(torch.equal(loaded.state_dict[name], value) for name, value in original.state_dict.items())


def test_newest(saved, original):
    folder = saved.parent
    for age, name in enumerate(("last.pth", "old.pth", "run.pth", "run.last.pth")):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (age, age))
    (folder / ".half.pth.1.tmp").write_bytes(b"x")
    assert checkpoints.newest(folder).name == "run.pth"
    shutil.copy(folder / "run.pth", folder / checkpoints.SHIPPED)  # newer, but not of the user's making
    assert checkpoints.newest(folder).name == "run.pth"
    for path in folder.glob("*.pth"):
        if path.name != checkpoints.SHIPPED:
            path.unlink()
    assert checkpoints.newest(folder).name == checkpoints.SHIPPED
    for file in folder.glob("*.pth"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"train\.py"):
        checkpoints.newest(folder)
    with pytest.raises(CheckpointError, match=r"train\.py"):
        checkpoints.newest(folder / "nowhere")


# ---------------------------------------------------------------------------------------- whole or not at all


def fails_halfway(content, file):
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("error", ["save", "interrupt", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(original, saved, monkeypatch, error):
    before = saved.read_bytes()

    def interrupted(content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    def no_replace(*arguments):
        raise PermissionError(errno.EACCES, "Permission denied")

    if error == "replace":  # as on Windows, where another program may hold the file
        monkeypatch.setattr(Path, "replace", no_replace)
        monkeypatch.setattr(os, "replace", no_replace)
    else:
        monkeypatch.setattr(torch, "save", fails_halfway if error == "save" else interrupted)
    with pytest.raises(KeyboardInterrupt if error == "interrupt" else CheckpointError):
        checkpoints.save(original, saved)
    assert [file.name for file in saved.parent.iterdir()] == ["run.pth"]
    assert saved.read_bytes() == before


def test_a_folder_that_cannot_be_made(original, tmp_path):
    (tmp_path / "module").write_text("a file")
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoints.save(original, tmp_path / "module" / "run.pth")


# ------------------------------------------------------------------------------------------------ what is refused


def test_missing_files_get_a_suggestion(saved):
    refused(saved.with_name("rnu.pth"), "does not exist", f"Did you mean {saved}?")
    refused(saved.parent / "nowhere" / "x.pth", "does not exist", "no .pth files")
    refused(saved.parent, "is a folder", f"Did you mean {saved}?")


@pytest.mark.parametrize(
    "content",
    [b"", b"P", b"PK", b"PK\x03\x04", b"hello, I am text\n" * 9, b"\x80\x02", b"\x89PNG\r\n\x1a\n", b"\0" * 99],
)
def test_other_content(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    refused(path)


def test_truncated_files(saved):
    whole = saved.read_bytes()
    for share in (0.001, 0.01, 0.1, 0.5, 0.9, 0.99):
        saved.write_bytes(whole[: int(share * len(whole))])
        refused(saved, "damaged")
    saved.write_bytes(whole[:-1])
    refused(saved, "damaged")


def test_a_flipped_bit_is_noticed_or_harmless(saved, original):
    whole = saved.read_bytes()
    weights = whole.index(original.state_dict["conv.weight"].numpy().tobytes())
    saved.write_bytes(whole[: weights + 5] + bytes([whole[weights + 5] ^ 1]) + whole[weights + 6 :])
    refused(saved, "damaged")
    places = random.Random(0)
    for _ in range(60):
        place = places.randrange(len(whole))
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << places.randrange(8)]) + whole[place + 1 :])
        try:
            loaded = checkpoints.load(saved)
        except CheckpointError:
            continue
        assert loaded.classes == original.classes and loaded.scores == original.scores
        assert all(torch.equal(loaded.state_dict[name], value) for name, value in original.state_dict.items())


class Hostile:
    """Unpickling this runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("way", ["zip", "old", "pickle", "nested"])
def test_pickled_code_is_not_run(tmp_path, saved, way):
    path, trace = tmp_path / "x.pth", tmp_path / "trace"
    hostile = Hostile(f"echo > {trace}")
    if way == "pickle":
        path.write_bytes(pickle.dumps(hostile))
    elif way == "nested":
        torch.save(torch.load(saved, weights_only=True) | {"settings": {"a": [hostile]}}, path)
    else:
        torch.save({"weights": hostile}, path, _use_new_zipfile_serialization=way == "zip")
    message = refused(path)
    assert not trace.exists()
    assert "pickled Python code" in message or way == "pickle"


def test_a_whole_pickled_model(tmp_path, tiny):
    torch.save(tiny, tmp_path / "x.pth")
    refused(tmp_path / "x.pth", "pickled Python code", "state_dict")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, ["format 2", "Update"]),
        ({"model": "resnet19"}, ["resnet19", "resnet18"]),
        ({"model": None}, ["None"]),
        ({"classes": ["cat", "dog"]}, ["2 classes", "weights differ"]),
        ({"classes": [1, 2, 3]}, ["text"]),
        ({"classes": None}, ["complete"]),
        ({"model": "resnet18"}, ["resnet18", "weights differ"]),
        ({"state_dict": {}}, ["weights differ"]),
        ({"state_dict": [1]}, ["complete"]),
        ({"preprocess": {"size": 0}}, ["preprocessing"]),
        ({"preprocess": {"colour": 1}}, ["complete"]),
        ({"preprocess": None}, ["complete"]),
        ({"scores": [1]}, ["complete"]),
        ({"data": "dataset"}, ["complete"]),
    ],
)
def test_content_that_does_not_fit(saved, change, words):
    torch.save(torch.load(saved, weights_only=True) | change, saved)
    refused(saved, *words)


@pytest.mark.parametrize("key", ["model", "classes", "preprocess", "state_dict"])
def test_content_that_is_not_there(saved, key):
    content = torch.load(saved, weights_only=True)
    del content[key]
    torch.save(content, saved)
    refused(saved)


# ------------------------------------------------------------------------------- what asks for more than there is


class Making:
    """Unpickling this calls a function that torch.load takes for harmless."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested(kind, depth):
    value = kind()
    for _ in range(depth):
        value = kind([value])
    return value


def doubled(times):
    """A list that is small in a file and in memory, and endless to whoever goes through it."""
    value = []
    for _ in range(times):
        value = [value, value]
    return value


def packed(path, number, size):
    """The same file with one of its tensors packed: zeros, of which a gigabyte fits into a megabyte."""
    with zipfile.ZipFile(path) as old:
        members = [(info, old.read(info)) for info in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for info, content in members:
            tensor = info.filename.endswith(f"data/{number}")
            new.writestr(info.filename, bytes(size) if tensor else content, zipfile.ZIP_DEFLATED if tensor else None)


@contextlib.contextmanager
def soon_and_small():
    resource = pytest.importorskip("resource")  # Windows does not tell how much memory was taken
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - begun < 20
    unit = 1e6 if sys.platform == "darwin" else 1e3
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit < 1500


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Making(bytearray, 10**11), "code"),  # 100 GB of zeros
        (
            lambda: [Making(OrderedDict, pairs) for pairs in [[(i, i) for i in range(4000)]] for _ in range(9000)],
            "more",
        ),
        (lambda: doubled(40), "more values"),
        (lambda: torch.zeros(1).expand(10**12), "1,000,000,000,000 values that are not there"),
        (lambda: nested(list, 200), "deeper"),
        (lambda: {nested(lambda value=(): tuple(value), 200): 1}, "deeper"),
    ],
    ids=["bytearray", "copies", "doubled", "expanded", "lists", "keys"],
)
def test_what_is_larger_than_it_looks_is_refused(saved, make, words, in_zip):
    content = torch.load(saved, weights_only=True)
    content["scores"] = {"val": make()}
    torch.save(content, saved, _use_new_zipfile_serialization=in_zip)
    with soon_and_small():
        refused(saved, words)


def test_keys_deeper_than_pythons_stack(tmp_path):
    """Written by hand: Python cannot pickle them, and where it reads them it ends without a word."""
    key = b")" + b"\x85" * 10**6
    (tmp_path / "x.pth").write_bytes(b"\x80\x02}" + key + b"K\x01s.")
    with soon_and_small():
        refused(tmp_path / "x.pth", "deeper")


def test_packed_tensors_are_refused(saved):
    packed(saved, 0, 200_000_000)
    assert saved.stat().st_size < 1_000_000
    with soon_and_small():
        refused(saved, "unpack to more than it is")


def test_a_file_of_two_kinds_is_looked_at_as_it_is_read(saved, tmp_path):
    """An old pickle in front, a harmless zip behind: which of both is checked has to be the one that is read."""
    pickled = pickle.dumps({"x": Making(bytearray, 10**11)}, 2)
    (tmp_path / "x.pth").write_bytes(pickled + saved.read_bytes())
    with soon_and_small():
        refused(tmp_path / "x.pth", "code")


@pytest.mark.filterwarnings("ignore")
def test_pickles_changed_at_random_behind_right_checksums(saved):
    """What the checksums do not keep out. FUZZ=4000 for as many as were tried before a release."""
    with zipfile.ZipFile(saved) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    chance = random.Random(0)
    for _ in range(int(os.environ.get("FUZZ", "100"))):
        with zipfile.ZipFile(saved, "w") as new:
            for name, content in members:
                if name.endswith(".pkl"):
                    changed = bytearray(content)
                    for _ in range(chance.randint(1, 5)):  # instructions of a pickle, and bytes
                        at = chance.randrange(len(changed))
                        changed[at : at + chance.randint(0, 1)] = chance.choice(
                            [b"\0", b"\xff", b"(", b"t", b"\x85", b"}", b"R", b"0", b"2", b"b", b"u", b"e", b"]", b")"]
                        )
                    content = bytes(changed)
                new.writestr(name, content)
        with contextlib.suppress(CheckpointError), soon_and_small():
            checkpoints.load(saved)


@pytest.mark.parametrize("value", [["x"], {"a": 1}, torch.ones(3), 3.5, b"", 10**30, "x" * 10**6])
@pytest.mark.parametrize(
    "key", ["format", "model", "classes", "preprocess", "settings", "temperature", "resume", "data"]
)
def test_values_of_any_kind_are_refused_in_one_line(saved, key, value):
    if (key, type(value)) in {("temperature", float), ("settings", dict), ("resume", dict), ("data", dict)}:
        return  # those may be such
    torch.save(torch.load(saved, weights_only=True) | {key: value}, saved)
    assert len(refused(saved)) < 1000


# ------------------------------------------------------------------------------------------------ to go on with


def whole_state(tiny):
    entry = {"epoch": 1, "minutes": 0.1, "size": 32, "images_per_second": 9.0}
    entry |= {part: {"loss": 0.5, "accuracy": 0.5} for part in ("train", "val")}
    state = {"name": "run", "logs": "logs/tiny/1", "format": "float32", "step": 3, "totals": [0.5, 1, 2, 0.1]}
    optimizer = torch.optim.AdamW(tiny.parameters())
    weights = {"network": tiny.state_dict(), "optimizer": optimizer.state_dict(), "scaler": {}}
    return state | weights | {"minutes": 0.1, "history": [entry], "done": False}


def test_a_whole_state_is_gone_on_with(original, tiny, tmp_path):
    original.resume = whole_state(tiny)
    checkpoints.save(original, tmp_path / "run.last.pth")
    run_state.check(checkpoints.load(tmp_path / "run.last.pth"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../../elsewhere"}, "its name has to be"),
        ({"name": "other"}, "its name has to be other.last.pth"),
        ({"name": 3}, "name is a int"),
        ({"step": "3"}, "step is a str"),
        ({"totals": [1, 2, 3]}, "four numbers"),
        ({"totals": ["a"] * 4}, "four numbers"),
        ({"history": [{}]}, "epoch"),
        ({"history": [1]}, "int"),
        ({"network": {}}, "other shapes"),
        ({"optimizer": []}, "optimizer is a list"),
    ],
)
def test_a_state_that_is_none_is_refused(original, tiny, tmp_path, change, words):
    original.resume = whole_state(tiny) | change
    checkpoints.save(original, tmp_path / "run.last.pth")
    with pytest.raises(CheckpointError, match=words):
        run_state.check(checkpoints.load(tmp_path / "run.last.pth"))


def test_another_networks_optimizer_is_refused(tiny):
    optimizer = torch.optim.AdamW(tiny.parameters())
    state = optimizer.state_dict()
    state["state"] = {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(7), "exp_avg_sq": torch.ones(7)}}
    with pytest.raises(CheckpointError, match="does not fit"):
        run_state.restore(optimizer, state)
    with pytest.raises(CheckpointError, match="does not fit"):
        run_state.restore(optimizer, {"state": {}, "param_groups": []})


def test_finite():
    assert checkpoints.finite({"a": torch.ones(3), "b": torch.tensor(3)})
    for value in (float("nan"), float("inf")):
        assert not checkpoints.finite({"a": torch.ones(3), "b": torch.tensor([1.0, value])})


# ------------------------------------------------------------------------------------------- plain state_dicts


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("resnet18", ""),
        ("resnet34", ""),
        ("resnet50", ""),
        ("resnet18", "module."),
        ("resnet18", "_orig_mod."),
        ("resnet18", "module._orig_mod."),
        ("resnet18", "_orig_mod.module."),
    ],
)
def test_plain_state_dicts(tmp_path, name, prefix):
    weights = getattr(torchvision.models, name)(num_classes=2).eval().state_dict()
    torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / "x.pth")
    loaded = checkpoints.load(tmp_path / "x.pth")
    assert (loaded.model, loaded.classes) == (name, ["class 0", "class 1"])
    assert loaded.preprocess == Preprocess(224, "squash", (0.5,) * 3, (0.5,) * 3)
    assert "squash" in loaded.assumed
    received = loaded.network().state_dict()
    assert all(torch.equal(received[key], value) for key, value in weights.items())


def test_plain_state_dicts_of_very_old_and_of_wrapping_scripts(tmp_path):
    weights = torchvision.models.resnet18(num_classes=2).state_dict()
    old = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    torch.save({"epoch": 3, "state_dict": old}, tmp_path / "x.pth")
    received = checkpoints.load(tmp_path / "x.pth").network().state_dict()
    assert received.keys() == weights.keys()
    assert all(torch.equal(received[key], value) for key, value in old.items())


@pytest.mark.parametrize("name", ["../secret", "a/b", "C:\\x"])
def test_class_names_that_are_paths_are_refused(tmp_path, name):
    weights = MODELS["resnet18"](num_classes=2).state_dict()
    checkpoints.save(Checkpoint("resnet18", ["cat", name], Preprocess(), weights), tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="name of a folder"):
        checkpoints.load(tmp_path / "x.pth")


def test_a_text_is_not_said_to_carry_code(tmp_path):
    (tmp_path / "x.pth").write_text("# Image classifier\n\nFolders of images in.\n")
    with pytest.raises(CheckpointError, match=r"is not a \.pth|is no \.pth") as caught:
        checkpoints.load(tmp_path / "x.pth")
    assert "code" not in str(caught.value)


def test_a_thousand_classes_are_imagenets(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "x.pth")
    loaded = checkpoints.load(tmp_path / "x.pth")
    assert len(loaded.classes) == 1000 and loaded.preprocess == Preprocess()


@pytest.mark.parametrize(
    "content",
    [
        torch.ones(3),
        [torch.ones(3)],
        {},
        {"a": 1},
        {1: torch.ones(3)},
        {"fc.bias": torch.ones(())},
        {"fc.bias": torch.ones(3)},
        {"model": {"fc.bias": torch.ones(3)}},
        "text",
    ],
    ids=str,
)
def test_tensors_that_are_no_network(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    refused(tmp_path / "x.pth")


def test_adams_means_lie_in_memory_as_their_parameters_do():
    def network():
        torch.manual_seed(0)
        return torch.nn.Conv2d(3, 4, 3)

    x = torch.randn(2, 3, 8, 8)

    def step(conv, optimizer):
        optimizer.zero_grad()
        conv(x).square().mean().backward()
        optimizer.step()

    first = network()
    adam = torch.optim.AdamW(first.parameters(), fused=True)
    step(first, adam)
    second = network()
    second.load_state_dict(first.state_dict())
    second = second.to(memory_format=torch.channels_last)
    again = torch.optim.AdamW(second.parameters(), fused=True)
    run_state.restore(again, copy.deepcopy(adam.state_dict()))
    assert again.state[second.weight]["exp_avg"].stride() == second.weight.stride()
    assert torch.equal(again.state[second.weight]["exp_avg"], adam.state[first.weight]["exp_avg"])
    step(first, adam)
    step(second, again)
    torch.testing.assert_close(second.weight, first.weight)
