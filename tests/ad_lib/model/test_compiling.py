"""A compiled render is the plain one: traced whole, once for each shape, and never in the way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend

from ad_lib import random_backbone
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.errors import RequestError
from ad_lib.inputs import BatchInputs
from ad_lib.model.compile_cache import CompileCache
from ad_lib.model.compiling import Compiler, inductor_options
from ad_lib.model.families.stable_diffusion.self_attention import self_attention_layers
from ad_lib.model.kernels import using_kernels
from ad_lib.model.techniques import Techniques
from ad_lib.presets import find_preset
from ad_lib.requests import Request
from ad_lib.synthesis import ALGORITHMS
from tests.ad_lib.requests_of_every_task import request

EAGER = Techniques(compile="off")
COMPILED = Techniques(compile="reduce")


@pytest.fixture
def backbone():
    """Stable Diffusion's blocks with so few layers that they are traced in seconds."""
    backbone = random_backbone("sd15", tiny=True)
    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=32,
        norm_num_groups=4,
    )
    backbone.unet = unet.eval().requires_grad_(False)
    backbone.layers = self_attention_layers(unet)
    return backbone


def latents_and_losses(backbone, requests: list[Request], techniques: Techniques):
    backbone.techniques = techniques
    noise = [seeded_noise(one.seed) for one in requests]
    algorithm = ALGORITHMS[find_preset(requests[0].task).algorithm]
    latents, trace = algorithm(
        BatchInputs(backbone, requests, noise), lambda num_done, num_steps: None
    )
    return latents, trace.style, trace.content


def small(task: str, seeds: int = 2, **changes: Any) -> list[Request]:
    return [request(task, seed, layers=(0, 3), **changes) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("requests", "backend", "num_graphs"),
    [
        (small("style-transfer"), "aot_eager", 1),
        (small("texture-sample", adain=True, num_optimization_steps=2), "eager", 3),
        (small("texture-masked"), "eager", 1),
    ],
    ids=["optimised with content", "sampled with AdaIN", "masked"],
)
@pytest.mark.slow
def test_a_compiled_render_is_the_plain_one_to_the_bit(backbone, requests, backend, num_graphs):
    """One graph for the step, whatever the timestep and the count of steps; no second one later."""
    counter = CompileCounterWithBackend(backend)
    backbone.compiler = Compiler(counter)
    plain = latents_and_losses(backbone, requests, EAGER)
    compiled = latents_and_losses(backbone, requests, COMPILED)
    again = latents_and_losses(backbone, requests, COMPILED)
    for name, ours, theirs, repeated in zip(
        ("z", "style", "content"), compiled, plain, again, strict=True
    ):
        assert torch.equal(ours, theirs), name
        assert torch.equal(ours, repeated), name
    assert counter.frame_count == num_graphs
    assert not backbone.compiler.has_failed


@pytest.mark.slow
def test_what_lies_behind_the_last_layer_that_is_read_is_not_in_the_graph(backbone):
    """Without an exception that ends a pass: the loss reads layer 0 of four."""
    counts: list[int] = []

    def count_convolutions(graph: Any, _: Any) -> Any:
        counts.append(sum("convolution" in str(node.target) for node in graph.graph.nodes))
        return make_boxed_func(graph.forward)

    backbone.compiler = Compiler(aot_autograd(fw_compiler=count_convolutions))
    requests = [
        replace(one, settings=one.settings.updated({"layers": layers}))
        for layers in ((0, 1), (0, 4))
        for one in small("texture-optimize", 1)
    ]
    for one in requests:
        latents_and_losses(backbone, [one], COMPILED)
    assert not backbone.compiler.has_failed
    first_layer, all_layers = counts
    num_in_network = sum(isinstance(one, torch.nn.Conv2d) for one in backbone.unet.modules())
    assert first_layer < all_layers / 2
    assert first_layer < 2 * num_in_network


def test_where_compiling_fails_pictures_are_those_of_the_plain_step_after_one_warning(
    backbone, caplog
):
    def refuse(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler on this machine")

    asked = small("style-transfer")
    backbone.compiler = Compiler(refuse)
    plain = latents_and_losses(backbone, asked, EAGER)
    assert backbone.chosen_techniques.early_exit
    for _ in range(2):
        for ours, theirs in zip(latents_and_losses(backbone, asked, COMPILED), plain, strict=True):
            assert torch.equal(ours, theirs)
    (warning,) = (one for one in caplog.records if one.levelname == "WARNING")
    assert "no compiler on this machine" in warning.getMessage()
    assert backbone.chosen_techniques.compile == "off"


def test_an_error_of_the_function_itself_is_raised_as_it_is():
    def refused(value: torch.Tensor) -> torch.Tensor:
        raise RequestError("not with this mask")

    compiler = Compiler("eager")
    with pytest.raises(RequestError, match="not with this mask"):
        compiler.compiled(refused, {})(torch.zeros(1))
    assert not compiler.has_failed


@pytest.mark.parametrize("compile_", ["auto", "reduce", "max"])
def test_the_compiler_knows_all_its_options(compile_):
    chosen = Techniques(compile=compile_).on("cuda")
    for num_cells in (1, 10**9):
        options = inductor_options(chosen, num_cells)
        assert options["triton.cudagraphs"] is (compile_ == "reduce" or num_cells == 1)
        Compiler().compiled(lambda value: value, options)


def test_a_damaged_file_of_compiled_kernels_is_left_alone_with_one_line(tmp_path, caplog):
    cache = CompileCache(tmp_path, "a model")
    cache.load()
    cache._write(b"no kernels")
    (file,) = tmp_path.rglob("*.bin")
    file.write_bytes(file.read_bytes()[:-1])
    CompileCache(tmp_path, "a model").load()
    (line,) = (one.getMessage() for one in caplog.records)
    assert "damaged" in line
    assert file.exists()
    caplog.clear()
    CompileCache(tmp_path, "another model").load()
    assert not caplog.records


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("compile_", ["auto", "reduce"])
@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_on_a_gpu_a_compiled_render_is_the_plain_one_and_repeats_its_bits(
    backbone, compile_, cuda_graphs
):
    asked = small("style-transfer", learning_rate=1e-4)
    compiled = Techniques(compile=compile_, cuda_graphs=cuda_graphs)
    with using_kernels("cuda", deterministic=True):
        backbone.to("cuda")
        plain, _, _ = latents_and_losses(backbone, asked, EAGER)
        first, again = (latents_and_losses(backbone, asked, compiled)[0] for _ in range(2))
    assert not backbone.compiler.has_failed
    assert torch.equal(first, again)
    # Two steps of 1e-4 at most, in either direction, where L1 takes the sign of rounding.
    torch.testing.assert_close(first, plain, rtol=0, atol=5e-4)
