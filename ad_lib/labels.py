"""Label maps: which region of a texture each pixel belongs to, and each token that sees it.

Every colour of a mask is a label; nothing is interpolated, so no label appears that nobody drew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ad_lib.errors import RequestError
from ad_lib.requests import MAX_LABELS

FINEST_GRIDS = (8, 16)
"""Pixels per token on the grids of the published layers; a region must not vanish on them."""


def label_map(mask: Image.Image) -> Int[Tensor, "h w"]:
    """The label of every pixel: its colour as one number, 0xRRGGBB."""
    red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB"), dtype=np.int64), -1, 0)
    return torch.from_numpy((red << 16) + (green << 8) + blue)


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
    _refuse_lacking(source.unique(), target.unique(), f" among {len(source)} tokens of a layer")
    return [
        ((target == label).nonzero().flatten(), (source == label).nonzero().flatten())
        for label in target.unique()
    ]


def check_labels(source: Image.Image, target: Image.Image) -> None:
    """Refuses a target whose labels the source lacks.

    Args:
        source: the texture's mask, at the size at which the texture is worked on.
        target: the result's mask, at the size of the result.

    Raises:
        RequestError: a label is only in the target, or vanishes from the source on a token grid;
            or the masks have so many colours that they are no label maps.
    """
    maps = {"source_mask": label_map(source), "target_mask": label_map(target)}
    for name, labels in maps.items():
        count = len(labels.unique())
        if count > MAX_LABELS:
            raise RequestError(
                f"{name} has {count} colours, and each is a label (at most {MAX_LABELS}): save it "
                "with flat colours, without soft edges or JPEG"
            )
    _refuse_lacking(maps["source_mask"].unique(), maps["target_mask"].unique(), "")
    for factor in FINEST_GRIDS:
        seen = {
            name: token_labels(
                labels, (-(-labels.shape[0] // factor), -(-labels.shape[1] // factor))
            )
            for name, labels in maps.items()
        }
        where = f" at one token per {factor} pixels"
        _refuse_lacking(seen["source_mask"].unique(), seen["target_mask"].unique(), where)


def _refuse_lacking(source: Tensor, target: Tensor, where: str) -> None:
    lacking = target[~torch.isin(target, source)]
    if len(lacking):
        named = ", ".join(f"#{int(label):06x}" for label in lacking[:5])
        raise RequestError(
            f"the target_mask has the label(s) {named}, which the source_mask lacks{where}; it has "
            f"{', '.join(f'#{int(label):06x}' for label in source[:8])}: paint the region in both, "
            "larger if it is small"
        )
