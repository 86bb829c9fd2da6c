"""From a name to a ControlNet that fits a U-Net, or a refusal in a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from ad_lib.errors import BackboneError
from ad_lib.parts import load_from_folder, named_in_errors
from ad_lib.weights import Weights, check_no_revision, digest, fetched, is_hub_id

_FILES = ("config.json", "diffusion_pytorch_model*.safetensors", "*.safetensors.index.json")
_SHARED = (
    "in_channels",
    "block_out_channels",
    "layers_per_block",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
    "cross_attention_dim",
)


def find_controlnet(name: str, revision: str | None = None) -> Weights:
    """Resolves a diffusers folder or a hub id, which is downloaded if needed.

    Args:
        name: of the ControlNet.
        revision: the commit, tag or branch of a hub id.

    Raises:
        BackboneError: nothing of that name, or a folder that is no ControlNet.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        check_no_revision(name, revision)
        _check_folder(name, folder)
        files = [path for pattern in _FILES for path in folder.glob(pattern)]
        return Weights(name, digest({path.name: path for path in files}), folder)
    if not is_hub_id(name):
        raise BackboneError(
            f"no ControlNet {name!r}: give a hub id such as 'owner/name', or a diffusers folder"
        )
    folder = _download(name, revision)
    _check_folder(name, folder)
    return Weights(name, folder.name, folder)  # a snapshot's name is its commit


def load_controlnet(
    weights: Weights, unet: UNet2DConditionModel, dtype: torch.dtype
) -> ControlNetModel:
    """A ControlNet for this U-Net, on the CPU.

    Args:
        weights: from `find_controlnet`.
        unet: what it adds to.
        dtype: of the network.

    Raises:
        BackboneError: damaged, incomplete, or made for another U-Net.
    """
    with named_in_errors(weights, "ControlNet"):
        config: Any = ControlNetModel.load_config(weights.path)
    kind = config.get("_class_name", "ControlNetModel")
    if kind != "ControlNetModel":
        raise BackboneError(f"{weights.model_id!r} is a {kind}; give a plain ControlNetModel")
    network = load_from_folder(weights, ControlNetModel, "ControlNet", dtype, is_alone=True)
    check_fit(weights.model_id, network, unet)
    return network


def check_fit(name: str, controlnet: ControlNetModel, unet: UNet2DConditionModel) -> None:
    """Refuses a ControlNet whose residuals or inputs are not those of the U-Net.

    Raises:
        BackboneError: it was made for another U-Net; the message names the first difference.
    """
    for setting in _SHARED:
        own, of_unet = (_plain(network.config[setting]) for network in (controlnet, unet))
        if own != of_unet and (setting != "cross_attention_dim" or _hears_prompts(controlnet)):
            raise BackboneError(
                f"the ControlNet {name!r} does not fit this U-Net: its {setting} is {own}, the "
                f"U-Net's {of_unet}; give one that was made for this family"
            )


def _hears_prompts(controlnet: ControlNetModel) -> bool:
    """The small ControlNets of SDXL have no cross-attention, whatever width they name."""
    config = controlnet.config
    blocks = (*config["down_block_types"], config["mid_block_type"])
    return any("CrossAttn" in block for block in blocks)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_folder(name: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise BackboneError(
            f"{name!r} is not a ControlNet in diffusers layout: it lacks config.json"
        )
    if not any(folder.glob("diffusion_pytorch_model*.safetensors")):
        raise BackboneError(
            f"{name!r} holds no diffusion_pytorch_model.safetensors: pickled weights are refused; "
            "convert them with diffusers' save_pretrained"
        )


def _download(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    # Not the copies in other precisions, nor those in other layouts.
    names = ("", "-0*")
    weights = [f"diffusion_pytorch_model{name}.safetensors" for name in names]
    allowed = ["config.json", *weights, "*.safetensors.index.json"]
    with fetched(hub_id, "ControlNet"):
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=allowed))
