"""How much coarse and fine structure has a picture? Written with numpy alone."""

from __future__ import annotations

import numpy as np
from PIL import Image


def band_power(picture: Image.Image) -> dict[str, float]:
    """The logarithm of the mean power of luma in two bands, of the middle square.

    `coarse` are waves from the whole side down to a sixteenth of it, `fine` those of eight pixels
    down to two.
    """
    luma = np.asarray(picture.convert("L"), dtype=np.float64) / 255
    side = min(luma.shape)
    top, left = (luma.shape[0] - side) // 2, (luma.shape[1] - side) // 2
    square = luma[top : top + side, left : left + side]
    window = np.hanning(side)
    spectrum = np.fft.fft2((square - square.mean()) * window * window[:, None])
    along = np.fft.fftfreq(side, 1 / side)
    cycles = np.hypot(along[:, None], along)
    power = np.abs(spectrum) ** 2
    bands = {"coarse": (1, side / 16), "fine": (side / 8, side / 2)}
    return {
        name: float(np.log(power[(cycles >= low) & (cycles <= high)].mean() + 1e-8))
        for name, (low, high) in bands.items()
    }
