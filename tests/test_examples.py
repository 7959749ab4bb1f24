"""Images to try the page with: from where they may come, and from where not."""

import pytest
from PIL import Image

from classifier.checkpoint import Checkpoint
from classifier.data.transforms import Preprocess
from webui.examples import examples, thumbnail


def weights(**data) -> Checkpoint:
    return Checkpoint("resnet18", ["cat", "dog"], Preprocess(), {}, data=data)


def fill(folder, names, count=6):
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (30, 20), (number, 0, 0)).save(folder / name / f"{number}.png")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    (tmp_path / "uploads").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_test_images_alternate(project, tmp_path):
    fill(project / "dataset" / "test", ("cat", "dog", "cow"))
    (project / "dataset" / "test" / "cat" / "folder.png").mkdir()
    found, drawn = examples(weights(), tmp_path / "uploads")
    assert not drawn and [path.parent.name for path in found[:4]] == ["cat", "dog", "cat", "dog"]
    assert all(path.is_file() for path in found)
    assert found == examples(weights(), tmp_path / "uploads")[0]


def test_the_folder_that_the_weights_name(project, tmp_path):
    fill(project / "photos" / "test", ("cat", "dog"))
    found, drawn = examples(weights(root="photos"), tmp_path / "uploads")
    assert len(found) == 8 and not drawn
    assert examples(weights(root="photos", kind="drawings"), tmp_path / "uploads")[1]


@pytest.mark.parametrize("root", ["{elsewhere}", "../elsewhere", 7, None, "", "no\0where"])
def test_nothing_is_shown_from_elsewhere(root, tmp_path):
    fill(tmp_path / "elsewhere" / "test", ("cat", "dog"))
    root = root.format(elsewhere=tmp_path / "elsewhere") if isinstance(root, str) else root
    found, drawn = examples(weights(root=root), tmp_path / "uploads")
    assert drawn and len(found) == 8 and all(path.is_relative_to(tmp_path / "uploads") for path in found)


def test_other_classes_have_no_drawings(tmp_path):
    other = Checkpoint("resnet18", ["ant", "bee"], Preprocess(), {})
    assert examples(other, tmp_path / "uploads") == ([], True)


def test_an_image_that_cannot_be_read_has_a_grey_thumbnail(project):
    (project / "bad.png").write_text("no image")
    assert thumbnail(project / "bad.png").getpixel((0, 0)) == (128, 128, 128)
