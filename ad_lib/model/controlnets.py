"""Does a ControlNet fit a U-Net?"""

from __future__ import annotations

from typing import Any

from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

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
