"""Shards: they hold what the folders held, validation counts each image once, and what is damaged is named."""

import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch
import webdataset

from classifier import checkpoint
from classifier.cli import UserError
from classifier.data import image_folder, loaders, shards
from classifier.data.images import ImageError
from classifier.data.transforms import Preprocess
from tests.conftest import make_images, same, serving
from tests.raw_images import cats_and_dogs, image, make_folder, run_prepare, tree

PREPROCESS = Preprocess(16)


def make_shards(source, output, *arguments):
    run_prepare(source, "--shards", "--output", output, *arguments)
    return output


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of folders, the same with shards): 13 shards of about 6 images, 77 in all."""
    top = tmp_path_factory.mktemp("shards")
    make_images(top / "plain" / "train", {"猫": 40, "dog two": 37}, size=20)
    make_images(top / "plain" / "test", {"猫": 3, "dog two": 2}, size=20, seed=1)
    return top / "plain", make_shards(top / "plain", top / "sharded", "--shard-size", 6)


@pytest.fixture
def copy(made, tmp_path):
    """The shards, to be damaged."""
    return Path(shutil.copytree(made[1] / "train", tmp_path / "shards"))


def contents(batches):
    """Each image as (digest of its pixels, label), in the order they come."""
    return [
        (hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest(), int(label))
        for pixels, labels in loaders.on_device(batches, torch.device("cpu"))
        for one, label in zip(pixels, labels, strict=True)
    ]


def once(images, workers=0, **options):
    return contents(shards.val_loader(images, PREPROCESS, 8, workers, **options))


def in_folders(root):
    return Counter(contents(loaders.loader(loaders.ImageDataset(image_folder.read_folder(root), PREPROCESS), 8)))


def test_shards_hold_what_the_folders_held(made):
    plain, sharded = made
    whole = shards.read(str(sharded))
    assert shards.read(f"{sharded}/train").shards == whole.shards and whole.parent == str(sharded)
    assert whole.counts() == {"dog two": 37, "猫": 40} and Counter(once(whole)) == in_folders(plain / "train")
    assert len(whole.shards) == 13 and {len(shard) for shard in whole.shards} <= {5, 6}
    assert in_folders(sharded / "test") == in_folders(plain / "test")
    assert sum(min(shard.counts) > 0 for shard in whole.shards) > 10, "the classes are not mixed"
    pattern = sharded.as_posix() + "/train/{00000..00012}.tar"  # webdataset itself reads them
    pairs = webdataset.WebDataset(pattern, shardshuffle=False).decode("pil").to_tuple("png", "cls")
    assert Counter(label for _, label in pairs) == {0: 37, 1: 40}


def test_the_same_images_make_the_same_shards(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made[0], "split")
    for number, file in enumerate(sorted(Path("split/train").glob("*/*.png"))):  # other names, another order
        file.rename(file.with_name(f"x{97 * number % 100}.png"))
    for said in ("Next: python train.py --data out", "prepared already"):
        make_shards("split", "out", "--shard-size", 6)
        assert said in capsys.readouterr().out
    assert tree(made[1] / "train") == tree(Path("out/train"))
    with pytest.raises(UserError, match=r"made from split with --test 0\.1 --shard-size 6"):
        run_prepare("split", "--output", "out")
    with pytest.raises(UserError, match="writes folders"):
        run_prepare("--sample", "--shards")


def test_what_looks_alike_or_belongs_together_shares_a_shard(tmp_path):
    pets = cats_and_dogs(30) | {f"cat/again {i}.jpg": image(i, quality=60 + i, size=64) for i in range(8)}
    pets = make_folder(tmp_path / "pets", pets)
    make_shards(pets, tmp_path / "out", "--group-by", r"/(\d+)\.jpg")
    assert len(shards.read(str(tmp_path / "out")).shards) == 10  # at least, so that a tenth can validate
    rows = (tmp_path / "out" / "groups.csv").read_text("utf-8-sig").splitlines()[1:]
    assert len(rows) == 68  # also those that only look like an image of a group
    where = defaultdict(set)
    for file, group in (row.split(",") for row in rows):
        part, tar, *member = file.split("/")
        where[group].add(tar if part == "train" else part)
        if part == "train":
            with tarfile.open(tmp_path / "out" / part / tar) as opened:
                assert member[0] in opened.getnames()
    assert len(where) == 30 and all(len(places) == 1 for places in where.values())


def edit(folder, change):
    """Change each shard's entry in the index."""
    index = json.loads((folder / shards.INDEX).read_text(encoding="utf-8"))
    for shard in index["shards"]:
        change(shard)
    (folder / shards.INDEX).write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "named", "message"),
    [
        (lambda at: None, "{00000..00013}.tar", r"has 13 shards, 00000\.tar to 00012\.tar, not all of"),
        (lambda at: None, "{00000..00013.tar", "Example"),
        (lambda at: (at / "00004.tar").unlink(), "", r"00004\.tar cannot be read \(No such file"),
        (lambda at: (at / "shards.json").unlink(), "00000.tar", r"shards\.json cannot be read .*prepare\.py SOURCE"),
        (lambda at: (at / "shards.json").write_text("{"), "", "is damaged"),
        (lambda at: os.truncate(at / "00004.tar", 4000), "", r"00004\.tar .*it has 4,000 bytes, expected 20,480"),
        (lambda at: None, "00003.tar", r"1 shard is too few .* --shard-size"),
        (lambda at: edit(at, lambda one: one.update(counts=[6, 0])), "", r"13 shards are too few .* of every class"),
    ],
)
def test_an_error_before_the_work(damage, named, message, copy):
    damage(copy)
    with pytest.raises(UserError, match=message):
        shards.train_and_val(f"{copy}/{named}", 0.1)


def test_whole_shards_validate_and_always_the_same(made, copy):
    whole = shards.read(str(made[1]))
    parts = shards.train_and_val(str(made[1]), 0.2)
    assert [len(part.shards) for part in parts] == [10, 3] and parts[0].classes == whole.classes
    assert sum((Counter(once(part)) for part in parts), Counter()) == Counter(once(whole))
    for number in range(13):  # under other names
        (copy / f"{number:05}.tar").rename(copy / f"x{12 - number}.tar")
    edit(copy, lambda shard: shard.update(name=f"x{12 - int(shard['name'][:5])}.tar"))
    again = shards.train_and_val(str(copy), 0.2)
    assert [part.fingerprint() for part in again] == [part.fingerprint() for part in parts]
    folds = [shard.name for fold in range(1, 6) for shard in shards.train_and_val(str(made[1]), 0.2, fold)[1].shards]
    assert sorted(folds) == [shard.name for shard in whole.shards]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has processors
@pytest.mark.parametrize(("workers", "first", "last"), [(0, 0, 12), (2, 0, 12), (3, 4, 5)])
def test_each_image_validates_once(workers, first, last, made):
    """Also with more workers than shards; each process gets as many as `distributed.gather_strided` expects."""
    part = shards.read(f"{made[1]}/train/{{{first:05}..{last:05}}}.tar")
    shares = [once(part, workers, rank=rank, world_size=3) for rank in range(3)]
    assert [len(share) for share in shares] == [len(range(rank, len(part), 3)) for rank in range(3)]
    assert sum(map(Counter, shares), Counter()) == Counter(once(part))


def train_contents(images, epoch=0, seed=1):
    loader = shards.train_loader(images, PREPROCESS, 4, len(images) // 4, seed, 0)
    loader.dataset.set_epoch(epoch)
    shown = contents(loader)
    assert len(shown) == len(images) // 4 * 4
    return shown


def test_the_order_depends_on_seed_and_epoch_and_is_the_same_over_http(made, server):
    whole = shards.read(str(made[1]))
    first = train_contents(whole)
    assert first != [one for one in once(whole) if one in first]
    assert not Counter(first) - in_folders(made[0] / "train")
    assert first != train_contents(whole, epoch=1) and first != train_contents(whole, seed=2)
    for name in (server.url + "/", server.url + "/{00000..00012}.tar"):
        there = shards.read(name)
        assert once(there, 2) == once(whole, 2) and train_contents(there) == first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("names", ["", "/train/{00000..00002}.tar", "/train/00000.tar"])
def test_two_processes_make_equally_many_steps(names, workers, made, monkeypatch):
    """From uneven shards, also fewer than processes and workers; what is repeated is what the remark says."""
    images = shards.read(f"{made[1]}{names}")
    steps, shown = len(images) // 4, []
    monkeypatch.setattr(shards, "WORLD_SIZE", 2)
    monkeypatch.setenv("WORLD_SIZE", "2")  # for webdataset
    for rank in range(2):  # this process is one, then the other
        monkeypatch.setattr(shards, "RANK", rank)
        monkeypatch.setenv("RANK", str(rank))
        loader = shards.train_loader(images, PREPROCESS, 2, steps, 1, workers)
        loader.dataset.set_epoch(3)
        shown.append(contents(loader))
    assert [len(own) for own in shown] == [2 * steps] * 2
    distinct = len({*shown[0], *shown[1]})
    said = f"omits about {len(images) - distinct}, others each time, and repeats about {4 * steps - distinct}."
    said = f"From shards: of {len(images)} images an epoch {said}" if distinct < len(images) else ""
    assert loader.dataset.remark() == said


def test_a_run_resumes_at_its_last_finished_epoch(bars, run, tmp_path, capsys):
    sharded = str(make_shards(bars, tmp_path / "sharded"))
    options = ("--data", sharded, "--epochs", 3, "--workers", 2, "--save-every", 0)
    run(*options, "--name", "whole")
    assert "From shards: of 72 images an epoch omits about 4" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        run(*options, "--name", "parts", fault="SIGTERM", at=6)  # of 12
    assert ended.value.code == 128 + signal.SIGTERM
    assert "A run from shards resumes at its last finished epoch, after 1 epoch:" in capsys.readouterr().out
    assert checkpoint.load(Path("module/parts.last.pth")).resume["step"] == 4
    run("--resume", "module/parts.last.pth")
    whole, parts = (checkpoint.load(Path("module", name)) for name in ("whole.last.pth", "parts.last.pth"))
    assert same(whole.state_dict, parts.state_dict) and whole.resume["step"] == parts.resume["step"] == 12
    fingerprint = shards.train_and_val(sharded, 0.1)[0].fingerprint()
    assert whole.data | {"root": sharded, "train": 72, "val": 8, "fingerprint": fingerprint} == whole.data
    run(*options, "--name", "frozen", "--weights", "module/whole.pth", "--freeze")
    assert checkpoint.load(Path("module/frozen.pth")).data["root"] == sharded


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
    edit(tar.parent, lambda shard: shard.update(bytes=(tar.parent / shard["name"]).stat().st_size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update({"000000000.png": b"nothing"}), r"00000\.tar, key 000000000 is not an image"),
        (lambda m: m.update({"000000000.cls": b"2"}), "key 000000000: expected .* below 2"),
        (lambda m: m.pop("000000000.png"), "key 000000000: expected one image"),
        (lambda m: [m.pop("000000000.png"), m.pop("000000000.cls")], r"00000\.tar is damaged, or shards\.json"),
    ],
)
def test_an_image_that_cannot_be_read_is_named(change, message, copy):
    rewrite(copy / "00000.tar", change)
    with pytest.raises(ImageError, match=message):
        once(shards.read(str(copy)), workers=1)


def test_a_damaged_tar(copy):
    whole, tar = shards.read(str(copy)), copy / "00002.tar"
    content = tar.read_bytes()
    for damaged in (content[:1024] + bytes(19_000) + content[20_024:], os.urandom(len(content))):
        tar.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"00002\.tar"):
            once(whole)


class Handler(http.server.SimpleHTTPRequestHandler):
    """Answers from the server's folder, after the statuses and cut-off answers that the server is to give."""

    def __init__(self, *args):
        super().__init__(*args, directory=str(args[2].folder))

    def do_GET(self):
        if self.server.statuses:
            self.send_error(self.server.statuses.pop(0))
        elif self.server.cut and self.path.endswith(".tar"):
            self.send_response(200)
            self.send_header("Content-Length", str(20_480))
            self.end_headers()
            self.wfile.write((self.server.folder / self.path[1:]).read_bytes()[: self.server.cut.pop(0)])
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(copy, monkeypatch):
    monkeypatch.setattr(shards, "RETRY_PAUSES_S", (0, 0, 0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(Handler, statuses=[], cut=[], folder=copy) as server:
        yield server


def test_a_connection_that_breaks_is_made_again_and_what_the_server_does_not_have_is_named(server, made):
    server.statuses = [503, 429]
    part = shards.read(server.url + "/{00000..00001}.tar")
    with tarfile.open(server.folder / "00000.tar") as tar:
        after_two = tar.getmembers()[4].offset  # where an image ends, so that a tar alone would be as good as whole
    server.cut = [after_two, 15_000]
    assert once(part) == once(shards.read(f"{made[1]}/train/{{00000..00001}}.tar"))
    server.cut = [10_240] * 3
    with pytest.raises(ImageError, match=r"00000\.tar cannot be read \(it has 10,240 bytes, expected 20,480\)"):
        once(part)
    (server.folder / "00001.tar").unlink()
    with pytest.raises(ImageError, match=r"/00001\.tar cannot be read \(HTTP Error 404: .*\)"):
        once(part)
    with pytest.raises(UserError, match=r"shards\.json cannot be read .*refused"):
        shards.read("http://127.0.0.1:9/{00000..00001}.tar")
