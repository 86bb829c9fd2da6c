"""Weights and devices that cannot serve end a command with exit code 2; nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY_BACKBONE
from tests.flows.conftest import Stylefarm
from tests.flows.jobs import write_job


def spoil(folder: Path, case: str) -> None:
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    if case == "cut short":
        unet.write_bytes(unet.read_bytes()[:-1])
    elif case == "index outside":
        unet.rename(folder / "x.bin")
        index = '{"metadata": {}, "weight_map": {"conv_in.bias": "../../x.bin"}}'
        Path(f"{unet}.index.json").write_text(index)
    elif case == "another network":
        shutil.copy(folder / "vae" / unet.name, unet)
    elif case == "pickle":
        unet.rename(unet.with_suffix(".bin"))


@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("plan",)])
@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("cut short", "not a sound safetensors file"),
        ("index outside", "names '../../x.bin'"),
        ("another network", "of its weights, such as"),
        ("pickle", "pickled weights are refused"),
    ],
)
def test_weights_that_cannot_serve_are_refused(
    stylefarm: Stylefarm, pictures: Path, command: tuple[str, ...], case: str, sentence: str
):
    folder = Path(shutil.copytree(TINY_BACKBONE, pictures / "model"))
    spoil(folder, case)
    write_job(pictures, backbone=str(folder))
    answer = stylefarm(*command, "job.yaml")
    assert (answer.code, "Traceback" in answer.err) == (2, False)
    assert sentence in answer.err
    assert not (pictures / "run").exists()


@pytest.mark.parametrize("command", [("run",), ("run", "--dry-run"), ("plan",)])
@pytest.mark.parametrize("device", ["foo", "meta", "cuda:-1", '""'])
def test_an_unknown_device_is_refused(
    stylefarm: Stylefarm, pictures: Path, command: tuple[str, ...], device: str
):
    write_job(pictures)
    answer = stylefarm(*command, "job.yaml", "--set", f"compute.device={device}")
    assert answer.code == 2
    assert "compute.device" in answer.err
    assert not (pictures / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_where_there_is_none_can_be_planned_for_but_not_run(
    stylefarm: Stylefarm, pictures: Path
):
    write_job(pictures)
    device = ("--set", "compute.device=cuda")
    for command in (("run",), ("run", "--dry-run")):
        answer = stylefarm(*command, "job.yaml", *device)
        assert answer.code == 2
        assert "cuda" in answer.err
        assert not (pictures / "run").exists()
    answer = stylefarm("plan", "job.yaml", *device)
    assert answer.code == 0
    assert "Planned 6 items" in answer.out
    assert (pictures / "run" / "run.json").exists()
