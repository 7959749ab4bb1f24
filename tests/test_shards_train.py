"""train.py on shards: stopped and resumed it ends with the same weights, from a disk and from a server."""

import functools
import http.server
import os
import signal
import threading

import pytest
import torch

import prepare
from classifier import checkpoint
from classifier.cli import UserError
from classifier.data import shards
from tests.conftest import run_script
from tests.test_train import call, stop_after, weights_of

QUICK = ("--size", 32, "--batch-size", 8, "--epochs", 2, "--device", "cpu", "--precision", "fp32", "--name", "run")


@pytest.fixture(scope="module")
def sharded(bars, tmp_path_factory):
    """The images of `bars` in ten shards."""
    output = tmp_path_factory.mktemp("sharded")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "sync", raising=False)
        prepare.prepare(bars, output, 0.1, shard_size=1000)
    return output


def test_stopped_in_an_epoch_and_resumed_nothing_differs(sharded, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    with monkeypatch.context() as patch:
        call(patch, whole, "--data", sharded, "--workers", 2, *QUICK)
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        with pytest.raises(SystemExit) as ended:
            call(patch, parts, "--data", sharded, "--workers", 2, *QUICK)
        assert ended.value.code == 128 + signal.SIGTERM
    with monkeypatch.context() as patch:
        call(patch, parts, "--resume", "module/run.last.pth")
    there, here = weights_of(whole), weights_of(parts)
    assert all(torch.equal(value, here[name]) for name, value in there.items())
    saved = checkpoint.load(whole / "module" / "run.pth")
    training, validation = shards.split_validation(shards.read(str(sharded)), 0.1)
    assert saved.data["train"] == len(training) == 72 and saved.data["val"] == len(validation) == 8
    assert saved.data["fingerprint"] == training.fingerprint() and saved.classes == ["across", "down"]
    scored = run_script("evaluate.py", "--device", "cpu", cwd=whole)  # the test images lie beside, as a folder
    assert scored.returncode == 0 and "24, of across, down" in scored.stdout


def test_from_a_server(sharded, tmp_path, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(sharded))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/train/{{00000..00009}}.tar"
        call(monkeypatch, tmp_path, "--data", url, "--workers", 0, *QUICK, "--epochs", 1)
        server.shutdown()
    saved = checkpoint.load(tmp_path / "module" / "run.last.pth")
    assert (
        saved.resume["step"] == 9
        and saved.settings["data"] == url
        and saved.data["root"] == url.rpartition("/train/")[0]
    )


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("/train/{00000..00010}.tar", (), r"knows no 00010\.tar"),
        ("/train/00000.tar", (), r"too few shards \(1\)|no images of"),
        ("", ("--balance", "sampling"), "stream"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_step(data, arguments, message, sharded, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=message):
        call(monkeypatch, tmp_path, "--data", f"{sharded}{data}", *QUICK, *arguments)
