"""Downloads that break off, from servers of all manners, on this machine."""

import contextlib
import hashlib
import http.server
import re
import sys

import pytest

import prepare
from classifier.cli import UserError
from classifier.data import streams
from classifier.preparation.download import fetch
from tests.conftest import serving
from tests.raw_images import cats_and_dogs, make_zip

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's attributes say."""

    def do_GET(self):
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.status:
            self.send_error(server.status)
            return
        first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.knows_range else 0
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(server.content) - 1}/{len(server.content)}")
        self.send_header("Content-Length", str(len(server.content) - first))
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else len(server.content)
        with contextlib.suppress(ConnectionError):  # where the other side has had enough
            self.wfile.write(server.content[first:end])  # and the connection closes

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(streams, "PAUSE", 0)
    with serving(Handler, asked=[], breaks=[], status=None, knows_range=True, content=CONTENT) as server:
        server.url += "/a.zip"
        yield server


@pytest.fixture
def get(server, tmp_path):
    return lambda: fetch(server.url, tmp_path / "a.zip", len(CONTENT), SHA256)


def test_in_one_go(get, server, tmp_path):
    get()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and [path.name for path in tmp_path.iterdir()] == ["a.zip"]
    get()
    assert server.asked == [None]


def test_continues_where_it_broke_off(get, server, tmp_path):
    server.breaks = [300_000, 700_000]
    get()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=700000-"]


def test_continues_in_a_later_run(get, server, tmp_path):
    server.breaks = [500_000] * 9
    with pytest.raises(UserError, match=r"broke off at 500,000 of 1,024,000 bytes, .*same command continues"):
        get()
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:500_000] and not (tmp_path / "a.zip").exists()
    server.breaks, server.asked = [], []
    get()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and server.asked == ["bytes=500000-"]


def test_starts_over_where_the_server_ignores_ranges(get, server, tmp_path):
    server.knows_range, server.breaks = False, [600_000]
    get()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and server.asked == [None, "bytes=600000-"]


@pytest.mark.parametrize("status", [404, 403, 500, 503])
def test_the_server_refuses(status, get, server, tmp_path):
    server.status = status
    with pytest.raises(UserError, match=rf"{status} .*browser"):
        get()
    assert len(server.asked) == (1 if status < 500 else streams.TRIES) and not list(tmp_path.iterdir())


def test_nobody_there(tmp_path, server):
    with pytest.raises(UserError, match=r"broke off at 0 of 1,024,000 bytes, .*refused"):
        fetch("http://127.0.0.1:9/a.zip", tmp_path / "a.zip", len(CONTENT), SHA256)


@pytest.mark.parametrize(("content", "message"), [(CONTENT + b"!", "another file now"), (b"<html>", "has 6 bytes")])
def test_another_size(content, message, get, server, tmp_path):
    server.content = content
    with pytest.raises(UserError, match=message):
        get()
    assert not list(tmp_path.iterdir())


def test_another_content(get, server, tmp_path):
    server.content = CONTENT[::-1]
    with pytest.raises(UserError, match="SHA-256"):
        get()
    assert not (tmp_path / "a.zip").exists()


def test_download_goes_on_to_prepare(server, tmp_path, monkeypatch, capsys):
    content = make_zip(tmp_path / "x.zip", cats_and_dogs(10, pattern="PetImages/{label}/{i}.jpg")).read_bytes()
    server.content, server.breaks = content, [5000]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "ARCHIVE_URL", server.url)
    monkeypatch.setattr(prepare, "ARCHIVE_BYTES", len(content))
    monkeypatch.setattr(prepare, "ARCHIVE_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--download"])
    prepare.main()
    assert len(list((tmp_path / "dataset" / "train").glob("*/*.jpg"))) == 18
    assert (tmp_path / "dataset" / prepare.ARCHIVE).read_bytes() == content
    capsys.readouterr()
    prepare.main()
    assert "prepared already" in capsys.readouterr().out and len(server.asked) == 2


def test_download_is_not_begun_where_it_cannot_be_used(server, tmp_path, monkeypatch):
    (tmp_path / "dataset" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "dataset" / "train" / "cat" / "1.jpg").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "ARCHIVE_URL", server.url)
    monkeypatch.setattr(sys, "argv", ["prepare.py", "--download"])
    with pytest.raises(UserError, match="already holds train"):
        prepare.main()
    assert not server.asked
