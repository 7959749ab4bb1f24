"""evaluate.py as people run it, and its parts: classes by name, every image once, clear refusals."""

import csv
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import evaluate
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from zoo import MODELS

COLORS = {"blue": (20, 30, 220), "green": (10, 200, 40), "红": (230, 20, 30)}  # in the order of folder names
HISTORY = [
    {"epoch": 1, "minutes": 0.5, "train": {"loss": 0.7, "accuracy": 0.5}, "val": {"loss": 0.6, "accuracy": 0.7}},
    {"epoch": 2, "minutes": 0.9, "train": {"loss": 0.5, "accuracy": 0.8}, "val": {"loss": 0.4, "accuracy": 0.9}},
]
PIXELS = Preprocess(size=32, mean=(0, 0, 0), std=(1, 1, 1))
RUN = Path("module/colors.pth")


class Colors(torch.nn.Module):
    """Its logits are the mean blue, red and green."""

    def __init__(self, num_classes=3):
        super().__init__()
        self.fc = torch.nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


def paint(root, counts=(3, 4, 6)):
    """Images of one colour each, root/<class>/<number>.png; the last two reds are really blue."""
    for (name, color), count in zip(COLORS.items(), counts, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(count):
            wrong = name == "红" and number >= count - 2
            Image.new("RGB", (40, 30), COLORS["blue"] if wrong else color).save(root / name / f"{number}.png")


def colors(**options):
    """A checkpoint whose classes are in another order than the folders."""
    network = Colors()
    network.load_state_dict({"fc.weight": torch.eye(3)[[2, 0, 1]] * 9, "fc.bias": torch.zeros(3)})
    options = {"scores": {"history": HISTORY}, "data": {"root": "dataset", "kind": "photographs"}} | options
    return Checkpoint("colors", ["blue", "红", "green"], PIXELS, network.state_dict(), **options)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder, as the current one, with dataset/test and module/colors.pth."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "colors", Colors)
    paint(Path("dataset/test"))
    checkpoints.save(colors(), RUN)
    return tmp_path


def run(*args):
    """Run the script in this process; the content of the newest report.json."""
    options = ["--workers", "0", "--batch-size", "5", "--device", "cpu", "--precision", "fp32"]
    evaluate.main([*options, *map(str, args)])
    newest = max(Path("logs/evaluate").glob("*/*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text(encoding="utf-8"))


def report_of(name):
    """The only report folder of a network."""
    (folder,) = Path("logs/evaluate", name).iterdir()
    return folder


def rows(path):
    with path.open(encoding="utf-8-sig", errors=sys.getfilesystemencodeerrors(), newline="") as file:
        return list(csv.DictReader(file))


def refuses(match, *args):
    with pytest.raises(UserError, match=match):
        run(*args)
    assert not Path("logs/evaluate").exists()


def test_report(project, capsys):
    before = RUN.stat().st_mtime_ns
    report = run()
    assert report["accuracy"] == pytest.approx(11 / 13) and report["count"] == 13
    assert report["classes"] == ["blue", "红", "green"]  # the order of the logits, not of the folders
    assert report["confusion_matrix"] == [[3, 0, 0], [2, 4, 0], [0, 0, 4]]
    found = {"class": "红", "precision": 1, "recall": pytest.approx(4 / 6), "f1": 0.8, "count": 6}
    assert found.items() <= report["per_class"][1].items()
    assert report["per_class"][2]["auroc"] == 1  # all greens before all others
    assert report["folder"] == "dataset/test" and report["assumed"] == ""
    noted = checkpoints.load(RUN).scores
    assert noted["test"].items() <= report.items() and noted["test"]["confusion_matrix"]
    assert noted["history"] == HISTORY and RUN.stat().st_mtime_ns == before

    shown = capsys.readouterr().out
    assert "accuracy   84.62% on 13 images, 95% interval 57.77% to 95.67%" in shown and "drawings" not in shown
    assert "The score is noted in module/colors.pth." in shown
    folder = report_of("colors")
    figures = {"calibration.png", "confusion_matrix.png", "curves.png", "mistakes.jpg", "rankings.png", "unsure.jpg"}
    assert figures < {file.name for file in folder.iterdir()}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3 and "http" not in page  # nothing is fetched
    assert "84.62%" in page and "Possible label issues" in page
    predictions = rows(folder / "predictions.csv")
    assert len(predictions) == 13
    for row in predictions:  # each row is its own image's
        assert row["answer"] == max(COLORS, key=lambda name: float(row[name]))
        wrong = row["label"] == "红" and Path(row["path"]).stem in "45"
        assert row["answer"] == ("blue" if wrong else row["label"])
    suspects = [(Path(row["path"]).stem, row["label"], row["answer"]) for row in rows(folder / "suspects.csv")]
    assert sorted(suspects) == [("4", "红", "blue"), ("5", "红", "blue")]


def test_temperature_and_origin_of_the_pth(project, capsys):
    checkpoints.save(colors(data={"root": "dataset", "kind": "drawings"}, temperature=50.0), RUN)
    report = run()
    assert report["trained_on"] == "drawings" and report["temperature"] == 50.0
    assert report["calibration_error"] != report["calibration_error_without_temperature"]
    assert rows(report_of("colors") / "suspects.csv") == []  # confident of nothing
    assert re.search(r"^accuracy .*\n.*drawings", capsys.readouterr().out, re.MULTILINE)


def test_a_network_says_nothing_of_labels_that_it_learned(project):
    Path("dataset/test").rename("dataset/train")
    assert run("--data", "dataset/train")["learned_from"]
    assert not (report_of("colors") / "suspects.csv").exists()
    page = (report_of("colors") / "report.html").read_text(encoding="utf-8")
    assert "was trained on these images" in page and "label issues" not in page


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_file_names_that_are_no_text(project):
    name = os.fsdecode(b"dataset/test/blue/\xff.png")
    for path in (name, "dataset/test/green/wrong.png"):  # the second so that its neighbours are on the page
        shutil.copy("dataset/test/blue/0.png", path)
    assert run()["count"] == 15
    assert name in [row["path"] for row in rows(report_of("colors") / "predictions.csv")]


def test_when_the_score_is_not_noted(project, capsys):
    paint(Path("elsewhere"), (1, 2, 3))
    before = RUN.read_bytes()
    assert run("--data", "elsewhere")["count"] == 6
    RUN.chmod(0o444)
    report = run()
    assert "read-only" in capsys.readouterr().out
    RUN.chmod(0o644)
    assert "changed meanwhile" in evaluate.note_score(RUN, RUN.stat().st_mtime_ns - 1, report)  # by a training run
    assert RUN.read_bytes() == before

    for name in ("cat", "dog"):
        shutil.copytree("dataset/test/blue", f"photos/{name}")
    shipped = Path(evaluate.__file__).parent / "module" / checkpoints.SHIPPED[-1]
    report = run(own := shutil.copy(shipped, "module"), "--data", "photos")
    assert report["count"] == 6 and report["model"] == "resnet18" and report["neither"] is not None
    assert Path(own).read_bytes() == shipped.read_bytes()


def test_two_networks(project, capsys):
    always_red = {"fc.weight": torch.zeros(3, 3), "fc.bias": torch.tensor([0.0, 0.0, 5.0])}
    red = Checkpoint("colors", ["green", "blue", "红"], PIXELS, always_red, data={"root": "dataset"})
    checkpoints.save(red, Path("module/red.pth"))
    checkpoints.save(colors(data={"root": "dataset", "kind": "drawings"}), RUN)
    run("module/*.pth")
    # correct: 11 and 6 of 13, of which 4 both; so 7 against 2, and p = 2 * (1 + 9 + 36) / 2**9
    words = "no significant difference between colors and red: 7 images correct only by colors, 2 only by red, p = 0.18"
    shown = capsys.readouterr().out
    assert words in shown and shown.endswith("python app.py module/colors.pth\n")  # the better one
    folder = report_of("comparison")
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert content["verdicts"][0]["words"] == words and content["networks"]["red"]["accuracy"] == pytest.approx(6 / 13)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "colors: The network was trained on drawings" in page and words in page
    assert '<th scope="row">红</th><td>66.67%</td><td>100.00%</td>' in page  # recalls, the better network first
    differences = rows(folder / "differences.csv")
    assert len(differences) == 9 and all(row["colors"] != row["red"] == "红" for row in differences)


def test_which_files_are_meant_and_what_they_are_called(tmp_path):
    for name in ("a", "a.last", "b.last", "[c]"):
        (tmp_path / f"{name}.pth").touch()
    found = evaluate.find_weights([tmp_path / "*.pth"])  # as Windows hands it over
    assert found == {tmp_path / f"{name}.pth": name for name in ("[c]", "a", "b.last")}
    asked = [tmp_path / name for name in ("a.last.pth", "[c].pth", "a.last.pth", "none*.pth")]  # the last is not there
    assert list(evaluate.find_weights(asked)) == [asked[0], asked[1], asked[3]]
    for same in (
        {"a/x.pth": "a-x", "b/x.pth": "b-x", "b/y.pth": "y"}, {"x.pth": "x.pth", "x.safetensors": "x.safetensors"},
        {"a.pth": "a.pth", "a-flip.pth": "a-flip.pth"},  # by --tta flip the first has the name of the second
        {"a/b.pth": "1-b.pth", "c/b.pth": "c-b", "a-b.pth": "3-a-b.pth"},
    ):  # fmt: skip
        assert evaluate.find_weights([*map(Path, same)]) == {Path(path): name for path, name in same.items()}


def test_a_plain_state_dict_takes_class_names_from_the_folder(project, capsys):
    torch.save(colors().state_dict, "old.pth")
    before = Path("old.pth").read_bytes()
    report = run("old.pth", "--image-size", 32, "--mean", 0.1, 0.2, 0.3)
    assert report["classes"] == list(COLORS) and report["assumed"].startswith("--resize squash --std")
    assert Path("old.pth").read_bytes() == before
    shown = capsys.readouterr().out
    assert "class names from the folder, in order: blue, green, 红" in shown
    assert shown.endswith("next       python app.py old.pth --image-size 32 --mean 0.1 0.2 0.3\n")


def test_images_weights_and_logs_that_are_no_good(project):
    Path("empty").mkdir()
    Path("half.pth").write_bytes(RUN.read_bytes()[:999])
    broken = colors()
    broken.state_dict["fc.bias"][0] = float("nan")
    checkpoints.save(broken, Path("broken.pth"))
    checkpoints.save(colors(data={"root": "gone"}), Path("gone.pth"))
    torch.save(Colors(num_classes=2).state_dict(), "two.pth")
    for match, *args in (
        (r"dataset.test has classes .*: blue, green, 红. Expected class 0, class 1.", "two.pth"),
        ("nowhere does not exist", "--data", "nowhere"), ("empty has no images", "--data", "empty"),
        ("empty is a folder; expected .* --data empty", "empty"),
        ("does not exist", "module/nothing.pth"), ("damaged", "half.pth"), ("not finite", "broken.pth"),
        (r"trained on gone, but gone.test does not exist", "gone.pth"),  # never others unasked
        ("--logs", "--logs=half.pth"),
        ("--batch-size", "--batch-size=0"), ("--workers", "--workers=-1"), ("--device", "--device=abacus"),
    ):  # fmt: skip
        refuses(match, *args)
    Path("dataset/test/blue/bad.png").write_bytes(b"no image")
    refuses(r"bad\.png")
    RUN.unlink()
    refuses(r"python train\.py")
