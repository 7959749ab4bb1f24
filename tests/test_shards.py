"""Shards: that they hold what the folders held, that each image comes once, and what is said when they are broken."""

import contextlib
import hashlib
import http.server
import io
import itertools
import json
import os
import re
import shutil
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
import webdataset

import prepare
from classifier.cli import UserError
from classifier.data import image_folder, loaders, shard_batches, shards, streams
from classifier.data.images import ImageError
from classifier.data.shard_batches import Batches, loader
from classifier.data.transforms import Preprocess
from tests.conftest import make_images, run_code, run_script, serving

SEEN = Preprocess(16)
CPU = torch.device("cpu")


def optimize_for_inference(source, output, test=0.1, shard_size=6):
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "sync", raising=False)  # waits for everything that the whole machine is writing
        output.mkdir()
        prepare.prepare(source, output, test, shard_size)
    return output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of folders, the same with shards): 13 shards of about 6 images, 77 in all."""
    top = tmp_path_factory.mktemp("shards")
    make_images(top / "plain" / "train", {"猫": 40, "dog two": 37}, size=20)
    make_images(top / "plain" / "test", {"猫": 3, "dog two": 2}, size=20, seed=1)
    return top / "plain", optimize_for_inference(top / "plain", top / "sharded")


@pytest.fixture
def copy(made, tmp_path):
    """The shards, to be damaged."""
    return Path(shutil.copytree(made[1] / "train", tmp_path / "shards"))


def all_of(batches, workers=0):
    """Each image as (its pixels' digest, label), in the order they came."""
    return [
        (hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest(), int(label))
        for pixels, labels in loaders.on_device(loader(batches, workers), CPU)
        for one, label in zip(pixels, labels, strict=True)
    ]


def in_folders(root):
    folder = image_folder.read_folder(root)
    images = loaders.loader(loaders.ImageDataset(folder, SEEN), 8)
    return Counter(
        (hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest(), int(label))
        for pixels, labels in loaders.on_device(images, CPU)
        for one, label in zip(pixels, labels, strict=True)
    )


# ---- what prepare.py writes


def test_shards_hold_what_the_folders_held(made):
    plain, sharded = made
    whole = shards.read(str(sharded))
    assert len(whole) == 77 and whole.classes == ["dog two", "猫"] and whole.counts() == {"dog two": 37, "猫": 40}
    assert Counter(all_of(Batches(whole, SEEN, 8))) == in_folders(plain / "train")
    assert len(whole.shards) == 13 and {len(shard) for shard in whole.shards} <= {5, 6}
    assert sorted(at.name for at in (sharded / "train").iterdir()) == [f"{i:05}.tar" for i in range(13)] + [
        shards.INDEX
    ]
    assert in_folders(sharded / "test") == in_folders(plain / "test")
    assert sum(min(shard.counts) > 0 for shard in whole.shards) > 10, "the classes are not mixed"
    for shard in whole.shards:
        with tarfile.open(sharded / "train" / shard.name) as tar:
            names = [Path(name) for name in tar.getnames()]
        assert {name.suffix for name in names} == {".png", ".cls"} and len(names) == 2 * len(shard)


def test_webdataset_itself_reads_them(made):
    pattern = made[1].as_posix() + "/train/{00000..00012}.tar"
    pairs = webdataset.WebDataset(pattern, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    assert Counter(label for _, label in pairs) == {0: 37, 1: 40}


def test_the_same_images_make_the_same_shards(made, tmp_path):
    for number, file in enumerate(sorted((made[0] / "train").glob("*/*.png"))):  # other names, another order
        (tmp_path / "other" / file.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "other" / file.parent.name / f"{97 * number % 100}.png")
    shutil.copytree(tmp_path / "other", tmp_path / "split" / "train")
    shutil.copytree(made[0] / "test", tmp_path / "split" / "test")
    optimize_for_inference(tmp_path / "split", tmp_path / "out")
    first, second = (
        {at.name: at.read_bytes() for at in (root / "train").iterdir()} for root in (made[1], tmp_path / "out")
    )
    assert first == second


def test_images_that_look_the_same_share_a_shard(tmp_path):
    from tests.raw_images import cats_and_dogs, image, make_folder

    pets = cats_and_dogs(30) | {f"cat/again {i}.jpg": image(i, quality=60 + i, size=64) for i in range(8)}
    optimize_for_inference(make_folder(tmp_path / "pets", pets), tmp_path / "out", shard_size=2)
    rows = (tmp_path / "out" / "duplicates.csv").read_text(encoding="utf-8-sig").splitlines()[1:]
    places = [row.split(",")[4] for row in rows if "train/" in row]
    assert len(places) > 8
    for number in {row.split(",")[0] for row in rows}:
        shard_names = {
            row.split(",")[4].split("/")[1] for row in rows if row.split(",")[0] == number and "train/" in row
        }
        assert len(shard_names) <= 1
    for place in places:
        _, tar, member = place.split("/")
        with tarfile.open(tmp_path / "out" / "train" / tar) as opened:
            assert member in opened.getnames()


def test_few_images_still_make_ten_shards(tmp_path):
    make_images(tmp_path / "few", {"a": 16, "b": 16}, size=20)
    optimize_for_inference(tmp_path / "few", tmp_path / "out", 2, 1000)
    sizes = [len(shard) for shard in shards.read(str(tmp_path / "out")).shards]
    assert sum(sizes) == 28 and sorted(sizes) == [2, 2, *[3] * 8]


def test_what_breaks_off_leaves_nothing_and_the_next_run_is_whole(made, tmp_path, monkeypatch):
    class Full(webdataset.ShardWriter):
        def next_stream(self):
            if self.shard == 3:
                raise OSError(28, "No space left on device")
            super().next_stream()

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(webdataset, "ShardWriter", Full)
        optimize_for_inference(made[0], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "out").rmdir()
    optimize_for_inference(made[0], tmp_path / "out")
    assert shards.read(str(tmp_path / "out")).fingerprint() == shards.read(str(made[1])).fingerprint()


def test_the_command_line(made, tmp_path):
    def run(*arguments):
        return run_script("prepare.py", *arguments, cwd=tmp_path)

    first = run(made[0], "--shards", "--shard-size", 20, "--output", "out")
    assert first.returncode == 0 and first.stdout.splitlines()[-1] == "Next: python train.py --data out"
    assert len(shards.read(str(tmp_path / "out")).shards) == 10
    assert "prepared already" in run(made[0], "--shards", "--shard-size", 20, "--output", "out").stdout
    other = run(made[0], "--output", "out")
    assert other.returncode == 2 and "made from plain with --test 0.1 --shards --shard-size 20" in other.stderr
    assert "--shard-size 0" in run(made[0], "--shards", "--shard-size", 0).stderr
    assert "draws folders" in run("--sample", "--shards").stderr


def test_webdataset_is_loaded_for_shards_only():
    code = "import sys, prepare, classifier.data.shards; sys.exit('webdataset' in sys.modules)"
    assert run_code(code).returncode == 0


# ---- what is named


def test_ways_to_name_them(made, monkeypatch):
    sharded = made[1]
    some = shards.read(f"{sharded}/train/{{00000..00003}}.tar")
    assert [shard.name for shard in some.shards] == [f"{i:05}.tar" for i in range(4)]
    assert shards.read(f"{sharded}/train/{{00000,00012}}.tar").shards[1].name == "00012.tar"
    assert shards.read(f"{sharded}/train").shards == shards.read(f"{sharded}/").shards
    monkeypatch.chdir(sharded / "train")
    assert len(shards.read("{00000..00001}.tar").shards) == 2
    assert all(map(shards.are_meant, [str(sharded), f"{sharded}/train", "x/{0..1}.tar", "https://host/shards"]))
    assert not any(map(shards.are_meant, [str(made[0]), "nowhere"]))
    assert some.fingerprint() != shards.read(str(sharded)).fingerprint()


def edit(index, change):
    values = json.loads(index.read_text(encoding="utf-8"))
    change(values)
    index.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "named", "message"),
    [
        (lambda at: None, "{00000..00013}.tar", r"knows no 00013\.tar, but 13 shards, 00000\.tar to 00012\.tar"),
        (lambda at: None, "{00000..00013.tar", "Expected for instance"),
        (lambda at: (at / "00004.tar").unlink(), "", r"00004\.tar cannot be read: No such file"),
        (lambda at: (at / "shards.json").unlink(), "00000.tar", r"shards\.json cannot be read.*\n.*prepare\.py SOURCE"),
        (lambda at: (at / "shards.json").write_text("{"), "", "is damaged"),
        (lambda at: (at / "shards.json").write_text('{"version": 1}'), "", "is not an index"),
        (lambda at: (at / "shards.json").write_text('{"version": 2}'), "", "of version 2"),
        (lambda at: edit(at / "shards.json", lambda v: v["shards"][0].update(name="../a.tar")), "", "is not an index"),
        (lambda at: edit(at / "shards.json", lambda v: v["shards"][0].update(counts=[1])), "", "is not an index"),
        (lambda at: edit(at / "shards.json", lambda v: v["classes"].append("x")), "", "is not an index"),
        (lambda at: os.truncate(at / "00004.tar", 4000), "", r"00004\.tar has 4,000 bytes, expected 20,480"),
    ],
)
def test_what_does_not_fit_is_told_before_the_work(damage, named, message, copy):
    damage(copy)
    with pytest.raises(UserError, match=message):
        shards.read(f"{copy}/{named}")


def test_a_class_without_images(copy):
    def empty(values):
        for shard in values["shards"]:
            shard["counts"][1] = 0

    edit(copy / shards.INDEX, empty)
    with pytest.raises(UserError, match="no images of 猫"):
        shards.read(str(copy))


# ---- which are set aside


def test_whole_shards_are_set_aside_and_always_the_same(made, copy):
    whole = shards.read(str(made[1]))
    training, validation = shards.split_validation(whole, 0.2)
    assert len(validation.shards) == 3 and len(training.shards) == 10
    assert len(training) + len(validation) == 77 and training.classes == whole.classes
    both = Counter(all_of(Batches(training, SEEN, 8))) + Counter(all_of(Batches(validation, SEEN, 8)))
    assert both == Counter(all_of(Batches(whole, SEEN, 8)))
    again = shards.split_validation(shards.read(str(copy)), 0.2)
    assert [part.fingerprint() for part in again] == [part.fingerprint() for part in (training, validation)]
    aside = [shard.name for fold in range(1, 6) for shard in shards.split_validation(whole, 0.2, fold)[1].shards]
    assert sorted(aside) == [shard.name for shard in whole.shards]


def test_too_few_shards_to_set_one_aside(made):
    with pytest.raises(UserError, match=r"too few shards \(1\) .* --shard-size"):
        shards.split_validation(shards.read(f"{made[1]}/train/00003.tar"), 0.1)


# ---- who opens what, and in which order


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("step", [0, 12])
def test_processes_share_the_images(processes, step, made):
    whole = shards.read(str(made[1]))
    parts = [
        all_of(Batches(whole, SEEN, 4, seed=1, step=step, rank=rank, count=processes)) for rank in range(processes)
    ]
    if step:
        assert [len(part) for part in parts] == [72 // processes] * processes  # whole steps, the same for all
        assert not Counter(itertools.chain(*parts)) - in_folders(made[0] / "train")
    else:
        assert [len(part) for part in parts] == [len(range(rank, 77, processes)) for rank in range(processes)]
        assert Counter(itertools.chain(*parts)) == in_folders(made[0] / "train")


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has processors
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_share_the_images(workers, made):
    whole = shards.read(str(made[1]))
    validation = Batches(whole, SEEN, 5, rank=1, count=2)
    labels = [len(batch) for _, batch in loaders.on_device(loader(validation, workers), CPU)]
    assert sorted(labels) == [3, 5, 5, 5, 5, 5, 5, 5]
    assert Counter(all_of(validation, workers)) == Counter(all_of(validation))
    first = shard_batches.first_pixels(validation, 5)
    assert torch.equal(first, next(loaders.on_device(loader(validation, workers), CPU))[0])
    assert len(all_of(Batches(whole, SEEN, 8, limit=20), workers)) == 20


def test_order_depends_on_seed_and_epoch(made):
    whole = shards.read(str(made[1]))
    batches = Batches(whole, SEEN, 4, seed=1, step=4)
    first = all_of(batches)
    assert first == all_of(Batches(whole, SEEN, 4, seed=1, step=4))
    assert Counter(first) != first and sorted(first) != first
    batches.epoch = 1
    second = all_of(batches)
    assert second != first and len(second) == 76
    assert all_of(Batches(whole, SEEN, 4, seed=2, step=4)) != first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_going_on_in_the_middle_of_an_epoch(workers, processes, made, monkeypatch):
    monkeypatch.setattr(shard_batches, "BUFFER", 10)
    whole = shards.read(str(made[1]))
    for rank in range(processes):
        batches = Batches(whole, SEEN, 4, seed=1, step=4 * processes, rank=rank, count=processes)
        batches.epoch = 3
        live = loader(batches, workers)  # its workers live on, and hear of epoch and start

        def run(live=live):
            return [(pixels.sum().item(), labels.tolist()) for pixels, labels in loaders.on_device(live, CPU)]

        whole_epoch = run()
        for steps in (1, 4, 7):
            batches.start = 4 * processes * steps
            assert run() == whole_epoch[steps:]
        batches.epoch, batches.start = 4, 0
        assert run() != whole_epoch


def test_what_is_left_out_is_not_decoded(made, monkeypatch):
    batches = Batches(shards.read(str(made[1])), SEEN, 4, seed=0, step=4)
    batches.start = 72
    opened, seen = shard_batches.opened, []
    monkeypatch.setattr(shard_batches, "opened", lambda *a, **b: seen.append(1) or opened(*a, **b))
    assert len(all_of(batches)) == 4 == len(seen)


# ---- what is broken


def rewrite(tar, change):
    """Write a shard anew with other members, and its size into the index."""
    with tarfile.open(tar) as old:
        members = {name: old.extractfile(name).read() for name in old.getnames()}
    change(members)
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as new:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    own = [
        i
        for i, one in enumerate(json.loads((tar.parent / shards.INDEX).read_text())["shards"])
        if one["name"] == tar.name
    ]
    edit(tar.parent / shards.INDEX, lambda values: values["shards"][own[0]].update(bytes=tar.stat().st_size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"000000000.png": b"nothing"}), r"00000\.tar, key 000000000 is not an image"),
        (lambda m: m.update({"000000000.cls": b"2"}), r"key 000000000: expected .* below 2, found cls, png with b'2'"),
        (lambda m: m.pop("000000000.cls"), "key 000000000: expected one image and in .cls a number"),
        (lambda m: m.pop("000000000.png"), "key 000000000: expected one image"),
        (lambda m: [m.pop("000000000.png"), m.pop("000000000.cls")], r"00000\.tar holds 5 images .* says 6"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_image_that_cannot_be_opened_is_named(change, message, workers, copy):
    rewrite(copy / "00000.tar", change)
    with pytest.raises(ImageError, match=message):
        all_of(Batches(shards.read(str(copy)), SEEN, 8), workers)


def test_a_damaged_tar(copy):
    whole = shards.read(str(copy))
    content = bytearray((copy / "00002.tar").read_bytes())
    content[1024:20000] = bytes(20000 - 1024)
    (copy / "00002.tar").write_bytes(content)
    with pytest.raises(ImageError, match=r"00002\.tar (is damaged|holds)"):
        all_of(Batches(whole, SEEN, 8))
    (copy / "00002.tar").write_bytes(os.urandom(len(content)))
    with pytest.raises(ImageError, match=r"00002\.tar is damaged \((?!.*BufferedReader)"):
        all_of(Batches(whole, SEEN, 8))


# ---- behind a server


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers from a folder as the server's attributes say."""

    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        file = server.folder / self.path.lstrip("/")
        if server.statuses or not file.is_file():
            self.send_error(server.statuses.pop(0) if server.statuses else 404)
            return
        content = file.read_bytes()
        breaks = server.breaks.pop(0) if server.breaks and file.suffix == ".tar" else len(content)
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.knows_range else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if server.tells_length:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # where the other side has had enough
            self.wfile.write(content[first:breaks])  # and the connection closes

    def log_message(self, *args):
        pass


@pytest.fixture
def server(copy, monkeypatch):
    monkeypatch.setattr(streams, "PAUSE", 0)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    lists = {"asked": [], "breaks": [], "statuses": []}
    with serving(Handler, **lists, folder=copy, knows_range=True, tells_length=True) as server:
        yield server


@pytest.mark.parametrize("workers", [0, 2])
def test_over_http_the_same(workers, server, made):
    local = all_of(Batches(shards.read(str(made[1])), SEEN, 8, seed=5, step=8), workers)
    for name in (server.url, server.url + "/", server.url + "/{00000..00012}.tar"):
        assert all_of(Batches(shards.read(name), SEEN, 8, seed=5, step=8), workers) == local


@pytest.mark.parametrize("knows_range", [True, False])
@pytest.mark.parametrize("tells_length", [True, False])
def test_a_broken_connection_is_continued(knows_range, tells_length, server, made):
    part = shards.read(server.url + "/{00000..00001}.tar")
    server.knows_range, server.tells_length, server.asked = knows_range, tells_length, []
    with tarfile.open(server.folder / "00000.tar") as tar:
        after_two = tar.getmembers()[4].offset  # where an image ends, so that a tar alone would be as good as whole
    server.breaks = [after_two, 15_000, 20_000]
    local = shards.read(f"{made[1]}/train/{{00000..00001}}.tar")
    assert all_of(Batches(part, SEEN, 8)) == all_of(Batches(local, SEEN, 8))
    continued = [f"bytes={at}-" for at in (after_two, 15_000, 20_000)]
    assert [at for path, at in server.asked if path == "/00000.tar"] == [None, *continued]


def test_a_connection_that_always_breaks(server):
    part = shards.read(server.url + "/{00000..00001}.tar")
    server.breaks = [10_240] * 99
    with pytest.raises(ImageError, match=r"00000\.tar broke off at 10,240 of 20,480 bytes, 5 times in a row \(.+\)\.$"):
        all_of(Batches(part, SEEN, 8))


def test_a_busy_server_is_asked_again(server):
    server.statuses = [503, 429]
    assert len(shards.read(server.url + "/00000.tar")) == 6


def test_what_the_server_has_not(server):
    (server.folder / "00003.tar").unlink()
    with pytest.raises(UserError, match=r"/00003\.tar answers 404"):
        shards.read(server.url)
    part = shards.read(server.url + "/{00000..00002}.tar")
    (server.folder / "00002.tar").write_bytes(b"short")
    with pytest.raises(ImageError, match=r"/00002\.tar has 5 bytes, expected 20,480"):
        all_of(Batches(part, SEEN, 8))
    (server.folder / "00002.tar").unlink()
    with pytest.raises(ImageError, match=r"/00002\.tar answers 404"):
        all_of(Batches(part, SEEN, 8))
    with pytest.raises(UserError, match=r"nowhere/shards\.json answers 404 .*\n.*prepare\.py SOURCE --shards"):
        shards.read(server.url + "/nowhere")


def test_nobody_there(monkeypatch):
    monkeypatch.setattr(streams, "PAUSE", 0)
    with pytest.raises(UserError, match=r"shards\.json broke off at 0 bytes, 5 times in a row \(.*refused"):
        shards.read("http://127.0.0.1:9/{00000..00001}.tar")
