"""The two losses of Attention Distillation, one value per item.

A loss is the mean over an item's heads, tokens and channels, summed over layers, in float32: it
does not depend on who else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.algorithm.labels import Regions, attention_by_label
from ad_lib.settings import Rope


@runtime_checkable
class Attend(Protocol):
    """A layer's output if the queries of the latents attended to the style's tokens."""

    def __call__(
        self, current: AttentionFeatures, style: AttentionFeatures
    ) -> Float[Tensor, "b heads tokens d"]: ...


@torch.no_grad()
def distilled_attention(
    current: AttentionFeatures,
    style: AttentionFeatures,
    *,
    attn_scale: float = 1.0,
    regions: Regions | None = None,
    rope: Rope = "shared",
) -> Float[Tensor, "b heads tokens d"]:
    """Attention of the latents' queries to the style's tokens: a target, so without a graph.

    Args:
        current: features of the latents being optimised.
        style: features of each item's styles.
        attn_scale: factor on the query.
        regions: lets tokens attend to those of their own label only.
        rope: where the style's tokens lie for the latents' queries, in networks with rotary
            positions: at the same places, at no places, or beside the picture.
    """
    query, key = placed(current, style, rope)
    query = attn_scale * query
    if regions is None:
        return F.scaled_dot_product_attention(query, key, style.value, attn_mask=style.bias)
    return attention_by_label(query, key, style.value, regions)


def placed(
    current: AttentionFeatures, style: AttentionFeatures, rope: Rope
) -> tuple[Float[Tensor, "b heads n d"], Float[Tensor, "b heads m d"]]:
    """The latents' queries and the style's keys, each turned by the place of its token."""
    if rope == "none" or current.positions is None or style.positions is None:
        return current.query, style.key
    theirs = style.positions
    if rope == "shifted":
        theirs = theirs.beside(current.positions)
    return current.positions.rotary(current.query), theirs.rotary(style.key)


def attention_distillation_loss(
    current: Sequence[AttentionFeatures],
    style: Sequence[AttentionFeatures],
    attend: Attend = distilled_attention,
) -> Float[Tensor, " b"]:
    """L1 distance from each layer's output to what the style's keys and values would give.

    Args:
        current: features of the latents being optimised; gradients flow through `out` only.
        style: features of each item's styles, several read as one long token sequence.
        attend: how the queries attend to them.

    Raises:
        ValueError: the two have different numbers of layers.

    Reference: Zhou et al. 2025 (arXiv:2502.20235), attention distillation loss.
    """
    return _sum_of_layers(
        _mean_absolute(mine.out, attend(mine, theirs))
        for mine, theirs in zip(current, style, strict=True)
    )


def content_loss(
    current: Sequence[AttentionFeatures], content: Sequence[AttentionFeatures]
) -> Float[Tensor, " b"]:
    """L1 distance between the queries of the latents and those of the content.

    Args:
        current: features of the latents being optimised; gradients flow through `query`.
        content: features of each item's content image, of the same size as the latents.

    Raises:
        ValueError: the two have different numbers of layers.

    Reference: Zhou et al. 2025 (arXiv:2502.20235), content loss.
    """
    return _sum_of_layers(
        _mean_absolute(mine.query, theirs.query)
        for mine, theirs in zip(current, content, strict=True)
    )


def _mean_absolute(values: Tensor | None, target: Tensor) -> Float[Tensor, " b"]:
    assert values is not None, "features of the optimised latents must include the output"
    return (values.float() - target.float()).abs().flatten(1).mean(1)


def _sum_of_layers(losses: object) -> Float[Tensor, " b"]:
    return torch.stack(list(losses)).sum(0)  # type: ignore[call-overload]
