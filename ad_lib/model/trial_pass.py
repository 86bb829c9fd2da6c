"""How much memory does a pass through a network take for each latent cell? One pass measures it."""

from __future__ import annotations

import torch
from torch import Tensor

from ad_lib.algorithm.features import ExtractFeatures
from ad_lib.model.room import CellBytes

_SIDE = 16
"""Latent cells; at other sides a cell takes up to 5 % less."""


def cell_bytes(
    extract_features: ExtractFeatures, network: torch.nn.Module, channels: int
) -> CellBytes:
    """What a network takes for each cell, from one pass over a small picture.

    Args:
        extract_features: the frozen network.
        network: the same, as a module: its weights are no part of a pass.
        channels: of its latents.
    """
    weights = {one.untyped_storage().data_ptr() for one in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    device = next(network.parameters()).device
    latents = torch.zeros(1, channels, _SIDE, _SIDE, device=device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layers = extract_features(latents.requires_grad_(), torch.tensor(500, device=device))
    held = sum(one.untyped_storage().nbytes() for at, one in kept.items() if at not in weights)
    features = sum(one.nbytes for layer in layers for one in (layer.key, layer.value))
    return CellBytes(held / _SIDE**2, features / _SIDE**2)
