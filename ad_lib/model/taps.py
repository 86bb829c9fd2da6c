"""What the self-attention layers of a frozen U-Net see: query, key, value and output per layer.

Invariant: the U-Net is left as it was found, and nothing behind the last wanted layer is run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.features import AttentionFeatures


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
