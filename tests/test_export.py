"""export.py as people run it: the ONNX answers as the network does, for any image, and replaces nothing by itself."""

import hashlib
import json
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import RESIZES, Preprocess
from classifier.inference.predictor import Prediction, build_predictor
from tests.conftest import REPOSITORY, run_code, run_script
from tests.test_evaluate import rows
from tests.test_images import whole_images
from tests.test_predictor import CPU, built
from tests.test_zoo import filled
from zoo import MODELS
from zoo.densenet import DenseNet

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

import export  # noqa: E402

CLASSES = ["blue", "红", "a \"b\""]  # fmt: skip
SIZE = 24
BUILDERS = dict(MODELS)  # before tests put others there
FAMILIES = {"vgg11_bn": 64, "googlenet": 32, "densenet121": 32, "efficientnet_lite0": 32}  # size


class Places(nn.Module):
    """Looks at every pixel, so that each one that differs changes the answer."""

    def __init__(self, num_classes=3, size=SIZE):
        super().__init__()
        self.fc = nn.Linear(3 * size * size, num_classes)

    def forward(self, x):
        return self.fc(x.flatten(1))


class Unfaithful(Places):
    """Mixes up images, or classes, once it is exported."""

    def forward(self, x):
        logits = super().forward(x)
        return logits.flip(self.dim) if torch.compiler.is_exporting() else logits


def places(preprocess: Preprocess) -> Checkpoint:
    torch.manual_seed(0)
    return Checkpoint("places", CLASSES, preprocess, Places().state_dict())


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Edges and soft parts, as photographs have them."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((250, 10, 120), (width // 3, height // 4, width // 2, height // 2))
    return image


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder, as the current one, with module/places.pth."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "places", Places)
    checkpoints.save(places(Preprocess(size=SIZE)), Path("module/places.pth"))
    return tmp_path


def exported(checkpoint: Checkpoint) -> onnxruntime.InferenceSession:
    path = Path("module", f"{checkpoint.model}.pth")
    checkpoints.save(checkpoint, path)
    export.main([str(path)])
    return onnxruntime.InferenceSession(str(path.with_suffix(".onnx")), providers=["CPUExecutionProvider"])


def answers(session: onnxruntime.InferenceSession, images: list[Image.Image]) -> np.ndarray:
    return session.run(["probabilities"], {"picture": np.stack([np.asarray(image) for image in images])})[0]


def own(checkpoint: Checkpoint, images: list[Image.Image]) -> Prediction:
    return build_predictor(checkpoint, CPU)(torch.stack([checkpoint.preprocess.pixels(image) for image in images]))


@pytest.mark.parametrize("resize", RESIZES)
def test_any_image_in_any_number(project, resize):
    checkpoint = places(Preprocess(SIZE, resize))
    session = exported(checkpoint)
    for count, width, height in (1, 97, 60), (3, 31, 130), (7, SIZE, SIZE), (1, 5, 1), (2, 700, 401), (1, 25, 900):
        images = [photograph(width, height, seed) for seed in range(count)]
        found, expected = answers(session, images), own(checkpoint, images).probabilities.numpy()
        assert found.shape == (count, 3) and found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert count == 1 or np.abs(expected[0] - expected[-1]).max() > 0.01  # of different images, not one for all


def bare(name: str, num_classes: int) -> nn.Module:
    """A network of the family with fewer blocks or fewer neurons, where it has so many that exporting takes long."""
    with torch.device("meta"):
        network = DenseNet((2,) * 4, num_classes) if name == "densenet121" else BUILDERS[name](num_classes=num_classes)
        if name == "vgg11_bn":
            pixels = next(layer.in_features for layer in network.classifier if isinstance(layer, nn.Linear))
            layers = nn.Linear(pixels, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, num_classes)
            network.classifier = nn.Sequential(*layers)
    return network


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_each_family(project, monkeypatch, name, capfd):
    monkeypatch.setitem(MODELS, name, lambda num_classes: bare(name, num_classes).to_empty(device="cpu"))
    network = filled(bare(name, 3))
    checkpoint = Checkpoint(name, CLASSES, Preprocess(size=FAMILIES[name]), network.state_dict())
    images = [photograph(90, 70, seed) for seed in range(3)]
    checkpoint.temperature = own(checkpoint, images).logits.std().item()  # so that no class is certain
    found, expected = answers(exported(checkpoint), images), own(checkpoint, images).probabilities.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    shown = capfd.readouterr()
    assert shown.err == "" and shown.out.startswith("weights ")  # no word of the exporter


def test_the_file_describes_itself(project):
    session = exported(places(Preprocess(SIZE, "squash")))
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["classes"]) == CLASSES and "红" in notes["classes"]
    assert (notes["model"], notes["size"], notes["resize"]) == ("places", str(SIZE), "squash")
    assert notes["sha256"] == hashlib.sha256(Path("module/places.pth").read_bytes()).hexdigest()
    assert str(REPOSITORY).encode() not in Path("module/places.onnx").read_bytes()

    assert [output.name for output in session.get_outputs()] == ["probabilities", "logits", "features"]
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[3]) == ("picture", "tensor(uint8)", 3)


def test_without_a_name_the_newest_weights_and_an_existing_file_stays(project):
    target = Path("module/places.onnx")
    target.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"places\.onnx exists already.*--overwrite"):
        export.main([])
    assert target.read_bytes() == b"something else"
    export.main(["--overwrite"])
    assert target.stat().st_size > 4 * 3 * 3 * SIZE * SIZE
    assert sorted(path.name for path in Path("module").iterdir()) == ["places.onnx", "places.pth"]


@pytest.mark.parametrize("fault", ["images", "classes", "NaN"])
def test_a_file_that_answers_otherwise_is_not_written(project, monkeypatch, fault):
    broken = places(Preprocess(size=SIZE))
    if fault == "NaN":
        broken.state_dict["fc.bias"][0] = float("nan")
    else:
        monkeypatch.setitem(MODELS, "places", type("Mixed", (Unfaithful,), {"dim": ["images", "classes"].index(fault)}))
    with pytest.raises(UserError, match=r"Nothing is written|not finite"):
        exported(broken)
    assert [path.name for path in Path("module").iterdir()] == ["places.pth"]


def test_files_that_cannot_be_read_or_written_and_packages_that_are_missing(project, monkeypatch):
    Path("file").write_text("a file, not a folder")
    before = Path("module/places.pth").read_bytes()
    for args, words in (
        (["module/nothing.pth"], "does not exist"),
        (["--output", "file/x.onnx"], r"cannot be written.*--output"),
        (["--output", "module/places.pth", "--overwrite"], r"end in \.onnx"),
    ):
        with pytest.raises(UserError, match=words):
            export.main(args)
    for name in ("onnxscript", "onnxruntime"):
        with monkeypatch.context() as without, pytest.raises(UserError, match=rf"{name}.*requirements-export\.txt"):
            without.setitem(sys.modules, name, None)
            export.main([])
    assert Path("module/places.pth").read_bytes() == before


def write_kinds(folder: Path) -> None:
    """Write images of the kinds that decoders treat differently."""
    folder.mkdir()
    for name, content in whole_images(("JPEG", "PNG", "GIF", "WEBP")):
        if name.endswith(("0 turned 1", "0 turned 6")):
            (folder / f"{name}.{name.split()[0].lower()}").write_bytes(content)
    photo = photograph(900, 700)
    photo.save(folder / "large.jpg")
    photo.convert("CMYK").save(folder / "printer.jpg", icc_profile=b"profile" * 40)
    grey = photo.convert("L")
    grey.save(folder / "grey transparent.png", transparency=grey.getpixel((0, 0)))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    deep.save(folder / "deep transparent.png", transparency=deep.getpixel((0, 0)))


def test_as_a_process_and_what_it_prints_answers_as_predict_py(tmp_path):
    checkpoint = Checkpoint("resnet18", CLASSES, Preprocess(size=32), built("resnet18").state_dict())
    checkpoints.save(checkpoint, tmp_path / "module" / "run.pth")
    done = run_script("export.py", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    _, snippet = done.stdout.split("(pip install onnxruntime pillow):\n")
    write_kinds(tmp_path / "images")
    labelled = run_script("predict.py", "images", "--device", "cpu", "--precision", "fp32", cwd=tmp_path)
    assert labelled.returncode == 0, labelled.stderr
    labels = rows(tmp_path / "predictions.csv")
    files = [tmp_path / row["path"] for row in labels]
    assert len(files) > 20
    code = textwrap.dedent(snippet)
    prepared, asked = code[: code.index("(probabilities,)")], code[code.index("(probabilities,)") :]
    loop = (
        f"for name in {[str(file) for file in files]!r}:\n    try:\n"
        + textwrap.indent(asked.replace('"image.jpg"', "name"), "        ")
        + "    except ValueError:\n        print('refused')\n"
    )
    used = run_code(prepared + loop, cwd=tmp_path)
    assert used.returncode == 0 and used.stderr == "", used.stderr
    for row, line in zip(labels, used.stdout.splitlines(), strict=True):
        if line == "refused":  # rather than another answer
            assert row["path"] == "images/printer.jpg"
            continue
        name, probability = line.rsplit(" ", 1)
        expected = max(float(value) for key, value in row.items() if key.startswith("P("))
        assert row["note"] or name == row["class"], row
        assert float(probability) == pytest.approx(expected, abs=1e-3), row
