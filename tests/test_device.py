"""The device and the number format: chosen by capability, with a reason, or refused with one."""

import json
import socket
import subprocess
import sys

import pytest
import torch

from classifier.cli import UserError
from classifier.device import Compute, native_format, select_compute, select_device
from tests.conftest import ENVIRONMENT, REPOSITORY

BFLOAT16 = "bfloat16" if torch.cpu._is_avx512_bf16_supported() else "float32"  # what this processor computes natively


def start(code: str, *args: str, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *args]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=REPOSITORY, env=ENVIRONMENT | environment, stdout=pipe, stderr=pipe, text=True)


def output(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def test_says_why():
    compute = Compute(torch.device("cpu"), torch.bfloat16, torch.channels_last, "as asked")
    assert str(compute).endswith(", bfloat16 channels-last (as asked)")


def test_autocast_computes_in_the_chosen_format():
    x = torch.ones(2, 2)
    for dtype in (torch.float32, torch.bfloat16):
        with Compute(torch.device("cpu"), dtype, torch.channels_last).autocast():
            assert (x @ x).dtype == dtype


# ---------------------------------------------------------------------------------------------- number format


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "avx512_core_vnni", "float32"),
        ("DNNL_MAX_CPU_ISA", "AVX512_CORE", "float32"),
        ("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", BFLOAT16),
        ("ONEDNN_MAX_CPU_ISA", "", BFLOAT16),
        ("ONEDNN_MAX_CPU_ISA", "nonsense", BFLOAT16),  # which oneDNN ignores
    ],
)
def test_the_format_of_a_cpu_follows_from_its_instructions_and_the_limit_on_them(
    monkeypatch, variable, value, expected
):
    monkeypatch.setenv(variable, value)
    assert select_compute("cpu", "auto").format == f"{expected} channels-last"


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this PyTorch comes without oneDNN")
@pytest.mark.parametrize("limit", ["", "AVX2"])
def test_onednn_says_the_same_of_its_instructions(limit):
    code = """
import torch
from classifier.device import select_compute
torch.nn.Conv2d(3, 64, 3)(torch.ones(8, 3, 32, 32))
print(select_compute("cpu", "auto").format)
"""
    *verbose, chosen = output(start(code, ONEDNN_VERBOSE="1", ONEDNN_MAX_CPU_ISA=limit)).splitlines()
    instructions = next(line for line in verbose if ",isa:" in line)
    assert chosen == ("bfloat16" if "bfloat16" in instructions else "float32") + " channels-last"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((9, 0), torch.bfloat16), ((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)],
)
def test_the_format_of_a_gpu_follows_from_its_capability(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert native_format(torch.device("cuda")) == (expected, torch.channels_last)


def test_a_mac_computes_in_float32():
    assert native_format(torch.device("mps")) == (torch.float32, torch.contiguous_format)


@pytest.mark.parametrize(
    ("precision", "recorded", "expected"),
    [
        ("fp32", "bfloat16 channels-last", "float32 channels-last"),
        ("bf16", "", "bfloat16 channels-last"),
        ("auto", "float32", "float32"),
        ("auto", "float16 channels-last", "float16 channels-last"),
    ],
)
def test_what_is_asked_for_comes_first_then_what_a_resumed_run_has_recorded(precision, recorded, expected):
    assert select_compute("cpu", precision, recorded).format == expected


def test_several_machines_compute_in_the_format_of_the_main_process_and_have_no_common_batch_norm_on_cpus():
    code = """
from torch import nn
from classifier.cli import UserError
from classifier.device import select_compute
from classifier.distributed import process_group, synchronize_batch_norm
with process_group():
    compute = select_compute("cpu", "auto")
    try:
        synchronize_batch_norm(nn.BatchNorm2d(3))
    except UserError as error:
        refusal = str(error)
print(compute.format, refusal)
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        start(code, RANK=str(rank), ONEDNN_MAX_CPU_ISA=limit, **common) for rank, limit in enumerate(("AVX2", ""))
    ]
    for process in processes:
        assert output(process).startswith("float32 channels-last --sync-bn needs GPUs.")


# ----------------------------------------------------------------------------------------------------- device


def test_the_fastest_that_is_there():
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    assert (select_device("auto").type == "cpu") == (not has_gpu)


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UserError, match=rf"--device {name} cannot be used.*This machine has: cpu"):
        select_device(name)


def test_each_process_of_a_machine_has_its_own_gpu():
    """Process 1 of three on machines with so many GPUs, which PyTorch is made to report."""
    code = """
import json, sys, torch
from classifier.cli import UserError
from classifier.device import select_device
torch.zeros = lambda *_, device: torch.ones(1)  # there is no GPU to hold anything
for gpus, mps, name in json.loads(sys.argv[1]):
    torch.cuda.is_available, torch.cuda.device_count = lambda: gpus > 0, lambda: gpus
    torch.backends.mps.is_available = lambda: mps
    try:
        print(select_device(name))
    except UserError as error:
        print(error)
"""
    cases = {
        (4, False, "auto"): ["cuda:1"],
        (4, False, "cuda"): ["cuda:1"],
        (4, False, "cpu"): ["cpu"],
        (4, False, "cuda:2"): ["--device cuda:2 is 1 GPU, but 3 processes", "--device cuda "],
        (2, False, "auto"): ["--device auto is 2 GPUs, but 3 processes", "--nproc-per-node", "--device cpu"],
        (2, False, "cuda"): ["--device cuda is 2 GPUs"],
        (0, False, "auto"): ["cpu"],
        (0, True, "auto"): ["--device auto is 1 GPU, but 3 processes"],
    }
    lines = output(start(code, json.dumps(list(cases)), LOCAL_WORLD_SIZE="3", LOCAL_RANK="1")).splitlines()
    for line, (case, words) in zip(lines, cases.items(), strict=True):
        assert all(word in line for word in words), (case, line)
