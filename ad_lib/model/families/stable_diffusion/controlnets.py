"""What does a ControlNet add to its U-Net, and does it fit it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from ad_lib.errors import BackboneError
from ad_lib.model.weight_files import quoted

_SHARED = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
    "cross_attention_dim",
)


@dataclass(frozen=True, kw_only=True)
class Control:
    """A ControlNet and what it sees.

    Attributes:
        network: of the U-Net's family.
        images: one for each latent, in [0, 1], of the size of the picture in the making.
        scale: factor on its residuals.
    """

    network: ControlNetModel
    images: Float[Tensor, "b 3 height width"]
    scale: float = 1.0

    def residuals(
        self, latents: Tensor, timestep: Tensor, conditioning: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What is added to the U-Net's skip connections and to its middle, as its arguments."""
        down, middle = self.network(
            latents,
            timestep,
            controlnet_cond=torch.cat([self.images] * (len(latents) // len(self.images))).to(
                latents
            ),
            conditioning_scale=self.scale,
            **conditioning,
            return_dict=False,
        )
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def check_fit(name: str, controlnet: ControlNetModel, unet: UNet2DConditionModel) -> None:
    """Refuses a ControlNet whose residuals or inputs are not those of the U-Net.

    Raises:
        BackboneError: it was made for another U-Net; the message names the first difference.
    """
    for setting in _SHARED:
        own, of_unet = (_plain(network.config[setting]) for network in (controlnet, unet))
        if own != of_unet and (setting != "cross_attention_dim" or _hears_prompts(controlnet)):
            raise BackboneError(
                f"the ControlNet {quoted(name)} does not fit this U-Net: its {setting} is {own}, "
                f"the U-Net's {of_unet}; give one that was made for this family"
            )


def _hears_prompts(controlnet: ControlNetModel) -> bool:
    """The small ControlNets of SDXL have no cross-attention, whatever width they name."""
    config = controlnet.config
    blocks = (*config["down_block_types"], config["mid_block_type"])
    return any("CrossAttn" in block for block in blocks)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
