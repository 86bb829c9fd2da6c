"""Which self-attention layers has a U-Net, and how are features recorded and injected there?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.model.taps import Tap


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


def halved_grids(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """The (rows, columns) of every level of a U-Net, for latents of (height, width) cells.

    A U-Net halves its latents from level to level and rounds up; the last grid is one token.
    """
    rows, columns = size
    while rows * columns > 1:
        yield rows, columns
        rows, columns = -(-rows // 2), -(-columns // 2)
    yield rows, columns


class SelfAttentionTap(Tap):
    """The attention processor of `attn1` layers, which records all of their tokens."""

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
        if self.sink is not None and self.is_unread(attn):
            self.write(attn, AttentionFeatures(query, key, value, None))
        out = self._attended(attn, AttentionFeatures(query, key, value, None))
        if self.sink is not None and not self.is_unread(attn):
            self.write(attn, AttentionFeatures(query, key, value, out))
        merged = out.transpose(1, 2).flatten(2)
        project, dropout = attn.to_out
        return dropout(project(merged))

    def _attended(self, attn: Any, own: AttentionFeatures) -> Tensor:
        """(b, heads, tokens, d) with what is injected into the layer, or its own."""
        used = own if self.inject is None else self.inject[attn](own)
        return F.scaled_dot_product_attention(used.query, used.key, used.value, attn_mask=used.bias)


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)
