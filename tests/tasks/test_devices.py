"""Which kind of device and which precision a job gets, and which devices its workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ad_lib.model.weights import Weights
from manifests.errors import JobError
from manifests.job import BackboneChoice
from tasks.inputs.devices import device_type_of, devices_for, dtype_of
from tasks.inputs.weights import LARGE_BYTES, FoundModel, find_model
from tests.conftest import TINY_BACKBONE


def grown(path: Path, num_bytes: int) -> Path:
    """A file of weights of so many bytes on disk; most of them take no room there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"a": torch.zeros(1)}, path)
    with path.open("r+b") as file:
        file.truncate(num_bytes)
    return path


@pytest.mark.parametrize(
    ("num_bytes", "kind"), [(LARGE_BYTES - 1, "cpu"), (LARGE_BYTES, "cuda"), (2**40, "cuda")]
)
def test_large_weights_are_for_cuda_whatever_machine_plans(tmp_path, num_bytes, kind):
    file = grown(tmp_path / "model.safetensors", num_bytes)
    model = FoundModel(Weights(str(file), "sha256:1", file, TINY_BACKBONE))
    assert device_type_of("auto", model) == kind
    assert device_type_of("cpu", model) == "cpu"
    assert device_type_of("cuda:3", model) == "cuda"


def test_the_weights_of_a_controlnet_count_and_files_that_are_not_read_do_not(tmp_path):
    model = find_model(str(TINY_BACKBONE))
    assert device_type_of("auto", model) == "cpu"
    folder = tmp_path / "controlnet"
    grown(folder / "diffusion_pytorch_model.fp16.safetensors", LARGE_BYTES)
    file = grown(folder / "diffusion_pytorch_model.safetensors", 1000)
    model = FoundModel(model.backbone, Weights("c", "sha256:2", folder))
    assert device_type_of("auto", model) == "cpu"
    grown(file, LARGE_BYTES)
    assert device_type_of("auto", model) == "cuda"


def test_the_embedded_backbone_is_for_the_cpu():
    assert device_type_of("auto", find_model("embedded")) == "cpu"


@pytest.mark.parametrize(
    ("dtype", "kind", "expected"),
    [
        ("auto", "cuda", "bfloat16"),
        ("auto", "cpu", "float32"),
        ("auto", "mps", "float32"),
        ("float32", "cuda", "float32"),
        ("float16", "cpu", "float16"),
    ],
)
def test_a_stated_precision_is_kept_and_auto_follows_the_kind(dtype, kind, expected):
    assert dtype_of(BackboneChoice(dtype=dtype), kind) == expected


@pytest.mark.parametrize(
    ("kind", "device", "workers", "expected"),
    [
        ("cpu", "auto", None, ["cpu"]),
        ("cpu", "cpu:0", 3, ["cpu", "cpu", "cpu"]),
        ("cuda", "auto", None, ["cuda:0", "cuda:1"]),
        ("cuda", "cuda", 3, ["cuda:0", "cuda:1", "cuda:0"]),
        ("cuda", "cuda", 1, ["cuda:0"]),
        ("cuda", "cuda:1", None, ["cuda:1"]),
        (None, "auto", None, ["cuda:0", "cuda:1"]),
        (None, "cpu", 2, ["cpu", "cpu"]),
    ],
)
def test_each_worker_has_a_device_of_the_run_s_kind(monkeypatch, kind, device, workers, expected):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert devices_for(kind, device, workers) == expected


@pytest.mark.parametrize(
    ("kind", "device", "message"),
    [
        ("cuda", "auto", r"no device 'cuda'.* This run renders on cuda.* compute.device: cpu$"),
        ("cuda", "cuda:7", r"no device 'cuda:7'.* compute.device: cpu$"),
        ("mps", "auto", r"no device 'mps'.* compute.device: cpu$"),
        (
            "cpu",
            "cuda",
            r"renders on cpu, and the pictures of 'cuda' would .* compute.device: cuda",
        ),
        ("cuda", "cpu", r"renders on cuda, and the pictures of 'cpu' would .* compute.device: cpu"),
        ("cpu", "tpu", r"unknown device 'tpu'"),
        (None, "cuda", r"no device 'cuda'"),
    ],
)
def test_a_device_that_is_not_there_or_of_another_kind_is_refused(
    monkeypatch, kind, device, message
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(JobError, match=message) as raised:
        devices_for(kind, device, None)
    assert "\n" not in str(raised.value)


def test_the_devices_of_a_run_on_the_cpu_are_told_without_loading_torch():
    code = (
        "import sys; from tasks.inputs.devices import devices_for; devices_for('cpu', 'auto', 2); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
