"""How far a backbone in bfloat16 or float16 is from one in float32, on a CPU.

Measured on both tiny backbones, worst of three seeds: features 3.0% and 0.4%, the first loss of
Algorithm 1 3.7% and 0.4%, the first timestep of Algorithm 2 4.7% and 1.1%. Later ones go their own
ways: a picture is held to nothing.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ad_lib import Request, load_backbone, render
from tests.bad_images import picture
from tests.conftest import GOLDEN, TINY_BACKBONE

FOLDERS = (TINY_BACKBONE, GOLDEN / "models" / "tiny-sdxl")
CONTENT, STYLE = (Image.fromarray(picture(seed=seed)) for seed in (1, 2))


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def backbones(request):
    """One model in every precision."""
    dtypes = (torch.float32, torch.bfloat16, torch.float16)
    return {d: load_backbone(str(request.param), device="cpu", dtype=d) for d in dtypes}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.05), (torch.float16, 0.008)])
def test_features_are_near_those_of_float32(backbones, dtype, tolerance):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    seen = {d: backbones[d].feature_extractor()(latents, torch.tensor(501)) for d in backbones}
    for exact, short in zip(seen[torch.float32], seen[dtype], strict=True):
        for name in ("query", "key", "value", "out"):
            expected = getattr(exact, name)
            distance = (getattr(short, name).float() - expected).norm() / expected.norm()
            assert 0 < distance < tolerance


def style_losses(backbone, task: str, **arguments) -> np.ndarray:
    request = Request.preset(
        task, styles=[STYLE], seed=1, num_inference_steps=2, width=64, height=64, **arguments
    )
    return np.array(render(backbone, [request])[0].style_losses)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.08), (torch.float16, 0.01)])
def test_the_first_loss_of_an_optimisation_is_near_that_of_float32(backbones, dtype, tolerance):
    exact, short = (
        style_losses(backbones[d], "style-transfer", content=CONTENT)
        for d in (torch.float32, dtype)
    )
    assert short[0] == pytest.approx(exact[0], rel=tolerance)
    assert np.isfinite(short).all()
    assert short[0] != exact[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.03)])
def test_the_first_losses_of_a_sampling_are_near_those_of_float32(backbones, dtype, tolerance):
    both = (backbones[torch.float32], backbones[dtype])
    exact, short = (style_losses(one, "style-t2i-sd15", prompt="a fox") for one in both)
    assert short[:3] == pytest.approx(exact[:3], rel=tolerance)
    assert np.isfinite(short).all()
    assert short[0] != exact[0]
