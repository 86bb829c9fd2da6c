"""How good a picture is, in numbers that need no downloaded weights and draw the same every time.

Pictures are (B, 3, H, W) in [0, 1]; a function gives one figure per item of the batch, whatever its
batch-mates are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ad_lib.pictures.colour import rgb_to_lab

PATCH = 7
"""Pixels; side of the patches that `swd_patch` compares."""

_FAINT = 0.1 / 255
"""A difference that 8-bit pictures cannot show."""

_SPAN, _STEP = 12, 2  # samples along a patch of `patch_copy`, and their distance in pixels
_COPIED = 0.9  # correlation from which on a patch is a copy
_FLAT = 0.01  # deviation of the fine luma below which a patch shows nothing

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def swd_patch(
    images: Float[Tensor, "b 3 h w"],
    references: Float[Tensor, "r 3 hr wr"],
    *,
    num_projections: int = 128,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """Sliced Wasserstein distance between the patches of two pictures: 0 for the same texture.

    All 7x7 patches are projected onto random directions of unit length; along each the 1-D
    Wasserstein-1 distance is taken, exactly where both pictures have as many patches and by
    interpolated quantiles where not. Mean over directions, then over the levels of a pyramid that
    halves the pictures while their shorter side is at least 32 pixels, so that strokes of all
    widths count. Where things are does not matter, only what there is and how much of it.

    Args:
        images: the pictures to judge.
        references: what their patches should be like, one for each or one for all; any size.
        num_projections: directions.
        seed: of the directions.

    Raises:
        ValueError: neither one reference nor one for each picture.

    Reference: Rabin et al. 2011 (sliced Wasserstein), Karras et al. 2018 (patches on a pyramid).
    """
    _check_references(images, references)
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(num_projections, 3, PATCH, PATCH, generator=generator)
    directions = F.normalize(directions.flatten(1)).view_as(directions).to(images)
    distances = [
        _wasserstein(F.conv2d(ours, directions), F.conv2d(theirs, directions))
        for ours, theirs in _pyramid(images, references)
    ]
    return torch.stack(distances).mean((0, 2))


def gram_raw(
    images: Float[Tensor, "b 3 h w"],
    references: Float[Tensor, "r 3 hr wr"],
    *,
    num_filters: int = 64,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """How far apart the Gram matrices of a random filter bank are: 0 the same texture, at most 1.

    Responses of 7x7 filters without a mean, so that flat colour does not count, cut at zero; the
    Gram matrix is their mean product over positions. Figure: |G - G'| / (|G| + |G'|) in Frobenius
    norms, mean over the same pyramid as `swd_patch`.

    Args:
        images: the pictures to judge.
        references: what they should be like, one for each or one for all; any size.
        num_filters: in the bank.
        seed: of the bank.

    Raises:
        ValueError: neither one reference nor one for each picture.

    Reference: Ustyuzhaninov et al. 2017 (arXiv:1606.00021), textures from random shallow filters.
    """
    _check_references(images, references)
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(num_filters, 3, PATCH, PATCH, generator=generator)
    bank = bank - bank.mean((2, 3), keepdim=True)
    bank = F.normalize(bank.flatten(1)).view_as(bank).to(images)
    distances = []
    for pair in _pyramid(images, references):
        ours, theirs = (_gram(F.conv2d(level, bank).relu()) for level in pair)
        spread = ours.norm(dim=(1, 2)) + theirs.norm(dim=(1, 2))
        distances.append((ours - theirs).norm(dim=(1, 2)) / spread.clamp_min(1e-6))
    return torch.stack(distances).mean(0)


def color_emd(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 hr wr"]
) -> Float[Tensor, " b"]:
    """How far the colours must move to be the reference's, in CIELAB units: 0 for the same ones.

    Wasserstein-1 distance of the values of each Lab channel, mean over the three channels. Where
    colours are does not matter; 1 is about the smallest difference that is seen.

    Raises:
        ValueError: neither one reference nor one for each picture.
    """
    _check_references(images, references)
    return _wasserstein(rgb_to_lab(images), rgb_to_lab(references)).mean(1)


def chroma_gain(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 hr wr"]
) -> Float[Tensor, " b"]:
    """Mean CIELAB chroma over the reference's: 1 the same, above 1 oversaturated.

    Both means are raised by one unit, which the eye hardly sees: so a grey picture beside a grey
    reference has 1, and the figure is finite for every reference.

    Raises:
        ValueError: neither one reference nor one for each picture.
    """
    _check_references(images, references)
    return (1 + _mean_chroma(images)) / (1 + _mean_chroma(references))


def patch_copy(
    images: Float[Tensor, "b 3 h w"],
    references: Float[Tensor, "r 3 hr wr"],
    *,
    num_patches: int = 256,
    seed: int = 0,
) -> Float[Tensor, " b"]:
    """Share of a picture's patches that stand in the reference as they are, 0 to 1.

    Patches span 23 pixels of the luma, sampled at every second one; blurred by 3 pixels and rid of
    what is wider than 15, so that neither noise nor a smooth shade decides. One counts as copied if
    its best normalised correlation, over all places in the reference, exceeds 0.9; flat patches do
    not count, and a picture of flat patches has 0. Mirrored, turned or rescaled copies go unseen.

    Unrelated photos and paintings of 256 pixels have 0.01 (at most 0.07), shifted and JPEG-coded
    copies at least 0.7. Memory grows with the reference; `measure` reduces it.

    Args:
        images: the pictures to judge, at least 25 pixels a side.
        references: what they may have been copied from, one for each or one for all; any size.
        num_patches: looked up of each picture, at random places.
        seed: of the places.

    Raises:
        ValueError: neither one reference nor one for each picture.
    """
    _check_references(images, references)
    detail, known = _fine_detail(images), _fine_detail(references)
    known = known.expand(len(images), *known.shape[1:])
    shares = [
        _copied_share(one[None], other[None], num_patches, seed)
        for one, other in zip(detail, known, strict=True)
    ]
    return torch.stack(shares)


def autocorr_peak(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """The strongest repetition in a picture, 0 to 1: 1 if it repeats exactly at some shift.

    Pearson correlation of the luma with itself, shifted by up to half the picture, over the pixels
    where both are; the largest value that is a maximum among its 9x9 neighbours, zero shift apart.
    Some textures repeat by nature: compare with the example's own figure.

    Reference: Padfield 2012, masked normalised cross-correlation by Fourier transforms.
    """
    likeness = _autocorrelation(luma(images)[:, 0].double())
    inner = likeness[:, 4:-4, 4:-4].clone()
    is_peak = inner >= F.max_pool2d(likeness, 9, stride=1)
    is_peak[:, inner.shape[1] // 2, inner.shape[2] // 2] = False
    return torch.where(is_peak, inner, 0).flatten(1).amax(1).clamp(0, 1).to(images)


def seam_ratio_x(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """How much the left and right borders differ, over how much neighbouring columns do.

    1 (or less) is seamless: laid side by side the joint is no stronger than the picture itself.
    Of pictures higher than 1024 pixels every n-th row is read.
    """
    rows = images[..., :: math.ceil(images.shape[-2] / 1024), :]
    interior = (rows[..., 1:] - rows[..., :-1]).abs().mean((1, 2, 3))
    wrap = (rows[..., 0] - rows[..., -1]).abs().mean((1, 2))
    return (wrap + _FAINT) / (interior + _FAINT)


def seam_ratio_y(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """`seam_ratio_x` of the upper and lower borders."""
    return seam_ratio_x(images.mT)


def spectrum_slope(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Slope of log power over log frequency: -2 to -3 in photos, lower if over-smooth, 0 for noise.

    Of the luma's middle square, at most 512 pixels wide, under a Hann window, over the four highest
    octaves; power is averaged over rings one cycle wide, and every octave has the same weight.

    Reference: Field 1987, the spectra of natural images.
    """
    side = min(*images.shape[-2:], 512)
    square = luma(middle(images, side, side))[:, 0].double()
    window = torch.hann_window(side, dtype=square.dtype, device=square.device)
    square = (square - square.mean((1, 2), keepdim=True)) * window * window[:, None]
    frequency, power = _rings(torch.fft.fft2(square).abs() ** 2)
    return _weighted_slope(frequency.log(), (power + 1e-8).log(), 1 / frequency).to(images)


def diversity(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
    """How different several results are: mean CIELAB distance of their pixels, over all pairs.

    Taken on copies of at most 64 pixels a side; 0 if all are the same.

    Raises:
        ValueError: fewer than two pictures.
    """
    if len(images) < 2:
        raise ValueError(f"diversity needs at least two pictures; got {len(images)}")
    size = [min(side, 64) for side in images.shape[-2:]]
    lab = rgb_to_lab(F.interpolate(images, size, mode="area"))
    pairs = [(lab[row + 1 :] - lab[row]).norm(dim=1).mean((1, 2)) for row in range(len(lab) - 1)]
    return torch.cat(pairs).mean()


def phash(image: Image.Image) -> str:
    """Perceptual hash of 64 bits as 16 hex digits; similar pictures differ in few bits.

    Which of the 64 lowest frequencies of a 32x32 grey copy exceed their median; the hashes are
    those of the ImageHash package.

    Reference: Zauner 2010, DCT-based hash of pHash.
    """
    grey = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    place = (2 * np.arange(32) + 1) / 64
    basis = 2 * np.cos(np.pi * np.arange(8)[:, None] * place)
    lowest = np.round(basis @ np.asarray(grey, dtype=np.float64) @ basis.T, 6)
    bits = (lowest > np.median(lowest)).ravel()
    return np.packbits(bits).tobytes().hex()


def hamming_distance(first: str, second: str) -> int:
    """Bits in which two hashes of `phash` differ, 0..64; up to about 10 the pictures are alike."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def _quantiles(ordered: Tensor, count: int) -> Tensor:
    """`count` evenly spaced quantiles of values in ascending order along the last axis."""
    if ordered.shape[-1] == count:
        return ordered
    return F.interpolate(ordered, size=count, mode="linear", align_corners=False)


def ssim_luma(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 h w"]
) -> Float[Tensor, " b"]:
    """Structural similarity of the luma, -1 to 1: 1 for the same picture, about 0 for unrelated.

    Gaussian window of 11 pixels and deviation 1.5, K1 = 0.01, K2 = 0.03, borders left out.

    Reference: Wang et al. 2004, SSIM.
    """
    x, y = luma(images), luma(references)
    mean_x, mean_y = _window(x), _window(y)
    var_x = _window(x * x) - mean_x**2
    var_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (likeness / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


def edge_f1(
    images: Float[Tensor, "b 3 h w"], references: Float[Tensor, "r 3 h w"]
) -> Float[Tensor, " b"]:
    """Whether a picture's edges lie where the content's do, 0 to 1: 1 if all do.

    Harmonic mean of the shares of its edges that have one of the content within two pixels, and of
    the content's that have one of its own. An edge is a ridge of the luma's gradient (Gaussian
    derivative, deviation 1.5) above 1.5 times the picture's own root mean square, so that contrast
    does not count. Two pictures without edges have 1; unrelated ones about 0.2, by chance.
    """
    ours, theirs = _edges(luma(images)), _edges(luma(references))
    ours, theirs = torch.broadcast_tensors(ours, theirs)
    found = (ours * _widened(theirs)).sum((1, 2, 3)) / ours.sum((1, 2, 3)).clamp_min(1)
    kept = (theirs * _widened(ours)).sum((1, 2, 3)) / theirs.sum((1, 2, 3)).clamp_min(1)
    score = 2 * found * kept / (found + kept).clamp_min(1e-6)
    neither = ours.sum((1, 2, 3)) + theirs.sum((1, 2, 3)) == 0
    return torch.where(neither, 1.0, score)


def luma(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1 h w"]:
    """Brightness in [0, 1] by the weights of ITU-R BT.601."""
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(_LUMA))[:, None]


def _window(values: Tensor) -> Tensor:
    """Means under a Gaussian of deviation 1.5 over 11x11 pixels, where the window fits."""
    offsets = torch.arange(-5, 6, dtype=values.dtype, device=values.device)
    weights = torch.exp(-(offsets**2) / (2 * 1.5**2))
    weights = weights / weights.sum()
    return F.conv2d(F.conv2d(values, weights.view(1, 1, 1, 11)), weights.view(1, 1, 11, 1))


def _check_references(images: Tensor, references: Tensor) -> None:
    if len(references) not in (1, len(images)):
        raise ValueError(
            f"give one reference or one for each of {len(images)} pictures; got {len(references)}"
        )


def _pyramid(images: Tensor, references: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Both, then both halved, as long as no side falls below 32 pixels."""
    yield images, references
    while min(*images.shape[-2:], *references.shape[-2:]) >= 64:
        images, references = F.avg_pool2d(images, 2), F.avg_pool2d(references, 2)
        yield images, references


def _wasserstein(ours: Tensor, theirs: Tensor) -> Tensor:
    """1-D distances (B, C) between the values in each channel."""
    ours, theirs = _ascending(ours.flatten(2)), _ascending(theirs.flatten(2))
    count = max(ours.shape[2], theirs.shape[2])
    return (_quantiles(ours, count) - _quantiles(theirs, count)).abs().mean(2)


def _ascending(values: Tensor) -> Tensor:
    """Sorted along the last axis; on a CPU by NumPy, which is five times as fast."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))
    return values.sort(-1).values


def _gram(responses: Tensor) -> Tensor:
    flat = responses.flatten(2)
    return flat @ flat.mT / flat.shape[2]


def _mean_chroma(images: Tensor) -> Tensor:
    return rgb_to_lab(images)[:, 1:].norm(dim=1).mean((1, 2))


def middle(images: Tensor, height: int, width: int) -> Tensor:
    """The middle of pictures that are larger than height x width."""
    top = max(0, (images.shape[-2] - height) // 2)
    left = max(0, (images.shape[-1] - width) // 2)
    return images[..., top : top + height, left : left + width]


def _fine_detail(images: Tensor) -> Tensor:
    """Luma between 3 and 15 pixels wide."""
    blurred = F.avg_pool2d(luma(images), 3, stride=1)
    shade = F.avg_pool2d(blurred, 15, stride=1, padding=7, count_include_pad=False)
    return blurred - shade


def _copied_share(detail: Tensor, known: Tensor, num_patches: int, seed: int) -> Tensor:
    """Share of the patches of one picture's detail that correlate with some place of another's."""
    patches = F.unfold(detail, _SPAN, dilation=_STEP)[0].T  # (places, samples)
    generator = torch.Generator().manual_seed(seed)
    places = torch.randperm(len(patches), generator=generator)[:num_patches]
    patches = patches[places.to(patches.device)]
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches[patches.norm(dim=1) > _FLAT * _SPAN]
    if not len(patches):
        return detail.new_zeros(())
    best = _best_correlation(F.normalize(patches), known)
    return (best > _COPIED).to(detail).mean()


def _best_correlation(patches: Tensor, known: Tensor) -> Tensor:
    """The largest correlation of each patch (mean 0, length 1) with any place in a picture."""
    total = _patch_sum(known)
    spread = (_patch_sum(known**2) - total**2 / _SPAN**2).clamp_min(0).sqrt()
    spread = spread.clamp_min(_FLAT * _SPAN / 2)
    best = [
        (F.conv2d(known, some.view(-1, 1, _SPAN, _SPAN), dilation=_STEP) / spread).amax((0, 2, 3))
        for some in patches.split(32)
    ]
    return torch.cat(best)


def _patch_sum(values: Tensor) -> Tensor:
    return F.conv2d(values, values.new_ones(1, 1, _SPAN, _SPAN), dilation=_STEP)


def _autocorrelation(values: Tensor) -> Tensor:
    """Correlation of (B, H, W) with itself at shifts of up to half its size; zero in the middle."""
    height, width = values.shape[1:]
    reach_y, reach_x = height // 2, width // 2
    size = (height + reach_y, width + reach_x)
    values = values - values.mean((1, 2), keepdim=True)
    ones, plain, squares = (
        torch.fft.rfft2(v, size) for v in (torch.ones_like(values[:1]), values, values**2)
    )

    def overlap(first: Tensor, second: Tensor) -> Tensor:
        sums = torch.fft.irfft2(first.conj() * second, size)
        sums = sums.roll((reach_y, reach_x), (1, 2))
        return sums[:, : 2 * reach_y + 1, : 2 * reach_x + 1]

    count = overlap(ones, ones)
    here, there = overlap(plain, ones) / count, overlap(ones, plain) / count
    covariance = overlap(plain, plain) / count - here * there
    spread_here = (overlap(squares, ones) / count - here**2).clamp_min(0)
    spread_there = (overlap(ones, squares) / count - there**2).clamp_min(0)
    return covariance / (spread_here * spread_there).sqrt().clamp_min(_FAINT**2)


def _rings(power: Tensor) -> tuple[Tensor, Tensor]:
    """Frequencies of the four highest octaves, and the mean power (B, rings) in their rings."""
    side = power.shape[-1]
    along = torch.fft.fftfreq(side, 1 / side, dtype=power.dtype, device=power.device)
    ring = torch.hypot(along[:, None], along).round().long().flatten()
    total = power.new_zeros(len(power), int(ring.max()) + 1).index_add_(1, ring, power.flatten(1))
    frequency = torch.arange(max(2, side // 32), side // 2 + 1, device=power.device)
    return frequency.to(power), (total / ring.bincount())[:, frequency]


def _weighted_slope(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Slopes of the lines through (x, y[b]) of least weighted squared error."""
    weights = weights / weights.sum()
    centred = x - (weights * x).sum()
    return (weights * centred * y).sum(-1) / (weights * centred**2).sum()


def _edges(values: Tensor) -> Tensor:
    """1 where (B, 1, H, W) luma has an edge, else 0; six pixels of border are lost."""
    smooth = _window(values)
    dy = (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]) / 2
    dx = (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]) / 2
    strength = torch.hypot(dx, dy)
    above = 1.5 * strength.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(0.01)
    padded = F.pad(strength, (1, 1, 1, 1))
    across = (strength >= padded[..., 1:-1, :-2]) & (strength > padded[..., 1:-1, 2:])
    along = (strength >= padded[..., :-2, 1:-1]) & (strength > padded[..., 2:, 1:-1])
    is_ridge = torch.where(dx.abs() >= dy.abs(), across, along)
    return (is_ridge & (strength > above)).to(values)


def _widened(edges: Tensor) -> Tensor:
    return F.max_pool2d(edges, 5, stride=1, padding=2)
