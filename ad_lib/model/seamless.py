"""How do convolutions continue at the opposite side of a picture?

The networks are changed inside a block only; afterwards they are exactly as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ad_lib.pictures.tensors import bands
from ad_lib.settings import Seamless


def wrapped_axes(axes: Seamless) -> tuple[bool, bool]:
    """Whether the (rows, columns) continue at the opposite side; x lies along the columns."""
    return axes in ("y", "both"), axes in ("x", "both")


def cut_where_calm(images: Float[Tensor, "b 3 h w"], axes: Seamless) -> Float[Tensor, "b 3 h w"]:
    """Shifts seamless pictures, in place: borders come where neighbouring pixels differ least.

    A picture that continues on its opposite side may be cut anywhere; a border through a strong
    edge of the texture would look like a seam, and a codec would make it one.
    """
    for axis, wraps in zip((2, 3), wrapped_axes(axes), strict=True):
        if wraps:
            starts = _changes(images, axis).argmin(1).tolist()
            for image, start in zip(images, starts, strict=True):
                _roll(image, axis - 1, -start)
    return images


def _changes(images: Tensor, axis: int) -> Float[Tensor, "b side"]:
    """How far each row or column is on average from the one before it."""
    side, changes = images.shape[axis], []
    before = images.narrow(axis, side - 1, 1)
    for band in bands(side):
        here = images.narrow(axis, band.start, band.stop - band.start)
        shifted = torch.cat([before, here.narrow(axis, 0, here.shape[axis] - 1)], axis)
        changes.append((here - shifted).abs().mean((1, 5 - axis)))
        before = here.narrow(axis, here.shape[axis] - 1, 1)
    return torch.cat(changes, 1)


def _roll(image: Float[Tensor, "3 h w"], axis: int, shift: int) -> None:
    """Rolls a picture along an axis, in place."""
    across = 3 - axis
    for band in bands(image.shape[across]):
        part = image.narrow(across, band.start, band.stop - band.start)
        part.copy_(part.roll(shift, axis))


@contextmanager
def seamless(*networks: nn.Module, axes: Seamless) -> Iterator[None]:
    """Within it every convolution of the networks pads from the opposite side of the picture.

    Along the other axis it goes on padding with zeros. Convolutions that do not pad are left
    alone, so an autoencoder's encoder keeps the zeros that it adds itself before it halves the
    picture. Afterwards, also after an exception, the networks are exactly as they were; contexts
    may be nested, and then wrap along the axes of either. Not for networks that another thread is
    running.

    Args:
        networks: U-Net, autoencoder, ControlNet; the picture must be whole in them, not a tile.
        axes: `x` joins left and right, `y` top and bottom.

    Raises:
        ValueError: a convolution pads with something else than zeros, or by name.

    Reference: tiling of the published implementation of Zhou et al. 2025 (arXiv:2502.20235).
    """
    with ExitStack() as wrapped:
        for network in networks:
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    wrapped.enter_context(_wrapping(module, wrapped_axes(axes)))
        yield


@contextmanager
def _wrapping(convolution: nn.Conv2d, wrap: tuple[bool, bool]) -> Iterator[None]:
    """Replaces a convolution's own padding, along wrapped axes, by a hook that pads before it.

    Both change together: compiled code notices a changed padding, but not a changed hook.
    """
    padding = _zero_padding(convolution) if any(wrap) else (0, 0)
    rows, columns = (side if wraps else 0 for side, wraps in zip(padding, wrap, strict=True))
    if not (rows or columns):
        yield
        return

    def pad(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return wrap_around(inputs[0], rows, columns), *inputs[1:]

    hook = convolution.register_forward_pre_hook(pad)
    convolution.padding = (padding[0] - rows, padding[1] - columns)
    try:
        yield
    finally:
        hook.remove()
        convolution.padding = padding


def wrap_around(
    pixels: Float[Tensor, "b c h w"], rows: int, columns: int
) -> Float[Tensor, "b c hp wp"]:
    """Adds rows above and below, and columns on both sides, from the opposite side.

    In contrast to `F.pad` it keeps the memory format, channels last too.
    """
    for axis, width in ((2, rows), (3, columns)):
        if width:
            first = pixels.narrow(axis, 0, width)
            last = pixels.narrow(axis, pixels.shape[axis] - width, width)
            pixels = torch.cat([last, pixels, first], axis)
    return pixels


def _zero_padding(convolution: nn.Conv2d) -> tuple[int, int]:
    padding = convolution.padding
    if isinstance(padding, str) or convolution.padding_mode != "zeros":
        raise ValueError(
            "seamless needs convolutions that pad a number of zeros; got "
            f"padding={padding!r}, padding_mode={convolution.padding_mode!r}: give axes='none', or "
            "another network"
        )
    return padding[0], padding[1]
