"""How surely do the queries of a picture find their like in the style?

A query looks at some tokens of the style, and those look back at the picture: what stands there is
compared with what the query would find if the picture itself were the style. So spread and one-way
matches count, but neither other colours (only the picture's own values are compared) nor repetition
(any place that looks alike will do). Invariant: nothing waits for the device, and no attention is
asked for with more than `MAX_QUERIES` queries, so that no matrix of all matches is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.features import AttentionFeatures
from ad_lib.algorithm.labels import Regions
from ad_lib.algorithm.losses import placed
from ad_lib.settings import Rope

TIMESTEP = 101
"""The noise level that the network is told, of 1000; the latents are clean, as in Algorithm 1.

Of 21, 101, 301 and 601 it told known good pairs from bad ones best, on pairs kept for choosing.
"""

MAX_QUERIES = 1024


@torch.no_grad()
def match_uncertainty(
    current: Sequence[AttentionFeatures],
    style: Sequence[AttentionFeatures],
    *,
    attn_scale: float = 1.0,
    regions: Regions | None = None,
    rope: Rope = "shared",
) -> Float[Tensor, " b"]:
    """0 where every match goes both ways to the same look, 1 where matches say nothing.

    With A = softmax(Q K_s'), B = softmax(Q_s K') and S = softmax(Q K'), a query's round trip is
    A B V, and S S V if the picture were its own style. The figure is one minus the cosine of the
    two, each less its mean over the queries, at least 0 and at most 1; a mean over queries, heads
    and layers. It is 0 for the picture itself, for its tokens in any other order, and for the
    same style listed twice; it is 1 for uniform attention.

    Args:
        current: features of the picture whose queries look for matches.
        style: features of each item's styles, as `distilled_attention` takes them.
        attn_scale: factor on the queries.
        regions: lets tokens match those of their own label only.
        rope: see `distilled_attention`.

    Raises:
        ValueError: the two have different numbers of layers.
    """
    layers = []
    for mine, theirs in zip(current, style, strict=True):
        items = [
            _of_item(mine.of_item(item), theirs.of_item(item), attn_scale, rope, groups)
            for item, groups in enumerate(_groups(mine, theirs, regions))
        ]
        layers.append(torch.stack(items))
    return torch.stack(layers).mean(0)


_Groups = list[tuple[Tensor, Tensor]] | None
"""Tokens of the picture and of the style that may match each other; None is all of them."""


def _groups(
    mine: AttentionFeatures, theirs: AttentionFeatures, regions: Regions | None
) -> Iterator[_Groups]:
    for item in range(len(mine.query)):
        if regions is None:
            yield None
            continue
        tokens = regions.of_item(item, theirs.key.shape[2], mine.query.shape[2])
        targets = tokens.target.split(tokens.target_sizes)
        yield list(zip(targets, tokens.source.split(tokens.source_sizes), strict=True))


def _of_item(
    mine: AttentionFeatures,
    theirs: AttentionFeatures,
    attn_scale: float,
    rope: Rope,
    groups: _Groups,
) -> Float[Tensor, ""]:
    there, back = placed(mine, theirs, rope), placed(theirs, mine, rope)
    own = placed(mine, mine, rope)
    parts = []
    for target, source in groups or [(slice(None), slice(None))]:
        value = mine.value[:, :, target]
        bias = None if theirs.bias is None else theirs.bias[:, source]
        to, home, stay = (
            (attn_scale * query[:, :, rows], key[:, :, columns])
            for (query, key), rows, columns in (
                (there, target, source),
                (back, source, target),
                (own, target, target),
            )
        )
        round_trip = _attention(*to, _attention(*home, value), bias)
        at_home = _attention(*stay, _attention(*stay, value))
        parts.append((round_trip.float(), at_home.float()))
    found, expected = (_centred(torch.cat(part, 2)) for part in zip(*parts, strict=True))
    return (1 - F.cosine_similarity(found, expected, dim=-1)).clamp(0, 1).mean()


def _centred(values: Float[Tensor, "1 heads n d"]) -> Float[Tensor, "1 heads n d"]:
    return values - values.mean(2, keepdim=True)


def _attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    parts = query.split(MAX_QUERIES, 2)
    attended = [F.scaled_dot_product_attention(part, key, value, attn_mask=bias) for part in parts]
    return torch.cat(attended, 2)
