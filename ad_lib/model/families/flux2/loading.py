"""How are the parts of FLUX.2 [klein] loaded, and do they fit each other?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from ad_lib.errors import BackboneError
from ad_lib.model.families.flux2 import FLUX2
from ad_lib.model.families.flux2.backbone import PATCH, Flux2
from ad_lib.model.families.flux2.prompts import HEARD_LAYERS, num_prompt_tokens, prompt_ids
from ad_lib.model.flow_matching import NUM_TRAIN_TIMESTEPS
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

MIN_PROMPT_TOKENS = 32
"""Room for the question around a prompt and for some of the prompt."""

_UNREAD_TEXT_KEYS = {"initializer_range", "use_sliding_window", "sliding_window", "layer_types"}


def assembled(weights: Weights, load: LoadPart, dtype: torch.dtype) -> Flux2:
    """A backbone of parts that fit each other.

    Raises:
        BackboneError: they do not.
    """
    with named_in_errors(weights.model_id, "vae"):
        vae_config = read_network_config(weights.config_folder / "vae" / "config.json")
    dtypes = {"vae": vae_dtype(vae_config, dtype)}
    networks = {part: load(NETWORKS[part], part, dtypes.get(part, dtype)) for part in NETWORKS}
    text_config = networks["text_encoder"].config
    tokenizer = load_tokenizer(
        weights,
        "tokenizer",
        Qwen2Tokenizer,
        partial(_check_tokens, vocab_size=text_config.vocab_size),
    )
    _check_parts(weights.model_id, networks)
    return Flux2(
        **networks,
        tokenizer=tokenizer,
        scheduler=_scheduler(weights),
        weights=weights,
        is_distilled=_is_distilled(weights),
    )


def _text_encoder(config: dict[str, Any]) -> Qwen3ForCausalLM:
    """Of Qwen3's own keys only: no adapters, code or names of files, nor how weights are drawn."""
    if config.get("use_sliding_window"):
        raise UnsoundFile("its use_sliding_window is true, which is not supported")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise UnsoundFile("its rotary positions are scaled, which is not supported")
    known = Qwen3Config.__annotations__.keys() - _UNREAD_TEXT_KEYS | {"rope_theta"}
    return Qwen3ForCausalLM(
        Qwen3Config(**{name: value for name, value in config.items() if name in known})
    )


def _with_head(network: Qwen3ForCausalLM, tensors: Tensors) -> Tensors:
    """A model that writes with the vectors that it reads with stores them once."""
    embedded = tensors.get("model.embed_tokens.weight")
    if network.config.tie_word_embeddings and embedded is not None:
        return {"lm_head.weight": embedded} | tensors
    return tensors


NETWORKS: Mapping[str, Network] = {
    "transformer": diffusers_network(Flux2Transformer2DModel),
    "vae": diffusers_network(AutoencoderKLFlux2),
    "text_encoder": Network(build=_text_encoder, named=_with_head),
}


def _check_parts(model_id: str, networks: Mapping[str, Any]) -> None:
    """Refuses parts that are each sound but no FLUX.2 [klein] together."""
    transformer, vae = networks["transformer"].config, networks["vae"].config
    text = networks["text_encoder"].config
    in_patch = PATCH**2 * vae["latent_channels"]
    wanted = {
        "the transformer's in_channels": (transformer["in_channels"], in_patch),
        "the transformer's out_channels": (transformer["out_channels"] or in_patch, in_patch),
        "the transformer's patch_size": (transformer["patch_size"], 1),
        "the transformer's guidance_embeds": (bool(transformer["guidance_embeds"]), False),
        "the transformer's joint_attention_dim": (
            transformer["joint_attention_dim"],
            len(HEARD_LAYERS) * text.hidden_size,
        ),
        "the vae's patch_size": (tuple(vae["patch_size"]), (PATCH, PATCH)),
    }
    for name, (found, expected) in wanted.items():
        if found != expected:
            raise BackboneError(
                f"{name} of {quoted(model_id)} is {found}, and must be {expected} beside its other "
                f"parts: give a model of {FLUX2.title}"
            )
    if text.num_hidden_layers < max(HEARD_LAYERS):
        raise BackboneError(
            f"the text_encoder of {quoted(model_id)} has {text.num_hidden_layers} layers, and "
            f"{FLUX2.title} listens to layer {max(HEARD_LAYERS)}: give one of its family"
        )
    epsilon = vae["batch_norm_eps"]
    if not isinstance(epsilon, int | float) or not 0 < epsilon < math.inf:
        raise BackboneError(
            f"the vae of {quoted(model_id)} has a batch_norm_eps of {quoted(epsilon)}: it must be "
            "a positive number"
        )


def _check_tokens(tokenizer: Any, vocab_size: int) -> None:
    if num_prompt_tokens(tokenizer) < MIN_PROMPT_TOKENS:
        raise UnsoundFile(
            f"its model_max_length is {tokenizer.model_max_length}, but must be at least "
            f"{MIN_PROMPT_TOKENS}"
        )
    if tokenizer.pad_token_id is None:
        raise UnsoundFile("it has no pad_token, with which prompts are filled up")
    check_known([*prompt_ids("a photograph", tokenizer), tokenizer.pad_token_id], vocab_size)


def _scheduler(weights: Weights) -> FlowMatchEulerDiscreteScheduler:
    """Flow matching with the model's own numbers; one that cannot be sampled from is refused."""
    with named_in_errors(weights.model_id, "scheduler"):
        config = read_json(weights.config_folder / "scheduler" / "scheduler_config.json")
        kind = config.get("_class_name")
        if kind != "FlowMatchEulerDiscreteScheduler":
            raise UnsoundFile(
                f"its class is {quoted(kind)}, but must be FlowMatchEulerDiscreteScheduler"
            )
        if config.get("num_train_timesteps", NUM_TRAIN_TIMESTEPS) != NUM_TRAIN_TIMESTEPS:
            raise UnsoundFile(
                f"its num_train_timesteps is {quoted(config['num_train_timesteps'])}, but must be "
                f"{NUM_TRAIN_TIMESTEPS}"
            )
        if config.get("invert_sigmas") or config.get("stochastic_sampling"):
            raise UnsoundFile("its invert_sigmas and stochastic_sampling must be false")
        scheduler: Any = FlowMatchEulerDiscreteScheduler.from_config(config)
        scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 10).tolist(), mu=1.0)
        falls = scheduler.sigmas.diff()
        if not bool((falls < 0).all()) or not bool((scheduler.sigmas <= 1).all()):
            raise UnsoundFile("its noise levels must fall from step to step, from 1 at most")
    return scheduler


def _is_distilled(weights: Weights) -> bool:
    """Whether the model does without guidance; diffusers' default is False."""
    file = weights.config_folder / "model_index.json"
    if not file.is_file():
        return False
    with named_in_errors(weights.model_id, file.name):
        return bool(read_json(file).get("is_distilled", False))
