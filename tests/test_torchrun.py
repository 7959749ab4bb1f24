"""Several processes, started by torchrun, do what one does: every image once, the same numbers, one voice."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import evaluate
import predict
from classifier import checkpoint as checkpoints
from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from tests.conftest import ENVIRONMENT, REPOSITORY, make_images
from tests.raw_images import make_zip
from zoo import MODELS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="PyTorch for Windows comes without what torchrun needs")

CPU = ["--device", "cpu", "--precision", "fp32", "--workers", "0"]
MEASURED = {"seconds", "milliseconds_per_picture", "milliseconds_for_one", "milliseconds_for_one_p95"}
MEASURED |= {"date", "device", "megabytes"}


def torchrun(processes, script, *arguments, restarts=0, **options):
    """Run a script, one of the project or a path, in the current folder."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [f"--max-restarts={restarts}", str(REPOSITORY / script), *map(str, arguments)]
    options |= {"env": ENVIRONMENT, "capture_output": True, "text": True, "encoding": "utf-8", "timeout": 300}
    return subprocess.run(command, **options)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder, as the current one, with module/run.pth and 23 images in dataset/test."""
    monkeypatch.chdir(tmp_path)
    make_images(Path("dataset/test"), {"cat": 11, "dog": 12})
    torch.manual_seed(0)
    weights, data = MODELS["resnet18"](num_classes=2).state_dict(), {"root": "dataset", "kind": "photographs"}
    checkpoints.save(Checkpoint("resnet18", ["cat", "dog"], Preprocess(32), weights, data=data), Path("module/run.pth"))
    return tmp_path


def reports():
    """Of each network the newest report.json, without what is measured; predictions and images; and the device."""
    found = {}
    for path in sorted(Path("logs/evaluate").glob("run*/*/report.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        scores = {key: value for key, value in report.items() if key not in MEASURED}
        page = path.with_name("report.html").read_text(encoding="utf-8")
        shown = path.with_name("predictions.csv").read_bytes(), re.search(r'"images">(.*?)</script>', page)[1]
        found[path.parts[2]] = (scores, shown), report["device"]
    return found


def test_three_processes_score_as_one(project):
    command = ["--tta", "flip", "--batch-size", 5, *CPU]
    done = torchrun(3, "evaluate.py", *command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("/report.html") == 3 and done.stdout.count("3 processes, each on") == 2  # one voice
    assert len(list(Path("logs/evaluate").glob("*/*"))) == 3  # two networks, and how they compare
    assert checkpoints.load(Path("module/run.pth")).scores["test"]["count"] == 23
    several = reports()
    evaluate.main(list(map(str, command)))
    one = reports()
    assert set(one) == set(several) == {"run", "run-flip"}
    for name, (shown, device) in one.items():  # equal to the last digit
        assert shown[0]["count"] == 23 and several[name] == (shown, f"3 processes, each on {device}")


def test_two_processes_label_as_one_and_go_on_where_one_stopped(project):
    contents = {f"{i}.png": Path(f"dataset/test/cat/{i}.png").read_bytes() for i in range(3)}
    make_zip(Path("some.zip"), contents | {"bad.png": b"text"})
    named = ["dataset/test/dog", "dataset/test/dog/3.png", "some.zip", "dataset"]
    options = ["--batch-size", "4", *CPU]
    predict.main([*named, "--output", "one.csv", *options])
    predict.main([*named[1:2], *options])  # which has a row already when the others come
    done = torchrun(2, "predict.py", "-", "--sort-into", "sorted", *options, input="\n".join(named))
    assert done.returncode == 0, done.stderr
    assert "kept       1 row " in done.stdout and "labelled   26 images\nnew        26 images" in done.stdout
    assert "with 2 processes" in done.stdout and done.stdout.count("written ") == 1
    rows = {name: Path(name).read_bytes().splitlines() for name in ("one.csv", "predictions.csv")}
    heading, first, *others = rows["predictions.csv"]
    again = [row.split(b",")[:2] for row in [heading, *others]]
    assert again == [row.split(b",")[:2] for row in rows["one.csv"] if row.split(b",")[0] != first.split(b",")[0]]
    assert len(list(Path("sorted").rglob("*.png"))) == 26 and Path("predictions.png").exists()


def test_a_mistake_is_reported_once(project):
    Path("dataset/test/dog/0.png").write_bytes(b"text")  # in the second batch, which is the second process's
    for device, message in (("cpu", "dog/0.png is not an image"), ("cuda:99", "error: --device cuda:99")):
        done = torchrun(2, "evaluate.py", "--batch-size", 11, "--workers", 0, "--device", device)
        assert done.returncode != 0 and not Path("logs/evaluate").exists() and done.stderr.count(message) == 1
