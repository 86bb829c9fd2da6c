"""Queries in the units of outputs, so that the published content weights mean something here.

Attention sees only the product of queries and keys: queries times f and keys over f is the same
network. The content loss, a distance between queries, is f times as large. Training leaves that
scale to chance; here it is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.model.families.stable_diffusion.self_attention import (
    SelfAttentionTap,
    self_attention_layers,
)
from ad_lib.model.taps import FeatureExtractor

TIMESTEPS = (900, 700, 500, 300, 100, 1)


@torch.no_grad()
def balance_queries(
    unet: UNet2DConditionModel, latents: Tensor, prompt_embeds: Tensor, shares: Sequence[float]
) -> list[float]:
    """Scale every self-attention layer's queries; the U-Net computes what it did.

    Args:
        unet: changed in place.
        latents: (b, c, h, w) clean latents of pictures like those that it will see.
        prompt_embeds: (1, 77, d) of the empty prompt.
        shares: of every layer, the mean magnitude of its queries, of that of its outputs,
            afterwards.

    Returns:
        The factor of each layer.
    """
    layers = self_attention_layers(unet)
    conditioning = {"encoder_hidden_states": prompt_embeds.expand(len(latents), -1, -1)}
    extract = FeatureExtractor(partial(unet, **conditioning), layers, SelfAttentionTap(layers[-1]))
    sizes = torch.zeros(2, len(layers))
    for timestep in TIMESTEPS:
        seen = extract(latents, torch.tensor(timestep))
        sizes += torch.tensor([[f.query.abs().mean(), _size_of_out(f)] for f in seen]).T
    factors = (torch.tensor(shares) * sizes[1] / sizes[0]).tolist()
    for layer, factor in zip(layers, factors, strict=True):
        query: Any = layer.to_q
        key: Any = layer.to_k
        for weight in query.parameters():
            weight *= factor
        for weight in key.parameters():
            weight /= factor
    return factors


def _size_of_out(features: AttentionFeatures) -> Tensor:
    assert features.out is not None, "a whole pass keeps every output"
    return features.out.abs().mean()
