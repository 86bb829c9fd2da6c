"""How is FLUX.2 [klein] 4B built with random weights, as published or narrow?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from ad_lib.model.families.flux2.backbone import Flux2
from ad_lib.model.families.flux2.prompts import HEARD_LAYERS, MAX_PROMPT_TOKENS
from ad_lib.model.weights import Weights

_TRANSFORMER: dict[str, Any] = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 3 * 2560,
    "guidance_embeds": False,
}
_TINY_TRANSFORMER: dict[str, Any] = _TRANSFORMER | {
    "in_channels": 16,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "joint_attention_dim": 3 * 32,
    "timestep_guidance_channels": 32,
    "axes_dims_rope": (4, 4, 4, 4),
}
_TINY_VAE: dict[str, Any] = {
    "block_out_channels": (8, 8, 16, 16),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "layers_per_block": 1,
    "sample_size": 128,
}
_TEXT_ENCODER: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    "tie_word_embeddings": True,
}
_TINY_TEXT_ENCODER: dict[str, Any] = _TEXT_ENCODER | {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": max(HEARD_LAYERS) + 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
_TINY_PROMPT_TOKENS = 64
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}"
)
"""What diffusers' pipeline asks the tokenizer for; Qwen3's own, as far as that."""


def build_networks(name: str, *, tiny: bool) -> dict[str, Any]:
    """The networks by the names of their parts, on torch's current device."""
    text_config = Qwen3Config(**(_TINY_TEXT_ENCODER if tiny else _TEXT_ENCODER))
    networks: dict[str, Any] = {
        "transformer": Flux2Transformer2DModel(**(_TINY_TRANSFORMER if tiny else _TRANSFORMER)),
        "vae": AutoencoderKLFlux2(**(_TINY_VAE if tiny else {})),
        "text_encoder": Qwen3ForCausalLM(text_config),
    }
    moments = networks["vae"].bn
    torch.nn.init.normal_(moments.running_mean, std=0.1)
    torch.nn.init.uniform_(moments.running_var, 0.5, 2.0)
    return networks


def assembled(networks: Mapping[str, Any], weights: Weights) -> Flux2:
    """A backbone of these networks, with the schedule of FLUX.2 [klein]."""
    is_tiny = networks["text_encoder"].config.hidden_size == _TINY_TEXT_ENCODER["hidden_size"]
    return Flux2(
        **networks,
        tokenizer=spelling_tokenizer(_TINY_PROMPT_TOKENS if is_tiny else MAX_PROMPT_TOKENS),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        weights=weights,
    )


def spelling_tokenizer(max_length: int) -> Qwen2Tokenizer:
    """Qwen's tokenizer without a learned vocabulary: a token for each byte, and special ones."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocabulary = {byte: place for place, byte in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        model_max_length=max_length,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=_CHAT_TEMPLATE,
    )
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer
