"""Weights to begin with: what is taken, what is new, what stays as it is, and where they come from."""

import hashlib
import http.server
import math
import threading
from functools import partial

import pytest
import torch
import torchvision
from torch import nn

import train
from classifier import checkpoint
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.evaluation import metrics
from classifier.training import pretrained
from classifier.training.config import FINE_TUNING, FROZEN, NETWORKS, read_settings
from tests.conftest import make_images
from tests.test_train import call, stop_after, weights_of
from zoo import MODELS

QUICK = ("--batch-size", 8, "--workers", 0, "--name", "run", "--precision", "fp32", "--epochs", 2)
LOOKS = Preprocess(40, "crop", (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bicubic")


@pytest.fixture(scope="module")
def beginning(tmp_path_factory):
    """A .pth that knows other classes and sees images in its own way."""
    torch.manual_seed(0)
    network = MODELS["resnet18"](num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "other.pth"
    checkpoint.save(Checkpoint("resnet18", ["a", "b", "c"], LOOKS, network.state_dict()), path)
    return path


@pytest.fixture
def never_stopped(monkeypatch):
    monkeypatch.setattr(train, "stop_on_signal", list)


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "vgg11_bn", "googlenet", "densenet121"])
def test_only_the_last_layers_depend_on_the_classes(name):
    names = pretrained.class_dependent(name)
    assert {key.rsplit(".", 1)[0] for key in names} == {
        "resnet18": {"fc"}, "alexnet": {"classifier.6"}, "vgg11_bn": {"classifier.6"},
        "googlenet": {"fc", "aux1.fc2", "aux2.fc2"}, "densenet121": {"classifier"},
    }[name]  # fmt: skip
    with torch.device("meta"):
        network = MODELS[name](num_classes=7)
    assert pretrained.last_layer(network).out_features == 7


def test_the_head_is_new_for_other_classes_and_taken_for_the_same(beginning):
    known = pretrained.load_pretrained(str(beginning), "")
    network = MODELS["resnet18"](num_classes=2)
    head = network.fc.weight.clone()
    told = pretrained.begin(network, known, ["x", "y"])
    assert "120 of 122 tensors" in told and "new for other classes than a, b, c: fc.weight, fc.bias" in told
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(network.layer4[1].conv2.weight, known.state_dict["layer4.1.conv2.weight"])

    network = MODELS["resnet18"](num_classes=3)
    assert "122 of 122 tensors" in pretrained.begin(network, known, ["a", "b", "c"])
    assert torch.equal(network.fc.weight, known.state_dict["fc.weight"])
    fresh = MODELS["resnet18"](num_classes=3)
    head = fresh.fc.weight.clone()
    pretrained.begin(fresh, known, ["c", "b", "a"])  # another order is another meaning
    assert torch.equal(fresh.fc.weight, head)


def test_a_run_takes_weights_and_preprocessing_and_says_so(
    bars, beginning, tmp_path, monkeypatch, capsys, never_stopped
):
    call(monkeypatch, tmp_path, "--data", bars, "--weights", beginning, *QUICK, "--lr", 1e-9, "--warmup", 0, "--ema", 0)
    out = capsys.readouterr().out
    assert "begins with" in out and "other.pth: 120 of 122 tensors" in out
    saved = checkpoint.load(tmp_path / "module" / "run.pth")
    assert saved.preprocess == LOOKS  # size and all
    assert saved.settings["size"] == round(LOOKS.size / saved.settings["enlarge"])
    old = checkpoint.load(beginning).state_dict
    assert torch.allclose(saved.state_dict["conv1.weight"].float(), old["conv1.weight"], atol=1e-3)
    assert saved.settings["weights"] == str(beginning)


def test_what_belongs_to_the_weights_can_be_changed(bars, beginning, tmp_path, monkeypatch, never_stopped):
    call(monkeypatch, tmp_path, "--data", bars, "--weights", beginning, *QUICK, "--size", 32, "--enlarge", 1,
         "--resize", "squash", "--normalize", "half")  # fmt: skip
    seen = checkpoint.load(tmp_path / "module" / "run.pth").preprocess
    assert (seen.size, seen.resize, seen.mean) == (32, "squash", (0.5, 0.5, 0.5))


def test_frozen_only_the_last_layer_changes(bars, beginning, tmp_path, monkeypatch, capsys, never_stopped):
    passes = count_features(monkeypatch)
    call(monkeypatch, tmp_path, "--data", bars, "--weights", beginning, "--freeze", *QUICK)
    assert passes == ["train", "val"]  # once, not in each of two epochs
    assert "only the last layer learns, to the end" in capsys.readouterr().out
    old, new = checkpoint.load(beginning).state_dict, weights_of(tmp_path)
    assert all(torch.equal(old[key], new[key]) for key in old if not key.startswith("fc"))  # statistics as well
    settings = checkpoint.load(tmp_path / "module" / "run.pth").settings
    assert {key: settings[key] for key in FROZEN} == FROZEN
    assert checkpoint.load(tmp_path / "module" / "run.pth").preprocess == LOOKS


def test_with_augmentation_images_are_looked_at_every_time(bars, beginning, tmp_path, monkeypatch, never_stopped):
    frozen = ("--data", bars, "--weights", beginning, "--freeze", *QUICK)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    call(monkeypatch, tmp_path / "a", *frozen)
    monkeypatch.setattr(train.finetune, "features", lambda *_: pytest.fail("features were computed"))
    call(monkeypatch, tmp_path / "b", *frozen, "--augment", "on")
    a, b = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert all(torch.equal(a[key], b[key]) for key in a if not key.startswith("fc"))
    assert not torch.equal(a["fc.weight"], b["fc.weight"])  # the augmented images were others


def test_then_the_whole_network_learns_early_layers_less(bars, beginning, tmp_path, monkeypatch, never_stopped):
    call(monkeypatch, tmp_path, "--data", bars, "--weights", beginning, "--freeze", "--unfreeze-after", 1, *QUICK,
         "--early-lr", 1e-3, "--weight-decay", 0, "--ema", 0)  # fmt: skip
    old, new = checkpoint.load(beginning).state_dict, weights_of(tmp_path)

    def moved(key):
        return ((new[key] - old[key]).abs().mean() / old[key].abs().mean()).item()

    assert 0 < 30 * moved("conv1.weight") < moved("layer4.1.conv2.weight")
    assert not torch.equal(new["bn1.running_mean"], old["bn1.running_mean"])
    history = checkpoint.load(tmp_path / "module" / "run.last.pth").resume["history"]
    assert len(history) == 2


@pytest.mark.parametrize("extra", [(), ("--unfreeze-after", 1)])
def test_a_frozen_run_goes_on_where_it_stopped(bars, beginning, tmp_path, monkeypatch, extra):
    exact = ("--precision", "bf16")  # of float32 there are two kinds, of which each run takes the faster one
    arguments = ("--data", bars, "--weights", beginning, "--freeze", *QUICK, *extra, *exact)
    for name, stops in (("whole", ()), ("parts", (3, 9))):
        (tmp_path / name).mkdir()
        command = arguments
        for stop in stops:
            with monkeypatch.context() as patch, pytest.raises(SystemExit):
                stop_after(patch, stop)
                call(patch, tmp_path / name, *command)
            command = ("--resume", "module/run.last.pth")
        with monkeypatch.context() as patch:
            patch.setattr(train, "stop_on_signal", list)
            call(patch, tmp_path / name, *command)
    whole, parts = weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def count_features(monkeypatch) -> list[str]:
    passes, compute = [], pretrained.features
    parts = iter(["train", "val", "again", "again"])

    def counted(*arguments):
        passes.append(next(parts))
        return compute(*arguments)

    monkeypatch.setattr(pretrained, "features", counted)
    return passes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--freeze",), "--freeze keeps random weights"),
        (("--weights", "{}", "--unfreeze-after", 2), "--unfreeze-after needs --freeze"),
        (("--normalize", "weights"), "--normalize weights needs --weights"),
        (("--weights", "nowhere.pth"), "nowhere.pth does not exist"),
        (("--weights", "{}", "--model", "resnet34"), "holds weights of resnet18, not of resnet34"),
        (("--model", "resnet81"), "Did you mean resnet18?"),
        (("--model", "alexnet", "--size", 96), "at least 63 pixels, and this run begins with 32"),
    ],
)
def test_what_makes_no_sense_is_refused(bars, beginning, tmp_path, monkeypatch, arguments, message):
    arguments = [str(word).format(beginning) for word in arguments]
    with pytest.raises(UserError, match=message):
        call(monkeypatch, tmp_path, "--data", bars, *arguments)
    assert not list(tmp_path.glob("module/*.pth"))


# ---- torchvision's weights, from a server on this machine


@pytest.fixture
def published(tmp_path, monkeypatch):
    """torchvision's weights of ResNet-18, as a local server has them; gives the folder and what was asked for."""
    torch.manual_seed(1)
    folder, asked = tmp_path / "server", []
    folder.mkdir()
    torch.save(torchvision.models.resnet18().state_dict(), folder / "weights")
    digest = hashlib.sha256((folder / "weights").read_bytes()).hexdigest()[:8]
    (folder / "weights").rename(folder / f"resnet18-{digest}.pth")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/resnet18-{digest}.pth"
    monkeypatch.setattr(torchvision.models.ResNet18_Weights.DEFAULT.value, "url", url)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    yield folder, asked
    server.shutdown()
    server.server_close()


def test_imagenets_weights_come_once_and_are_checked(published, capfd):
    _, asked = published
    known = pretrained.load_pretrained("imagenet", "resnet18")
    assert (known.model, len(known.classes), known.preprocess) == ("resnet18", 1000, Preprocess())
    network = MODELS["resnet18"](num_classes=2)
    assert "120 of 122 tensors" in pretrained.begin(network, known, ["cat", "dog"])
    assert len(asked) == 1
    pretrained.load_pretrained("imagenet", "resnet18")  # from torch's own cache
    assert len(asked) == 1
    assert pretrained.look("imagenet", "") == ("resnet18", Preprocess())


def test_changed_or_missing_downloads_are_told(published, monkeypatch):
    folder, _ = published
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"invalid hash value.*--weights FILE"):
        pretrained.load_pretrained("imagenet", "resnet18")
    file.unlink()
    with pytest.raises(UserError, match=r"404.*--weights FILE"):
        pretrained.load_pretrained("imagenet", "resnet18")


def test_fine_tuning_from_imagenet_as_a_run(published, bars, tmp_path, monkeypatch, capsys, never_stopped):
    call(monkeypatch, tmp_path, "--data", bars, "--weights", "imagenet", *QUICK, "--size", 32)
    assert "begins with imagenet: 120 of 122 tensors" in capsys.readouterr().out
    saved = checkpoint.load(tmp_path / "module" / "run.pth")
    assert (saved.preprocess.resize, saved.preprocess.mean) == ("crop", Preprocess().mean)
    assert saved.settings["lr"] == FINE_TUNING["lr"]


def test_googlenets_were_trained_with_other_means_and_densenets_have_old_names():
    assert pretrained.look("imagenet", "googlenet")[1].mean == (0.5, 0.5, 0.5)
    with torch.device("meta"):
        new = MODELS["densenet121"]().state_dict()
    old = {}
    for key, value in new.items():
        for layer in ("norm1", "norm2", "conv1", "conv2"):
            key = key.replace(f".{layer}.", f".{layer[:-1]}.{layer[-1]}.") if "denselayer" in key else key
        old[key] = torch.zeros(value.shape, dtype=value.dtype)
    assert old.keys() != new.keys()
    known = checkpoint.plain("densenet121.pth", old)
    assert (known.model, known.state_dict.keys()) == ("densenet121", new.keys())


# ---- what else training offers


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), 2e-3),
        (("--model", "alexnet"), NETWORKS["alexnet"]["lr"]),
        (("--model", "alexnet", "--lr", 1e-5), 1e-5),
        (("--model", "vgg16_bn"), 3e-4),
        (("--model", "resnet34"), 2e-3),
        (("--model", "vgg16", "--recipe", "classic"), 1e-4),
    ],
)
def test_a_network_brings_its_learning_rate(monkeypatch, arguments, expected):
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, arguments)])
    assert read_settings("")[0].lr == expected


def uneven(tmp_path):
    return make_images(tmp_path / "uneven" / "train", {"across": 60, "down": 12}).parent


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_uneven_classes_are_told_and_balanced(tmp_path, monkeypatch, capsys, never_stopped, balance):
    small = ("--data", uneven(tmp_path), *QUICK, "--size", 32, "--augment", "off")
    call(monkeypatch, tmp_path, *small, "--balance", balance)
    assert "across has 4.9 times as many images as down" in capsys.readouterr().out
    assert weights_of(tmp_path)["conv1.weight"].isfinite().all()


def test_balanced_sampling_shows_small_classes_as_often():
    from classifier.data.loaders import ResumableSampler

    labels = torch.tensor([0] * 900 + [1] * 100)
    order = ResumableSampler(1000, 0, torch.tensor([1 / 900, 1 / 100])[labels])
    shown = labels[list(order)]
    assert len(shown) == 1000 and 0.45 < shown.float().mean() < 0.55
    assert list(order) == list(order)


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "both"])
def test_mixed_images_train(bars, tmp_path, monkeypatch, never_stopped, mix):
    call(monkeypatch, tmp_path, "--data", bars, *QUICK, "--size", 32, "--mix", mix)
    assert weights_of(tmp_path)["conv1.weight"].isfinite().all()


def test_patience_ends_a_run_that_gets_no_better(bars, tmp_path, monkeypatch, capsys, never_stopped):
    call(monkeypatch, tmp_path, "--data", bars, *QUICK, "--size", 32, "--epochs", 9, "--lr", 1e-9, "--ema", 0,
         "--patience", 2)  # fmt: skip
    assert "no better for 2 epochs" in capsys.readouterr().out
    assert len(checkpoint.load(tmp_path / "module" / "run.last.pth").resume["history"]) < 9


def test_the_learning_rate_finder_suggests_and_trains_nothing(bars, tmp_path, monkeypatch, capsys, never_stopped):
    call(monkeypatch, tmp_path, "--data", bars, *QUICK, "--size", 32, "--find-lr")
    out = capsys.readouterr().out
    assert "next: python train.py --lr" in out
    assert list(tmp_path.glob("logs/resnet18/*/learning_rate.png"))
    assert not list(tmp_path.glob("module/*.pth"))


def test_a_trial_whose_loss_becomes_infinite_still_shows_its_curve(bars, tmp_path, monkeypatch, capsys, never_stopped):
    loss, losses = metrics.loss, []

    def overflowing(*arguments):
        losses.append(loss(*arguments) if len(losses) < 60 else math.inf)
        return losses[-1]

    monkeypatch.setattr(metrics, "loss", overflowing)
    call(monkeypatch, tmp_path, "--data", bars, *QUICK, "--size", 32, "--find-lr")
    assert len(losses) == 61
    assert "learning_rate.png" in capsys.readouterr().out
    assert list(tmp_path.glob("logs/resnet18/*/learning_rate.png"))


def test_the_finder_finds_where_a_known_loss_falls_fastest():
    from classifier.training.learning_rate_finder import find_learning_rate

    weight = nn.Parameter(torch.tensor(10.0))

    def step(rate):  # gradient descent on w^2 falls for rates below 1, fastest at 0.5
        loss = weight**2
        (gradient,) = torch.autograd.grad(loss, weight)
        weight.data -= rate * gradient
        return loss.item()

    rates, losses, best = find_learning_rate(step)
    assert rates == sorted(rates) and len(rates) == len(losses)
    assert 1e-3 < best < 1


@pytest.mark.parametrize("losses", [[0.5] * 200, [0.5, math.inf], [0.5, 0.6, 40], [math.nan]])
def test_where_no_rate_helps_the_finder_suggests_none(losses, tmp_path, capsys):
    from classifier.training.learning_rate_finder import report

    coming = iter(losses)
    report(lambda rate: next(coming), tmp_path)
    assert "none is suggested" in capsys.readouterr().out and (tmp_path / "learning_rate.png").exists()


def test_the_temperature_undoes_a_known_scale():
    from classifier.inference.calibration import fit_temperature

    torch.manual_seed(0)
    logits = torch.randn(20_000, 3)
    labels = torch.distributions.Categorical(logits=logits).sample()
    assert fit_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits / 4, labels) == pytest.approx(0.25, rel=0.05)


def test_googlenets_auxiliary_classifiers_learn(bars, tmp_path, monkeypatch, never_stopped):
    call(monkeypatch, tmp_path, "--data", bars, "--model", "googlenet", *QUICK, "--size", 32, "--epochs", 1)
    torch.manual_seed(0)
    fresh = MODELS["googlenet"](num_classes=2).state_dict()
    assert not torch.equal(weights_of(tmp_path)["aux1.fc2.weight"], fresh["aux1.fc2.weight"])
