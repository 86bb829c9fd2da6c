"""A head start for the U-Net: it begins by calling its whole input noise.

Near pure noise that is almost the right answer, and one that a network takes long to find. Every
residual branch starts at zero; the first convolution carries the latents along the outermost skip
as x and -x, and the last one undoes its group norm and SiLU: silu(x) - silu(-x) = x.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn


@torch.no_grad()
def start_as_identity(unet: UNet2DConditionModel) -> None:
    """Make `unet` give back its input, scaled to unit variance per channel."""
    for module in unet.modules():
        branch: Any = None
        if isinstance(module, ResnetBlock2D):
            branch = module.conv2
        elif isinstance(module, Transformer2DModel):
            branch = module.proj_out
        if branch is not None:
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)

    channels, groups = unet.config["in_channels"], unet.config["norm_num_groups"]
    conv_in: Any = unet.conv_in
    last: Any = unet.up_blocks[-1]
    shortcut = last.resnets[-1].conv_shortcut  # reads what came up, then the skip of conv_in
    conv_out: Any = unet.conv_out
    skip = shortcut.in_channels - conv_in.out_channels
    width = shortcut.out_channels // groups
    nn.init.zeros_(shortcut.weight)
    for conv in (conv_in, shortcut, conv_out):
        nn.init.zeros_(conv.bias)
    conv_in.weight[:channels] = 0
    nn.init.normal_(conv_out.weight, std=0.002)
    for channel in range(channels):
        plus = (channel % groups) * width + 2 * (channel // groups)
        conv_in.weight[channel, channel, 1, 1] = 1
        shortcut.weight[plus, skip + channel] = 1
        shortcut.weight[plus + 1, skip + channel] = -1
        in_group = 2 * -(-(channels - channel % groups) // groups)  # features of its group in use
        conv_out.weight[channel, plus, 1, 1] = (in_group / width) ** 0.5
        conv_out.weight[channel, plus + 1, 1, 1] = -((in_group / width) ** 0.5)
