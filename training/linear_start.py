"""A head start for the autoencoder: its encoder begins as a cascade of principal components.

Every residual branch starts at zero, so the encoder is linear along its skips, and three 2x2
principal component analyses are put into the three downsampling convolutions. The only nonlinearity
on the way, group norm and SiLU before the last convolution, is undone by carrying each feature
twice, as x and -x: silu(x) - silu(-x) = x. Training starts from a good linear code and learns what
a linear code cannot do.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.nn.functional import unfold

NOISE_LOGVAR = -6.0
"""Log-variance of the posterior: a constant, for latents of unit variance."""
LEVEL = 4.0  # constant channels that steady the last group norm


@torch.no_grad()
def start_linear(vae: AutoencoderKL, images: Tensor) -> None:
    """Make `vae`'s encoder a whitened linear code of `images` (n, 3, h, w) in [-1, 1]."""
    _silence_residuals(vae)
    _spread_biases(vae.decoder)
    encoder: Any = vae.encoder  # its blocks have no types
    _pass_through(encoder.conv_in, 3)
    hidden, used = encoder.conv_in(images), 3
    for block, kept in zip(
        encoder.down_blocks[:3], (12, 28, vae.config["latent_channels"]), strict=True
    ):
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                _pass_through(resnet.conv_shortcut, used)
            hidden = resnet(hidden, None)
        _set_components(
            block.downsamplers[0].conv,
            hidden[:, :used],
            kept,
            whiten=block is encoder.down_blocks[2],
        )
        hidden, used = block.downsamplers[0](hidden), kept
    _set_mirrored(encoder, vae.config["norm_num_groups"], used)
    _set_posterior(vae, images)


def _silence_residuals(vae: AutoencoderKL) -> None:
    for module in vae.modules():
        if type(module).__name__ == "ResnetBlock2D":
            for weight in module.get_submodule("conv2").parameters():
                nn.init.zeros_(weight)


def _spread_biases(decoder: nn.Module) -> None:
    # Constant channels let the mean and the contrast of a picture pass the last group norm.
    for name, bias in decoder.named_parameters():
        if name.endswith(("upsamplers.0.conv.bias", "conv_shortcut.bias")):
            nn.init.normal_(bias, std=0.5)


def _pass_through(conv: Any, channels: int) -> None:
    middle = conv.kernel_size[0] // 2
    conv.weight[:channels] = 0
    conv.bias[:channels] = 0
    for channel in range(channels):
        conv.weight[channel, channel, middle, middle] = 1


def _set_components(conv: Any, hidden: Tensor, kept: int, *, whiten: bool) -> None:
    channels = hidden.shape[1]
    patches = unfold(hidden, 2, stride=2).movedim(1, -1).flatten(0, 1).double()
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    order = values.argsort(descending=True)[:kept]
    components = vectors[:, order].T
    if whiten:
        components = components / values[order].sqrt()[:, None]
    conv.weight[:kept] = 0
    conv.weight[:kept, :channels, :2, :2] = components.reshape(kept, channels, 2, 2).float()
    conv.bias[:kept] = -(components @ mean).float()


def _set_mirrored(encoder: Any, groups: int, latents: int) -> None:
    last = encoder.down_blocks[3].resnets[0].conv_shortcut
    width = last.out_channels // groups
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    nn.init.normal_(encoder.conv_out.weight, std=0.002)
    nn.init.zeros_(encoder.conv_out.bias)
    for latent in range(latents):
        first = (latent % groups) * width + 2 * (latent // groups)
        last.weight[first : first + 2] = 0
        last.weight[first, latent], last.weight[first + 1, latent] = 1, -1
        encoder.conv_out.weight[latent] = 0
        encoder.conv_out.weight[latent, first, 1, 1] = 1
        encoder.conv_out.weight[latent, first + 1, 1, 1] = -1
    for group in range(groups):
        end = (group + 1) * width
        last.weight[end - 2 : end] = 0
        last.bias[end - 2], last.bias[end - 1] = LEVEL, -LEVEL


def _set_posterior(vae: AutoencoderKL, images: Tensor) -> None:
    """The mean passes through, scaled to unit variance; the log-variance is a constant."""
    latents = vae.config["latent_channels"]
    means = vae.encoder(images)[:, :latents]
    scale = 1 / means.std((0, 2, 3))
    quant: Any = vae.quant_conv
    back: Any = vae.post_quant_conv
    for conv in (quant, back):
        nn.init.zeros_(conv.weight)
        nn.init.zeros_(conv.bias)
    quant.weight[:latents, :latents, 0, 0] = torch.diag(scale)
    quant.bias[:latents] = -scale * means.mean((0, 2, 3))
    quant.bias[latents:] = NOISE_LOGVAR
    back.weight[:, :, 0, 0] = torch.eye(latents)


@torch.no_grad()
def fold_moments(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Fold the latents' channel means and deviations into the 1x1 convolutions on either side.

    Afterwards the posterior mean has zero mean and unit variance per channel where it had `mean`
    and `std`, pictures are unchanged, and a scaling factor of 1 is right.
    """
    latents = vae.config["latent_channels"]
    quant: Any = vae.quant_conv
    back: Any = vae.post_quant_conv
    back.bias += (back.weight[:, :, 0, 0] @ mean).to(back.bias)
    back.weight *= std[None, :, None, None]
    quant.weight[:latents] /= std[:, None, None, None]
    quant.bias[:latents] = (quant.bias[:latents] - mean) / std
