"""What PyTorch is told is what was asked for, and afterwards it is as it was."""

from __future__ import annotations

import os

import pytest
import torch
from torch.backends import cudnn

from ad_lib import render
from ad_lib.model.backbone import Backbone
from ad_lib.model.kernels import CUBLAS_WORKSPACES, DETERMINISTIC, FAST, kernels_for, using_kernels
from ad_lib.model.random_weights import random_backbone
from ad_lib.model.techniques import Techniques
from tests.ad_lib.requests_of_every_task import OWN_TASKS, request

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


def told() -> dict[str, object]:
    """Everything that PyTorch is told now, as it says itself."""
    cuda = torch.backends.cuda
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "float32 products": torch.get_float32_matmul_precision(),
        "cudnn tf32": cudnn.allow_tf32,
        "cudnn benchmark": cudnn.benchmark,
        "cudnn deterministic": cudnn.deterministic,
        "flash": cuda.flash_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
        "cudnn attention": cuda.cudnn_sdp_enabled(),
        "order": torch._C._get_sdp_priority_order(),
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)


def test_deterministic_kernels_are_told_in_every_place():
    with using_kernels("cuda", deterministic=True) as chosen:
        found = told()
    assert chosen == DETERMINISTIC
    flash, efficient, math = 1, 2, 0
    assert found.pop("order")[:3] == [flash, efficient, math]
    assert found == {
        **{"deterministic": True, "warn only": False, "cudnn deterministic": True},
        **{"float32 products": "highest", "cudnn tf32": False, "cudnn benchmark": False},
        **{"flash": True, "efficient": True, "math": True, "cudnn attention": False},
        **{"filled": False, "workspace": ":4096:8"},
    }


def test_fast_kernels_are_told_in_every_place():
    with using_kernels("cuda", deterministic=False) as chosen:
        found = told()
    assert chosen == FAST
    cudnn_first = 3
    assert found.pop("order")[0] == cudnn_first
    assert found == {
        **{"deterministic": False, "warn only": False, "cudnn deterministic": False},
        **{"float32 products": "high", "cudnn tf32": True, "cudnn benchmark": True},
        **{"flash": True, "efficient": True, "math": True, "cudnn attention": True},
        **{"filled": False, "workspace": None},
    }


@pytest.mark.parametrize("deterministic", [True, False])
def test_afterwards_everything_is_as_it_was_also_after_an_error(deterministic):
    before = told()
    with pytest.raises(KeyError), using_kernels("cuda", deterministic=deterministic):
        raise KeyError
    assert told() == before
    with using_kernels("cuda", deterministic=not deterministic):
        between = told()
        with using_kernels("cuda", deterministic=deterministic):
            assert told() != between
        assert told() == between


@pytest.mark.parametrize("device_type", ["cpu", "mps"])
@pytest.mark.parametrize("deterministic", [True, False])
def test_on_a_cpu_nothing_is_chosen(device_type, deterministic):
    before = told()
    with using_kernels(device_type, deterministic=deterministic) as chosen:
        assert chosen is None
        assert told() == before


@pytest.mark.parametrize("workspace", CUBLAS_WORKSPACES)
def test_a_workspace_that_repeats_its_results_is_left_and_another_is_replaced(
    monkeypatch, workspace
):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    with using_kernels("cuda", deterministic=True):
        assert told()["workspace"] == workspace
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with using_kernels("cuda", deterministic=True):
        assert told()["workspace"] == ":4096:8"
    assert told()["workspace"] == ":0:0"


def test_the_words_for_a_choice_name_each_part_of_it():
    words = str(kernels_for("cuda", deterministic=True))
    assert words.startswith("deterministic, float32 products highest")
    assert "cudnn tf32 off, cudnn benchmark off, attention flash efficient math" in words
    assert str(FAST).startswith("fast, float32 products high, cudnn tf32 on, cudnn benchmark on")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("task", OWN_TASKS)
def test_on_a_gpu_the_same_batch_twice_is_equal_to_the_bit(task, dtype):
    """Nothing raises either: every operation of every task has a form that repeats its results."""
    requests = [request(task, seed, num_inference_steps=6) for seed in range(3)]

    def fresh() -> Backbone:
        backbone = random_backbone("sd15", tiny=True, dtype=dtype, device="cuda")
        backbone.techniques = Techniques(compile="off")
        return backbone

    with using_kernels("cuda", deterministic=True):
        first, again = (render(fresh(), requests) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert one.image.tobytes() == other.image.tobytes()
        assert one.style_losses == other.style_losses


@pytest.mark.gpu
@needs_gpu
def test_on_a_gpu_the_decoder_learns_the_same_twice():
    asked = request("texture-sample", decoder_epochs=3)
    with using_kernels("cuda", deterministic=True):
        first, again = (
            render(random_backbone("sd15", tiny=True, device="cuda"), [asked])[0] for _ in range(2)
        )
    assert first.image.tobytes() == again.image.tobytes()
