"""Which labels does a mask have, and does the mask of the texture have them all?

Every colour of a mask is a label. Masks are resized without interpolation, so no new label appears.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from ad_lib.algorithm.labels import refuse_lacking, token_labels
from ad_lib.errors import RequestError
from ad_lib.pictures.images import MAX_LABELS


def label_map(mask: Image.Image) -> Int[Tensor, "h w"]:
    """The label of every pixel: its colour as one number, 0xRRGGBB."""
    red, green, blue = np.moveaxis(np.asarray(mask.convert("RGB"), dtype=np.int64), -1, 0)
    return torch.from_numpy((red << 16) + (green << 8) + blue)


def check_labels(source: Image.Image, target: Image.Image, pixels_per_token: Iterable[int]) -> None:
    """Refuses a target mask with a label that the source mask does not have.

    Args:
        source: the texture's mask, at the size at which the texture is worked on.
        target: the result's mask, at the size of the result.
        pixels_per_token: along one axis, in the layers that will see them; every label must have
            a token in each.

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
    refuse_lacking(maps["source_mask"].unique(), maps["target_mask"].unique(), "")
    for factor in pixels_per_token:
        seen = {
            name: token_labels(
                labels, (-(-labels.shape[0] // factor), -(-labels.shape[1] // factor))
            )
            for name, labels in maps.items()
        }
        where = f" at one token per {factor} pixels"
        refuse_lacking(seen["source_mask"].unique(), seen["target_mask"].unique(), where)
