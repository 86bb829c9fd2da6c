"""Which region of a texture each token sees, and which tokens may see each other."""

from __future__ import annotations

from collections.abc import Sequence

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


def token_grid(size: tuple[int, int], num_tokens: int) -> tuple[int, int]:
    """The (rows, columns) of a layer with so many tokens, for latents of (height, width) cells.

    A U-Net halves its latents from level to level and rounds up.
    """
    height, width = size
    factor = 1
    while -(-height // factor) * -(-width // factor) > num_tokens:
        factor *= 2
    rows, columns = -(-height // factor), -(-width // factor)
    assert rows * columns == num_tokens, f"no grid of {height}x{width} has {num_tokens} tokens"
    return rows, columns


class Regions:
    """Which tokens of its texture each token of a batch may attend to: those of its own label.

    Args:
        source: (h, w) for each item, the labels of the texture, at any resolution.
        target: (h, w) for each item, the labels of the result, at any resolution.
        source_size: (height, width) of the texture's latents, in cells.
        target_size: (height, width) of the result's latents, in cells.
    """

    def __init__(
        self,
        source: Sequence[Int[Tensor, "hs ws"]],
        target: Sequence[Int[Tensor, "h w"]],
        *,
        source_size: tuple[int, int],
        target_size: tuple[int, int],
    ) -> None:
        self._maps = list(zip(source, target, strict=True))
        self._sizes = source_size, target_size
        self._matches: dict[tuple[int, int, int], list[tuple[Tensor, Tensor]]] = {}

    def matches(self, item: int, num_source: int, num_target: int) -> list[tuple[Tensor, Tensor]]:
        """For each label of an item's target: its tokens there, and those of its source.

        Raises:
            RequestError: the source has no token of a label on this layer.
        """
        asked = (item, num_source, num_target)
        if asked not in self._matches:
            self._matches[asked] = _matches(
                *(
                    token_labels(labels, token_grid(size, count))
                    for labels, size, count in zip(
                        self._maps[item], self._sizes, (num_source, num_target), strict=True
                    )
                )
            )
        return self._matches[asked]


def attention_by_label(
    query: Float[Tensor, "b heads n d"],
    key: Float[Tensor, "b heads m d"],
    value: Float[Tensor, "b heads m d"],
    regions: Regions,
) -> Float[Tensor, "b heads n d"]:
    """Attention in which every token sees the source tokens of its own label only.

    One call for each label on that label's tokens: exact, and without a mask of n x m.
    """
    out = torch.empty_like(query)
    for item in range(len(query)):
        for mine, theirs in regions.matches(item, key.shape[2], query.shape[2]):
            out[item][:, mine] = F.scaled_dot_product_attention(
                query[item][:, mine], key[item][:, theirs], value[item][:, theirs]
            )
    return out


def _matches(source: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    refuse_lacking(source.unique(), target.unique(), f" among {len(source)} tokens of a layer")
    return [
        ((target == label).nonzero().flatten(), (source == label).nonzero().flatten())
        for label in target.unique()
    ]


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
