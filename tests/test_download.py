"""Downloads that break off, from servers of all manners, on this machine."""

import contextlib
import hashlib
import http.server
import re

import pytest

import prepare
from classifier.cli import UserError
from classifier.preparation import download
from tests.conftest import serving
from tests.raw_images import cats_and_dogs, make_folder, make_zip, run_prepare

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
    monkeypatch.setattr(download, "RETRY_PAUSES_S", (0, 0))
    with serving(Handler, asked=[], breaks=[], status=None, knows_range=True, content=CONTENT) as server:
        server.url += "/a.zip"
        yield server


@pytest.fixture
def get(server, tmp_path):
    return lambda: download.fetch(server.url, tmp_path / "a.zip", len(CONTENT), SHA256)


def test_continues_in_a_later_run(get, server, tmp_path):
    server.breaks = [300_000, *[500_000] * 9]
    with pytest.raises(UserError, match=r"stopped at 500,000 of 1,024,000 bytes .*same command continues"):
        get()
    assert (tmp_path / "a.zip.part").read_bytes() == CONTENT[:500_000] and not (tmp_path / "a.zip").exists()
    assert server.asked[:3] == [None, "bytes=300000-", "bytes=500000-"]
    server.breaks, server.asked = [], []
    for _ in range(2):  # there is nothing to do for the second one
        get()
        assert (tmp_path / "a.zip").read_bytes() == CONTENT and server.asked == ["bytes=500000-"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_starts_over_where_the_server_ignores_ranges(get, server, tmp_path):
    server.knows_range, server.breaks = False, [600_000]
    get()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT and server.asked == [None, "bytes=600000-"]


def test_the_server_refuses_or_has_another_file(get, server, tmp_path):
    for status, content, message in (
        (503, CONTENT, "stopped at 0 .*HTTP Error 503.*browser"),
        (None, CONTENT + b"!", "another file now"),
        (None, CONTENT[::-1], "SHA-256"),
    ):
        server.status, server.content = status, content
        with pytest.raises(UserError, match=message):
            get()
        assert not (tmp_path / "a.zip").exists()


def test_the_downloaded_archive_is_prepared(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    members = cats_and_dogs(10, pattern="PetImages/{label}/{i}.jpg")
    monkeypatch.setattr(download, "fetch", lambda url, target, size, sha256: make_zip(target, members))
    run_prepare("--download")
    assert len(list((tmp_path / "dataset" / "train").glob("*/*.jpg"))) == 18
    run_prepare("--download")
    assert "prepared already" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "message"), [(prepare.ARCHIVE, "zip is not the published file"), ("train/a/1.jpg", "already holds train")]
)
def test_no_download_where_it_cannot_be_used(file, message, tmp_path, capsys):
    make_folder(tmp_path, {file: b"<html>"})
    with pytest.raises(UserError, match=message):
        run_prepare("--download", "--output", tmp_path)
    assert not capsys.readouterr().out
