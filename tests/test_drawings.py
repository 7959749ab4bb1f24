"""The sample set: complete, and kept where it is."""

import pytest
from PIL import Image

from classifier.cli import UserError
from classifier.data.sample_set import unpack
from docs.drawings import CLASSES, COUNTS, SIZE, draw
from tests.raw_images import make_folder, plain, tree

FILES = {
    f"{split}/{kind}/{kind}.{number}.png": (split, kind, number)
    for split, count in COUNTS.items()
    for kind in CLASSES
    for number in range(count)
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "sample"
    unpack(root)
    return root


def test_the_set_is_complete_and_what_is_drawn_today(root):
    assert set(tree(root)) == set(FILES) and len(FILES) == 720
    images = {name: Image.open(root / name) for name in FILES}
    assert {(image.mode, image.size) for image in images.values()} == {("RGB", (SIZE, SIZE))}
    assert len({image.tobytes() for image in images.values()}) == 720
    for name in ("train/cat/cat.0.png", "train/dog/dog.299.png", "test/cat/cat.59.png", "test/dog/dog.7.png"):
        assert images[name].tobytes() == draw(*FILES[name]).tobytes()


def test_what_is_there_is_kept_and_the_rest_added(root, tmp_path):
    """A killed run's drawings, and somebody's notes."""
    there = {name: (root / name).read_bytes() for name in list(FILES)[:3]} | {"README.md": b"mine"}
    unpack(make_folder(tmp_path / "sample", there))
    assert tree(tmp_path / "sample") == tree(root) | there
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_other_images_are_not_mixed_in(tmp_path):
    make_folder(tmp_path, {"train/cat/tom.png": plain("red")})
    with pytest.raises(UserError, match=r"tom\.png is not one of the drawings"):
        unpack(tmp_path)
    assert tree(tmp_path) == {"train/cat/tom.png": plain("red")}
