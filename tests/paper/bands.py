"""How much coarse structure, fine structure and speckle has a picture? Written with numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def band_power(picture: Image.Image) -> dict[str, float]:
    """Logarithms of mean power, of the middle square.

    `coarse` are waves of red, green and blue from the whole side down to a sixteenth of it, `fine`
    those of eight pixels down to two. `speckle` are fine waves of the differences between the
    colours (red - green, yellow - blue), which textures have less of than noise does.
    """
    pixels = np.asarray(picture.convert("RGB"), dtype=np.float64).transpose(2, 0, 1) / 255
    red, green, blue = pixels
    opponent = np.stack([red - green, (red + green) / 2 - blue])
    side = min(pixels.shape[1:])
    fine = (side / 8, side / 2)
    return {
        "coarse": _log_power(pixels, (1, side / 16)),
        "fine": _log_power(pixels, fine),
        "speckle": _log_power(opponent, fine),
    }


def _log_power(channels: NDArray[np.float64], band: tuple[float, float]) -> float:
    """Of waves with so many cycles over the middle square, under a Hann window."""
    side = min(channels.shape[1:])
    top, left = ((length - side) // 2 for length in channels.shape[1:])
    square = channels[:, top : top + side, left : left + side]
    window = np.hanning(side)
    centred = square - square.mean((1, 2), keepdims=True)
    power = (np.abs(np.fft.fft2(centred * window * window[:, None])) ** 2).mean(0)
    along = np.fft.fftfreq(side, 1 / side)
    cycles = np.hypot(along[:, None], along)
    return float(np.log(power[(cycles >= band[0]) & (cycles <= band[1])].mean() + 1e-8))
