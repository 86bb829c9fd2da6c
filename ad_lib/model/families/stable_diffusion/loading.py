"""How are the parts of Stable Diffusion 1.5 and SDXL loaded, and do they fit each other?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from ad_lib.errors import BackboneError
from ad_lib.model.families.stable_diffusion.backbone import StableDiffusion
from ad_lib.model.families.stable_diffusion.controlnets import check_fit
from ad_lib.model.model_folder import family_of
from ad_lib.model.parts import LoadPart, Network, Tensors, diffusers_network, vae_dtype
from ad_lib.model.tokenizers import check_known, load_tokenizer
from ad_lib.model.weight_files import (
    UnsoundFile,
    named_in_errors,
    quoted,
    read_json,
    read_network_config,
)
from ad_lib.model.weights import Weights

MAX_TRAIN_TIMESTEPS = 10_000
"""Maximum number of training timesteps; Stable Diffusion was trained with 1,000."""

_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
_CLIP_PREFIX = "text_model."
_OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."


def assembled(weights: Weights, load: LoadPart, dtype: torch.dtype) -> StableDiffusion:
    """A backbone of parts that fit each other.

    Raises:
        BackboneError: they do not.
    """
    with named_in_errors(weights.model_id, "vae"):
        vae_config = read_network_config(weights.config_folder / "vae" / "config.json")
    dtypes = {"vae": vae_dtype(vae_config, dtype)}
    family = family_of(weights.config_folder)
    networks = {
        part: load(NETWORKS[part], part, dtypes.get(part, dtype)) for part in family.networks
    }
    _check_scaling(weights.model_id, networks["vae"].config)
    _check_padding(weights.model_id, "unet", networks["unet"].config)
    backbone = StableDiffusion(
        **networks,
        **_tokenizers(weights, networks),
        scheduler=_ddim(weights),
        force_zeros_for_empty_prompt=_forces_zeros(weights),
        weights=weights,
    )
    _check_latents(backbone)
    return backbone


def load_controlnet(weights: Weights, load: LoadPart, backbone: StableDiffusion) -> ControlNetModel:
    """A ControlNet that fits a backbone, in its precision.

    Raises:
        BackboneError: it is of another kind, or was made for another U-Net.
    """
    with named_in_errors(weights.model_id, "ControlNet"):
        config = read_network_config(weights.path / "config.json")
    kind = config.get("_class_name", "ControlNetModel")
    if kind != "ControlNetModel":
        raise BackboneError(
            f"{quoted(weights.model_id)} is a {quoted(kind)[1:-1]}; give a plain ControlNetModel"
        )
    network = load(_CONTROLNET, "ControlNet", backbone.dtype)
    _check_padding(weights.model_id, "ControlNet", network.config)
    check_fit(weights.model_id, network, backbone.unet)
    return network.eval().requires_grad_(False)


def _clip(text_class: Any, translated: Callable[[Any, Tensors], Tensors]) -> Network:
    return Network(
        build=lambda config: text_class(_text_config(config)),
        named=_with_prefix,
        translated=translated,
    )


def _text_config(config: dict[str, Any]) -> CLIPTextConfig:
    """CLIP's own keys only: no adapters, code or names of files, nor how weights are drawn."""
    if config.get("model_type") == "clip":
        config = config["text_config"]
    known = CLIPTextConfig.__annotations__.keys() - {"initializer_factor", "initializer_range"}
    return CLIPTextConfig(**{name: value for name, value in config.items() if name in known})


def _with_prefix(network: Any, tensors: Tensors) -> Tensors:
    """Since transformers 5.6, CLIPTextModel has no `text_model` inside; files may have either."""
    prefix = _CLIP_PREFIX if hasattr(network, _CLIP_PREFIX[:-1]) else ""
    inside = {name.removeprefix(_CLIP_PREFIX): tensor for name, tensor in tensors.items()}
    heads = ("text_projection.",)
    return {
        name if name.startswith(heads) else f"{prefix}{name}": tensor
        for name, tensor in inside.items()
    }


NETWORKS: Mapping[str, Network] = {
    "unet": diffusers_network(
        UNet2DConditionModel,
        lambda network, checkpoint: convert_ldm_unet_checkpoint(checkpoint, network.config),
    ),
    "vae": diffusers_network(
        AutoencoderKL,
        lambda network, checkpoint: convert_ldm_vae_checkpoint(checkpoint, network.config),
    ),
    "text_encoder": _clip(
        CLIPTextModel, lambda network, checkpoint: convert_ldm_clip_checkpoint(checkpoint)
    ),
    "text_encoder_2": _clip(
        CLIPTextModelWithProjection,
        lambda network, checkpoint: convert_open_clip_checkpoint(
            network, checkpoint, prefix=_OPEN_CLIP_PREFIX
        ),
    ),
}
_CONTROLNET = diffusers_network(ControlNetModel)


def _tokenizers(weights: Weights, networks: Mapping[str, Any]) -> dict[str, Any]:
    """The tokenizers; each is tried on a prompt and must give tokens that its encoder has."""
    tokenizers: dict[str, Any] = {}
    for part in family_of(weights.config_folder).others:
        if part.startswith("tokenizer"):
            encoder = networks[part.replace("tokenizer", "text_encoder")]
            check = partial(_check_tokens, encoder_config=encoder.config)
            tokenizers[part] = load_tokenizer(weights, part, CLIPTokenizer, check)
    return tokenizers


def _check_tokens(tokenizer: CLIPTokenizer, encoder_config: Any) -> None:
    longest = encoder_config.max_position_embeddings
    if not 2 <= tokenizer.model_max_length <= longest:
        raise UnsoundFile(
            f"its model_max_length is {tokenizer.model_max_length}, but must be 2 to {longest}, "
            "the tokens that its text encoder takes"
        )
    tokens = tokenizer("a photograph", padding="max_length", truncation=True).input_ids
    if len(tokens) != tokenizer.model_max_length:
        raise UnsoundFile(f"it gives {len(tokens)} tokens, not {tokenizer.model_max_length}")
    check_known(tokens, encoder_config.vocab_size)


def _ddim(weights: Weights) -> DDIMScheduler:
    """DDIM with the numbers of the model's own scheduler, whatever class that scheduler has."""
    with named_in_errors(weights.model_id, "scheduler"):
        config = read_json(weights.config_folder / "scheduler" / "scheduler_config.json")
        timesteps = config.get("num_train_timesteps", 1000)
        if not isinstance(timesteps, int) or not 1 <= timesteps <= MAX_TRAIN_TIMESTEPS:
            raise UnsoundFile(
                f"its num_train_timesteps is {quoted(timesteps)}, but must be 1 to "
                f"{MAX_TRAIN_TIMESTEPS}"
            )
        scheduler: Any = DDIMScheduler.from_config(config)
        _check_schedule(scheduler)
    return scheduler


def _check_schedule(scheduler: DDIMScheduler) -> None:
    """Refuses a schedule that could not be sampled from."""
    kept = scheduler.alphas_cumprod
    if len(kept) != scheduler.config["num_train_timesteps"]:
        raise UnsoundFile("its trained_betas are not one for each of its num_train_timesteps")
    betas = scheduler.betas
    if not bool(((betas >= 0) & (betas <= 1)).all()) or not kept[0] > 0:
        raise UnsoundFile("its betas must lie between 0 and 1")
    if scheduler.config["prediction_type"] not in _PREDICTION_TYPES:
        raise UnsoundFile(f"its prediction_type must be one of {', '.join(_PREDICTION_TYPES)}")
    scheduler.set_timesteps(min(10, len(kept)))
    chosen = scheduler.timesteps
    if int(chosen.min()) < 0 or int(chosen.max()) >= len(kept):
        raise UnsoundFile(f"its steps_offset must keep timesteps within 0 to {len(kept) - 1}")


def _forces_zeros(weights: Weights) -> bool:
    """Whether a missing negative prompt is embedded as zeros; diffusers' default is True."""
    file = weights.config_folder / "model_index.json"
    if not file.is_file():
        return True
    with named_in_errors(weights.model_id, file.name):
        return bool(read_json(file).get("force_zeros_for_empty_prompt", True))


def _check_latents(backbone: StableDiffusion) -> None:
    """Refuses models such as those for inpainting, whose U-Net takes more than latents."""
    seen = backbone.unet.config["in_channels"]
    if seen != backbone.latent_channels:
        raise BackboneError(
            f"the unet of {quoted(backbone.weights.model_id)} takes {seen} channels and its vae "
            f"gives {backbone.latent_channels}: give a text-to-image model"
        )


def _check_padding(model_id: str, part: str, config: Mapping[str, Any]) -> None:
    """Refuses a U-Net or ControlNet that would enlarge its inputs at every level.

    Raises:
        BackboneError: its `downsample_padding` is neither 0 nor 1.
    """
    padding = config.get("downsample_padding")
    if padding not in (0, 1):
        raise BackboneError(
            f"the {part} of {quoted(model_id)} has a downsample_padding of {quoted(padding)}: it "
            "must be 0 or 1"
        )


def _check_scaling(model_id: str, config: Mapping[str, Any]) -> None:
    """Refuses a VAE without a usable factor between its latents and those of the U-Net.

    Raises:
        BackboneError: its `scaling_factor` is not a positive finite number.
    """
    factor = config.get("scaling_factor")
    if not isinstance(factor, int | float) or not 0 < factor < math.inf:
        raise BackboneError(
            f"the vae of {quoted(model_id)} has a scaling_factor of {quoted(factor)}: it must be "
            "a positive number"
        )
    shift = config.get("shift_factor") or 0
    if not isinstance(shift, int | float) or not abs(shift) < math.inf:
        raise BackboneError(
            f"the vae of {quoted(model_id)} has a shift_factor of {quoted(shift)}: it must be a "
            "number or null"
        )
