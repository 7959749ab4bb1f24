"""Copies and look-alikes: found, reported, and never on both sides of the split."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

import prepare
from classifier.cli import UserError
from classifier.preparation import duplicates
from classifier.preparation.duplicates import HashedImage
from tests.raw_images import cats_and_dogs, image, make_zip, plain, tree


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Prepare these members; (side/class/name of each image written, the rows of duplicates.csv by image)."""
    monkeypatch.delattr(os, "sync", raising=False)

    def run(members, test=0.2):
        prepare.prepare(make_zip(tmp_path / "a.zip", members), (tmp_path / "out"), test)
        with (tmp_path / "out" / "duplicates.csv").open(encoding="utf-8-sig", newline="") as file:
            rows = {row["picture"]: row for row in csv.DictReader(file)}
        return {name for name in tree(tmp_path / "out") if "/" in name}, rows

    (tmp_path / "out").mkdir()
    return run


def side(written, name):
    return next((path.split("/")[0] for path in written if path.endswith("/" + name)), None)


def test_copies_in_a_class_are_left_out(run):
    members = cats_and_dogs(10) | {"cat/copy.jpg": image(3), "cat/0 copy.jpg": image(3)}
    written, rows = run(members)
    assert len(written) == 20 and side(written, "cat/0 copy.jpg") and not side(written, "cat/copy.jpg")
    assert rows["cat/3.jpg"]["file"] == "" and rows["cat/3.jpg"]["note"] == "same file as cat/0 copy.jpg"
    assert rows["cat/0 copy.jpg"]["match"] == "same file"


@pytest.mark.parametrize("test", [0.2, 7, 0.5])
def test_lookalikes_stay_on_one_side(test, run):
    members = cats_and_dogs(20)
    for i in range(0, 20, 2):  # recompressed, resized, both
        members[f"cat/{i} b.jpg"] = image(i, quality=30)
        members[f"dog/{i} b.jpg"] = image(1000 + i, size=200)
        members[f"dog/{i} c.jpg"] = image(1000 + i, size=120, quality=50)
    written, rows = run(members, test)
    assert len(written) == len(members) and len(rows) == 50
    sides = {}
    for row in rows.values():
        sides.setdefault(row["group"], set()).add(row["file"].split("/")[0])
        assert (
            row["file"] in written
            and row["file"].endswith(row["picture"].split("/")[-1])
            and row["match"] == "looks the same"
        )
    assert len(sides) == 20 and all(len(both) == 1 for both in sides.values())
    assert {next(iter(both)) for both in sides.values()} == {"train", "test"}


def test_a_image_in_two_classes_is_for_training(run):
    shared = {f"{label}/shared {i}.jpg": image(500 + i) for label in ("cat", "dog") for i in range(6)}
    alike = {f"dog/alike {i}.jpg": image(i, quality=40) for i in range(3)}
    written, rows = run(cats_and_dogs(10) | shared | alike, 0.4)
    assert {side(written, name) for name in [*shared, *alike]} == {"train"}
    assert all("in two classes" in rows[name]["note"] for name in [*shared, *alike, "cat/0.jpg"])
    assert side(written, "cat/0.jpg") == "train"


def test_given_split_leaves_out_training_images_seen_in_test(run):
    members = {f"train/{name}": content for name, content in cats_and_dogs(10).items()}
    members |= {f"test/{name}": content for name, content in cats_and_dogs(5, first=100).items()}
    members |= {"train/cat/copy.jpg": image(100), "train/cat/alike.jpg": image(101, quality=40)}
    members |= {"train/dog/a cat.jpg": image(102), "test/cat/twice.jpg": image(103)}
    written, rows = run(members)
    assert len(written) == 30 and all(written >= {f"test/cat/{i}.jpg"} for i in range(4))
    assert not side(written, "copy.jpg") and not side(written, "alike.jpg") and not side(written, "a cat.jpg")
    assert rows["train/cat/copy.jpg"]["note"] == "same file as test/cat/0.jpg"
    assert rows["train/cat/alike.jpg"]["note"] == "also in the test part, as test/cat/1.jpg"
    assert rows["train/dog/a cat.jpg"]["note"] == "in two classes; also in the test part, as test/cat/2.jpg"
    assert rows["test/cat/twice.jpg"]["note"] == "same file as test/cat/3.jpg"


def test_plain_images_are_not_all_the_same(run):
    colours = ["white", "black", "red", "#010101", "grey"]
    members = {
        f"{label}/{colour}.png": plain(colour)
        for label, of in (("a", colours[:3]), ("b", colours[3:]))
        for colour in of
    }
    written, rows = run(members, 1)
    assert len(written) == 5 and not rows


def test_plain_copies_are_still_copies(run):
    colours = {"a/1": "red", "a/2": "red", "a/3": "blue", "b/1": "red", "b/2": "white", "b/3": "black"}
    written, rows = run({f"{name}.png": plain(colour) for name, colour in colours.items()}, 1)
    assert len(written) == 5 and side(written, "a/1.png") == side(written, "b/1.png") == "train"
    assert side(written, "a/3.png") == "test" and len(rows) == 3


def test_a_class_of_lookalikes_cannot_be_split(run):
    members = cats_and_dogs(5) | {f"cow/{i}.jpg": image(77, quality=50 + i) for i in range(6)}
    with pytest.raises(UserError, match=r"class 'cow'.*look the same"):
        run(members)


@pytest.mark.parametrize("colour", ["x gradient", "y gradient", "white"])
def test_nothing_to_see_has_no_look(colour):
    ramp = np.tile(np.arange(0, 256, 2, dtype=np.uint8), (128, 1))
    images = {"x gradient": Image.fromarray(ramp), "y gradient": Image.fromarray(ramp.T)}
    assert duplicates.look(images.get(colour, Image.new("L", (9, 9), 255)).convert("RGB")) is None


def test_groups_match_a_slow_search():
    """Against every pair by the definition, on looks that differ in 0 to 90 bits from one of 40 others."""
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2, (40, 256), dtype=np.uint8)
    bits = base[generator.integers(0, 40, 300)]
    for row, number in zip(bits, generator.integers(0, 90, 300), strict=True):
        row[generator.choice(256, number, replace=False)] ^= 1
    groups = duplicates.near_groups([np.packbits(row).tobytes() for row in bits])
    corner = bits.reshape(-1, 16, 16)[:, :8, :8].reshape(-1, 64).astype(int)
    near = (bits[:, None] != bits[None]).sum(2) <= duplicates.NEAR
    near &= np.abs(corner[:, None] - corner[None]).sum(2) <= duplicates.NEAR_COARSE
    expected = np.arange(300)
    while True:  # the smallest number of any neighbour, until nothing changes
        smallest = np.where(near, expected, 300).min(1)
        if (smallest == expected).all():
            break
        expected = smallest
    assert (groups == expected).all() and 1 < len(set(groups)) < 300


def test_rulings_do_not_depend_on_the_order():
    looks = [duplicates.look(Image.new("RGB", (8, 8))) for _ in range(3)]
    images = [HashedImage(name, "x", None, "same", look) for name, look in zip("cab", looks, strict=True)]
    kept = {p.name for p, r in zip(images, duplicates.rule(images), strict=True) if not r.left_out}
    again = {p.name for p, r in zip(images[::-1], duplicates.rule(images[::-1]), strict=True) if not r.left_out}
    assert kept == again == {"a"}
