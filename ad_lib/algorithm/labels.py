"""Which label has each token, and how does attention stay within a label?

The labels of a token grid are taken from pixels without interpolation: no new label appears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import zip_longest
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from ad_lib.errors import RequestError


def token_labels(labels: Int[Tensor, "h w"], grid: tuple[int, int]) -> Int[Tensor, " tokens"]:
    """The label under each token of a (rows, columns) grid: of the pixel at its upper left corner.

    Row i of n looks at pixel floor(i H / n), as the published code's nearest resize does.
    """
    rows, columns = (
        torch.arange(count, device=labels.device) * side // count
        for count, side in zip(grid, labels.shape, strict=True)
    )
    return labels[rows][:, columns].flatten()


TokenGrids = Callable[[tuple[int, int]], Iterable[tuple[int, int]]]
"""From latents of (height, width) cells to the (rows, columns) of tokens on every level."""


class Regions:
    """Which tokens of its texture each token of a batch may attend to: those of its own label.

    Everything is looked up when it is made, for every level: what `attention_by_label` needs
    lies on the device, and numbers of tokens are known to the host.

    Args:
        source: (h, w) for each item, the labels of the texture, at any resolution, on the CPU.
        target: (h, w) for each item, the labels of the result, at any resolution, on the CPU.
        source_size: (height, width) of the texture's latents, in cells.
        target_size: (height, width) of the result's latents, in cells.
        token_grids: of the network.
        device: of the network.
    """

    def __init__(
        self,
        source: Sequence[Int[Tensor, "hs ws"]],
        target: Sequence[Int[Tensor, "h w"]],
        *,
        source_size: tuple[int, int],
        target_size: tuple[int, int],
        token_grids: TokenGrids,
        device: torch.device | str = "cpu",
    ) -> None:
        maps = list(zip(source, target, strict=True))
        self._levels = {
            (prod(theirs), prod(mine)): [
                _sorted(token_labels(labels, theirs), token_labels(wanted, mine), device)
                for labels, wanted in maps
            ]
            for theirs, mine in _levels(token_grids(source_size), token_grids(target_size))
        }

    def of_items(self, rows: Sequence[int]) -> Regions:
        """The regions of some items."""
        chosen = copy(self)
        chosen._levels = {
            size: [level[row] for row in rows] for size, level in self._levels.items()
        }
        return chosen

    def of_item(self, item: int, num_source: int, num_target: int) -> SortedTokens:
        """The tokens of an item on the level of so many, sorted by label.

        Raises:
            RequestError: the source has no token of a label on this level.
            ValueError: no level has so many tokens.
        """
        level = self._levels.get((num_source, num_target))
        if level is None:
            raise ValueError(
                f"no level has {num_source} tokens of the texture and {num_target} of the result; "
                f"there are {list(self._levels)}"
            )
        tokens = level[item]
        if isinstance(tokens, RequestError):
            raise tokens
        return tokens


@dataclass(frozen=True)
class SortedTokens:
    """The tokens of one item on one level, those of a label side by side.

    Attributes:
        target: the result's tokens in that order.
        back: where in that order each of the result's tokens stands.
        source: the texture's tokens of the same labels, in the same order.
        target_sizes, source_sizes: of each label, how many tokens there are.
    """

    target: Int[Tensor, " n"]
    back: Int[Tensor, " n"]
    source: Int[Tensor, " m"]
    target_sizes: list[int]
    source_sizes: list[int]


def attention_by_label(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads m d"],
    value: Float[Tensor, "b heads m d"],
    regions: Regions,
) -> Float[Tensor, "b heads n d"]:
    """Attention in which every token sees the source tokens of its own label only.

    One call for each label on that label's tokens: exact, and without a mask of n x m. The calls
    get four dimensions, as the fused kernels ask for.
    """
    items = []
    for item in range(len(query)):
        one = slice(item, item + 1)
        tokens = regions.of_item(item, key.shape[2], query.shape[2])
        queries = query[one].index_select(2, tokens.target).split(tokens.target_sizes, 2)
        keys, values = (
            of[one].index_select(2, tokens.source).split(tokens.source_sizes, 2)
            for of in (key, value)
        )
        attended = map(F.scaled_dot_product_attention, queries, keys, values)
        items.append(torch.cat(list(attended), 2).index_select(2, tokens.back))
    return torch.cat(items)


def _levels(
    source: Iterable[tuple[int, int]], target: Iterable[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """The grids of both on every level; the smaller one stays at one token."""
    return zip_longest(source, target, fillvalue=(1, 1))


def _sorted(
    source: Int[Tensor, " m"], target: Int[Tensor, " n"], device: torch.device | str
) -> SortedTokens | RequestError:
    """The tokens by label, or why not: refused only where a layer of that level is used."""
    labels, target_sizes = target.unique(return_counts=True)
    try:
        refuse_lacking(source.unique(), labels, f" among {len(source)} tokens of a layer")
    except RequestError as error:
        return error
    by_label = source.argsort(stable=True)
    used = by_label[torch.isin(source[by_label], labels)]
    _, source_sizes = source[used].unique(return_counts=True)
    order = target.argsort(stable=True)
    return SortedTokens(
        target=order.to(device),
        back=order.argsort().to(device),
        source=used.to(device),
        target_sizes=target_sizes.tolist(),
        source_sizes=source_sizes.tolist(),
    )


def refuse_lacking(source: Tensor, target: Tensor, where: str) -> None:
    """Refuses labels of a target that its source lacks; `where` says on what grid.

    Raises:
        RequestError: there are some; the message names them.
    """
    lacking = target[~torch.isin(target, source)]
    if len(lacking):
        named = ", ".join(f"#{int(label):06x}" for label in lacking[:5])
        raise RequestError(
            f"the target_mask has the label(s) {named}, which the source_mask lacks{where}; it has "
            f"{', '.join(f'#{int(label):06x}' for label in source[:8])}: paint the region in both, "
            "larger if it is small"
        )
