"""The page as programs see it: a real server, asked through its API."""

import csv
import json
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from classifier.cli import run
from tests.raw_images import make_zip
from tests.running_page import CLASSES, ROTATED, app_process, image, save_weights
from webui.classify import Answer, to_csv
from webui.i18n import macros


@pytest.fixture(scope="module")
def client(server) -> Client:
    return Client(server.address, verbose=False)


@pytest.fixture
def good(tmp_path) -> Path:
    image().save(tmp_path / "good.jpg")
    return tmp_path / "good.jpg"


def expected(server, path: Path) -> torch.Tensor:
    with torch.inference_mode():
        x = server.weights.preprocess.normalize(server.weights.preprocess.read(path)).unsqueeze(0)
        return server.weights.network()(x).softmax(1)[0]


def check_answer(answer: dict, probabilities: torch.Tensor) -> None:
    got = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
    assert answer["label"] == CLASSES[probabilities.argmax()]
    assert list(got.values()) == sorted(got.values(), reverse=True)
    assert answer["verdict"] in ("sure", "not sure") and answer["milliseconds"] > 0
    torch.testing.assert_close(torch.tensor([got[name] for name in CLASSES]), probabilities, atol=1e-5, rtol=0)


def test_the_answer_is_the_networks_whatever_the_image_is_called(client, server, tmp_path):
    grey = Image.fromarray(np.linspace(0, 65535, 120 * 80).reshape(80, 120).astype(np.uint16))
    for name, content, options in (
        ("x" * 296 + ".jpg", image(), {"format": "jpeg"}),
        ("../../etc/cat.jpg", image(), {"format": "jpeg", "exif": ROTATED}),
        ("a\\b/猫 %2e.jpg", grey, {"format": "png"}),  # of the kinds that tests/test_images.py has, the oddest
        ("我的 狗.avif", image(), {"format": "avif"}),
    ):
        content.save(tmp_path / "image", **options)
        upload = send(server, (tmp_path / "image").read_bytes(), name) | {"orig_name": name}
        check_answer(client.predict(upload, api_name="/classify"), expected(server, tmp_path / "image"))
        answers = json.loads(call(server, [upload], "classify_many").split("data: ")[1])[0]
        assert [answer["file"] for answer in answers] == [name]


def test_many_images_and_zips_with_bad_ones_among_them(client, server, good, tmp_path):
    content = good.read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[:-900])
    (tmp_path / "large.jpg").write_bytes(bytes(21 << 20))
    (tmp_path / "damaged.zip").write_bytes(b"no zip")
    make_zip(tmp_path / "notes.zip", {"notes.txt": b"-"})
    make_zip(tmp_path / "holiday.zip", {"1.jpg": content, "2.jpg": b"no image", "notes.txt": b"no image either"})
    files = [tmp_path / f"{name}.zip" for name in ("holiday", "notes", "damaged")]
    files = [tmp_path / "cut.jpg", good, *files, good, tmp_path / "large.jpg"]
    answers = client.predict([handle_file(path) for path in files], api_name="/classify_many")
    names = ["cut.jpg", "good.jpg", "holiday.zip/1.jpg", "holiday.zip/2.jpg", "notes.zip", "damaged.zip", "good.jpg"]
    assert [answer["file"] for answer in answers] == [*names, "large.jpg"]
    for number in (1, 2, 6):
        check_answer(answers[number], expected(server, good))
    assert "is incomplete" in answers[0]["error"] and "is not an image" in answers[3]["error"]
    assert "notes.zip holds no images" in answers[4]["error"] and "larger than 20 MB" in answers[7]["error"]
    assert "damaged" in answers[5]["error"] and not re.search(r"[/\\](tmp|gradio|classifier-)", answers[5]["error"])


def send(server, content: bytes, name: str = "good.jpg") -> dict:
    """Upload a file; returns what a call refers to it with."""
    url = f"{server.address}gradio_api/upload"
    sent = httpx.post(url, files={"files": (name, content)}, trust_env=False, timeout=30)
    return {"path": sent.json()[0], "meta": {"_type": "gradio.FileData"}}


def call(server, payload: dict | list, name: str = "classify") -> str:
    """The events that the server answers a raw call with."""
    url = f"{server.address}gradio_api/call/{name}"
    with httpx.Client(trust_env=False, timeout=20) as http:
        event = http.post(url, json={"data": [payload]}).json()["event_id"]
        return http.get(f"{url}/{event}").text


def confidences(events: str) -> list[dict]:
    return json.loads(events.split("data: ")[1])[0]["confidences"]


def test_what_cannot_be_answered_is_refused_with_the_reason(client, server, tmp_path):
    (tmp_path / "large.jpg").write_bytes(bytes(21 << 20))
    many = make_zip(tmp_path / "many.zip", {f"{i}.jpg": b"no image" for i in range(520)})
    for wanted, name, reason in (
        (send(server, b"not an image at all"), "/classify", "This file is not an image that can be read"),
        (send(server, b""), "/classify", "This file is empty"),
        (handle_file(tmp_path / "large.jpg"), "/classify", "larger than 20 MB"),
        (None, "/classify", r"Send one image\."),
        ([], "/classify_many", "Send images"),
        ([handle_file(many)], "/classify_many", "At most 500 images"),
    ):
        with pytest.raises(AppError, match=reason):
            client.predict(wanted, api_name=name)
    with (tmp_path / "huge.zip").open("w+b") as file:
        file.truncate((500 << 20) + 1)
        url = f"{server.address}gradio_api/upload"
        answer = httpx.post(url, files={"files": file}, trust_env=False, timeout=60)
    assert answer.status_code == 413 and "maximum allowed size" in answer.text


@pytest.mark.parametrize("name", ["classify", "classify_many"])
def test_only_uploads_are_opened_and_served_and_no_address_is_fetched(name, server, good, tmp_path):
    def refused(payload):
        events = call(server, [payload] if name == "classify_many" else payload, name)
        assert "event: error" in events and "confidence" not in events, payload
        return events

    roundabout = f"{Path(send(server, b'-')['path']).parent}/../../../../module/three.pth"
    uploaded = {"meta": {"_type": "gradio.FileData"}}
    for wanted in (good, tmp_path / "absent.jpg", server.folder / "module" / "three.pth", roundabout):
        for extra in ({}, uploaded, {"is_stream": True}):
            refused({"path": str(wanted)} | extra)
    (server.folder / "secret.txt").write_text("secret")
    for wanted in ("secret.txt", "module/three.pth", "photos/test/dog/0.jpg"):
        url = f"{server.address}gradio_api/file={server.folder / wanted}"
        assert httpx.get(url, trust_env=False).status_code == 403
    with socket.create_server(("127.0.0.1", 0)) as other:
        other.settimeout(1)
        url = f"http://127.0.0.1:{other.getsockname()[1]}/cat.jpg"
        for payload in ({"path": url} | uploaded, {"url": url}, url, str(good), "data:image/png;base64,AAAA", 5):
            assert "not its address" in refused(payload)
        with pytest.raises(TimeoutError):
            other.accept()


def test_neither_is_the_answer_wherever_it_is_given():
    unlike, sure = (Answer({"dog": 0.998, "cat": 0.002}, is_ood, None) for is_ood in (True, False))
    told = unlike.to_json()
    assert (told["label"], told["verdict"], told["confidences"][0]["label"]) == ("neither", "neither", "dog")
    (row,) = csv.DictReader(to_csv([("a.jpg", unlike)], ["cat", "dog"]).removeprefix("\ufeff").splitlines())
    assert row["answer"] == "neither" and row["dog"] == "0.998" and "unlike the training images" in row["note"]
    unsure = Answer({"dog": 0.55, "cat": 0.45}, False, None)
    assert [(one.to_json()["label"], one.verdict) for one in (sure, unsure)] == [("dog", "sure"), ("dog", "not sure")]


def test_when_it_is_busy_it_says_so_and_answers_what_it_took_as_if_alone(server, tmp_path):
    uploads = []
    for number in range(12):
        image((60 + number, 50)).save(tmp_path / f"{number}.jpg")
        uploads.append(send(server, (tmp_path / f"{number}.jpg").read_bytes()))
    alone = [confidences(call(server, upload)) for upload in uploads]
    url = f"{server.address}gradio_api/call/classify"
    with httpx.Client(trust_env=False, timeout=60, limits=httpx.Limits(max_connections=100)) as http:
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda number: http.post(url, json={"data": [uploads[number % 12]]}), range(200)))
        taken = {number: answer for number, answer in enumerate(answers) if answer.status_code == 200}
        assert {answer.status_code for answer in answers} == {200, 503} and len(taken) > 30
        assert "full" in next(answer.text for answer in answers if answer.status_code == 503)
        for number, answer in taken.items():
            assert confidences(http.get(f"{url}/{answer.json()['event_id']}").text) == alone[number % 12]


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="needs curl and bash")
def test_the_commands_on_the_page_work(server, tmp_path):
    text = macros("about", "en").programs(server.address.rstrip("/"), False).unescape()
    script, shell = re.findall(r"<code>(.*?)</code>", text, re.DOTALL)
    for name in ("cat.jpg", "dog.jpg"):
        image().save(tmp_path / name)
    image().save(tmp_path / "cat [1], 猫 'x'.jpg", "JPEG")
    odd = shell.replace("cat.jpg", "cat [1], 猫 '\\''x'\\''.jpg")
    for command in ([sys.executable, "-c", script], ["bash", "-c", shell], ["bash", "-c", odd]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert "confidences" in done.stdout and not done.returncode, done.stdout + done.stderr


def test_it_listens_on_this_machine_only_and_answers_health_checks(server):
    assert httpx.get(f"{server.address}healthz", trust_env=False).text == "ok"
    host, port = server.address.removeprefix("http://").rstrip("/").split(":")
    assert host == "127.0.0.1"
    for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET):
        if not info[4][0].startswith("127."):
            with pytest.raises(OSError):
                socket.create_connection((info[4][0], int(port)), timeout=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "python train.py"),
        ("", "PORT is 'http'"),
        ("--auth ada", "--auth ada:lovelace"),
        ("--root-path classifier", "begins with /"),
        ("--review --host 0.0.0.0", "this machine alone"),
        ("--port {taken}", "--port {taken}: [Errno"),
        ("--port 70000", "0-65535"),
        ("--host 192.0.2.1", "cannot listen on --host 192.0.2.1"),
    ],
)
def test_a_mistake_ends_with_one_message(words, message, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PORT", "http" if "http" in message else "")
    taken = server.address.rstrip("/").rsplit(":", 1)[1]
    monkeypatch.setattr(sys, "argv", ["app.py", *words.format(taken=taken).split()])
    with pytest.raises(SystemExit) as stopped:
        run(app.main)
    printed = capsys.readouterr().err
    assert stopped.value.code == 2 and message.format(taken=taken) in printed and printed.count("error:") == 1


def test_a_page_for_others_is_where_its_host_says_and_asks_for_the_password(good, tmp_path, monkeypatch):
    save_weights(tmp_path / "module" / "three.pth")
    monkeypatch.setenv("PORT", "http")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))  # goes before PORT
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    with app_process(tmp_path, "--auth", "ada:love:lace", "--root-path", "/pets") as printed:
        page = f"http://127.0.0.1:{port}/"
        assert httpx.get(f"{page}healthz", trust_env=False).text == "ok"
        if network := app.network_address():
            assert f"Other machines of your network open http://{network}:{port}\n" in printed
            assert httpx.get(f"http://{network}:{port}/healthz", trust_env=False).text == "ok"
        with pytest.raises(Exception, match=r"(?i)auth|login|401|credentials"):
            Client(page, verbose=False).predict(handle_file(good), api_name="/classify")
        client = Client(page, verbose=False, auth=("ada", "love:lace"))
        assert client.predict(handle_file(good), api_name="/classify")["label"] in CLASSES
