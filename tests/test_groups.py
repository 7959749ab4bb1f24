"""prepare.py --group-by: what belongs together is on one side of every split, whatever else is known of it."""

import csv
import json
from collections import defaultdict

import pytest

from classifier.cli import UserError
from classifier.data import shards
from classifier.data.image_folder import read_folder, split_validation
from tests.raw_images import image, make_folder, tree
from tests.test_prepare import run  # noqa: F401 (a fixture)


def rows(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row["file"]: row["group"] for row in csv.DictReader(file)}


def patients(count=20, each=3, **more):
    """Folders cat/ and dog/, with `each` images of every patient; patients that 4 divides are in both."""
    members = {}
    for number in range(count):
        for i in range(each):
            label = "cat" if (i % 2 if number % 4 == 0 else number % 2) else "dog"
            members[f"{label}/patient{number}_{i}.jpg"] = image(number * 10 + i)
    return members | more


def sides(groups):
    """The parts (train, val, test) or shards in which each group is."""
    found = defaultdict(set)
    for file, group in groups.items():
        found[group].add("/".join(file.split("/")[: 2 if ".tar/" in file else 1]))
    return found


def test_a_group_is_on_one_side_of_both_splits(run, tmp_path):  # noqa: F811
    alike = {"cat/patient1_a.jpg": image(501), "dog/patient2_a.jpg": image(502)}  # joined by look-alikes in one class
    alike |= {"cat/patient3_a.jpg": image(501, quality=30), "dog/again.jpg": image(502, quality=30)}
    printed = run(make_folder(tmp_path / "pets", patients(**alike)), "--group-by", r"patient(\d+)_", "--test", 0.2)
    groups = rows(tmp_path / "dataset" / "groups.csv")
    assert "- 20 groups of images that belong together: groups.csv" in printed
    assert "- 1 image that --group-by does not match, each a group of its own" in printed
    assert {file for file in tree(tmp_path / "dataset") if file.endswith(".jpg")} == {*groups}
    assert len({*groups.values()}) == 19  # 1 and 3 are one group
    assert {group for file, group in groups.items() if "again" in file} == {"2"}
    places = sides(groups)
    assert all(len(parts) == 1 for parts in places.values())
    tested = {group for group, parts in places.items() if parts == {"test"}}
    assert tested & {"0", "4", "8", "12", "16"}  # a group with two classes may be for testing
    assert json.loads((tmp_path / "dataset" / "prepared.json").read_text())["settings"]["group_by"] == r"patient(\d+)_"

    folder, held_out = read_folder(tmp_path / "dataset" / "train"), []
    for fold in range(1, 5):
        training, validation = split_validation(folder, 0.25, fold)
        own, others = ({groups[f"train/{name}"] for name in part.relative_paths()} for part in (validation, training))
        assert not own & others and all(validation.counts().values())
        held_out += validation.paths
    assert sorted(held_out) == sorted(folder.paths)  # each image once


def test_a_group_larger_than_the_test_part_is_taken_where_none_is_smaller(run, tmp_path):  # noqa: F811
    members = {f"{label}/{v}/{i}.jpg": image(100 * v + i) for v, label in enumerate(["a", "b"] * 5) for i in range(6)}
    run(make_folder(tmp_path / "videos", members), "--group-by", r"/\d+/", "--class-folder", "outer")
    assert sum(name.startswith("test/") for name in tree(tmp_path / "dataset")) == 12  # of 60; wanted: 3 of each class


def test_a_group_is_in_one_shard(run, tmp_path):  # noqa: F811
    arguments = "--group-by", r"patient\d+", "--shards", "--shard-size", 4, "--output", "out"
    run(make_folder(tmp_path / "pets", patients(24)), *arguments)
    groups = rows(tmp_path / "out" / "groups.csv")
    assert len(groups) == 72 and all(len(places) == 1 for places in sides(groups).values())
    assert len(shards.read(str(tmp_path / "out")).shards) >= 10


def test_a_group_in_two_parts_of_the_source_is_remarked_on(run, tmp_path):  # noqa: F811
    members = {}
    for name, content in patients(8).items():
        part = "test" if name.endswith(("patient0_1.jpg", "patient0_2.jpg")) else "train"
        members[f"{part}/{name}"] = content
    printed = run(make_folder(tmp_path / "pets", members), "--group-by", r"patient\d+")
    assert (
        "- 1 group in several parts of the source, such as 'patient0': scores will look better than they are" in printed
    )


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        ("patient(", r"--group-by 'patient\(' is not a regular expression: missing \)"),
        ("person", r"matches none of 24 images\. It is searched in paths such as (cat|dog)/patient"),
        ("^[a-z]+", r"puts all \d+ images of class '(cat|dog)' into one group, '(cat|dog)'"),
    ],
)
def test_expressions_that_are_no_good(regex, message, run, tmp_path):  # noqa: F811
    make_folder(tmp_path / "pets", patients(8))
    with pytest.raises(UserError, match=message):
        run("pets", "--group-by", regex)
    assert not (tmp_path / "dataset").exists()
