"""References as a step of fixed shapes takes them: which item uses which stands in a tensor.

A compiled step that knew it in Python would be compiled anew for every batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ad_lib.algorithm.features import AttentionFeatures, ExtractFeatures
from ad_lib.algorithm.rotary import Positions


@dataclass(frozen=True)
class StackedReferences:
    """References of one size; every item has as many.

    Attributes:
        latents: every distinct reference once.
        index: for each item the references that it uses.
        weights: how often each of an item's references counts; None counts each once.
    """

    latents: Float[Tensor, "n c h w"]
    index: Int[Tensor, "b k"]
    weights: Float[Tensor, " k"] | None = None

    def one_per_item(self) -> Float[Tensor, "b c h w"]:
        """The references of items that have one each."""
        return self.latents[self.index[:, 0]]

    @torch.no_grad()
    def features(self, extract: ExtractFeatures, timestep: Tensor) -> list[AttentionFeatures]:
        """As of `References`."""
        layers = extract(self.latents, timestep, projections_only=True)
        return [self._gathered(layer) for layer in layers]

    def _gathered(self, layer: AttentionFeatures) -> AttentionFeatures:
        def gather(tokens: Tensor) -> Tensor:
            of_items = tokens[self.index.flatten()].unflatten(0, self.index.shape)
            return of_items.transpose(1, 2).flatten(2, 3)  # (b, heads, k * tokens, d)

        num_references = self.index.shape[1]
        positions = layer.positions
        if positions is not None:
            positions = Positions.side_by_side([positions] * num_references)
        bias = None
        if self.weights is not None:
            logs = self.weights.to(layer.key.dtype).log()
            bias = logs.repeat_interleave(layer.key.shape[2])[None]
        return AttentionFeatures(
            gather(layer.query), gather(layer.key), gather(layer.value), None, bias, positions
        )
