"""The page as programs see it: a real server, asked through its API."""

import socket
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from classifier import page
from classifier.checkpoint import Checkpoint
from classifier.cli import UserError
from classifier.preprocess import Preprocess
from tests.running_page import APP, CLASSES, picture


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server.address, verbose=False)


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(path, exif=exif)


def translucent(path: Path) -> None:
    image = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(path)


def deep_grey(path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 120 * 80).reshape(80, 120).astype(np.uint16)).save(path)


GOOD = {
    "good.jpg": lambda path: picture().save(path),
    "alpha.png": translucent,
    "grey16.png": deep_grey,
    "rotated.jpg": rotated,
    "cmyk.jpg": lambda path: picture().convert("CMYK").save(path),
    "我的 狗.jpg": lambda path: picture().save(path),
}

BAD = {
    "text.jpg": (b"not a picture at all", "This file is not a picture that can be read"),
    "truncated.jpg": (None, "This file is damaged"),
    "empty.jpg": (b"", "This file is empty"),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_answer_is_the_networks(name, client, server, tmp_path):
    path = tmp_path / name
    GOOD[name](path)
    answer = client.predict(handle_file(path), api_name="/classify")
    with torch.inference_mode():
        expected = server.weights.network()(
            server.weights.preprocess.normalize(server.weights.preprocess.read(path)).unsqueeze(0)
        ).softmax(1)[0]
    got = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
    assert answer["label"] == CLASSES[expected.argmax()]
    assert list(got.values()) == sorted(got.values(), reverse=True)
    torch.testing.assert_close(torch.tensor([got[name] for name in CLASSES]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", BAD)
def test_an_unreadable_file_is_answered_with_the_reason(name, client, tmp_path):
    content, reason = BAD[name]
    path = tmp_path / name
    if content is None:
        picture((400, 300)).save(path)
        content = path.read_bytes()[:-2000]
    path.write_bytes(content)
    with pytest.raises(AppError, match=reason):
        client.predict(handle_file(path), api_name="/classify")


def test_no_picture_is_answered_with_a_sentence(client):
    with pytest.raises(AppError, match=r"Send one picture\."):
        client.predict(None, api_name="/classify")


def call(address: str, payload: dict) -> str:
    """The events that the server answers a raw call with."""
    url = f"{address}gradio_api/call/classify"
    with httpx.Client(trust_env=False, timeout=20) as http:
        event = http.post(url, json={"data": [payload]}).json()["event_id"]
        return http.get(f"{url}/{event}").text


@pytest.mark.parametrize("extra", [{}, {"meta": {"_type": "gradio.FileData"}}, {"is_stream": True}])
def test_only_uploads_are_opened(extra, server, tmp_path):
    path = tmp_path / "private.jpg"
    picture().save(path)
    answer = call(server.address, {"path": str(path)} | extra)
    assert "event: error" in answer and "confidence" not in answer
    assert "event: error" in call(server.address, {"path": str(tmp_path / "absent.jpg")} | extra)


def test_an_address_in_place_of_a_picture_is_not_fetched(server):
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(1)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/cat.jpg"
        assert "not its address" in call(server.address, {"path": url, "meta": {"_type": "gradio.FileData"}})
        with pytest.raises(TimeoutError):
            other.accept()


def test_files_outside_the_upload_folder_are_not_served(server):
    (server.folder / "secret.txt").write_text("secret")
    answer = httpx.get(f"{server.address}gradio_api/file={server.folder / 'secret.txt'}", trust_env=False)
    assert answer.status_code == 403


def test_a_large_upload_is_refused(server):
    files = {"files": ("large.jpg", bytes(21 * 1024 * 1024))}
    answer = httpx.post(f"{server.address}gradio_api/upload", files=files, trust_env=False, timeout=30)
    assert answer.status_code == 413


def test_one_endpoint_is_public(client):
    endpoints = client.view_api(return_format="dict", print_info=False)
    assert list(endpoints["named_endpoints"]) == ["/classify"] and not endpoints["unnamed_endpoints"]
    assert [parameter["parameter_name"] for parameter in endpoints["named_endpoints"]["/classify"]["parameters"]] == [
        "picture"
    ]


def test_many_at_once(client, tmp_path):
    paths = []
    for number in range(12):
        paths.append(tmp_path / f"{number}.jpg")
        picture((60 + number, 50)).save(paths[-1])
    jobs = [client.submit(handle_file(path), api_name="/classify") for path in paths]
    alone = [client.predict(handle_file(path), api_name="/classify") for path in paths]
    assert [job.result(timeout=30) for job in jobs] == alone


def test_it_listens_on_this_machine_only(server):
    assert server.address.startswith("http://127.0.0.1:")
    others = [info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    others = [other for other in others if not other.startswith("127.")]
    if not others:
        pytest.skip("this machine has no address but its own")
    port = int(server.address.rstrip("/").rsplit(":", 1)[1])
    for other in others:
        with pytest.raises(OSError):
            socket.create_connection((other, port), timeout=2)


def test_a_taken_port_gives_the_next_one(server):
    assert f"Port {server.wanted_port} is taken" in server.said
    assert f":{server.wanted_port}/" not in server.address


def test_ports_that_are_none():
    from app import free_port

    for port in (0, -1, 70000):
        with pytest.raises(UserError, match="1 to 65535"):
            free_port("127.0.0.1", port)
    with pytest.raises(UserError, match=r"--host 192\.0\.2\.1"):
        free_port("192.0.2.1", 7860)


def test_without_weights_it_ends_with_one_message(tmp_path):
    done = subprocess.run([sys.executable, str(APP)], cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert done.returncode == 2 and "python train.py" in done.stderr
    assert done.stderr.count("error:") == 1 and "Traceback" not in done.stderr


def test_what_the_page_says():
    assert page.question(["cat", "dog"]) == "Cat or dog?"
    assert page.question(["ants", "bees", "wasps"]) == "Ants, bees or wasps?"
    assert page.question([str(i) for i in range(20)]) == "What is in the picture?"
    assert [page.percent(share) for share in (0.001, 0.5, 0.994, 1.0)] == ["&lt;1%", "50%", "99%", "&gt;99%"]
    twenty = page.answer({f"class_{i}": i / 190 for i in range(20)}, False, 0.02)
    assert twenty.count("<li") == page.SHOWN and "and 15 other classes" in twenty and "Class 19" not in twenty
    assert "&lt;i&gt;" in page.answer({"<i>ant": 0.9, "dog": 0.1}, False, 0.02)
    neither = page.answer({"cat": 0.9, "dog": 0.1}, True, 0.02)
    assert "Neither" in neither and "the nearest is cat" in neither
    assert "<i>" not in page.introduction(Checkpoint("resnet18", CLASSES, Preprocess(), {}), shared=False)


def test_the_score_says_where_it_comes_from():
    val = {"accuracy": 0.98, "loss": 0.1, "count": 60, "epoch": 3}
    test = {"accuracy": 0.9731, "interval": [0.965, 0.9795], "count": 2000}
    assert "97.3%" in page.score({"test": test, "val": val}) and "96.5 to 98.0%" in page.score({"test": test})
    assert "validation" in page.score({"val": val}) and "python evaluate.py" in page.score({"val": val})
    assert page.score({}) == "not tested yet: <code>python evaluate.py</code>"


def test_drawings_are_called_drawings():
    drawn = Checkpoint("resnet18", ["cat", "dog"], Preprocess(), {}, data={"kind": "drawings"})
    text = page.introduction(drawn, shared=False)
    assert "only ever seen drawings" in text and "python prepare.py --download" in text and "python train.py" in text
    assert "drawings" not in page.introduction(Checkpoint("resnet18", ["cat", "dog"], Preprocess(), {}), shared=False)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (3 * 86400, "3 days ago")]
)
def test_age(seconds, text):
    created = datetime.now().astimezone() - timedelta(seconds=seconds)
    assert page.ago(created.isoformat(timespec="seconds")) == text
