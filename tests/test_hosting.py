"""What others' machines need to run the project: the Dockerfile's steps, the Space's settings, the notebook's cells."""

import fnmatch
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbclient
import nbformat
import pytest
from packaging.requirements import Requirement

from tests.conftest import ENVIRONMENT, REPOSITORY

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the steps are those of a Unix shell")
BIN = Path(sys.executable).parent
IGNORED = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()[1:]


def copy_project(target: Path) -> None:
    """Copy what Docker's `COPY . .` copies."""

    def matches(path: str, pattern: str) -> bool:
        anywhere = pattern.removeprefix("**/")
        return fnmatch.fnmatch(path if anywhere == pattern else Path(path).name, anywhere)

    def ignored(folder: str, names: list[str]) -> list[str]:
        paths = {name: Path(folder, name).relative_to(REPOSITORY).as_posix() for name in names}
        return [name for name in names if any(map(functools.partial(matches, paths[name]), IGNORED))]

    shutil.copytree(REPOSITORY, target, ignore=ignored, dirs_exist_ok=True)


def test_the_dockerfile_copies_and_starts_what_the_page_needs(tmp_path):
    lines = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").splitlines()
    steps = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))  # the last of each kind
    copy_project(tmp_path)
    assert (tmp_path / "module" / "catdog-efficientnet_lite0.pth").exists() and not (tmp_path / "tests").exists()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    assert steps["ENV"].startswith("PORT=") and steps["USER"] == "classifier"
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TMPDIR": str(tmp_path), "PORT": port}
    health = steps["HEALTHCHECK"].split("CMD ", 1)[1]
    check = {"args": ["sh", "-c", health], "env": environment, "capture_output": True, "timeout": 60}
    assert subprocess.run(**check).returncode != 0
    with (tmp_path / "log").open("w") as log:
        command = ["sh", "-c", steps["CMD"]]
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        try:
            while subprocess.run(**check).returncode:
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(1)
        finally:
            process.send_signal(signal.SIGTERM)  # as `docker stop`
            process.wait(30)


def test_the_space_starts_what_is_here():
    front = (REPOSITORY / "spaces" / "README.md").read_text(encoding="utf-8").split("---\n", 2)[1]
    settings = {name: value.strip('"') for name, value in (line.split(": ", 1) for line in front.splitlines())}
    assert settings["sdk"] == "gradio" and (REPOSITORY / settings["app_file"]).exists()
    requirements = map(Requirement, re.findall(r"^[\w-]+[>=.\d]+", (REPOSITORY / "requirements.txt").read_text(), re.M))
    gradio = next(requirement for requirement in requirements if requirement.name == "gradio")
    assert gradio.specifier.contains(settings["sdk_version"])
    assert len(settings["short_description"]) <= 60  # Hugging Face refuses longer ones


def test_the_notebook_runs_on_the_drawings(tmp_path):
    copy_project(tmp_path)
    shutil.rmtree(tmp_path / "module")
    notebook = nbformat.read(REPOSITORY / "docs" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    [parameters] = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += '\nINSTALL, OPTIONS = False, "--epochs 1 --size 32 --workers 0"'
    (tmp_path / "docs").mkdir()  # where it lies
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path / "docs"}}).execute(
        env=ENVIRONMENT
    )
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "120 images" in printed or "of 120" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert len(list(tmp_path.glob("logs/evaluate/*/*/report.html"))) == 1
