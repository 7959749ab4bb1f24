"""Images to try the page with: from where they may come, and from where not."""

import pytest

from classifier.checkpoint import Checkpoint
from classifier.data import sample_set
from classifier.data.transforms import Preprocess
from tests.conftest import make_images
from webui.examples import examples, thumbnail


def found(**data):
    return examples(Checkpoint("resnet18", ["cat", "dog"], Preprocess(), {}, data=data))


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def test_test_images_of_known_classes_alternate(project):
    assert found() == []
    make_images(project / "dataset" / "test", {"cat": 6, "dog": 6, "cow": 6})
    (project / "dataset" / "test" / "cat" / "notes.txt").write_text("no image")
    assert [path.parent.name for path in found()] == ["cat", "dog"] * 4
    assert all(path.is_file() for path in found())
    make_images(project / "photos" / "test", {"cat": 6, "dog": 6})
    assert [path.parts[0] for path in found(root="photos")] == ["photos"] * 8  # what the network was trained on


@pytest.mark.parametrize("root", ["{elsewhere}", "../elsewhere", 7, None, "", "no\0where"])
def test_nothing_is_shown_from_elsewhere(root, tmp_path):
    make_images(tmp_path / "elsewhere" / "test", {"cat": 6, "dog": 6})
    assert found(root=root.format(elsewhere=tmp_path / "elsewhere") if isinstance(root, str) else root) == []


def test_an_image_that_cannot_be_read_has_a_grey_thumbnail(project):
    (project / "bad.png").write_text("no image")
    assert thumbnail(project / "bad.png").getpixel((0, 0)) == (128, 128, 128)


def test_drawings_are_for_networks_that_learned_drawings(project):
    """The first click is right: of a fresh clone, too, whose weights have learned photographs."""
    for folder in ("dataset/sample", "dataset", "copied"):
        sample_set.unpack(project / folder)
    assert found() == found(root="copied") == found(root="dataset", kind="pictures") == []
    drawn = found(root="dataset/sample", kind="drawings")
    assert [path.parts[:3] for path in drawn] == [("dataset", "sample", "test")] * 8
    assert found(root="elsewhere", kind="drawings") == []  # nor photographs for drawings
    make_images(project / "dataset" / "test", {"cat": 6, "dog": 6})
    assert [path.suffix for path in found()] == [".png"] * 8
    assert found(root="elsewhere", kind="drawings") == []
