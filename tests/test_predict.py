"""predict.py as people run it: each row is its image's own, interrupted runs continue, no file is lost."""

import csv
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import predict
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.device import select_compute
from classifier.files import file_lock
from classifier.inference.predictor import build_predictor
from tests.conftest import ENVIRONMENT, REPOSITORY, file_size_limit, run_script
from tests.raw_images import encode, make_folder, make_zip
from tests.running_page import image as ramp
from zoo import MODELS

PIXELS = Preprocess(size=16, mean=(0, 0, 0), std=(1, 1, 1))
OPTIONS = ["--device", "cpu", "--precision", "fp32"]
HEADING = "\ufeffpath,class,P(cat),P(dog),note\r\n".encode()


class Colors(nn.Module):
    """A blue image is a cat, a red one a dog. Ctrl-C interrupts call number `stop_at`."""

    stop_at = 0

    def __init__(self, num_classes=2):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        if type(x) is torch.Tensor and Colors.stop_at:  # and not while it is traced
            Colors.stop_at -= 1
            if not Colors.stop_at:
                raise KeyboardInterrupt
        return self.fc(x.mean(dim=(2, 3)))


def weights(classes=("cat", "dog"), scale=3.0):
    state = {"fc.weight": torch.tensor([[0, 0, 1.0], [1.0, 0, 0]]) * scale, "fc.bias": torch.zeros(2)}
    return Checkpoint("colors", list(classes), PIXELS, state)


def image(red, kind="PNG"):
    """An image of one colour, so that each has a probability of its own."""
    return encode(Image.new("RGB", (24, 20), (red, 30, 255 - red)), kind)


def fill(folder, reds):
    """`folder`/<name>.png for each name and its red."""
    make_folder(Path(folder), {f"{name}.png": image(red) for name, red in reds.items()})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder, as the current one, with module/colors.pth and photos/0.png (surely a cat) to 9.png (a dog)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "colors", Colors)
    checkpoints.save(weights(), Path("module/colors.pth"))
    fill("photos", {str(i): 28 * i for i in range(10)})
    return tmp_path


@pytest.fixture
def run(project, capsys):
    """Run the script in this process -> its table; `run.new`: how many images it labelled, `run.shown`: its output."""

    def run_(*args, batch=4):
        capsys.readouterr()
        predict.main([*map(str, args), "--batch-size", str(batch), "--workers", "3", *OPTIONS])
        run_.shown = capsys.readouterr().out
        run_.new = int(re.search(r"new        (\d+) images?", run_.shown)[1])
        return table()

    return run_


def table(path="predictions.csv"):
    with Path(path).open(encoding="utf-8-sig", errors=sys.getfilesystemencodeerrors(), newline="") as file:
        return {row["path"].replace(os.sep, "/"): row for row in csv.DictReader(file)}


def classes(rows):
    return [row["class"] for row in rows.values()]


def pipe(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))


def test_each_row_is_its_images_own(run):
    reds = {f"{i:02}": (37 * i) % 256 for i in range(30)}
    fill("mixed", reds)
    bad = {"03": b"", "04": b"text", "05": image(9)[:40], "17": b"GIF89a", "29": b"\xff\xd8"}
    make_folder(Path("mixed"), {f"{name}.png": content for name, content in bad.items()})
    rows = run("mixed")
    answer = build_predictor(weights(), select_compute("cpu", "fp32"))
    assert [Path(name).stem for name in rows] == list(reds) and run.new == 30
    assert "unreadable 5 images: " in run.shown and "labelled   25 images" in run.shown
    assert "new        30 images (5 unreadable) in" in run.shown
    for name, row in rows.items():
        if Path(name).stem in bad:
            assert row["class"] == row["P(cat)"] == row["P(dog)"] == "" and row["note"].startswith("is ")
            continue
        expected = answer(PIXELS.read(name).unsqueeze(0)).probabilities[0].tolist()
        assert [float(row["P(cat)"]), float(row["P(dog)"])] == pytest.approx(expected, rel=1e-4)
        assert row["class"] == ("cat", "dog")[expected[1] > expected[0]] and row["note"] == ""
    assert Path("predictions.csv").read_bytes().startswith(HEADING)
    with pytest.raises(UserError, match=r"no image could be read; nothing\.csv notes why"):
        run("mixed/04.png", "--output", "nothing.csv")
    assert Path("nothing.csv").exists() and not Path("nothing.png").exists()
    run("mixed/04.png", "--output", "nothing.csv")  # has a row already
    assert "labelled   0 images\nnew        0 images in" in run.shown


def test_out_of_distribution(run):
    checkpoint = checkpoints.load(REPOSITORY / "module" / checkpoints.SHIPPED[-1])
    checkpoint.data = {"kind": "drawings"}
    ramp((400, 300)).save("ramp.png")
    for name, neither in (("cat", "neither"), ("Neither", "unlike")):
        checkpoint.classes = [name, "dog"]
        checkpoints.save(checkpoint, Path("module/colors.pth"))
        row = run("ramp.png", "--restart", "--sort-into", "sorted")["ramp.png"]
        nearest = name if float(row[f"P({name})"]) > 0.5 else "dog"
        assert (row["class"], row["note"]) == (neither, f"out of distribution; the nearest class is {nearest}")
        assert f"{neither}/ramp.png" in copies() and re.search(f"{neither} +1", run.shown)
    assert f"trained on drawings only; for photographs use --weights module/{checkpoints.SHIPPED[0]}" in run.shown


def test_folders_in_order_with_what_is_in_them(run):
    fill("tree", {"b/2": 0, "b/10": 0, "a": 255, "c": 255, ".hidden/1": 0, "b/.secret": 0})
    fill("tree", {"b/@eaDir/2": 0, "#recycle/2": 0})
    make_folder(Path("tree"), dict.fromkeys(("Thumbs.db", "b/notes.txt", "b/._2.png"), b"other"))
    rows = run("tree", "tree/c.png", "./tree/a.png", "tree//a.png")  # each once
    assert list(rows) == ["tree/a.png", "tree/c.png", "tree/b/10.png", "tree/b/2.png"]
    assert "skipped    4 other files: 2 hidden, 1 .db, 1 .txt" in run.shown  # .secret.png as well
    fill("sun [1]", {"b": 0, "a": 255, "[x]": 0})  # patterns are expanded where no shell has done it
    rows = run("sun [1]/*.png", "photos/?.png", "--restart")
    assert [Path(name).stem for name in rows] == ["[x]", "a", "b", *map(str, range(10))]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_but_not_in_circles(run):
    Path("photos/back").symlink_to("..", target_is_directory=True)
    fill("elsewhere", {"far": 0})
    Path("photos/linked").symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
    Path("photos/broken.png").symlink_to("nowhere.png")
    rows = run("photos")
    assert sum(name.endswith("far.png") for name in rows) == 1 and len(rows) == 12  # the folders each once
    assert rows["photos/broken.png"]["note"] == "does not exist"


def test_zips(run):
    content = {f"inner/{i}.bmp": image(40 * i, "BMP") for i in range(4)} | {"inner/猫.png": image(0)}
    make_zip(Path("holiday.zip"), content | {"readme.txt": b"", "__MACOSX/._1.png": b""})
    damaged = bytearray(Path("holiday.zip").read_bytes())
    damaged[damaged.index(b"1.bmp") + 12] ^= 255
    Path("holiday.zip").write_bytes(damaged)
    rows = run("holiday.zip")
    assert list(rows) == [f"holiday.zip/{name}" for name in content] and "2 other files" in run.shown
    assert classes(rows) == ["cat", "", "cat", "cat", "cat"] and "damaged" in rows["holiday.zip/inner/1.bmp"]["note"]


def test_standard_input(run, monkeypatch):
    Path("photos/0.png").rename("photos/名 字")  # what is named itself is labelled whatever it is called
    Path("notes.txt").write_text("text")
    names = ["photos/5.png", "photos/missing.png", "photos/名 字", "notes.txt", "gone.zip"]
    # UTF-16 as PowerShell writes it
    for encoding, end in (("utf-8", "\n"), ("utf-8-sig", "\r\n\r\n"), ("utf-8", "\0"), ("utf-16", "\r\n")):
        pipe(monkeypatch, (end.join(names) + end).encode(encoding))
        rows = run("-", "--restart")
        assert list(rows) == names and classes(rows) == ["dog", "", "cat", "", ""]
    assert rows["photos/missing.png"]["note"] == rows["gone.zip"]["note"] == "does not exist"
    assert "is not an image" in rows["notes.txt"]["note"]


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_awkward_names_come_back_as_they_were(run, monkeypatch):
    names = ['say "hi"\n,\r\n.png', "-x.png", "=1+1, “猫”.png"]
    if sys.platform != "darwin":
        names.append(os.fsdecode(b"\xff\xfe.png"))
    for name in names:
        Path("photos", name).write_bytes(image(255))
    rows = run("photos")
    assert all(rows[f"photos/{name}"]["class"] == "dog" for name in names)
    assert run("photos") == rows and run.new == 0
    pipe(monkeypatch, "\0".join(f"photos/{name}" for name in names).encode(errors="surrogateescape"))
    assert run("-") == rows and run.new == 0


def test_a_table_cut_anywhere_is_completed(run):
    fill("photos", {"a, 猫" if os.name == "nt" else 'a,"\r\n猫': 77})
    whole = run("photos")
    path = Path("predictions.csv")
    content = path.read_bytes()
    ends = [match.end() for match in re.finditer("\r\n(?!猫)".encode(), content)][1:]  # of the rows
    assert len(ends) == len(whole) == 11
    for length in [0, 2, 20, *range(40, len(content), 23), len(content) - 1]:
        path.write_bytes(content[:length])
        rows = run("photos")
        assert list(rows) == list(whole) and classes(rows) == classes(whole)
        assert run.new == sum(end > length for end in ends)


def test_a_finished_run_says_so_and_new_images_are_labelled(run):
    run("photos")
    before = Path("predictions.csv").read_bytes()
    checkpoints.amend(Path("module/colors.pth"), scores={"test": {"accuracy": 0.5}})  # as evaluate.py does
    run("photos")
    assert Path("predictions.csv").read_bytes() == before
    assert "kept       10 rows" in run.shown and "labelled   10 images\nnew        0 images in" in run.shown
    fill("photos", {"3b": 255})
    assert len(run("photos")) == 11 and run.new == 1
    fill("more", {"x": 0, "y": 0})  # rows of other images stay, and are not counted
    assert len(run("more", "--sort-into", "sorted")) == 13
    assert "labelled   2 images\nnew        2 images in" in run.shown and "kept" not in run.shown
    assert copies().keys() == {"cat/x.png", "cat/y.png"}
    assert Path("predictions.csv").read_bytes().startswith(before)


def test_files_of_others_are_never_overwritten_and_rows_of_other_weights_are_refused_unless_asked_for(run):
    for name in ("predictions.csv", "predictions.png", "predictions.kaggle.csv", "predictions.csv.json"):
        Path(name).write_text("mine")
        with pytest.raises(UserError, match=f"{name} exists, and predict.py did not write it"):
            run("photos", "--restart")
        assert Path(name).read_text() == "mine"
        Path(name).unlink()
    with file_lock(Path("predictions.csv"), ""), pytest.raises(UserError, match=r"another predict\.py.*wait"):
        run("photos")
    run("photos")
    before = Path("predictions.csv").read_bytes()
    checkpoints.save(weights(scale=4.0), Path("module/other.pth"))
    other = ("photos", "--weights", "module/other.pth")
    with pytest.raises(UserError, match=r"of module/colors.pth as it was then, not of module/other.pth.*--restart"):
        run(*other)
    assert Path("predictions.csv").read_bytes() == before
    predict.main([*other, "--output", "others/second.csv", *OPTIONS])
    assert len(table("others/second.csv")) == 10 and Path("others/second.png").exists()
    assert len(run(*other, "--restart")) == 10 and Path("predictions.csv").read_bytes() != before
    for content in (b"path;class\r\n", HEADING + b"a.png,cat\r\n"):  # by another program
        Path("predictions.csv").write_bytes(content)
        with pytest.raises(UserError, match="has been changed"):
            run(*other)
        assert Path("predictions.csv").read_bytes() == content


CASES = Path(__file__).resolve().parents[2] / "shared" / "cases" / "images"


def test_an_image_that_is_replaced_gets_a_new_row(run):
    Path("photos/3.png").write_bytes(image(84, "BMP"))  # for one of the same size, later
    before = run("photos")
    for path, content, seconds in (
        ("photos/0.png", image(255), time.time()),  # as `cp` does
        ("photos/1.png", image(255) + b" " * 9, Path("photos/1.png").stat().st_mtime),  # as `cp -p` may do
        ("photos/3.png", image(200, "BMP"), 2e9),
        ("photos/4.png", b"text", 1e9),
    ):
        Path(path).write_bytes(content)
        os.utime(path, (seconds, seconds))
    changed = [f"photos/{i}.png" for i in (0, 1, 3, 4)]
    rows = run("photos")
    assert list(rows) == [name for name in before if name not in changed] + changed
    assert [rows[name]["class"] for name in changed] == ["dog", "dog", "dog", ""]
    assert all(rows[name] == before[name] for name in before if name not in changed)
    assert "kept       6 rows" in run.shown and "removed    4 rows whose file" in run.shown
    assert "new        4 images (1 unreadable) in" in run.shown
    assert run("photos") == rows and run.new == 0 and "removed" not in run.shown


@pytest.mark.skipif(not CASES.exists(), reason="no shared cases")
def test_the_second_of_two_photographs_under_one_name(run):
    paths = [CASES / "stale" / name for name in ("first.jpg", "then.jpg")]
    alone = run(*paths)
    for path in paths:
        Path("photos/one.jpg").write_bytes(path.read_bytes())
        row = run("photos")["photos/one.jpg"]
        assert list(row.values())[1:] == list(alone[path.as_posix()].values())[1:]


def test_rows_of_files_that_are_gone_go_and_all_others_stay(run, monkeypatch):
    fill("more", {"x": 0, "y": 0})
    make_zip(Path("a.zip"), {"1.png": image(0), "2.png": image(255)})
    make_zip(Path("b.zip"), {"1.png": image(0), "2.png": image(255)})
    pipe(monkeypatch, b"later.png\n")
    assert len(run("photos", "more", "a.zip", "b.zip", "-")) == 17
    for path in ("photos/0.png", "photos/1.png", "more/x.png"):
        Path(path).unlink()
    fill("more", {"y": 255})
    make_zip(Path("a.zip"), {"1.png": image(255), "3.png": image(0)})  # without 2.png
    Path("b.zip").unlink()
    rows = run("photos")
    assert list(rows) == [f"photos/{i}.png" for i in range(2, 10)]
    assert "removed    9 rows whose file is gone, has changed or was not recorded" in run.shown
    fill(".", {"later": 0})
    pipe(monkeypatch, b"later.png\nphotos/0.png")
    run("a.zip", "-")
    Path("photos/9.png").unlink()
    assert run("a.zip")["later.png"]["class"] == "cat"  # exists, and was not named today
    assert "kept       2 rows" in run.shown
    assert "removed    2 rows whose file" in run.shown  # photos/0.png was named, and not there


def test_ctrl_c_keeps_what_is_there(run, monkeypatch, capsys):
    monkeypatch.setattr(Colors, "stop_at", 3)
    with pytest.raises(KeyboardInterrupt):
        run("photos")
    assert "The same command continues after the rows in predictions.csv" in capsys.readouterr().err
    assert list(table()) == [f"photos/{i}.png" for i in range(8)]
    assert list(run("photos")) == [f"photos/{i}.png" for i in range(10)] and run.new == 2


def test_a_full_disk_keeps_what_is_there(run):
    message = r"cannot be written.*Free some disk space.*continues after the rows"
    long = weights(("c" * 400, "d" * 400))  # so that rows are longer than the note
    checkpoints.save(long, Path("module/colors.pth"))
    for size, rows in ((50, 0), (3500, 5), (5400, 10)):  # too small for the note beside the table, the table, the sheet
        with file_size_limit(size), pytest.raises(UserError, match=message):
            run("photos", batch=2)
        lines = Path("predictions.csv").read_bytes().count(b"\n") if rows else 1
        assert rows <= lines - 1 <= rows + 1 and (rows or not Path("predictions.csv").exists())
    assert classes(run("photos")) == ["c" * 400] * 5 + ["d" * 400] * 5 and run.new == 0


def test_killed_for_real(tmp_path):
    torch.manual_seed(0)
    fill(tmp_path / "photos", {f"{i:03}": i for i in range(100)})
    saved = Checkpoint("resnet18", ["cat", "dog"], PIXELS, MODELS["resnet18"](num_classes=2).state_dict())
    checkpoints.save(saved, tmp_path / "module" / "run.pth")
    command = [sys.executable, str(REPOSITORY / "predict.py"), "photos", *OPTIONS, "--batch-size", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    path, deadline = tmp_path / "predictions.csv", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    left = path.read_bytes()
    assert left.count(b"\n") < 101 and json.loads((tmp_path / "predictions.csv.json").read_text())["name"]

    names = "".join(f"photos/{i:03}.png\n" for i in range(100))  # the same images, now as a list
    done = run_script("predict.py", "-", *OPTIONS, "--batch-size", "16", input=names, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")  # no bar and no warning where output is not a terminal
    assert path.read_bytes().startswith(left[: left.rindex(b"\n") + 1])
    assert list(table(path)) == names.splitlines()


def copies():
    return {path.relative_to("sorted").as_posix(): path.read_bytes() for path in Path("sorted").rglob("*.*")}


def test_copies(run):
    fill("photos", {"deep/1": 5, "deep/9": 250, "deep/9-2": 200})
    Path("photos/same").mkdir()
    Path("photos/same/1.png").write_bytes(Path("photos/1.png").read_bytes())
    Path("photos/bad.png").write_bytes(b"text")
    Path("sorted/cat").mkdir(parents=True)
    Path("sorted/cat/0.png").write_text("mine")
    before = {path: path.read_bytes() for path in Path("photos").rglob("*.png")}
    for _ in range(2):  # the second time there is nothing to do
        run("photos", "--sort-into", "sorted")
        found = copies()
        names = {"cat": ("0", "0-2", "1", "1-2", "1-3", "2", "3", "4"), "dog": ("5", "6", "7", "8", "9", "9-2", "9-3")}
        assert found.keys() == {f"{label}/{name}.png" for label in names for name in names[label]}
        assert found["cat/0.png"] == b"mine" and found["cat/0-2.png"] == image(0)
        assert sorted(found.values()) == sorted([b"mine", *(c for path, c in before.items() if path.stem != "bad")])
    assert {path: path.read_bytes() for path in Path("photos").rglob("*.png")} == before
    assert Path("sorted/cat/2.png").stat().st_mtime_ns == Path("photos/2.png").stat().st_mtime_ns


def test_copies_and_sheet_in_the_folder_itself_are_not_labelled(run, monkeypatch):
    monkeypatch.chdir("photos")
    checkpoints.save(weights(), Path("module/colors.pth"))
    for _ in range(2):
        assert len(run(".", "*.png", "--sort-into", "sorted")) == 10
    assert len(copies()) == 10
    run(".", "--output", "other.csv", "--sort-into", "sorted")
    assert len(table("other.csv")) == 10


def test_copies_out_of_a_zip_and_to_classes_whose_names_are_no_folder_names(run):
    make_zip(Path("a.zip"), {"x/1.png": image(0), "y/1.png": image(1), "y/CON.png": image(255)})
    checkpoints.save(weights(classes=("..", "CON")), Path("module/colors.pth"))
    run("a.zip", "--sort-into", "sorted")
    assert copies() == {"_/1.png": image(0), "_/1-2.png": image(1), "_CON/_CON.png": image(255)}
    assert [path.name for path in Path().glob("*.png")] == ["predictions.png"]


def test_kaggle(run):
    make_zip(Path("test.zip"), {f"test/{i}.png": image(28 * i) for i in (2, 10, 9, 1)} | {"test/7.png": b"text"})
    checkpoints.save(weights(classes=("Dog", "cat"), scale=50.0), Path("module/colors.pth"))
    rows = run("test.zip", "--kaggle")
    heading, *lines, end = Path("predictions.kaggle.csv").read_bytes().decode().split("\n")
    assert (heading, lines[0], lines[2], lines[4], end) == ("id,label", "1,0.995", "7,0.5", "10,0.005", "")
    assert [line.split(",")[0] for line in lines] == ["1", "2", "7", "9", "10"]
    assert rows["test.zip/test/1.png"]["P(Dog)"] == "1" and "predictions.kaggle.csv" in run.shown


def test_what_is_refused_leaves_nothing_behind(project, monkeypatch):
    make_folder(Path(), {"other/notes.txt": b"", "text.zip": b"text"})
    make_zip(Path("inner.zip"), {"train.zip": b"", "a.txt": b""})
    make_zip(Path("outside.zip"), {"../1.png": image(0)})
    fill("twice", {"a/1": 0, "b/1": 255})
    checkpoints.save(weights(classes=("cat", "cow")), Path("weights/cow.pth"))
    checkpoints.save(weights(classes=("cat", "Cat")), Path("weights/Cat.pth"))
    checkpoints.save(weights(scale=float("inf")), Path("weights/broken.pth"))
    for arguments, message in (
        ("", "Name images"),
        ("photos nowhere.jpg", "nowhere.jpg does not exist"),
        ("module/colors.pth photos", "holds weights, not images. To use them: --weights module/colors.pth"),
        ("other", r"no images to label, only 1 other file\."),
        ("photos text.zip", "text.zip is damaged"),
        ("inner.zip", "holds no images; a zip inside it"),
        ("outside.zip", "points outside the zip"),
        ("photos --output predictions.png", r"end in \.csv"),
        ("photos/1.png --sort-into photos", "is in photos"),
        ("photos --sort-into text.zip", "is a file"),
        ("photos --sort-into sorted --weights weights/Cat.pth", "'Cat' and 'cat' would share the folder"),
        ("twice --kaggle", "b/1.png: another image has the same number"),
        ("photos --kaggle --weights weights/cow.pth", "two classes, one of them called dog"),
        ("photos --weights weights/broken.pth", "not finite"),
        ("photos --batch-size 0", "--batch-size"),
        ("-", r"no images to label\. Name"),
    ):
        pipe(monkeypatch, b"\n\n")
        with pytest.raises(UserError, match=message):
            predict.main([*arguments.split(), *OPTIONS])
        assert not list(Path().glob("predictions*")), arguments
