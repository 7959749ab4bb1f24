"""--weights and --freeze: what is loaded, what is new, what stays as it is, and where weights come from."""

import hashlib
import http.server
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision

from classifier import checkpoint
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.training import pretrained
from classifier.training.config import FINE_TUNING, FROZEN, TrainConfig, parse_config
from tests.conftest import make_images, serving
from zoo import MODELS

PREPROCESS = Preprocess(40, "crop", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
QUICK = ("--batch-size", 8, "--epochs", 2)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A .pth of ResNet-18 that knows other classes and has its own preprocessing."""
    torch.manual_seed(0)
    network = MODELS["resnet18"](num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "other.pth"
    checkpoint.save(Checkpoint("resnet18", ["a", "b", "c"], PREPROCESS, network.state_dict()), path)
    return path


@pytest.fixture
def tune(run, weights):
    """Trains ResNet-18 from `weights`; gives the saved network, the weights before, and the .pth."""

    def call(*arguments: object, name: str = "run") -> tuple[dict, dict, Checkpoint]:
        run("--model", "resnet18", "--weights", weights, "--size", 40, "--name", name, *QUICK, *arguments)
        last, best = (checkpoint.load(Path(f"module/{name}{end}")) for end in (".last.pth", ".pth"))
        return last.resume["network"], checkpoint.load(weights).state_dict, best

    return call


def test_the_head_is_new_for_other_classes_and_loaded_for_the_same(weights, capsys):
    cfg, known = TrainConfig(weights=str(weights)), checkpoint.load(weights)
    for classes, loaded in ((["x", "y"], False), (["a", "b", "c"], True), (["c", "b", "a"], False)):  # order matters
        network = MODELS["resnet18"](num_classes=len(classes))
        head = network.fc.weight.clone()
        assert pretrained.load(network, cfg, classes).preprocess == PREPROCESS
        said = capsys.readouterr().out
        assert f"{122 if loaded else 120} of 122 tensors" in said
        assert ("new because its classes are others (a, b, c): fc.weight, fc.bias" in said) == (not loaded)
        assert torch.equal(network.fc.weight, known.state_dict["fc.weight"] if loaded else head)
        assert torch.equal(network.layer4[1].conv2.weight, known.state_dict["layer4.1.conv2.weight"])


def test_a_run_takes_weights_and_preprocessing(tune, weights):
    _, old, best = tune("--lr", 1e-9, "--warmup", 0, "--ema", 0, "--epochs", 1)
    assert best.preprocess == PREPROCESS and best.settings["weights"] == str(weights)
    assert torch.allclose(best.state_dict["conv1.weight"].float(), old["conv1.weight"], atol=1e-3)
    assert parse_config("", ["--weights", str(weights)]).lr == FINE_TUNING["lr"]
    other = ("--size", 32, "--enlarge", 1, "--resize", "squash", "--normalize", "half")
    seen = tune(*other, "--epochs", 1, name="other")[2].preprocess
    assert (seen.size, seen.resize, seen.mean) == (32, "squash", (0.5, 0.5, 0.5))


def test_weights_that_know_the_validation_images_are_mentioned(run, capsys):
    tiny = ("--batch-size", 18, "--epochs", 1)
    run(*tiny)
    known, knows = ("--weights", "module/run.pth", *tiny), "it knows some of the validation images"
    for name, flags in (("same", ()), ("more", ("--val", 0.2)), ("others", ("--fold", 2))):
        run(*known, "--name", name, *flags)
        assert (knows in capsys.readouterr().out) == (name != "same")


def test_frozen_only_the_last_layer_is_fitted_to_features_or_with_augmentation_learns_in_steps(tune, capsys):
    new, old, best = tune("--freeze")
    said = capsys.readouterr().out
    assert "last layer fitted to the features of 72 images" in said and "epoch 1/1" in said
    assert {key: best.settings[key] for key in FROZEN} == FROZEN and best.preprocess == PREPROCESS
    assert best.scores["history"][0]["train"]["accuracy"] > 0.9  # to the end
    assert torch.equal(new["fc.weight"], tune("--freeze", name="again")[0]["fc.weight"])
    in_steps = tune("--freeze", "--augment", "on", name="steps")[0]
    assert not torch.equal(new["fc.weight"], in_steps["fc.weight"])
    for key in old.keys() - {"fc.weight", "fc.bias"}:  # statistics as well
        assert torch.equal(old[key], new[key]) and torch.equal(old[key], in_steps[key])


def test_batch_norm_keeps_imagenets_statistics_by_default(tune, tmp_path):
    new, old, best = tune("--freeze-bn", "--epochs", 1)
    for name in ("bn1.running_mean", "layer4.1.bn2.running_var"):
        assert torch.equal(new[name], old[name]) and torch.equal(best.state_dict[name], old[name])
    assert not torch.equal(new["conv1.weight"], old["conv1.weight"])
    parts = torchvision.models.resnet18().state_dict()
    torch.save(parts, tmp_path / "imagenet.pth")
    for file in ("imagenet.pth", "module/run.pth"):  # and whatever came from them
        assert all(parse_config("", ["--weights", file, *more]).freeze_bn for more in ([], ["--freeze"]))
    del parts["bn1.running_var"], parts["bn1.running_mean"]
    torch.save(parts, tmp_path / "parts.pth")  # what is new has no statistics to keep
    assert not parse_config("", ["--weights", "parts.pth"]).freeze_bn
    with pytest.raises(UserError, match=r"parts\.pth lacks those of bn1\. Use --no-freeze-bn"):
        tune("--weights", "parts.pth", "--freeze-bn", name="parts")


def test_what_makes_no_sense_is_refused(run, weights, tmp_path):
    for arguments, message in (
        ("--freeze", "--freeze needs trained weights"),
        ("--freeze-bn", "--freeze-bn needs trained weights"),
        ("--normalize weights", "--normalize weights needs trained weights"),
        ("--weights nowhere.pth", "nowhere.pth does not exist"),
        (f"--weights {weights} --model resnet34", "holds weights of resnet18"),
        ("--model resnet81", "Did you mean resnet18?"),
        ("--model alexnet --size 96", "at least 63 pixels, but the first epoch's images have 32"),
    ):
        with pytest.raises(UserError, match=message):
            run("--model", "resnet18", *arguments.split())
    assert not list(tmp_path.glob("module/*.pth"))


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.asked.append(self.path)


def test_imagenets_weights_come_once_and_are_checked(run, tmp_path, monkeypatch):
    folder, asked = tmp_path / "server", []
    folder.mkdir()
    torch.save(torchvision.models.resnet18().state_dict(), folder / "x.pth")
    digest = hashlib.sha256((folder / "x.pth").read_bytes()).hexdigest()
    file = (folder / "x.pth").rename(folder / f"resnet18-{digest[:8]}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    with serving(partial(Handler, directory=str(folder)), asked=asked) as server:
        monkeypatch.setattr(torchvision.models.ResNet18_Weights.DEFAULT.value, "url", f"{server.url}/{file.name}")
        known = pretrained.imagenet("resnet18")
        assert (known.model, len(known.classes), known.preprocess) == ("resnet18", 1000, Preprocess())
        run("--model", "resnet18", "--weights", "imagenet", "--size", 32, *QUICK, "--epochs", 1)
        saved = checkpoint.load(Path("module/run.pth"))
        assert (saved.preprocess.resize, saved.preprocess.mean) == ("crop", Preprocess().mean)
        assert len(asked) == 1  # the run had them from torch's own cache
        shutil.rmtree(torch.hub.get_dir())
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(UserError, match=r"invalid hash value.*--weights FILE"):
            pretrained.imagenet("resnet18")
        file.unlink()
        with pytest.raises(UserError, match=r"404.*--weights FILE"):
            pretrained.imagenet("resnet18")


def test_imbalanced_classes_are_mentioned_and_weighed(run, tmp_path, capsys):
    make_images(tmp_path / "uneven" / "train", {"across": 60, "down": 12})
    for balance in ("weights", "off"):
        run("--data", "uneven", *QUICK, "--epochs", 1, "--balance", balance, "--name", balance)
    said = capsys.readouterr().out
    assert said.count("across has 4.9 times as many images as down; small classes count more") == 1
    assert "65 images are few" in said and "--weights imagenet --freeze --data uneven" in said
    biases = [checkpoint.load(Path(f"module/{name}.pth")).state_dict["fc.bias"] for name in ("weights", "off")]
    assert not torch.equal(*biases)


def test_googlenets_auxiliary_classifiers_learn(run):
    run("--model", "googlenet", *QUICK, "--epochs", 1)
    torch.manual_seed(0)
    fresh = MODELS["googlenet"](num_classes=2).state_dict()
    learned = checkpoint.load(Path("module/run.last.pth")).state_dict
    assert not torch.equal(learned["aux1.fc2.weight"], fresh["aux1.fc2.weight"])
