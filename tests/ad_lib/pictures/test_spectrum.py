"""The slope of the spectrum against numpy, and of pictures that were made with one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from ad_lib.pictures.colour import luma
from ad_lib.pictures.spectrum import spectrum_slope
from ad_lib.pictures.tensors import image_to_tensor
from tests.ad_lib.pictures.samples import photo


@pytest.mark.parametrize("slope", [0.0, -1.0, -2.0, -3.0])
def test_the_spectrums_slope_is_the_one_that_a_picture_was_made_with(slope):
    along = np.fft.fftfreq(256)
    frequency = np.hypot(along[:, None], along)
    frequency[0, 0] = 1
    noise = np.random.default_rng(0).normal(size=(8, 1, 256, 256))
    shaped = np.fft.ifft2(np.fft.fft2(noise) * frequency ** (slope / 2)).real
    grey = torch.from_numpy(0.5 + 0.1 * shaped / shaped.std()).expand(8, 3, 256, 256)
    assert float(spectrum_slope(grey).mean()) == pytest.approx(slope, abs=0.05)


@pytest.mark.parametrize("side", [48, 47])
def test_the_spectrums_slope_is_numpys_fit_to_ring_means(images, side):
    images = images[..., :side, :]
    left = (64 - side) // 2
    square = luma(images)[2, 0, :, left : left + side].double().numpy()
    window = np.hanning(side + 1)[:-1]
    power = np.abs(np.fft.fft2((square - square.mean()) * np.outer(window, window))) ** 2
    along = np.fft.fftfreq(side, 1 / side)
    ring = np.hypot(along[:, None], along).round()
    radii = np.arange(2, side // 2 + 1)
    means = [power[ring == radius].mean() for radius in radii]
    slope, _ = np.polyfit(np.log(radii), np.log(means), 1, w=radii**-0.5)
    assert float(spectrum_slope(images)[2]) == pytest.approx(slope, abs=1e-4)


def test_blurring_steepens_the_spectrum_and_noise_flattens_it():
    picture = image_to_tensor(photo("cat"))
    noise = 0.1 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    blurred = avg_pool2d(picture, 5, stride=1, padding=2)
    slopes = [float(spectrum_slope(x)) for x in (blurred, picture, picture + noise)]
    assert slopes[0] + 0.5 < slopes[1] < slopes[2] - 0.5
    assert float(spectrum_slope(torch.full((1, 3, 64, 64), 0.5))) == pytest.approx(0, abs=1e-3)
