"""What do self-attention layers compute from latents, and which references has each item?

A batch holds each distinct reference once, and its features are computed once a timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.rotary import Positions


@dataclass(frozen=True)
class AttentionFeatures:
    """One self-attention layer, after the head split.

    Attributes:
        query, key, value: (b, heads, tokens, head_dim).
        out: the attention's output before the heads are merged, same shape; None where the pass
            stopped at the projections.
        bias: added to the logits of each key: the logarithm of its token's weight; None is zero.
        positions: where the tokens lie, for networks that turn queries and keys by it; `query` and
            `key` are as they are before that.
    """

    query: Float[Tensor, "b heads tokens d"]
    key: Float[Tensor, "b heads tokens d"]
    value: Float[Tensor, "b heads tokens d"]
    out: Float[Tensor, "b heads tokens d"] | None
    bias: Float[Tensor, "1 tokens"] | None = None
    positions: Positions | None = None

    def expanded(self, batch: int) -> AttentionFeatures:
        """The same for each of `batch` items, from a batch of one; nothing is copied."""
        query, key, value = (
            one.expand(batch, -1, -1, -1) for one in (self.query, self.key, self.value)
        )
        return AttentionFeatures(query, key, value, None, self.bias)

    def of_item(self, item: int) -> AttentionFeatures:
        """The features of one item of the batch, as a batch of one."""
        one = slice(item, item + 1)
        out = None if self.out is None else self.out[one]
        return AttentionFeatures(
            self.query[one], self.key[one], self.value[one], out, self.bias, self.positions
        )


@runtime_checkable
class ExtractFeatures(Protocol):
    """Features of latents at a timestep, one entry per layer that the loss uses."""

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, *, projections_only: bool = False
    ) -> Sequence[AttentionFeatures]: ...


@dataclass(frozen=True)
class References:
    """The reference latents of a batch, each held once, and which item uses which.

    Attributes:
        latents: every distinct reference once, of any sizes.
        index: for each item the references that it uses, read as one token sequence.
        weights: how often each of an item's references counts; None counts each once.
    """

    latents: Sequence[Float[Tensor, "c h w"]]
    index: Sequence[Sequence[int]]
    weights: Sequence[float] | None = None

    def repeated(self, batch: int) -> References:
        """Those of the first item, for each of `batch` items."""
        return References(self.latents, [self.index[0]] * batch, self.weights)

    def of_item(self, item: int) -> list[Float[Tensor, "c h w"]]:
        """The references of one item."""
        return [self.latents[row] for row in self.index[item]]

    def of_items(self, rows: Sequence[int]) -> References:
        """The references of some items."""
        return References(self.latents, [self.index[row] for row in rows], self.weights)

    @property
    def have_one_size(self) -> bool:
        """Whether they are all of one size, and every item has as many."""
        return len({one.shape for one in self.latents}) == len({*map(len, self.index)}) == 1

    def one_per_item(self) -> Float[Tensor, "b c h w"]:
        """The references of items that have one each, all of one size."""
        return torch.stack([self.latents[row] for (row,) in self.index])

    def changed(self, change: Callable[[Float[Tensor, "b c h w"]], Tensor]) -> References:
        """With other latents; those of one size are changed together."""
        latents = list(self.latents)
        for rows in self._rows_by_size():
            changed = change(torch.stack([self.latents[row] for row in rows]))
            for row, one in zip(rows, changed, strict=True):
                latents[row] = one
        return References(latents, self.index, self.weights)

    @torch.no_grad()
    def features(self, extract: ExtractFeatures, timestep: Tensor) -> list[AttentionFeatures]:
        """Extracts each distinct reference once, then gives every item its own."""
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
        kinds = list(dict.fromkeys(map(tuple, self.index)))

        def gather(name: str) -> Tensor:
            tokens = {
                kind: torch.cat([getattr(layer[row], name) for row in kind], 2) for kind in kinds
            }
            if len(kinds) == 1:  # nothing is copied
                return tokens[kinds[0]].expand(len(self.index), -1, -1, -1)
            return torch.cat([tokens[tuple(item)] for item in self.index])

        key = gather("key")
        return AttentionFeatures(
            gather("query"),
            key,
            gather("value"),
            None,
            self._bias(layer, key),
            self._positions(layer),
        )

    def _positions(self, layer: Mapping[int, AttentionFeatures]) -> Positions | None:
        """Each reference's tokens lie where they lie in their own picture."""
        found = [layer[row].positions for row in self.index[0]]
        places = [one for one in found if one is not None]
        return Positions.side_by_side(places) if places else None

    def _bias(self, layer: Mapping[int, AttentionFeatures], key: Tensor) -> Tensor | None:
        """The logarithm of each token's weight, so that one of weight 2 counts as two tokens."""
        if self.weights is None:
            return None
        tokens = [
            key.new_full((1, layer[row].key.shape[2]), log(weight) if weight else -inf)
            for row, weight in zip(self.index[0], self.weights, strict=True)
        ]  # filled on the device: nothing is copied from the host
        return torch.cat(tokens, 1)
