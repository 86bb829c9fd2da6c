"""What the self-attention layers of a frozen U-Net see: query, key, value and output per layer.

Invariant: the U-Net is left as it was found, and nothing behind the last wanted layer is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AttentionFeatures:
    """One self-attention layer, after the head split.

    Attributes:
        query, key, value: (b, heads, tokens, head_dim).
        out: the attention's output before the heads are merged, same shape; None where the pass
            stopped at the projections.
    """

    query: Float[Tensor, "b heads tokens d"]
    key: Float[Tensor, "b heads tokens d"]
    value: Float[Tensor, "b heads tokens d"]
    out: Float[Tensor, "b heads tokens d"] | None
    bias: Float[Tensor, "1 tokens"] | None = None

    def of_item(self, item: int) -> AttentionFeatures:
        """What one item of the batch contributed, as a batch of one."""
        one = slice(item, item + 1)
        out = None if self.out is None else self.out[one]
        return AttentionFeatures(self.query[one], self.key[one], self.value[one], out, self.bias)


@runtime_checkable
class ExtractFeatures(Protocol):
    """Features of latents at a timestep, one entry per layer that the loss uses."""

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, *, projections_only: bool = False
    ) -> Sequence[AttentionFeatures]: ...


def self_attention_layers(unet: UNet2DConditionModel) -> list[Attention]:
    """The U-Net's self-attention modules in execution order: down, middle, up.

    (`named_modules()` lists the up blocks before the middle one.)
    """
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [
        module
        for block in blocks
        if block is not None
        for name, module in block.named_modules()
        if isinstance(module, Attention) and name.endswith("attn1")
    ]


def extract_features(
    unet: UNet2DConditionModel,
    layers: Sequence[Attention],
    latents: Float[Tensor, "b c h w"],
    timestep: Tensor,
    conditioning: Mapping[str, Any],
    *,
    projections_only: bool = False,
) -> list[AttentionFeatures]:
    """Runs the U-Net up to the last of `layers` and returns what each of them saw.

    Args:
        unet: the frozen network.
        layers: some of its self-attention modules, in execution order.
        latents: in the U-Net's dtype; gradients flow back to them.
        timestep: one timestep for the whole batch.
        conditioning: the U-Net's other arguments, `PromptEmbeds.conditioning(...)`.
        projections_only: skip the attention of the last layer, whose output nobody reads.
    """
    features: list[AttentionFeatures] = []
    with _tapped(layers, features, projections_only):
        try:
            unet(latents, timestep, **conditioning, return_dict=False)
        except _LastLayerReached:
            return features
    raise AssertionError("the U-Net never ran its last tapped layer")


class _LastLayerReached(Exception):
    """Unwinds the U-Net's forward pass once every wanted layer has been seen."""


@contextmanager
def _tapped(
    layers: Sequence[Attention], features: list[AttentionFeatures], projections_only: bool
) -> Iterator[None]:
    before = [layer.processor for layer in layers]
    for layer in layers:
        tap: Any = _Tap(features, layer is layers[-1], projections_only)
        layer.processor = tap
    try:
        yield
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.processor = processor


class _Tap:
    """An attention processor that writes down what passes through it."""

    def __init__(
        self, features: list[AttentionFeatures], is_last: bool, projections_only: bool
    ) -> None:
        self.features = features
        self.is_last = is_last
        self.stops_at_projections = is_last and projections_only

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        query, key, value = (
            _split_heads(projection(hidden_states), attn.heads)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        if self.stops_at_projections:
            self.features.append(AttentionFeatures(query, key, value, None))
            raise _LastLayerReached
        out = F.scaled_dot_product_attention(query, key, value)
        self.features.append(AttentionFeatures(query, key, value, out))
        if self.is_last:
            raise _LastLayerReached
        merged = out.transpose(1, 2).flatten(2)
        project, dropout = attn.to_out
        return dropout(project(merged))


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


@dataclass(frozen=True)
class References:
    """The reference latents of a batch, each held once, and who uses which.

    Attributes:
        latents: every distinct reference once, of any sizes.
        index: for each item the references that it uses, read as one token sequence.
        weights: how often each of an item's references counts; None counts each once.
    """

    latents: Sequence[Float[Tensor, "c h w"]]
    index: Sequence[Sequence[int]]
    weights: Sequence[float] | None = None

    def of_item(self, item: int) -> list[Float[Tensor, "c h w"]]:
        """The references of one item."""
        return [self.latents[row] for row in self.index[item]]

    def one_per_item(self) -> Float[Tensor, "b c h w"]:
        """The references of items that have one each, all of one size."""
        return torch.stack([self.latents[row] for (row,) in self.index])

    @torch.no_grad()
    def features(self, extract: ExtractFeatures, timestep: Tensor) -> list[AttentionFeatures]:
        """Extracts each distinct reference once, then hands every item its own."""
        seen: dict[int, list[AttentionFeatures]] = {}
        for rows in self._rows_by_size():
            latents = torch.stack([self.latents[row] for row in rows])
            layers = extract(latents, timestep, projections_only=True)
            for place, row in enumerate(rows):
                seen[row] = [layer.of_item(place) for layer in layers]
        num_layers = len(next(iter(seen.values())))
        return [self._gathered({row: seen[row][at] for row in seen}) for at in range(num_layers)]

    def _rows_by_size(self) -> list[list[int]]:
        groups: dict[torch.Size, list[int]] = {}
        for row in sorted({row for item in self.index for row in item}):
            groups.setdefault(self.latents[row].shape, []).append(row)
        return list(groups.values())

    def _gathered(self, layer: Mapping[int, AttentionFeatures]) -> AttentionFeatures:
        """One layer's tokens for every item, its references side by side."""

        def gather(name: str) -> Tensor:
            items = [
                torch.cat([getattr(layer[row], name) for row in item], 2) for item in self.index
            ]
            return torch.cat(items)

        key = gather("key")
        return AttentionFeatures(
            gather("query"), key, gather("value"), None, self._bias(layer, key)
        )

    def _bias(self, layer: Mapping[int, AttentionFeatures], key: Tensor) -> Tensor | None:
        """The logarithm of each token's weight, so that one of weight 2 counts as two tokens."""
        if self.weights is None:
            return None
        counts = [layer[row].key.shape[2] for row in self.index[0]]
        weights = key.new_tensor(self.weights).log()
        return weights.repeat_interleave(torch.tensor(counts, device=key.device))[None]
