"""How are windows cut out of a picture that may continue on its opposite side, and added to it?

Every size and place is a number that the host knows, so nothing is copied to the device.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor


def cut(
    picture: Float[Tensor, "b c h w"], top: int, left: int, height: int, width: int
) -> Float[Tensor, "b c height width"]:
    """The window from (top, left) on; behind an edge it continues at the opposite one."""
    return _cut_along(_cut_along(picture, 2, top, height), 3, left, width).contiguous()


def add(
    canvas: Float[Tensor, "b c h w"], window: Float[Tensor, "*b c _ _"], top: int, left: int
) -> None:
    """Adds a window to the canvas from (top, left) on; behind an edge as in `cut`."""
    for row, y, rows in _runs(top, window.shape[-2], canvas.shape[2]):
        for column, x, columns in _runs(left, window.shape[-1], canvas.shape[3]):
            part = window[..., row : row + rows, column : column + columns]
            canvas[:, :, y : y + rows, x : x + columns] += part


def _cut_along(picture: Tensor, axis: int, start: int, length: int) -> Tensor:
    parts = [
        picture.narrow(axis, place, run)
        for _, place, run in _runs(start, length, picture.shape[axis])
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def _runs(start: int, length: int, size: int) -> Iterator[tuple[int, int, int]]:
    """(offset in the window, place on the axis, length) of the pieces that do not cross the end."""
    offset = 0
    while offset < length:
        place = (start + offset) % size
        run = min(length - offset, size - place)
        yield offset, place, run
        offset += run
