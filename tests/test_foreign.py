"""Other people's weights: what they are called, how they are wrapped, what is beside them, and what cannot be used."""

import argparse
import collections
import datetime
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError, Stated
from classifier.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from classifier.training import pretrained
from classifier.training.config import TrainConfig, parse_config
from tests.raw_images import make_folder
from zoo import MODELS

NAMES = ["ant", "bee", "wasp"]


def theirs(classes: int = 3, model: str = "resnet18", seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    return getattr(torchvision.models, model)(num_classes=classes, **options).eval()


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return theirs()


@pytest.fixture
def load(tmp_path):
    """Saves what a program might, and loads it as the scripts do."""

    def call(content: object, name: str = "x.pth", trunk: bool = False, **stated: object) -> Checkpoint:
        path = tmp_path / name
        torch.save(content, path) if path.suffix != ".safetensors" else save_file(content, path)
        return checkpoints.load(path, stated=Stated(**stated), trunk=trunk)

    return call


def renamed(weights: dict, old: str, new: str) -> dict:
    """The weights whose names begin with `old` under names that begin with `new` instead."""
    return {new + key.removeprefix(old) if key.startswith(old) else key: value for key, value in weights.items()}


def answers_like(loaded: Checkpoint, network: nn.Module) -> bool:
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        return torch.equal(loaded.network()(x), network(x))


def test_weights_are_found_under_any_name_and_key(load, network):
    for wrap in (
        lambda weights: renamed(weights, "", "_orig_mod.module."),
        lambda weights: renamed(weights, "", "model.encoder."),
        lambda weights: renamed(weights, "layer1.", "layer1.module."),  # DataParallel around a part
        lambda weights: renamed(weights, "fc.", "fc.1."),
        lambda weights: renamed(weights, "fc.", "model_head."),
        lambda weights: {"format": "v2", "model_state_dict": weights, "loss": torch.tensor(0.5)},
        lambda weights: {"epoch": 3, "checkpoint": {"state_dict": weights}},
        lambda weights: {  # Lightning's
            "state_dict": renamed(weights, "", "model.") | {"criterion.weight": torch.ones(3)},
            "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(64, 3, 7, 7)}}, "param_groups": []}],
        },
        lambda weights: (weights, torch.optim.Adam([torch.ones(3)]).state_dict()),
    ):
        assert answers_like(load(wrap(network.state_dict())), network)


def test_networks_are_told_by_their_shapes_and_pytorch_once_counted_no_batches(load):
    for model, classes in (("resnet34", 2), ("resnet50", 1000)):
        weights = theirs(classes, model).state_dict()
        loaded = load({key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")})
        assert (loaded.model, loaded.classes[1:2], len(loaded.classes)) == (model, ["class 1"], classes)
        tutorial = Preprocess(224, "squash", (0.5,) * 3, (0.5,) * 3)
        assert loaded.preprocess == (tutorial if classes == 2 else Preprocess())
        received = loaded.network().state_dict()
        assert received.keys() == weights.keys() and all(torch.equal(received[key], weights[key]) for key in weights)


def test_the_moving_average_goes_first(load, network):
    other = theirs(seed=1).state_dict()
    average = {"n_averaged": torch.tensor(7), **renamed(network.state_dict(), "", "module.")}
    for content in ({"state_dict": other, "state_dict_ema": average}, {"ema": average, "model": other}):
        loaded = load(content)
        assert answers_like(loaded, network) and next(key for key in content if "ema" in key) in loaded.assumed
    both = renamed(other, "", "student.") | renamed(network.state_dict(), "", "student_ema.")
    assert answers_like(load(both), network)


def test_a_sequence_of_a_networks_children_and_layers_that_are_missing_or_others(load, network):
    body = nn.Sequential(*list(network.children())[:-1])
    parts = nn.ModuleDict({"feature_extractor": body, "classifier": network.fc})
    assert answers_like(load(parts.state_dict()), network)
    assert answers_like(load(nn.Sequential(*body, nn.Flatten(), network.fc).state_dict()), network)
    without_bias = theirs()
    without_bias.fc = nn.Linear(512, 5, bias=False)
    without = theirs(3, "googlenet", aux_logits=False, init_weights=False)
    auxiliary = theirs(1000, "googlenet", aux_logits=True, init_weights=False)
    auxiliary.fc = nn.Linear(1024, 3)  # as it is fine-tuned
    for other in (without_bias, without, auxiliary):
        assert answers_like(load(other.state_dict()), other)


def test_safetensors(load, network):
    loaded = load(network.state_dict(), "model.safetensors")
    assert answers_like(loaded, network)
    whole = loaded.path.read_bytes()
    for damaged in (whole[:-100], b"\xff" * 7 + b"\x7f" + whole[8:]):  # cut short; a header longer than the file
        loaded.path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            checkpoints.load(loaded.path)


class Config:
    """A class of somebody's program."""


@pytest.mark.parametrize("in_zip", [True, False], ids=["zip", "old"])
def test_settings_beside_the_weights_are_not_read(network, tmp_path, in_zip):
    arguments = argparse.Namespace(lr=0.1, data=Path("imagenet"), nested=argparse.Namespace(a=[1]))
    content = {
        "model": network.state_dict(), "args": arguments, "history": collections.defaultdict(list, loss=[0.5]),
        "best_acc": np.float64(0.9), "curve": np.ones(3), "date": datetime.datetime(2024, 1, 2),
    }  # fmt: skip
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=in_zip)
    loaded = checkpoints.load(tmp_path / "x.pth")
    assert answers_like(loaded, network) and "args (argparse.Namespace) does not matter" in loaded.assumed
    torch.save(content | {"config": Config()}, tmp_path / "x.pth", _use_new_zipfile_serialization=in_zip)
    with pytest.raises(CheckpointError, match=r"tests\.test_foreign\.Config.*not run.*torch\.save\(model\.state_dict"):
        checkpoints.load(tmp_path / "x.pth")


class Harm:
    """Looks like settings, and calls something."""

    def __reduce__(self):
        return os.system, ("echo > trace",)


def test_stand_ins_run_nothing(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for arguments in (argparse.Namespace(x=Harm()), {Harm(): 1}):
        torch.save({"model": network.state_dict(), "args": arguments}, "x.pth")
        with pytest.raises(CheckpointError, match=r"(posix|nt)\.system"):
            checkpoints.load(Path("x.pth"))
    assert not Path("trace").exists()


def test_names_of_classes_in_the_file_are_used_if_they_fit(load, network):
    weights = {"state_dict": network.state_dict()}
    for beside in (
        {"classes": NAMES}, {"class_names": tuple(NAMES)}, {"class_to_idx": {"wasp": 2, "ant": 0, "bee": 1}},
        {"meta": {"idx_to_class": {0: "ant", 2: "wasp", 1: "bee"}}}, {"id2label": dict(zip("012", NAMES, strict=True))},
        {"hyper_parameters": {"class_names": NAMES}},
    ):  # fmt: skip
        loaded = load(weights | beside)
        assert loaded.classes == NAMES and loaded.named and "--classes" not in loaded.assumed
        assert load(weights | beside, classes="x,y,z").classes == ["x", "y", "z"]
    for beside in ({"classes": NAMES[:2]}, {"layers": NAMES}, {"classes": ["a", "a", "b"]}, {"class_to_idx": {"a": 9}}):
        loaded = load(weights | beside)
        assert loaded.classes == ["class 0", "class 1", "class 2"] and not loaded.named
    assert load(weights | {"classes": ["../a", "b/c", "d"]}).classes == ["_.._a", "b_c", "d"]


def test_what_the_flags_say_is_assumed_no_more_or_refused(load, network, tmp_path):
    flags = {"image_size": 64, "resize": "squash", "mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    loaded = load(network.state_dict(), **flags, classes="ant, bee,wasp")
    assert loaded.preprocess == Preprocess(64, "squash") and (loaded.classes, loaded.assumed) == (NAMES, "")
    assumed = "--resize squash --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5; names of the classes: --classes"
    assert load(network.state_dict(), image_size=64).assumed == assumed
    checkpoints.save(Checkpoint("resnet18", NAMES, Preprocess(), network.state_dict()), tmp_path / "ours.pth")
    with pytest.raises(CheckpointError, match=r"says itself.*Leave out --image-size, --classes"):
        checkpoints.load(tmp_path / "ours.pth", stated=Stated(image_size=64, classes="a,b,c"))
    for words, stated in (
        ("2 names, but .* 3 classes", {"classes": "a,b"}), ("differ", {"classes": "a,b,a"}),
        ("folders", {"classes": "a,b/c,d"}), ("--image-size", {"image_size": -1}), ("above 0", {"std": (1, 0, 1)}),
        ("4097; expected 1 to 4096", {"image_size": 4097}), ("divided by 255", {"mean": (0.5, 123.675, 0)}),
        ("found 58.395, expected", {"std": (58.395, 1, 1)}), ("0..1", {"mean": (0, 0, -0.1)}),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=words):
            load(network.state_dict(), **stated)
    narrow = theirs(2, "densenet121").state_dict()
    assert load(narrow, image_size=29).preprocess.size == 29
    with pytest.raises(CheckpointError, match="--image-size is 28; densenet121 needs at least 29 pixels"):
        load(narrow, image_size=28)


def test_one_output_is_two_classes(load):
    for network in (theirs(1, "googlenet", aux_logits=True, init_weights=False), theirs(1)):
        loaded, x = load(network.state_dict()), torch.randn(2, 3, 64, 64)
        with torch.inference_mode():
            expected, found = network(x).sigmoid(), loaded.network()(x).softmax(1)
        torch.testing.assert_close(found, torch.cat([1 - expected, expected], 1), rtol=1e-5, atol=1e-6)
        assert loaded.classes == ["class 0", "class 1"] and "sigmoid" in loaded.assumed
    assert load(network.state_dict(), classes="cat,dog").classes == ["cat", "dog"]
    assert load({"model": network.state_dict(), "class_to_idx": {"dog": 1, "cat": 0}}).classes == ["cat", "dog"]


def test_what_differs_is_named_and_training_takes_the_rest(load, capsys):
    several_layers, for_small_images = theirs(), theirs()
    several_layers.fc = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 2))
    for_small_images.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    stacked = nn.ModuleDict({"backbone": theirs(1000), "classifier": nn.Linear(1000, 2)}).state_dict()
    for weights, words, missing in (
        (several_layers.state_dict(), r"fc: expected one linear layer of 512 inputs, found fc\.0\.weight 64 x 512", 2),
        (stacked, r"fc: .* found backbone\.fc\.weight 1000 x 512.*classifier\.weight 2 x 1000", 2),
        (for_small_images.state_dict(), r"conv1\.weight is 64 x 3 x 3 x 3, expected 64 x 3 x 7 x 7", 1),
    ):
        with pytest.raises(CheckpointError, match=rf"fits resnet18 but for {words}.*--weights"):
            load(weights)
        part = load(weights, trunk=True)
        assert len(part.state_dict) == 122 - missing
    cfg = parse_config("", ["--weights", str(part.path)])
    assert (cfg.model, cfg.resize) == ("resnet18", "squash")
    ours = MODELS["resnet18"](num_classes=4)
    pretrained.load(ours, TrainConfig(weights=str(part.path)), ["a", "b", "c", "d"])
    assert torch.equal(ours.layer4[1].conv2.weight, for_small_images.layer4[1].conv2.weight)
    said = capsys.readouterr().out
    assert "fc.weight, fc.bias" in said and "conv1.weight" in said


@pytest.mark.filterwarnings("ignore")
def test_files_of_another_kind_are_called_what_they_are(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)), tmp_path / "script.pt")
    torch.save(theirs(), tmp_path / "network.pth")
    torch.save(theirs().state_dict(), tmp_path / "new.pth", pickle_protocol=4)
    torch.save(theirs(2, "mobilenet_v3_small").state_dict(), tmp_path / "another.pth")
    keras, onnx = b"\x89HDF\r\n\x1a\n" + bytes(100), b"\x08\x08\x12\x07pytorch:\x0b\x12\x05graph"
    make_folder(tmp_path, {"keras.H5": bytes(100), "keras.pth": keras, "onnx.pth": onnx})
    for name, words in {
        "script.pt": r"is TorchScript.*model\.state_dict\(\)",
        "network.pth": r"torchvision\.models\.resnet\.ResNet.*model\.state_dict\(\)",
        "new.pth": "protocol 4",
        "another.pth": r"weights of another network .*Known here are resnet18",
        "keras.H5": r"is Keras.*model\.state_dict\(\)",
        "keras.pth": "is Keras",
        "onnx.pth": "is ONNX",
    }.items():
        with pytest.raises(CheckpointError, match=words) as caught:
            checkpoints.load(tmp_path / name)
        assert not any(word in str(caught.value) for word in ("damaged", "trust", "anything"))
