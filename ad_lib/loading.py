"""From a name to a frozen backbone: every part from its own file, or a refusal in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from ad_lib.backbone import Backbone
from ad_lib.errors import BackboneError
from ad_lib.weights import Weights, find_weights, parts_of


def load_backbone(
    name: str = "embedded",
    *,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Backbone:
    """Loads a frozen backbone.

    Args:
        name: `embedded` (ships with the package), `sd15`, `sdxl`, a hub id, or a diffusers folder.
        revision: commit or tag of a hub id.
        dtype: of the networks; bfloat16 on CUDA and float32 elsewhere unless given.
        device: CUDA where there is one unless given.

    Raises:
        BackboneError: nothing of that name, pickled weights, or an incomplete folder.
    """
    weights = find_weights(name, revision)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)

    def part(loader: Any, name: str) -> Any:
        return _load_part(weights, loader.from_pretrained, name, dtype).to(device)

    with _without_progress_bars():
        return Backbone(
            unet=part(UNet2DConditionModel, "unet"),
            vae=part(AutoencoderKL, "vae"),
            text_encoder=part(CLIPTextModel, "text_encoder"),
            tokenizer=_tokenizer(weights, "tokenizer"),
            scheduler=_ddim(weights),
            weights=weights,
            **_second_encoder(weights, part),
        )


def _second_encoder(weights: Weights, part: Callable[[Any, str], Any]) -> dict[str, Any]:
    if "text_encoder_2" not in parts_of(weights.path):
        return {}
    return {
        "text_encoder_2": part(CLIPTextModelWithProjection, "text_encoder_2"),
        "tokenizer_2": _tokenizer(weights, "tokenizer_2"),
    }


def _ddim(weights: Weights) -> DDIMScheduler:
    """DDIM from the model's own scheduler configuration, whatever class that names."""
    with _named_in_errors(weights, "scheduler"):
        config: Any = DDIMScheduler.load_config(weights.path, subfolder="scheduler")
        scheduler: Any = DDIMScheduler.from_config(config)
    return scheduler


def _tokenizer(weights: Weights, part: str) -> CLIPTokenizer:
    with _named_in_errors(weights, part):
        return CLIPTokenizer.from_pretrained(weights.path / part)


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _load_part(
    weights: Weights, from_pretrained: Callable[..., Any], part: str, dtype: torch.dtype
) -> Any:
    with _named_in_errors(weights, part):
        network, info = from_pretrained(
            weights.path,
            subfolder=part,
            torch_dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
    # Loaders fill what is missing with random numbers, or leave it without any.
    if missing := sorted(info["missing_keys"]):
        raise BackboneError(
            f"the {part} of {weights.model_id!r} lacks {len(missing)} of its weights, such as "
            f"{missing[0]!r}: fetch or convert it again"
        )
    return network


@contextmanager
def _named_in_errors(weights: Weights, part: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damaged files make the loaders raise anything, bare Exception too
        first_line = (str(error).strip() or repr(error)).splitlines()[0]
        raise BackboneError(
            f"the {part} of {weights.model_id!r} cannot be loaded: {first_line}"
        ) from None
