"""What does cross-attention cost where the prompt is always the same one?

Keys and values follow from the prompt alone, so feature passes need them computed only once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.model.taps import Tap


@dataclass(frozen=True)
class KnownPrompt:
    """An attention processor of an `attn2` layer that knows the prompt of the feature passes.

    Attributes:
        key, value: of the prompt's tokens in this layer.
        tap: says which passes are for features; in others the prompt is what the pass is given.
        otherwise: the layer's own processor.
    """

    key: Float[Tensor, "1 heads tokens d"]
    value: Float[Tensor, "1 heads tokens d"]
    tap: Tap
    otherwise: Any

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **named: Any) -> Tensor:
        """What the layer's own processor gives."""
        if self.tap.sink is None:
            return self.otherwise(attn, hidden_states, *arguments, **named)
        query = attn.to_q(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        key, value = (one.expand(len(query), -1, -1, -1) for one in (self.key, self.value))
        out = F.scaled_dot_product_attention(query, key, value)
        project, dropout = attn.to_out
        return dropout(project(out.transpose(1, 2).flatten(2)))


@torch.no_grad()
def knowing_prompt(
    unet: UNet2DConditionModel, prompt_embeds: Float[Tensor, "1 tokens d"], tap: Tap
) -> Mapping[Attention, KnownPrompt]:
    """A processor for every cross-attention layer of a U-Net."""

    def heads(attn: Attention, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

    layers: list[Any] = [
        module
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and name.endswith("attn2")
    ]
    return {
        attn: KnownPrompt(
            heads(attn, attn.to_k(prompt_embeds)),
            heads(attn, attn.to_v(prompt_embeds)),
            tap,
            attn.processor,
        )
        for attn in layers
    }
