"""Loads a frozen backbone by its name, or says in one sentence why it cannot be loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ad_lib.errors import BackboneError
from ad_lib.model.backbone import Backbone
from ad_lib.model.controlnets import check_fit
from ad_lib.model.denoise import Control
from ad_lib.model.devices import find_device
from ad_lib.model.parts import (
    LoadPart,
    check_padding,
    check_scaling,
    empty_part_loader,
    part_loader,
    vae_dtype,
)
from ad_lib.model.weight_files import (
    UnsoundFile,
    named_in_errors,
    quoted,
    read_json,
    read_network_config,
)
from ad_lib.model.weights import NETWORK_FILES, Weights, find_controlnet, find_weights, parts_of

MAX_TRAIN_TIMESTEPS = 10_000
"""Maximum number of training timesteps; Stable Diffusion was trained with 1,000."""

_NETWORKS: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
_PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
_REFUSED_TOKENIZER_KEYS = ("fast_tokenizer_files", "gguf_file", "init_inputs", "tokenizer_object")
"""Keys of a tokenizer's configuration that would make it open other files."""
_LATENT_SIDE = 32
"""Cells along each side of the latents that a backbone is tried with."""


def load_backbone(
    name: str = "embedded",
    *,
    revision: str | None = None,
    config: str | None = None,
    controlnet: str | None = None,
    controlnet_revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    is_checked: bool = False,
) -> Backbone:
    """Loads a frozen backbone.

    Args:
        name: `embedded` (ships with the package), `sd15`, `sdxl`, a hub id, a diffusers folder, or
            one `.safetensors` file of the SD1.5 or SDXL family in the original layout.
        revision: commit, tag or branch of a hub id; `Backbone.weights` holds the commit.
        config: for a single file, a hub id or diffusers folder with its configuration and
            tokenizers; None is `sd15` or `sdxl`, whatever the file is.
        controlnet: a diffusers folder or hub id of a ControlNet for this U-Net.
        controlnet_revision: commit, tag or branch of its hub id.
        dtype: of the networks; bfloat16 on CUDA and float32 elsewhere unless given. In float16 a
            VAE whose configuration says `force_upcast` stays in float32.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; CUDA if there is one unless given.
        is_checked: these very weights have passed `check_backbone` before, in any process.

    Raises:
        BackboneError: nothing of that name, pickled weights, incomplete ones, a ControlNet of
            another family, or a device that is not there.
    """
    weights = find_weights(name, revision, config)
    control = find_controlnet(controlnet, controlnet_revision) if controlnet else None
    device = device if isinstance(device, torch.device) else find_device(device or "auto")
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    if not is_checked:
        check_backbone(weights, control)
    return _assembled(weights, control, part_loader, dtype, device)


@lru_cache(maxsize=8)
def check_backbone(weights: Weights, controlnet_weights: Weights | None = None) -> None:
    """Checks a backbone without reading its weights; takes about two seconds for SDXL.

    The networks are built on the meta device from their configurations and compared with the
    headers of their files. Then a picture is encoded, denoised and decoded there, where only shapes
    are computed.

    Args:
        weights: from `find_weights`.
        controlnet_weights: from `find_controlnet`.

    Raises:
        BackboneError: files that are damaged, incomplete, or do not fit each other.
    """
    meta = torch.device("meta")
    backbone = _assembled(weights, controlnet_weights, empty_part_loader, torch.float32, meta)
    with _quiet_libraries(), named_in_errors(weights.model_id, "configuration"), torch.no_grad():
        _try_in_shapes(backbone)


def _assembled(
    weights: Weights,
    controlnet_weights: Weights | None,
    loader: Callable[[Weights], LoadPart],
    dtype: torch.dtype,
    device: torch.device,
) -> Backbone:
    with _quiet_libraries():
        networks = _networks(weights, loader(weights), dtype)
        if controlnet_weights is not None:
            load = loader(controlnet_weights)
            networks["controlnet"] = _controlnet(controlnet_weights, load, dtype)
            check_fit(controlnet_weights.model_id, networks["controlnet"], networks["unet"])
        backbone = Backbone(
            **{part: network.to(device) for part, network in networks.items()},
            **_tokenizers(weights, networks),
            scheduler=_ddim(weights),
            force_zeros_for_empty_prompt=_forces_zeros(weights),
            weights=weights,
            controlnet_weights=controlnet_weights,
        )
    _check_latents(backbone)
    return backbone


def _networks(weights: Weights, load: LoadPart, dtype: torch.dtype) -> dict[str, Any]:
    with named_in_errors(weights.model_id, "vae"):
        vae_config = read_network_config(weights.config_folder / "vae" / "config.json")
    dtypes = {"vae": vae_dtype(vae_config, dtype)}
    networks = {
        part: load(_NETWORKS[part], part, dtypes.get(part, dtype))
        for part in parts_of(weights.config_folder)
        if part in NETWORK_FILES
    }
    check_scaling(weights.model_id, networks["vae"].config)
    check_padding(weights.model_id, "unet", networks["unet"].config)
    return networks


def _controlnet(weights: Weights, load: LoadPart, dtype: torch.dtype) -> ControlNetModel:
    with named_in_errors(weights.model_id, "ControlNet"):
        config = read_network_config(weights.path / "config.json")
    kind = config.get("_class_name", "ControlNetModel")
    if kind != "ControlNetModel":
        raise BackboneError(
            f"{quoted(weights.model_id)} is a {quoted(kind)[1:-1]}; give a plain ControlNetModel"
        )
    network = load(ControlNetModel, "ControlNet", dtype)
    check_padding(weights.model_id, "ControlNet", network.config)
    return network


def _tokenizers(weights: Weights, networks: dict[str, Any]) -> dict[str, Any]:
    """The tokenizers; each is tried on a prompt and must give tokens that its encoder has."""
    tokenizers: dict[str, Any] = {}
    for part in parts_of(weights.config_folder):
        if part.startswith("tokenizer"):
            folder = weights.config_folder / part
            with named_in_errors(weights.model_id, part):
                if (config := folder / "tokenizer_config.json").is_file():
                    _check_tokenizer_config(read_json(config))
                tokenizers[part] = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
                encoder = networks[part.replace("tokenizer", "text_encoder")]
                _check_tokens(tokenizers[part], encoder.config)
    return tokenizers


def _check_tokenizer_config(config: dict[str, Any]) -> None:
    for key in _REFUSED_TOKENIZER_KEYS:
        if config.get(key) is not None:
            raise UnsoundFile(f"its tokenizer_config.json has {key!r}, which is not supported")


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
    if max(tokens, default=0) >= encoder_config.vocab_size:
        raise UnsoundFile(
            f"it gives the token {max(tokens)}, but its text encoder knows "
            f"{encoder_config.vocab_size}"
        )


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


def _check_latents(backbone: Backbone) -> None:
    """Refuses models such as those for inpainting, whose U-Net takes more than latents."""
    seen = backbone.unet.config["in_channels"]
    if seen != backbone.latent_channels:
        raise BackboneError(
            f"the unet of {quoted(backbone.weights.model_id)} takes {seen} channels and its vae "
            f"gives {backbone.latent_channels}: give a text-to-image model"
        )


def _try_in_shapes(backbone: Backbone) -> None:
    """Encodes, denoises and decodes a picture on the meta device, which computes shapes only."""
    side = _LATENT_SIDE * backbone.vae_scale_factor
    images = torch.empty(1, 3, side, side, device="meta")
    latents = backbone.encode(images)
    expected = (1, backbone.latent_channels, _LATENT_SIDE, _LATENT_SIDE)
    _check_shape("the vae's latents", latents, expected)
    _check_shape("the vae's pictures", backbone.decode(latents), tuple(images.shape))
    timestep = torch.tensor(1)
    control = backbone.controlnet and Control(network=backbone.controlnet, images=images)
    predict = backbone.noise_predictor((side, side), control=control)
    _check_shape("the unet's noise", predict(latents, timestep), expected)
    backbone.feature_extractor(image_size=(side, side))(latents, timestep)


def _check_shape(name: str, tensor: torch.Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise UnsoundFile(f"{name} have the shape {tuple(tensor.shape)}, not {expected}")


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silences the loggers of diffusers and transformers, which warn of odd configurations."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
