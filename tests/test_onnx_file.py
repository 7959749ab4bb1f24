"""An .onnx of export.py in place of a .pth: the same answers from evaluate.py, predict.py and the page; 8 bits."""

import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint, CheckpointError
from classifier.cli import UserError
from classifier.data import sample_set
from classifier.data.image_folder import read_folder
from classifier.data.loaders import ImageDataset, images_of
from classifier.data.transforms import Preprocess
from classifier.inference import onnx_file
from classifier.inference.cam import cam_predictor
from tests.conftest import REPOSITORY, run_script
from tests.test_evaluate import rows
from tests.test_export import bare
from tests.test_predictor import CPU, close
from tests.test_zoo import filled
from webui.i18n import Translator
from webui.models import Models
from zoo import MODELS

import evaluate  # isort: skip
import export  # isort: skip
import predict  # isort: skip

ARCHIVE = REPOSITORY.parent / "shared" / "data" / "dogs-vs-cats" / "train.zip"
COUNT = 2000 if os.environ.get("LONG") else 400
SHIPPED, EXACT, SMALL = (Path("module", f"a{end}") for end in (".pth", ".onnx", "-int8.onnx"))


@pytest.fixture(scope="module")
def inside(tmp_path_factory) -> Iterator[None]:
    """The project's weights as .pth and both kinds of .onnx; 40 drawings to train with, 40 others to test with."""
    root = tmp_path_factory.mktemp("onnx")
    sample_set.unpack(root / "dataset")
    for drawings in (root / "dataset").glob("*/*"):
        for path in sorted(drawings.iterdir())[20:]:
            path.unlink()
    (root / "module").mkdir()
    shutil.copy(REPOSITORY / "module" / checkpoints.SHIPPED[-1], root / SHIPPED)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(root)
        export.main([str(SHIPPED)])
        done = run_script("export.py", SHIPPED, "--int8", cwd=root)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        Path("said.txt").write_text(done.stdout, encoding="utf-8")
        yield


def test_the_same_answers_heat_maps_and_neither(inside):
    original, loaded = checkpoints.load(SHIPPED), onnx_file.load(EXACT)
    assert (loaded.classes, loaded.preprocess) == (original.classes, original.preprocess) and loaded.assumed == ""
    assert loaded.data == original.data and loaded.scores == original.scores
    drawings = read_folder(Path("dataset/test"), classes=original.classes)
    images = images_of(ImageDataset(drawings, original.preprocess), range(0, 40, 2))
    images = torch.cat([images, torch.randint(0, 256, (4, *images.shape[1:]), dtype=torch.uint8)])
    (expected, maps), (found, found_maps) = (cam_predictor(one, CPU)(images) for one in (original, loaded))
    for name in ("logits", "probabilities", "features"):
        close(getattr(found, name), getattr(expected, name))
    close(found_maps, maps)
    assert found.is_ood.tolist() == expected.is_ood.tolist() and found.is_ood[-4:].all()

    models = Models(Path("module"), EXACT)
    assert models.best() == "a.onnx" and "98.2%" in dict(map(reversed, models.titles(Translator("en"))))["a.onnx"]
    shown, _ = models.get("a.onnx").predict(images)
    assert torch.equal(shown.logits, found.logits)


def test_evaluate_and_predict(inside, capsys):
    evaluate.main([*map(str, (SHIPPED, EXACT, SMALL)), "--data", "dataset", "--precision", "fp32"])
    shown = capsys.readouterr().out
    assert "float32 (as in the file; onnxruntime)" in shown and "int8 (as in the file" in shown
    reports = [
        json.loads(next(Path("logs/evaluate", name).glob("*/report.json")).read_text(encoding="utf-8"))
        for name in ("a", "a.onnx", "a-int8.onnx")
    ]
    for key in ("accuracy", "neither", "confusion_matrix", "parameters", "multiply_adds"):
        assert reports[0][key] == reports[1][key]
    assert reports[1]["loss"] == pytest.approx(reports[0]["loss"], abs=1e-4)
    assert abs(reports[2]["accuracy"] - reports[0]["accuracy"]) <= 0.05 and reports[2]["precision"] == "int8"

    tables = []
    for weights in (SHIPPED, EXACT, SMALL):
        output = f"{weights.name}.csv"
        predict.main(["dataset/test", "--weights", str(weights), "--output", output, "--precision", "fp32"])
        tables.append(rows(Path(output)))
    for row, same, near in zip(*tables, strict=True):
        assert (row["class"], row["note"]) == (same["class"], same["note"])
        assert float(row["P(cat)"]) == pytest.approx(float(same["P(cat)"]), abs=1e-3)
        assert float(row["P(cat)"]) == pytest.approx(float(near["P(cat)"]), abs=0.2)
    with pytest.raises(UserError, match="holds predictions of"):  # another file's
        predict.main(["dataset/test", "--weights", str(SMALL), "--output", "a.onnx.csv"])


def test_8_bits_say_what_they_cost(inside):
    said = Path("said.txt").read_text(encoding="utf-8")
    assert "8 bits     by 40 images of dataset/train" in said and "40 test images of dataset/test" in said
    assert EXACT.stat().st_size > 3.5 * SMALL.stat().st_size
    loaded = onnx_file.load(SMALL)
    _, small_part = re.search(r"([\d.]+)% in float32, ([\d.]+)% in 8 bits", said).groups()
    assert loaded.scores["test"]["accuracy"] == pytest.approx(float(small_part) / 100, abs=1e-4)  # not the .pth's
    assert loaded.scores["test"]["count"] == 40


class Outlier(nn.Module):
    """What tells the classes apart is small beside what does not, so that 8 bits of both together lose it."""

    def __init__(self, num_classes: int = 2):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 2, 1, bias=False), nn.Linear(2, num_classes, bias=False)
        with torch.no_grad():
            self.conv.weight[:, :, 0, 0] = torch.tensor([[1e5, 1e5, 1e5], [1, 0, -1]])
            self.fc.weight.copy_(torch.tensor([[0.0, -1], [0, 1]]))

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


def test_worse_is_called_worse(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "outlier", Outlier)
    random = torch.Generator().manual_seed(0)
    for part in ("train", "test"):
        for name, color in {"blue": (100, 128, 150), "red": (150, 128, 100)}.items():
            Path("dataset", part, name).mkdir(parents=True)
            for i in range(12):
                color = tuple(value + torch.randint(-9, 9, (), generator=random).item() for value in color)
                Image.new("RGB", (8, 8), color).save(Path("dataset", part, name, f"{i}.png"))
    checkpoint = Checkpoint("outlier", ["blue", "red"], Preprocess(8), Outlier().state_dict(), ood_stats={})
    checkpoints.save(checkpoint, Path("module/outlier.pth"))
    export.main(["--int8"])
    shown = capsys.readouterr().out
    assert "100.00% in float32, 50.00% in 8 bits" in shown
    assert "WORSE      8 bits lose 50.00%. Use float32: python export.py module/outlier.pth" in shown


def test_a_file_without_statistics_or_maps_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "vgg11_bn", lambda num_classes: bare("vgg11_bn", num_classes).to_empty(device="cpu"))
    network = filled(bare("vgg11_bn", 3))
    saved = Checkpoint("vgg11_bn", ["a", "b", "c"], Preprocess(64), network.state_dict())
    checkpoints.save(saved, Path("module/x.pth"))
    export.main([])
    words = "assumed    that every image shows one of the classes: the file has no OOD statistics; it has no heat maps"
    assert words in capsys.readouterr().out
    Image.new("RGB", (70, 70)).save("black.png")
    predict.main(["black.png", "--weights", "module/x.onnx"])
    assert words in capsys.readouterr().out
    predict_with_maps = cam_predictor(onnx_file.load(Path("module/x.onnx")), CPU)
    prediction, maps = predict_with_maps(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    assert not prediction.is_ood.any() and maps.shape == (2, 3, 1, 1) and not maps.any()


def test_other_files_are_refused(tmp_path, monkeypatch, inside):
    foreign, cut = tmp_path / "foreign.onnx", tmp_path / "cut.onnx"
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), foreign)
    cut.write_bytes(EXACT.read_bytes()[:100_000])
    for path, words in ((foreign, "export.py did not write it"), (cut, "damaged"), (tmp_path / "no.onnx", "not exist")):
        with pytest.raises(CheckpointError, match=words):
            onnx_file.load(path)
    with pytest.raises(CheckpointError, match=r"Leave out --image-size"):
        onnx_file.load(EXACT, checkpoints.Stated(image_size=32))
    with pytest.raises(CheckpointError, match=r"is ONNX\. Needed are"):  # by train.py, for one
        checkpoints.load(EXACT)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CheckpointError, match=r"pip install -r requirements-export\.txt"):
        onnx_file.load(EXACT)


@pytest.mark.skipif(not ARCHIVE.is_file(), reason="no photographs beside the project")
@pytest.mark.parametrize("weights", checkpoints.SHIPPED)
def test_8_bits_of_photographs(weights, tmp_path):
    with zipfile.ZipFile(ARCHIVE) as archive:
        for kind in ("cat", "dog"):
            names = sorted(name for name in archive.namelist() if f"{kind}." in name)
            for part, chosen in (("test", names[: COUNT // 2]), ("train", names[COUNT // 2 :][:50])):
                target = tmp_path / part / kind
                target.mkdir(parents=True)
                for name in chosen:
                    (target / Path(name).name).write_bytes(archive.read(name))
    own = ("--int8", "--data", ".", "--output", "x.onnx")
    done = run_script("export.py", REPOSITORY / "module" / weights, *own, cwd=tmp_path)
    found = re.search(rf"([\d.]+)% in float32, ([\d.]+)% in 8 bits, on {COUNT:,} test images", done.stdout)
    exact, small = map(float, found.groups())
    assert exact > 97 and small >= exact - 0.5 and "WORSE" not in done.stdout
    exact, small = map(int, re.search(r"neither +(\d+) of them in float32, (\d+) in 8 bits", done.stdout).groups())
    assert abs(small - exact) <= 0.02 * COUNT
