"""predict.py as people run it: each row is its image's own, interrupted runs go on, nothing of the user's is lost."""

import codecs
import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import predict
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.data.transforms import Preprocess
from classifier.device import Compute
from classifier.evaluation import plots
from classifier.inference.predictor import build_predictor
from classifier.prediction import loader, outputs, sources
from classifier.prediction import table as table_module
from classifier.prediction.sources import Unlabelled
from tests.conftest import ENVIRONMENT, REPOSITORY, run_script
from tests.raw_images import make_zip
from zoo import MODELS

PIXELS = Preprocess(size=16, mean=(0, 0, 0), std=(1, 1, 1))
CPU = Compute(torch.device("cpu"), torch.float32, torch.contiguous_format, "", "")


class Colors(torch.nn.Module):
    """Knows colours by heart: a blue image is a cat, a red one a dog."""

    def __init__(self, num_classes=2):
        super().__init__()
        self.fc = torch.nn.Linear(3, num_classes)

    def forward(self, x):
        return self.fc(x.mean(dim=(2, 3)))


def weights(classes=("cat", "dog"), sure=3.0):
    state = {"fc.weight": torch.tensor([[0, 0, 1.0], [1.0, 0, 0]]) * sure, "fc.bias": torch.zeros(2)}
    return Checkpoint("colors", list(classes), PIXELS, state)


def image(red, kind="PNG"):
    """An image of one colour, so that each has a probability of its own."""
    stream = io.BytesIO()
    Image.new("RGB", (24, 20), (red, 30, 255 - red)).save(stream, kind)
    return stream.getvalue()


def fill(folder, reds):
    """`folder`/<name>.png for each name and its red."""
    for name, red in reds.items():
        path = Path(folder, f"{name}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(red))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder, as the current one, with module/colors.pth and photos/0.png (a sure cat) to 9.png (a dog)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(MODELS, "colors", Colors)
    checkpoints.save(weights(), Path("module/colors.pth"))
    fill("photos", {str(i): 28 * i for i in range(10)})
    return tmp_path


def table(path="predictions.csv"):
    with Path(path).open(encoding="utf-8-sig", errors=table_module.NAMES, newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def run(*args, batch=4):
    """Run the script in this process; its table."""
    predict.main(
        [*map(str, args), "--batch-size", str(batch), "--workers", "3", "--device", "cpu", "--precision", "fp32"]
    )
    return table()


def refuses(match, *args, new=True):
    with pytest.raises(UserError, match=match):
        run(*args)
    assert not (new and list(Path().glob("predictions*"))), "it left something behind"


def opened(monkeypatch):
    """The names of the images that are opened for an answer from now on."""
    names, batches = [], loader.batches

    def noted(images, *args):
        return batches((names.append(one.name) or one for one in images), *args)

    monkeypatch.setattr(loader, "batches", noted)
    return names


def pipe(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))


def own(path):
    return os.path.join("photos", path)  # noqa: PTH118 (as on this system)


# ------------------------------------------------------------------------------------------- each row its image's


def test_each_row_is_its_images_own(project):
    reds = {f"{i:02}": (37 * i) % 256 for i in range(30)}
    fill("mixed", reds)
    bad = {"03": b"", "04": b"text", "05": image(9)[:40], "17": b"GIF89a", "29": b"\xff\xd8"}
    for name, content in bad.items():
        Path("mixed", f"{name}.png").write_bytes(content)
    rows = run("mixed")
    answer = build_predictor(weights(), CPU)
    assert [Path(name).stem for name in rows] == list(reds)  # by name, each once
    for name, row in rows.items():
        if Path(name).stem in bad:
            assert row["class"] == row["P(cat)"] == row["P(dog)"] == "" and row["note"].startswith("is ")
            continue
        expected = answer(PIXELS.read(name).unsqueeze(0)).probabilities[0].tolist()
        assert [float(row["P(cat)"]), float(row["P(dog)"])] == pytest.approx(expected, rel=1e-4)
        assert row["class"] == ("cat", "dog")[expected[1] > expected[0]] and row["note"] == ""
    assert rows[os.path.join("mixed", "03.png")]["note"] == "is empty (0 bytes)"  # noqa: PTH118


def test_a_folder_with_nothing_but_unreadable_files(project):
    for i in range(5):
        Path("photos", f"{i}.png").write_bytes(b"text")
    rows = run(*(own(f"{i}.png") for i in range(5)))
    assert all("not an image" in row["note"] for row in rows.values()) and len(rows) == 5
    assert not Path("predictions.png").exists()


def test_weights_that_know_drawings_only_say_so(project, capsys):
    predict.main(["photos"])
    assert "drawings" not in capsys.readouterr().out
    drawn = weights()
    drawn.data = {"kind": "drawings"}
    checkpoints.save(drawn, Path("module/drawn.pth"))
    predict.main(["photos", "--weights", "module/drawn.pth", "--output", "drawn.csv"])
    assert f"learned    from drawings only; --weights module/{checkpoints.SHIPPED}" in capsys.readouterr().out


def test_unlike_the_training_images(project, monkeypatch, capsys):
    def unlike_at_first(checkpoint, compute):
        answer = build_predictor(checkpoint, compute)

        def answer_(pixels):
            answers = answer(pixels)
            answers.is_ood[0] = True
            return answers

        return answer_

    monkeypatch.setattr(predict, "build_predictor", unlike_at_first)
    rows = list(run("photos").values())
    assert [row["class"] == "neither" for row in rows] == [True, False, False, False, True] + [False] * 3 + [
        True,
        False,
    ]
    assert rows[0]["note"] == "unlike the training images; nearest is cat" and float(rows[0]["P(cat)"]) > 0.9
    assert "neither" in capsys.readouterr().out
    assert predict.neither(["Neither", "dog"]) == "unlike"


def test_the_table_for_spreadsheets_and_programs(project):
    fill("photos", {"=1+1, “猫”": 0, "it's": 255})
    rows = run("photos")
    content = Path("predictions.csv").read_bytes()
    assert content.startswith("\ufeffpath,class,P(cat),P(dog),note\r\n".encode())
    assert rows[own("=1+1, “猫”.png")]["class"] == "cat" and rows[own("it's.png")]["class"] == "dog"
    digits = rows[own("0.png")]["P(dog)"].lstrip("0.").split("e")[0]
    assert 4 <= len(digits.replace(".", "")) <= 6


# ------------------------------------------------------------------------------------------------ what is named


def test_folders_in_order_with_what_is_in_them(project, capsys):
    fill("tree", {"b/2": 0, "b/10": 0, "a": 255, "c": 255, ".hidden/1": 0, "b/.secret": 0})
    for other in ("Thumbs.db", "b/notes.txt", "b/._2.png"):
        Path("tree", other).write_bytes(b"other")
    rows = run("tree")
    assert [Path(name).as_posix() for name in rows] == ["tree/a.png", "tree/b/10.png", "tree/b/2.png", "tree/c.png"]
    assert "4 other files" in capsys.readouterr().out  # .secret.png as well


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_but_not_in_circles(project):
    Path("photos/back").symlink_to("..", target_is_directory=True)
    fill("elsewhere", {"far": 0})
    Path("photos/linked").symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
    Path("photos/broken.png").symlink_to("nowhere.png")
    rows = run("photos")
    assert "photos/linked/far.png" in rows and rows["photos/broken.png"]["note"] == "does not exist"
    assert not any(name.startswith("photos/back/photos") for name in rows)


def test_what_is_named_itself_is_answered_whatever_it_is_called(project):
    Path("photos/0.png").rename("picture")
    Path("notes.txt").write_text("text")
    rows = run("picture", "notes.txt")
    assert rows["picture"]["class"] == "cat" and "is not an image" in rows["notes.txt"]["note"]


def test_a_image_named_twice_has_one_row(project):
    assert len(run("photos", own("3.png"), "./photos/3.png", "photos//3.png")) == 10
    assert Path("predictions.csv").read_text(encoding="utf-8").count("3.png") == 1


def test_zips(project, capsys):
    content = {f"inner/{i}.png": image(28 * i) for i in range(6)}
    make_zip(Path("holiday.zip"), content | {"inner/猫.png": image(0), "readme.txt": b"", "__MACOSX/._1.png": b""})
    rows = run("holiday.zip")
    assert list(rows) == [*(f"holiday.zip/{name}" for name in content), "holiday.zip/inner/猫.png"]
    alone = run("photos", "--restart")
    for i in range(6):
        row, expected = rows[f"holiday.zip/inner/{i}.png"], alone[own(f"{i}.png")]
        assert row["class"] == expected["class"]
        assert float(row["P(dog)"]) == pytest.approx(float(expected["P(dog)"]), rel=1e-4)
    assert "2 other files" in capsys.readouterr().out


def test_a_damaged_member_is_a_row(project):
    make_zip(Path("a.zip"), {f"{i}.bmp": image(40 * i, "BMP") for i in range(4)})
    content = bytearray(Path("a.zip").read_bytes())
    content[content.index(b"1.bmp") + 12] ^= 255
    Path("a.zip").write_bytes(content)
    rows = run("a.zip")
    assert "damaged" in rows["a.zip/1.bmp"]["note"]
    assert [row["class"] for row in rows.values()] == ["cat", "", "cat", "cat"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_standard_input(project, monkeypatch, end):
    fill("photos", {"名 字": 255})
    names = ["photos/5.png", "photos/missing.png", "photos/名 字.png", "gone.zip"]
    pipe(monkeypatch, b"\xef\xbb\xbf" * (end == b"\r\n") + end.join(name.encode() for name in names))
    rows = run("-")
    assert list(rows) == names
    assert [row["class"] for row in rows.values()] == ["dog", "", "dog", ""]
    assert rows["photos/missing.png"]["note"] == "does not exist" and "does not exist" in rows["gone.zip"]["note"]


def test_lines_in_pieces_and_without_end():
    def pieces(content):  # as from a program that writes now and then
        raw = io.BytesIO(content)
        raw.readinto = lambda buffer: io.BytesIO.readinto(raw, memoryview(buffer)[:3])
        return io.BufferedReader(raw)

    assert list(sources.read_lines(pieces("猫.png\n\nb\r\nlast".encode()))) == ["猫.png", "b", "last"]
    assert list(sources.read_lines(pieces(b"a\0two\nlines.png\0b\0"))) == ["a", "two\nlines.png", "b"]
    # as PowerShell writes it, and whose bytes are not to be taken for names of one character each, "/" among them
    assert list(sources.read_lines(pieces("C:/猫.png\r\n\r\nb\r\n".encode("utf-16")))) == ["C:/猫.png", "b"]
    with pytest.raises(UserError, match="no list of paths"):
        list(sources.read_lines(io.BufferedReader(io.BytesIO(b"x" * 200_000))))


def test_a_list_of_any_length_is_read_as_it_comes():
    for end in (b"\n", b"\0"):
        stream = io.BufferedReader(io.BytesIO(end.join(b"photos/%d.jpg" % i for i in range(200_000))))
        names = sources.read_lines(stream)
        assert next(names) == "photos/0.jpg" and stream.tell() < 200_000
        assert sum(1 for _ in names) == 199_999


def test_patterns_are_expanded_where_no_shell_has_done_it(project):
    fill("sun [1]", {"b": 0, "a": 255, "[x]": 0})
    rows = run("sun [1]/*.png", "photos/?.png")
    assert [Path(name).stem for name in rows] == ["[x]", "a", "b", *map(str, range(10))]
    refuses("does not exist", "nothing/*.png", new=False)


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_awkward_names_come_back_as_they_were(project, monkeypatch):
    names = ['say "hi"\n,\r\n.png', "-x.png"]
    if sys.platform != "darwin":
        names.append(os.fsdecode(b"\xff\xfe.png"))
    for name in names:
        Path("photos", name).write_bytes(image(255))
    rows = run("photos")
    assert {f"photos/{name}" for name in names} <= set(rows)
    again = opened(monkeypatch)
    assert run("photos") == rows and again == []
    pipe(monkeypatch, "\0".join(f"photos/{name}" for name in names).encode(errors="surrogateescape"))
    assert run("-") == rows and again == []


# ------------------------------------------------------------------------------------- no further than needed


def test_later_folders_are_not_looked_at_before_their_turn(project, monkeypatch):
    fill("z", {"a/1": 0, "b/1": 0})
    looked, listdir = [], os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: looked.append(Path(folder).as_posix()) or listdir(folder))
    stream = iter(Unlabelled(["photos", "z"]))
    next(stream)
    assert looked == ["photos"]
    assert len(list(stream)) == 11 and looked == ["photos", "z", "z/a", "z/b"]


def test_images_are_opened_one_batch_ahead_and_no_further(project):
    taken = []
    names = (taken.append(i) or sources.UnlabelledImage(own("1.png"), own("1.png")) for i in range(1000))
    batches = loader.batches(names, PIXELS.read, 4, 2)
    assert len(next(batches)) == 4 and len(taken) == 8
    assert len(next(batches)) == 4 and len(taken) == 12
    batches.close()


# ------------------------------------------------------------------------------------------------ going on


def test_a_table_cut_anywhere_is_completed(project, monkeypatch):
    fill("photos", {"a, 猫" if os.name == "nt" else 'a,"\r\n猫': 77})
    whole = run("photos")
    path = Path("predictions.csv")
    content = path.read_bytes()
    end, ends = len(codecs.BOM_UTF8 + b"path,class,P(cat),P(dog),note\r\n"), []
    for row in whole.values():
        text = io.StringIO(newline="")
        csv.writer(text).writerow(row.values())
        ends.append(end := end + len(text.getvalue().encode()))
    assert end == len(content)
    again = opened(monkeypatch)
    for length in [0, 2, 20, *range(40, len(content), 23), len(content) - 1]:
        path.write_bytes(content[:length])
        again.clear()
        assert {name: row["class"] for name, row in run("photos").items()} == {n: r["class"] for n, r in whole.items()}
        assert again == [name for name, end in zip(whole, ends, strict=True) if end > length]


def test_a_finished_run_says_so_and_answers_what_is_new(project, monkeypatch, capsys):
    run("photos")
    before = Path("predictions.csv").read_bytes()
    again = opened(monkeypatch)
    run("photos")
    assert Path("predictions.csv").read_bytes() == before and again == []
    shown = capsys.readouterr().out
    assert "kept       10 rows" in shown and "all were answered before" in shown
    fill("photos", {"3b": 255})
    assert len(run("photos")) == 11 and again == [own("3b.png")]
    assert Path("predictions.csv").read_bytes().startswith(before)


def test_answers_about_other_images_stay_and_are_not_counted(project, capsys):
    run("photos")
    fill("more", {"x": 0, "y": 0})
    capsys.readouterr()
    assert len(run("more", "--sort-into", "sorted")) == 12
    assert "answered   2, 2 new" in capsys.readouterr().out
    assert sorted(path.name for path in Path("sorted").rglob("*.png")) == ["x.png", "y.png"]


def test_a_score_noted_in_the_weights_does_not_stop_it(project, monkeypatch):
    run("photos")
    scored = checkpoints.load(Path("module/colors.pth"))
    scored.scores["test"] = {"accuracy": 0.5}
    checkpoints.save(scored, scored.path)
    again = opened(monkeypatch)
    run("photos")
    assert again == []


def test_other_weights_are_refused_unless_asked_for(project):
    run("photos")
    before = Path("predictions.csv").read_bytes()
    checkpoints.save(weights(sure=4.0), Path("module/other.pth"))
    other = ("photos", "--weights", "module/other.pth")
    refuses(r"of other weights than module/other.pth: of module/colors.pth.*--restart", *other, new=False)
    assert Path("predictions.csv").read_bytes() == before
    predict.main([*other, "--output", "others/second.csv", "--device", "cpu", "--precision", "fp32"])
    assert len(table("others/second.csv")) == 10 and Path("others/second.png").exists()
    run(*other, "--restart")
    assert Path("predictions.csv").read_bytes() != before and len(table()) == 10


def test_another_precision_is_refused(project):
    run("photos")
    with pytest.raises(UserError, match=r"begun in float32.*would be bfloat16"):
        predict.main(["photos", "--device", "cpu", "--precision", "bf16"])


def test_files_of_others_are_never_overwritten(project):
    for name in ("predictions.csv", "predictions.png", "predictions.kaggle.csv", "predictions.csv.json"):
        Path(name).write_text("mine")
        refuses(f"{name} exists, and nothing says that predict.py made it", "photos", "--restart", new=False)
        assert Path(name).read_text() == "mine"
        Path(name).unlink()


def test_a_table_that_another_program_has_changed(project):
    run("photos")
    for content in ("path;class\r\n", "\ufeffpath,class,P(cat),P(dog),note\r\na.png,cat\r\n"):
        Path("predictions.csv").write_bytes(content.encode())
        refuses("has been changed", "photos", new=False)
        assert Path("predictions.csv").read_bytes() == content.encode()


def test_ctrl_c_keeps_what_is_there(project, monkeypatch, capsys):
    read = loader.read

    def interrupted(one, preprocess):
        if one.name == own("9.png"):
            raise KeyboardInterrupt
        return read(one, preprocess)

    with monkeypatch.context() as for_now, pytest.raises(KeyboardInterrupt):
        for_now.setattr(loader, "read", interrupted)
        run("photos")
    assert list(table()) == [own(f"{i}.png") for i in range(8)]
    assert "8 new answers are in predictions.csv" in capsys.readouterr().err
    assert list(run("photos")) == [own(f"{i}.png") for i in range(10)]


def test_killed_for_real(tmp_path):
    torch.manual_seed(0)
    fill(tmp_path / "photos", {f"{i:03}": i for i in range(100)})
    saved = Checkpoint("resnet18", ["cat", "dog"], PIXELS, MODELS["resnet18"](num_classes=2).state_dict())
    checkpoints.save(saved, tmp_path / "module" / "run.pth")
    options = ["--device", "cpu", "--precision", "fp32", "--batch-size", "1"]
    command = [sys.executable, str(REPOSITORY / "predict.py"), "photos", *options]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    path, deadline = tmp_path / "predictions.csv", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.communicate()
    left = path.read_bytes()
    assert left.count(b"\n") < 101 and json.loads((tmp_path / "predictions.csv.json").read_text())["name"]

    names = "".join(f"photos/{i:03}.png\n" for i in range(100))  # the same images, now listed
    done = run_script("predict.py", "-", *options[:-1], "16", input=names, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and "\r" not in done.stdout  # no bar and no warning where output is not a terminal
    assert path.read_bytes().startswith(left[: left.rindex(b"\n") + 1])
    rows, answer = table(path), build_predictor(saved, CPU)
    assert list(rows) == names.splitlines()
    for name in list(rows)[::10]:
        expected = answer(PIXELS.read(tmp_path / name).unsqueeze(0)).probabilities[0].tolist()
        assert [float(rows[name]["P(cat)"]), float(rows[name]["P(dog)"])] == pytest.approx(expected, rel=1e-2)


# ------------------------------------------------------------------------------------------- copies, sheet, Kaggle


def test_copies(project):
    fill("photos", {"deep/1": 5, "deep/9": 250, "deep/9-2": 200})
    Path("photos/same").mkdir()
    Path("photos/same/1.png").write_bytes(Path("photos/1.png").read_bytes())
    Path("photos/bad.png").write_bytes(b"text")
    Path("sorted/cat").mkdir(parents=True)
    Path("sorted/cat/0.png").write_text("mine")
    before = {path: path.read_bytes() for path in Path("photos").rglob("*.png")}
    for _ in range(2):  # the second time nothing is to do
        run("photos", "--sort-into", "sorted")
        copies = {path.relative_to("sorted").as_posix(): path.read_bytes() for path in Path("sorted").rglob("*.png")}
        assert sorted(copies) == sorted(
            [*(f"cat/{name}.png" for name in ("0", "0-2", "1", "1-2", "1-3", "2", "3", "4"))]
            + [f"dog/{name}.png" for name in ("5", "6", "7", "8", "9", "9-2", "9-3")]
        )
        assert copies["cat/0.png"] == b"mine" and copies["cat/0-2.png"] == image(0)
        assert sorted(copies.values()) == sorted([b"mine", *(c for path, c in before.items() if path.stem != "bad")])
    assert {path: path.read_bytes() for path in Path("photos").rglob("*.png")} == before
    assert Path("sorted/cat/2.png").stat().st_mtime_ns == Path("photos/2.png").stat().st_mtime_ns
    assert not list(Path("sorted").rglob("*.tmp"))


def test_copies_and_sheet_in_the_folder_itself_are_not_labelled(project, monkeypatch):
    monkeypatch.chdir("photos")
    checkpoints.save(weights(), Path("module/colors.pth"))
    for _ in range(2):
        assert len(run(".", "*.png", "--sort-into", "sorted")) == 10
    assert len(list(Path("sorted").rglob("*.png"))) == 10


def test_copies_out_of_a_zip(project):
    make_zip(Path("a.zip"), {"x/1.png": image(0), "y/1.png": image(1), "y/CON.png": image(255)})
    for _ in range(2):
        run("a.zip", "--sort-into", "sorted")
        copies = {path.relative_to("sorted").as_posix(): path.read_bytes() for path in Path("sorted").rglob("*.png")}
        assert copies == {"cat/1.png": image(0), "cat/1-2.png": image(1), "dog/_CON.png": image(255)}


def test_class_names_that_are_no_folders(project):
    checkpoints.save(weights(classes=("..", "CON")), Path("module/colors.pth"))
    run("photos", "--sort-into", "sorted")
    assert sorted(path.name for path in Path("sorted").iterdir()) == ["_", "_CON"]
    assert sorted(path.name for path in Path().iterdir() if path.suffix == ".png") == ["predictions.png"]


def test_contact_sheet_shows_images_from_everywhere(project, monkeypatch):
    shown, draw = [], plots.contact_sheet
    monkeypatch.setattr(
        plots,
        "contact_sheet",
        lambda pixels, titles, **options: shown.append(titles) or draw(pixels, titles, **options),
    )
    monkeypatch.setattr(outputs, "SHEET", 8)
    fill("many", {f"{i:03}": i for i in range(100)} | {f"{i:03}": 255 - i for i in range(60, 100)})
    run("many")
    (titles,) = shown
    numbers = sorted(int(title.split("\n")[1].removesuffix(".png")) for title in titles)
    assert numbers == [0, 16, 32, 48, 64, 80, 96]
    assert titles[0] == "cat 95%\n000.png" and titles[-1].startswith("dog")
    Image.open("predictions.png").load()


def test_kaggle(project, capsys):
    make_zip(Path("test.zip"), {f"test/{i}.png": image(28 * i) for i in (2, 10, 9, 1)} | {"test/7.png": b"text"})
    checkpoints.save(weights(classes=("Dog", "cat"), sure=50.0), Path("module/colors.pth"))
    rows = run("test.zip", "--kaggle")
    lines = Path("predictions.kaggle.csv").read_bytes().decode().split("\n")
    assert lines[0] == "id,label" and lines[-1] == ""
    answers = dict(line.split(",") for line in lines[1:-1])
    assert list(answers) == ["1", "2", "7", "9", "10"]
    assert answers["1"] == "0.995" and answers["10"] == "0.005" and answers["7"] == "0.5"
    assert rows["test.zip/test/1.png"]["P(Dog)"] == "1"
    assert "predictions.kaggle.csv" in capsys.readouterr().out


def test_kaggle_refuses_what_makes_no_submission(project):
    fill("names", {"img 2 of 3": 0})
    refuses("one number", "names", "--kaggle")
    fill("twice", {"a/1": 0, "b/1": 255})
    refuses("b/1.png: another image has its number", "twice", "--kaggle")
    checkpoints.save(weights(classes=("cat", "cow")), Path("module/colors.pth"))
    refuses("two classes, one of them called dog", "photos", "--kaggle", "--restart")


# ------------------------------------------------------------------------------------------------ what it refuses


def test_what_cannot_be_labelled(project):
    refuses("nowhere.jpg does not exist", "photos", "nowhere.jpg")
    Path("empty").mkdir()
    refuses("no image to label", "empty")
    Path("empty/notes.txt").touch()
    refuses("no image to label: 1 other files", "empty")
    refuses(r"holds weights, not an image", "module/colors.pth")
    Path("text.zip").write_text("text")
    refuses("text.zip is damaged", "photos", "text.zip")
    refuses("holds no images.*train.zip in it", make_zip(Path("a.zip"), {"train.zip": b"", "a.txt": b""}))
    refuses("points outside the zip", make_zip(Path("b.zip"), {"../1.png": image(0)}))
    refuses("does not exist", "photos", "--weights", "module/none.pth")
    refuses(r"ends in \.csv", "photos", "--output", "predictions.png")
    refuses("is in photos", "photos/1.png", "--sort-into", "photos")
    refuses("is a file", "photos", "--sort-into", "text.zip")


def test_empty_standard_input(project, monkeypatch):
    pipe(monkeypatch, b"\n\n")
    refuses("no image to label", "-")


def test_a_list_that_died_with_a_process_is_not_taken_for_an_empty_one(project, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    refuses("have read standard input. The same command goes on, given the list anew", "-")
    assert len(run("photos")) == 10


@pytest.mark.parametrize("option", [("--batch-size", "0"), ("--workers", "-1"), ("--device", "abacus")])
def test_settings_that_make_no_sense(project, option):
    with pytest.raises(UserError, match=option[0]):
        predict.main(["photos", *option])


def test_output_that_cannot_be_written(project):
    Path("file").write_text("a file")
    refuses("cannot be written", "photos", "--output", "file/predictions.csv")


def test_a_full_disk_keeps_what_is_there(project, monkeypatch):
    append, calls = table_module.Table.append, []

    def full(table, batch):
        calls.append(batch)
        if len(calls) == 3:
            table.file.write("photos/8.png,ca")
            raise UserError("full")
        append(table, batch)

    monkeypatch.setattr(table_module.Table, "append", full)
    with pytest.raises(UserError, match="full"):
        run("photos")
    assert Path("predictions.csv").read_bytes().endswith(b"\r\nphotos/8.png,ca")
    monkeypatch.setattr(table_module.Table, "append", append)
    assert [row["class"] for row in run("photos").values()] == ["cat"] * 5 + ["dog"] * 5

    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            raise OSError(28, "No space left on device")

    table = table_module.Table(Path("full.csv"), checkpoints.load(Path("module/colors.pth")))
    table.file = io.TextIOWrapper(io.BufferedWriter(Full()))
    with pytest.raises(UserError, match=r"full\.csv cannot be written \(No space left on device\)"), table:
        table.append([["a"]])


def test_weights_that_went_wrong(project):
    broken = weights()
    broken.state_dict["fc.bias"][0] = float("nan")
    checkpoints.save(broken, Path("module/colors.pth"))
    refuses("not numbers", "photos", new=False)


def test_nothing_named_prints_the_usage(capsys):
    with pytest.raises(SystemExit, match="2"):
        predict.main([])
    shown = capsys.readouterr().out
    assert "usage" in shown and "--sort-into" in shown


def test_a_refusal_is_one_message_and_status_2(tmp_path):
    done = run_script("predict.py", "nothing.jpg", cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: nothing.jpg does not exist") and "Traceback" not in done.stderr
