"""How are the features of the image's tokens recorded in the joint attention of FLUX.2?

A layer attends over the tokens of the prompt and of the image, the prompt's first. Invariant:
features hold the image's tokens alone, and the network computes what it does without taps.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux2 import (
    Flux2Attention,
    Flux2ParallelSelfAttention,
    Flux2Transformer2DModel,
)
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.algorithm.rotary import Positions, Rotary
from ad_lib.model.taps import Tap


def joint_attention_layers(
    transformer: Flux2Transformer2DModel,
) -> list[Flux2Attention | Flux2ParallelSelfAttention]:
    """Its attention modules in execution order: of two streams of tokens, then of one."""
    blocks: Any = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    return [block.attn for block in blocks]


class JointAttentionTap(Tap):
    """The attention processor of both kinds of layers, which records the image's tokens.

    Queries and keys are written down as they are before their rotary positions; `out` is what the
    image's tokens would be if they attended to the image alone, at their own positions.

    Args:
        last: the last of the layers.
        picture_width: (height, width) in cells -> a turn by as many columns.
        ends_early: stop the network's pass behind the last layer.
    """

    def __init__(
        self, last: Any, picture_width: Callable[[int, int], Rotary], *, ends_early: bool
    ) -> None:
        super().__init__(last, ends_early=ends_early)
        self._picture_width = picture_width
        self._size = (0, 0)

    def begin(self, latents: Tensor) -> None:
        """A cell is a token, and the image's tokens are the last ones of a layer."""
        height, width = latents.shape[-2:]
        self._size = (height, width)

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **named: Any) -> Any:
        """The arguments are text (of two streams only), mask and positions."""
        *text, _, positions = arguments
        if text:
            return self._two_streams(attn, hidden_states, text[0], Rotary(*positions))
        return self._one_stream(attn, hidden_states, Rotary(*positions))

    def _two_streams(
        self, attn: Flux2Attention, image: Tensor, text: Tensor, rotary: Rotary
    ) -> tuple[Tensor, Tensor]:
        """Image and text, each projected by its own matrices, attend together."""

        def joined(of_text: Tensor, of_image: Tensor) -> Tensor:
            return torch.cat([of_text, of_image], 2)

        query = joined(
            attn.norm_added_q(_heads(attn, attn.add_q_proj(text))),
            attn.norm_q(_heads(attn, attn.to_q(image))),
        )
        key = joined(
            attn.norm_added_k(_heads(attn, attn.add_k_proj(text))),
            attn.norm_k(_heads(attn, attn.to_k(image))),
        )
        value = joined(_heads(attn, attn.add_v_proj(text)), _heads(attn, attn.to_v(image)))
        self._write(attn, query, key, value, rotary)
        out = _attended(query, key, value, rotary)
        of_text, of_image = out[:, : text.shape[1]], out[:, text.shape[1] :]
        project, dropout = attn.to_out
        return dropout(project(of_image)), attn.to_add_out(of_text)

    def _one_stream(
        self, attn: Flux2ParallelSelfAttention, tokens: Tensor, rotary: Rotary
    ) -> Tensor:
        """All tokens attend together, beside the layer's feed-forward part."""
        sizes = (attn.inner_dim,) * 3 + (attn.mlp_hidden_dim * attn.mlp_mult_factor,)
        query, key, value, inner = attn.to_qkv_mlp_proj(tokens).split(sizes, -1)
        query = attn.norm_q(_heads(attn, query))
        key = attn.norm_k(_heads(attn, key))
        value = _heads(attn, value)
        self._write(attn, query, key, value, rotary)
        out = _attended(query, key, value, rotary)
        return attn.to_out(torch.cat([out, attn.mlp_act_fn(inner)], -1))

    def _write(self, attn: Any, query: Tensor, key: Tensor, value: Tensor, rotary: Rotary) -> None:
        if self.sink is None:
            return
        count = prod(self._size)
        query, key, value = (one[:, :, -count:] for one in (query, key, value))
        own = Rotary(rotary.cosine[-count:], rotary.sine[-count:])
        out = None
        if not self.is_unread(attn):
            out = F.scaled_dot_product_attention(own(query), own(key), value)
        positions = Positions(own, self._picture_width(*self._size))
        self.write(attn, AttentionFeatures(query, key, value, out, positions=positions))


def _heads(attn: Any, tokens: Tensor) -> Tensor:
    """(b, heads, tokens, head_dim) of (b, tokens, heads * head_dim)."""
    return tokens.unflatten(-1, (-1, attn.head_dim)).transpose(1, 2)


def _attended(query: Tensor, key: Tensor, value: Tensor, rotary: Rotary) -> Tensor:
    """(b, tokens, heads * head_dim) what the layer's attention gives."""
    out = F.scaled_dot_product_attention(rotary(query), rotary(key), value)
    return out.transpose(1, 2).flatten(2)
