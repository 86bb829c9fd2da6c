"""How does a name become a frozen backbone, or a sentence that says why it cannot?

No tensor is read before the configurations and the headers of all files have been found to fit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from ad_lib.model.backbone import Backbone
from ad_lib.model.devices import find_device
from ad_lib.model.model_folder import family_of
from ad_lib.model.parts import LoadPart, empty_part_loader, part_loader
from ad_lib.model.weight_files import UnsoundFile, named_in_errors
from ad_lib.model.weights import Weights, find_controlnet, find_weights

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
    family = family_of(weights.config_folder)
    with _quiet_libraries():
        backbone = family.module("loading").assembled(weights, loader(weights), dtype)
        if controlnet_weights is not None:
            backbone.add_controlnet(controlnet_weights, loader(controlnet_weights))
        return backbone.to(device)


def _try_in_shapes(backbone: Backbone) -> None:
    """Encodes, denoises and decodes a picture on the meta device, which computes shapes only."""
    side = _LATENT_SIDE * backbone.vae_scale_factor
    images = torch.empty(1, 3, side, side, device="meta")
    latents = backbone.encode(images)
    expected = (1, backbone.latent_channels, _LATENT_SIDE, _LATENT_SIDE)
    _check_shape("the vae's latents", latents, expected)
    _check_shape("the vae's pictures", backbone.decode(latents), tuple(images.shape))
    timestep = torch.tensor(1, device="meta")
    control = backbone.control(images) if backbone.controlnet is not None else None
    predict = backbone.noise_predictor((side, side), control=control)
    noise = predict(latents, timestep)
    _check_shape(f"the {backbone.family.denoiser}'s noise", noise, expected)
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
