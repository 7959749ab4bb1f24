"""evaluate.py as people run it, and its parts: classes by name, every image once, clear refusals."""

import csv
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data import image_folder
from classifier.data.transforms import Preprocess
from classifier.evaluation import score_text, scores
from tests.conftest import run_script
from zoo import MODELS

SCRIPT = Path(evaluate.__file__)
COLORS = {"blue": (20, 30, 220), "green": (10, 200, 40), "红": (230, 20, 30)}  # in the order of folder names
HISTORY = [
    {"epoch": 1, "minutes": 0.5, "train": {"loss": 0.7, "accuracy": 0.5}, "val": {"loss": 0.6, "accuracy": 0.7}},
    {"epoch": 2, "minutes": 0.9, "train": {"loss": 0.5, "accuracy": 0.8}, "val": {"loss": 0.4, "accuracy": 0.9}},
]
PIXELS = Preprocess(size=32, mean=(0, 0, 0), std=(1, 1, 1))


class Colors(torch.nn.Module):
    """Knows colours by heart: its logits are the mean blue, red and green."""

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
    """Weights whose classes are in another order than the folders."""
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
    checkpoints.save(colors(), Path("module/colors.pth"))
    return tmp_path


def score(*args):
    """Run the script in this process; its report."""
    evaluate.main([*map(str, args), "--workers", "0", "--batch-size", "5", "--device", "cpu", "--precision", "fp32"])
    newest = max(Path("logs/evaluate").glob("*/*/report.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(newest.read_text(encoding="utf-8"))


def refuses(match, *args):
    with pytest.raises(UserError, match=match):
        score(*args)
    assert not Path("logs/evaluate").exists()


# ---------------------------------------------------------------------------------------------- what it reports


def test_report(project, capsys):
    before = Path("module/colors.pth").stat().st_mtime_ns
    report = score()
    assert report["accuracy"] == pytest.approx(11 / 13) and report["count"] == 13
    assert report["interval"] == pytest.approx([0.5777, 0.9567], abs=1e-4)
    assert report["classes"] == ["blue", "红", "green"]  # the weights' order, not the folder's
    assert report["confusion_matrix"] == [[3, 0, 0], [2, 4, 0], [0, 0, 4]]
    found = {"class": "红", "precision": 1, "recall": pytest.approx(4 / 6), "f1": 0.8, "count": 6}
    assert found.items() <= report["per_class"][1].items()
    assert report["per_class"][2]["auroc"] == 1  # all greens before all others
    assert report["folder"] == "dataset/test" and report["assumed"] == ""

    (folder,) = Path("logs/evaluate/colors").iterdir()
    written = {file.name for file in folder.iterdir() if not file.name.startswith("events")}
    figures = {"calibration.png", "confusion_matrix.png", "curves.png", "mistakes.jpg", "rankings.png", "unsure.jpg"}
    assert written == figures | {
        "predictions.csv", "report.html", "report.json", "suspects.csv"
    }  # fmt: skip
    for figure in folder.glob("*.png"):
        Image.open(figure).load()

    loaded = checkpoints.load(Path("module/colors.pth"))
    assert loaded.scores["test"]["accuracy"] == report["accuracy"] and loaded.scores["test"]["count"] == 13
    noted = {"accuracy", "interval", "loss", "count", "calibration_error", "neither", "confusion_matrix"}
    assert set(loaded.scores["test"]) == noted | {"folder", "date"}
    assert loaded.scores["history"] == HISTORY and Path("module/colors.pth").stat().st_mtime_ns == before

    shown = capsys.readouterr().out
    for text in ("84.62%, 11 of 13", "57.76% to 95.67%", "80.00%", "ms per image", "python app.py", "noted in"):
        assert text in shown, text
    assert "drawings" not in shown


def test_drawings_are_called_drawings(project, capsys):
    checkpoints.save(colors(data={"root": "dataset", "kind": "drawings"}), Path("module/colors.pth"))
    assert score()["trained_on"] == "drawings"
    lines = capsys.readouterr().out.splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("accuracy"))
    assert "drawings" in lines[place + 1]


def test_many_classes_show_the_worst_confusions(project, capsys, monkeypatch):
    monkeypatch.setattr(score_text, "MANY", 2)
    score()
    shown = capsys.readouterr().out
    assert "most frequent confusions" in shown and "taken for blue: 2" in shown


def test_of_a_hundred_classes_the_worst_are_printed(capsys):
    logits = torch.eye(120).repeat(2, 1) * 5
    logits[[7, 33]] = logits[[33, 7]]  # each taken once for the other
    report = scores.score(logits, torch.arange(120).repeat(2), [f"class {i}" for i in range(120)])
    times = {"milliseconds_per_picture": 1.0, "milliseconds_for_one": 1.0, "milliseconds_for_one_p95": 1.0}
    score_text.print_scores(report | times | {"remarks": [], "neither": None, "device": "CPU"})
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if "of 120 classes those with the lowest F1" in line)
    assert [line[:8] for line in lines[start + 2 : start + 4]] == ["class 7 ", "class 33"] and len(lines) < 40
    assert "class 7 taken for class 33: 1" in lines and "99.17%, 238 of 240" in lines[1]


def test_images_of_other_folders_leave_the_pth_alone(project):
    paint(Path("elsewhere"), (1, 2, 3))
    before = Path("module/colors.pth").read_bytes()
    assert score("--data", "elsewhere")["count"] == 6
    assert Path("module/colors.pth").read_bytes() == before


def test_read_only_weights_are_scored_and_left_alone(project, capsys):
    path = Path("module/colors.pth")
    before = path.read_bytes()
    path.chmod(0o444)
    score()
    assert path.read_bytes() == before and "read-only" in capsys.readouterr().out


def test_weights_that_change_meanwhile_keep_their_scores(project, capsys, monkeypatch):
    def infer(*arguments):
        checkpoints.save(colors(), Path("module/colors.pth"))  # training goes on and has found a better epoch
        os.utime("module/colors.pth", (1, 1))
        return original(*arguments)

    original = evaluate.infer
    monkeypatch.setattr(evaluate, "infer", infer)
    score()
    assert "changed meanwhile" in capsys.readouterr().out
    assert "test" not in checkpoints.load(Path("module/colors.pth")).scores


def test_two_reports_within_a_second(project):
    score()
    score()
    assert len(list(Path("logs/evaluate/colors").iterdir())) == 2


# ------------------------------------------------------------------------------------- the page, tables and lists


def test_the_page_opens_from_disk_and_holds_its_images(project):
    score()
    (folder,) = Path("logs/evaluate/colors").iterdir()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 4 and page.count("data:image/jpeg;base64,") == 2
    assert "http" not in page and 'src="data:' in page  # nothing is fetched
    assert "84.62%" in page and "红" in page and "Labels to check" in page and "ms for one" in page
    with (folder / "predictions.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13 and list(rows[0]) == ["path", "label", "answer", "blue", "红", "green"]
    for row in rows:  # each row is its own image's: the colour is the answer
        assert row["answer"] == max(COLORS, key=lambda name: float(row[name]))
        wrong = row["label"] == "红" and Path(row["path"]).stem in "45"
        assert (row["answer"] != row["label"]) == wrong
        assert row["answer"] == ("blue" if wrong else row["label"])
    records = EventAccumulator(str(folder), {"images": 0}).Reload().Tags()
    assert "evaluation/calibration" in records["images"] and "evaluation/accuracy" in records["scalars"]


def test_doubtful_labels_are_listed_the_surest_first(project):
    report = score()
    assert report["calibration_error"] >= 0
    (folder,) = Path("logs/evaluate/colors").iterdir()
    with (folder / "suspects.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(Path(row["path"]).stem for row in rows) == ["4", "5"]
    assert {(row["label"], row["answer"]) for row in rows} == {("红", "blue")}


def test_images_that_it_learned_from_say_nothing_of_their_labels(project):
    Path("dataset/train").mkdir()
    for name in COLORS:
        shutil.copytree(f"dataset/test/{name}", f"dataset/train/{name}")
    score("--data", "dataset/train")
    (folder,) = Path("logs/evaluate/colors").iterdir()
    assert not (folder / "suspects.csv").exists()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "images that it learned from: new ones will be harder" in page and "Labels to check" not in page


def test_labels_to_check_among_the_training_images(project, capsys):
    for name, color in COLORS.items():
        Path("dataset/train", name).mkdir(parents=True)
        for number in range(12):  # every third red is really blue; no two files are alike
            wrong = name == "红" and number % 3 == 0
            image = Image.new("RGB", (40 + wrong, 20 + number), COLORS["blue"] if wrong else color)
            image.save(f"dataset/train/{name}/{number}.png")
    training, validation = image_folder.split_validation(
        image_folder.with_digests(image_folder.read_folder(Path("dataset/train"))), 0.5
    )
    data = {"root": "dataset", "kind": "images", "fingerprint": training.fingerprint(), "train": 18, "val": 18}
    checkpoints.save(colors(data=data, settings={"val": 0.5}), Path("module/colors.pth"))
    report = score("--part", "val")
    assert report["count"] == 18 and report["part"] == "val" and report["folder"] == "dataset/train"
    (folder,) = Path("logs/evaluate/colors").iterdir()
    rows = {}
    for name in ("predictions", "suspects"):
        with (folder / f"{name}.csv").open(encoding="utf-8-sig", newline="") as file:
            rows[name] = [row["path"] for row in csv.DictReader(file)]
    assert rows["predictions"] == validation.paths
    mislabelled = {
        path for path in validation.paths if Path(path).parent.name == "红" and int(Path(path).stem) % 3 == 0
    }
    assert mislabelled and set(rows["suspects"]) == mislabelled
    said = "chose the best epoch"  # so the score flatters a little
    assert said in capsys.readouterr().out and said in (folder / "report.html").read_text(encoding="utf-8")
    assert "test" not in checkpoints.load(Path("module/colors.pth")).scores


def test_file_names_that_are_no_text(project):
    name = os.fsdecode(b"dataset/test/blue/\xff.png")
    try:
        shutil.copy("dataset/test/blue/0.png", name)
    except OSError:
        pytest.skip("this system has no such names")
    shutil.copy(name, "dataset/test/green/wrong.png")  # so that its neighbours are on the page
    assert score()["count"] == 15
    (folder,) = Path("logs/evaluate/colors").iterdir()
    with (folder / "predictions.csv").open(
        encoding="utf-8-sig", errors=sys.getfilesystemencodeerrors(), newline=""
    ) as file:
        assert name in [row["path"] for row in csv.DictReader(file)]


def test_the_temperature_of_the_pth_is_used(project):
    hot = colors()
    hot.temperature = 50.0
    checkpoints.save(hot, Path("module/colors.pth"))
    report = score()
    assert report["temperature"] == 50.0
    assert report["calibration_error"] != report["calibration_error_without_temperature"]
    (folder,) = Path("logs/evaluate/colors").iterdir()
    assert not (folder / "suspects.csv").read_text(encoding="utf-8-sig").strip().count("\n")  # sure of nothing now


# ------------------------------------------------------------------------------------------------- several at once


def blind(**options):
    """Says red whatever it sees; its classes are in yet another order."""
    network = Colors()
    network.load_state_dict({"fc.weight": torch.zeros(3, 3), "fc.bias": torch.tensor([0.0, 0.0, 5.0])})
    return Checkpoint("colors", ["green", "blue", "红"], PIXELS, network.state_dict(), data={"root": "dataset"})


def test_two_networks_side_by_side(project, capsys):
    checkpoints.save(blind(), Path("module/blind.pth"))
    score("module/colors.pth", "module/blind.pth")
    shown = capsys.readouterr().out
    # right: 11 and 6 of 13, of which 4 both; so 7 against 2, and p = 2 * (1 + 9 + 36) / 2**9
    words = "no difference shown between colors and blind: 7 against 2 of the 9 that only one has right, p = 0.18"
    assert words in shown
    (folder,) = Path("logs/evaluate/comparison").iterdir()
    content = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert content["verdicts"][0]["words"] == words
    assert content["networks"]["blind"]["accuracy"] == pytest.approx(6 / 13)
    assert content["networks"]["blind"]["confusion_matrix"][2] == [0, 0, 6]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert words in page and "colors or blind right, not both: 9 images" in page
    assert '<th scope="row">红</th><td>66.67%</td><td>100.00%</td>' in page  # recall by each, the better one first
    with (folder / "differences.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9 and all(row["colors"] != row["blind"] == "红" for row in rows)
    for name in ("colors", "blind"):
        assert list(Path(f"logs/evaluate/{name}").glob("*/report.html"))
        assert checkpoints.load(Path(f"module/{name}.pth")).scores["test"]["count"] == 13


def test_a_clear_difference_is_called_one(project, capsys):
    for number in range(40):
        Image.new("RGB", (40, 30), COLORS["green"]).save(f"dataset/test/green/more{number}.png")
    checkpoints.save(blind(), Path("module/blind.pth"))
    score("module/blind.pth", "module/colors.pth")
    assert "colors is better than blind: 47 against 2 of the 49" in capsys.readouterr().out


def test_mirrored_views_are_judged_like_a_network_of_their_own(project, capsys):
    score("--tta", "flip")
    shown = capsys.readouterr().out
    assert "colors and colors-flip are right and wrong on the same images" in shown
    assert list(Path("logs/evaluate/colors-flip").glob("*/report.html"))


def test_weights_of_different_images_are_not_compared_unasked(project):
    paint(Path("photos/test"), (1, 1, 3))
    checkpoints.save(colors(data={"root": "photos"}), Path("module/other.pth"))
    refuses("belong to different images.*--data DIR", "module/colors.pth", "module/other.pth")
    assert score("module/colors.pth", "module/other.pth", "--data", "photos")


def test_patterns_are_written_out_and_states_to_resume_from_left_aside(tmp_path):
    for name in ("a", "a.last", "b.last", "[c]"):
        (tmp_path / f"{name}.pth").touch()
    found = [path.name for path in evaluate.files([tmp_path / "*.pth"])]  # as Windows hands it over
    assert found == ["[c].pth", "a.pth", "b.last.pth"]
    asked = [tmp_path / name for name in ("a.last.pth", "[c].pth", "a.last.pth")]
    assert evaluate.files(asked) == asked[:2]
    assert evaluate.files([tmp_path / "none*.pth"]) == [tmp_path / "none*.pth"]  # which then does not exist


def test_files_of_the_same_name_keep_their_folders_in_theirs():
    assert evaluate.names([Path("a/x.pth"), Path("b/x.pth"), Path("b/y.pth")]) == ["a-x", "b-x", "y"]


# ------------------------------------------------------------------------------------------- which images


def test_without_data_the_images_of_the_run(project):
    Path("dataset/test").rename("moved")
    paint(Path("photos/test"), (1, 1, 3))
    checkpoints.save(colors(data={"root": "photos"}), Path("module/colors.pth"))
    assert score()["folder"] == "photos/test"
    Path("moved").rename("dataset/test")
    checkpoints.save(colors(data={"root": "gone"}), Path("module/colors.pth"))
    with pytest.raises(UserError, match=r"belongs to .*gone.*does not exist"):  # never other images unasked
        score()
    assert score("--data", "dataset")["folder"] == "dataset/test"
    assert "test" not in checkpoints.load(Path("module/colors.pth")).scores  # not this run's own images


# ------------------------------------------------------------------------------------------- plain state_dicts


def test_plain_state_dict_takes_names_from_the_folder(project, capsys):
    torch.save(colors().state_dict, "old.pth")
    before = Path("old.pth").read_bytes()
    report = score("old.pth")
    assert report["classes"] == list(COLORS) and "squash to 224" in report["assumed"]
    assert Path("old.pth").read_bytes() == before
    shown = capsys.readouterr().out
    assert "class names from the folder, in order: blue, green, 红" in shown and "squash to 224" in shown


def test_plain_state_dict_with_another_number_of_classes(project):
    torch.save(Colors(num_classes=2).state_dict(), "old.pth")
    refuses(r"knows 2 classes \(class 0, class 1\).*has 3 \(blue, green, 红\)", "old.pth")


# ------------------------------------------------------------------------------------------------ what it refuses


def test_classes_that_differ(project):
    Path("dataset/test/green").rename("dataset/test/yellow")
    refuses(r"knows 3 classes \(blue, 红, green\), but dataset.test has 3 \(blue, yellow, 红\)")
    Path("dataset/test/yellow").rename("spare")
    refuses(r"knows 3 classes .*has 2 \(blue, 红\)")
    paint(Path("photos"))
    other = colors()
    other.classes = ["blue", "红", "yellow"]
    checkpoints.save(other, Path("module/other.pth"))  # told before the first one is judged
    refuses("other.pth knows 3 classes", "module/colors.pth", "module/other.pth", "--data", "photos")


def test_images_that_cannot_be_scored(project):
    refuses("nowhere does not exist", "--data", "nowhere")
    Path("empty").mkdir()
    refuses("holds no images", "--data", "empty")
    Path("dataset/test/blue/bad.png").write_bytes(b"no image")
    refuses(r"bad\.png is not an image")


def test_weights_that_are_none(project):
    refuses("does not exist", "module/nothing.pth")
    whole = Path("module/colors.pth").read_bytes()
    Path("half.pth").write_bytes(whole[: len(whole) // 2])
    refuses("damaged", "half.pth")
    Path("text.pth").write_text("text")
    refuses(r"no \.pth", "text.pth")
    torch.save(Colors(), "model.pth")
    refuses("pickled Python code", "model.pth")
    Path("module/colors.pth").unlink()
    refuses(r"holds no \.pth yet.*python train\.py")


def test_weights_that_went_wrong(project):
    broken = colors()
    broken.state_dict["fc.bias"][0] = float("nan")
    checkpoints.save(broken, Path("module/colors.pth"))
    refuses("not numbers")


@pytest.mark.parametrize("option", [("--batch-size", "0"), ("--workers", "-1"), ("--device", "abacus")])
def test_settings_that_make_no_sense(project, option):
    with pytest.raises(UserError, match=option[0]):
        evaluate.main(list(option))


def test_logs_that_cannot_be_written(project):
    Path("logs").write_text("a file")
    with pytest.raises(UserError, match="--logs"):
        score()


# ---------------------------------------------------------------------------------------------- as a process


def test_as_a_process(tmp_path):
    torch.manual_seed(0)
    paint(tmp_path / "dataset" / "test", (2, 3, 4))
    network = MODELS["resnet18"](num_classes=3)
    saved = Checkpoint("resnet18", list(COLORS), PIXELS, network.state_dict(), data={"root": "dataset"})
    checkpoints.save(saved, tmp_path / "module" / "run.pth")
    done = run_script("evaluate.py", "--batch-size", "4", "--workers", "1", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "\r" not in done.stdout  # no bar and no warning where output is not a terminal
    assert "of 9; 95% interval" in done.stdout
    assert checkpoints.load(tmp_path / "module" / "run.pth").scores["test"]["count"] == 9


def test_a_refusal_is_one_message_and_status_2(tmp_path):
    done = run_script("evaluate.py", "module/run.pth", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "does not exist" in done.stderr and "Traceback" not in done.stderr
