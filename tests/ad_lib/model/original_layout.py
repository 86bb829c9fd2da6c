"""Writes a diffusers folder as one file in the original layout of Stable Diffusion 1.5 or SDXL.

This is the inverse of diffusers' translation, written from the layout of the published
checkpoints: `model.diffusion_model`, `first_stage_model`, and `cond_stage_model` or `conditioner`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
    "down_blocks": "down",
    "resnets": "block",
}
OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding": "token_embedding",
    "text_model.final_layer_norm": "ln_final",
    "text_projection.weight": "text_projection",
    "text_model.encoder.layers": "transformer.resblocks",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "self_attn": "attn",
    "fc1": "c_fc",
    "fc2": "c_proj",
}


def write_single_file(folder: Path, file: Path) -> Tensors:
    """Writes a folder's networks into one file; returns what was written."""
    tensors = {key: value.contiguous() for key, value in original_tensors(folder).items()}
    save_file(tensors, file)
    return tensors


def original_tensors(folder: Path) -> Tensors:
    unet = load_part(folder / "unet")
    tensors = renamed("model.diffusion_model.", unet, unet_names(unet))
    tensors |= renamed("first_stage_model.", vae_tensors(load_part(folder / "vae")), vae_name)
    tensors["alphas_cumprod"] = torch.linspace(1, 0, 1000)  # published files hold it, unused
    text = load_part(folder / "text_encoder")
    text = {f"text_model.{key}": value for key, value in text.items()}
    text["text_model.embeddings.position_ids"] = torch.arange(77)[None]  # as above
    if not (folder / "text_encoder_2").is_dir():
        return tensors | renamed("cond_stage_model.transformer.", text, str)
    tensors |= renamed("conditioner.embedders.0.transformer.", text, str)
    second = open_clip_tensors(load_part(folder / "text_encoder_2"))
    return tensors | renamed("conditioner.embedders.1.model.", second, str)


def load_part(part: Path) -> Tensors:
    (file,) = part.glob("*.safetensors")
    return load_file(file)


def renamed(prefix: str, tensors: Tensors, name: Callable[[str], str]) -> Tensors:
    return {prefix + name(key): value for key, value in tensors.items()}


def unet_names(unet: Tensors) -> Callable[[str], str]:
    """The blocks of all levels are counted through: two resnets and a resampler, or three."""

    def name(key: str) -> str:
        module, parameter = key.rsplit(".", 1)
        if module in UNET_ENDS:
            return f"{UNET_ENDS[module]}.{parameter}"
        if key.startswith("mid_block"):
            _, kind, index, rest = key.split(".", 3)
            return f"middle_block.{1 if kind == 'attentions' else 2 * int(index)}.{layer(rest)}"
        side, level, kind, index, rest = key.split(".", 4)
        if kind == "downsamplers":
            return f"input_blocks.{3 * int(level) + 3}.0.op.{parameter}"
        if kind == "upsamplers":
            has_attention = any(k.startswith(f"{side}.{level}.attentions") for k in unet)
            return f"output_blocks.{3 * int(level) + 2}.{1 + has_attention}.conv.{parameter}"
        block = 3 * int(level) + int(index) + (side == "down_blocks")
        place = "input_blocks" if side == "down_blocks" else "output_blocks"
        return f"{place}.{block}.{int(kind == 'attentions')}.{layer(rest)}"

    def layer(rest: str) -> str:
        head, tail = rest.rsplit(".", 1)
        return f"{RESNET.get(head, head)}.{tail}"

    return name


def vae_tensors(vae: Tensors) -> Tensors:
    """Its attention is written as 1x1 convolutions."""
    is_linear = ("to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight")
    return {k: v[..., None, None] if k.endswith(is_linear) else v for k, v in vae.items()}


def vae_name(key: str) -> str:
    """The decoder's levels are counted from the finest."""
    for level in range(4):
        key = key.replace(f"up_blocks.{level}.", f"up.{3 - level}.")
    for ours, theirs in VAE.items():
        key = key.replace(ours, theirs)
    return key


def open_clip_tensors(text: Tensors) -> Tensors:
    """Queries, keys and values are one matrix, and the projection is transposed."""
    tensors = {"logit_scale": torch.tensor(4.6)}  # published files hold it, unused
    for key, value in text.items():
        if ".k_proj." in key or ".v_proj." in key:
            continue
        name = key
        for ours, theirs in OPEN_CLIP.items():
            name = name.replace(ours, theirs)
        if ".q_proj." in key:
            value = torch.cat([text[key.replace("q_proj", one)] for one in OPEN_CLIP_ORDER])
            name = name.replace(".q_proj.", ".in_proj_")
        tensors[name] = value.T if name == "text_projection" else value
    return tensors


OPEN_CLIP_ORDER = ("q_proj", "k_proj", "v_proj")
