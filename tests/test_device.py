"""The device and the number format: chosen by capability, with a reason, or refused with one."""

import re

import pytest
import torch

from classifier import device, distributed
from classifier.cli import UserError
from classifier.device import bfloat16_is_faster, dtype_name, fastest_format, select_compute, select_device

FASTEST = dtype_name(fastest_format(torch.device("cpu"))[0])  # of this processor


def test_first_counts_what_is_asked_for_then_what_was_recorded_then_what_the_cpu_can(monkeypatch):
    for limit, precision, recorded, expected in (
        ("AVX2", "auto", "", "float32 channels-last"),
        ("nonsense", "auto", "", f"{FASTEST} channels-last"),  # which oneDNN ignores
        ("", "fp32", "bfloat16 channels-last", "float32 channels-last"),
        ("", "bf16", "", "bfloat16 channels-last"),
        ("", "auto", "float32", "float32"),
        ("", "auto", "float16 channels-last", "float16 channels-last"),
    ):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        compute, x = select_compute("cpu", precision, recorded), torch.ones(2, 2)
        assert compute.format == expected and f", {expected} (" in str(compute)
        with compute.autocast():
            assert str((x @ x).dtype) == f"torch.{expected.split()[0]}"


def test_the_format_follows_from_what_processors_and_gpus_are_faster_with(monkeypatch):
    for cpu, has_bf16, has_amx, limit, expected in (
        ("AMD EPYC", True, False, "", True),  # Zen 4 and later
        ("AMD EPYC", False, False, "", False),
        ("AMD EPYC", True, False, "avx2", False),
        ("Intel Xeon", True, False, "", False),  # Cooper Lake, or a virtual machine without AMX
        ("Intel Xeon", True, True, "", True),
        ("Intel Xeon", True, True, "AVX512_CORE_BF16", False),
        ("Intel Xeon", True, True, "AVX512_CORE_AMX", True),
    ):
        assert bfloat16_is_faster(cpu, has_bf16, has_amx, limit) == expected, (cpu, limit)
    for capability, expected in (((8, 0), torch.bfloat16), ((7, 5), torch.float16), ((6, 1), torch.float32)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        assert fastest_format(torch.device("cuda")) == (expected, torch.channels_last)
    assert fastest_format(torch.device("mps")) == (torch.float32, torch.contiguous_format)


def test_all_processes_compute_in_the_format_of_the_main_one_and_have_no_common_batch_norm_on_cpus(monkeypatch):
    monkeypatch.setattr(device, "broadcast_object", lambda own: (torch.float16, torch.contiguous_format))
    assert select_compute("cpu", "auto").format == "float16"
    monkeypatch.setattr(distributed, "WORLD_SIZE", 2)
    with pytest.raises(UserError, match="--sync-bn needs GPUs"):
        distributed.synchronize_batch_norm(torch.nn.BatchNorm2d(3))


def test_the_fastest_that_is_there_and_one_that_is_not():
    assert (select_device("auto").type == "cpu") == (not torch.cuda.is_available() and not torch.mps.is_available())
    for name in ("cuda:99", "gpu", "meta"):
        with pytest.raises(UserError, match=rf"--device {name} cannot be used .{{,110}} This machine has: cpu"):
            select_device(name)


def test_each_process_of_a_machine_has_its_own_gpu(monkeypatch):
    """Process 1 of three on machines with so many GPUs, which PyTorch is made to report."""
    monkeypatch.setattr(device, "LOCAL_RANK", 1)
    monkeypatch.setattr(device, "LOCAL_WORLD_SIZE", 3)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: torch.ones(1))  # there is no GPU to hold anything
    for gpus, mps, name, expected in (
        (4, False, "auto", "cuda:1"),
        (4, False, "cpu", "cpu"),
        (4, False, "cuda:2", "--device cuda:2 is 1 GPU, but 3 processes.*--device cuda .*"),
        (2, False, "auto", "--device auto is 2 GPUs, but 3 processes.*--nproc-per-node.*--device cpu.*"),
        (0, False, "auto", "cpu"),
        (0, True, "auto", "--device auto is 1 GPU, but 3 processes.*"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpus=gpus: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda gpus=gpus: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        try:
            found = select_device(name)
        except UserError as error:
            found = error
        assert re.fullmatch(expected, str(found)), (gpus, name, found)
