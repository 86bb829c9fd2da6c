"""How is a published architecture built with random weights, to measure and test it?

Nothing is downloaded. Speed and memory depend on shapes alone, so a random Stable Diffusion 1.5
takes as long as the trained one. The pictures mean nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ad_lib.errors import BackboneError, unknown_name
from ad_lib.model.backbone import Backbone
from ad_lib.model.families import FAMILIES
from ad_lib.model.parts import vae_dtype
from ad_lib.model.weights import Weights


def random_backbone(
    family: str,
    *,
    tiny: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Backbone:
    """A backbone of a published architecture with seeded random weights; nothing is downloaded.

    Args:
        family: `sd15` (0.86 G parameters in the U-Net), `sdxl` (2.57 G) or `flux2` (3.9 G in the
            transformer).
        tiny: the same blocks and layers, a few channels wide.
        seed: of the weights; they are drawn on the CPU in float32, so that any device and dtype
            holds the same ones.
        dtype: of the networks; as in `load_backbone`, float16 leaves the VAE in float32.
        device: where the networks go.

    Raises:
        BackboneError: another family.
    """
    if family not in FAMILIES:
        raise BackboneError(unknown_name("architecture", family, FAMILIES))
    home = FAMILIES[family].module("random_weights")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # alone: torch's own reseeds GPUs too
        networks = home.build_networks(family, tiny=tiny)
    # diffusers' own `to` warns about every cast; torch's does not.
    dtypes = {"vae": vae_dtype(networks["vae"].config, dtype)}
    placed: dict[str, Any] = {
        part: torch.nn.Module.to(network, device, dtypes.get(part, dtype))
        for part, network in networks.items()
    }
    weights = Weights(f"random-{family}{'-tiny' * tiny}", f"seed:{seed}", Path())
    return home.assembled(placed, weights)
