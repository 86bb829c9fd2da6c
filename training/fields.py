"""Scalar fields on a square: what the procedural pictures are mixed from. Values lie in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating]


def coordinates(size: int) -> tuple[Field, Field]:
    """Row and column of each pixel, as fractions of the side."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    return np.broadcast_to(axis[:, None], (size, size)), np.broadcast_to(axis, (size, size))


def stretch(field: Field) -> Field:
    """Shift and scale to [0, 1]."""
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-6)).astype(np.float32)


def fractal(
    rng: np.random.Generator, size: int, slope: float = 1.0, stretch_x: float = 1.0
) -> Field:
    """Gaussian noise whose amplitude falls with frequency as f^-slope; wraps around.

    Natural images have a slope near 1. `stretch_x` above 1 draws the grain out along the rows.
    """
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None] * stretch_x
    frequency = np.hypot(fy, fx)
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) * frequency**-slope
    spectrum[0, 0] = 0.0
    field = np.fft.irfft2(spectrum, s=(size, size))
    return np.clip(0.5 + field / (5 * field.std() + 1e-9), 0, 1).astype(np.float32)


def perlin(rng: np.random.Generator, size: int, cells: int) -> Field:
    """Gradient noise with about `cells` bumps along each side (Perlin 1985, with the 2002 fade)."""
    angle = rng.uniform(0, 2 * np.pi, (cells + 1, cells + 1))
    y, x = (np.arange(size)[:, None] * cells / size, np.arange(size)[None] * cells / size)
    row, column = y.astype(int), x.astype(int)
    v, u = y - row, x - column

    def corner(dy: int, dx: int) -> NDArray[np.floating]:
        a = angle[row + dy, column + dx]
        return np.sin(a) * (v - dy) + np.cos(a) * (u - dx)

    def fade(t: NDArray[np.floating]) -> NDArray[np.floating]:
        return t**3 * (t * (6 * t - 15) + 10)

    top = corner(0, 0) + fade(u) * (corner(0, 1) - corner(0, 0))
    bottom = corner(1, 0) + fade(u) * (corner(1, 1) - corner(1, 0))
    return stretch(top + fade(v) * (bottom - top))


def worley(rng: np.random.Generator, size: int, count: int) -> tuple[Field, NDArray[np.int64]]:
    """Distance to the border between the cells of `count` points, and each pixel's cell."""
    y, x = coordinates(size)
    py, px = rng.random((2, count), dtype=np.float32)
    nearest = np.full((size, size), np.inf, np.float32)
    second, cell = nearest.copy(), np.zeros((size, size), np.int64)
    for index in range(count):
        distance = np.hypot(y - py[index], x - px[index])
        closer = distance < nearest
        second = np.where(closer, nearest, np.minimum(second, distance))
        nearest, cell = np.where(closer, distance, nearest), np.where(closer, index, cell)
    return stretch(second - nearest), cell


def sample(picture: NDArray[np.floating], y: Field, x: Field) -> NDArray[np.floating]:
    """Look `picture` up at fractional positions (in sides, wrapping), bilinearly."""
    size = picture.shape[0]
    y, x = (y * size - 0.5) % size, (x * size - 0.5) % size
    y0, x0 = y.astype(np.int64) % size, x.astype(np.int64) % size
    v, u = (y - np.floor(y)), (x - np.floor(x))
    if picture.ndim == 3:
        v, u = v[..., None], u[..., None]
    y1, x1 = (y0 + 1) % size, (x0 + 1) % size
    top = picture[y0, x0] * (1 - u) + picture[y0, x1] * u
    bottom = picture[y1, x0] * (1 - u) + picture[y1, x1] * u
    return (top * (1 - v) + bottom * v).astype(np.float32)
