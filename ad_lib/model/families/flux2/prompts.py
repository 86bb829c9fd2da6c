"""How is a prompt embedded for FLUX.2: as hidden states of three layers of a language model?"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

MAX_PROMPT_TOKENS = 512
"""As many as the model was trained with; a prompt is filled up to them, a longer one is cut."""
HEARD_LAYERS = (9, 18, 27)
"""The hidden states that stand side by side; 0 would be the embedded tokens themselves."""

_ASKED = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
"""How Qwen3 is asked without being let think; a template of the folder itself is never run."""


@torch.no_grad()
def encode_prompt(
    prompt: str, tokenizer: Qwen2Tokenizer, text_encoder: Qwen3ForCausalLM
) -> Float[Tensor, "1 tokens d"]:
    """One prompt, filled up with the tokens that pad; they do not change those before them."""
    ids = prompt_ids(prompt, tokenizer)
    length = num_prompt_tokens(tokenizer)
    places = torch.arange(length)
    padded = torch.full((1, length), int(tokenizer.pad_token_id))  # pyright: ignore
    padded[0, : len(ids)] = torch.tensor(ids)
    seen = (places[None] <= places[:, None]) & (places < len(ids))  # causal, and never what pads
    output: Any = text_encoder.model(
        input_ids=padded.to(text_encoder.device),
        attention_mask=seen[None, None].to(text_encoder.device),
        output_hidden_states=True,
        use_cache=False,
    )
    return torch.cat([output.hidden_states[layer] for layer in HEARD_LAYERS], -1)


def prompt_ids(prompt: str, tokenizer: Qwen2Tokenizer) -> list[int]:
    """The tokens of a prompt as a question to the language model, without those that pad."""
    ids: Any = tokenizer(_ASKED.format(prompt)).input_ids
    return ids[: num_prompt_tokens(tokenizer)]


def num_prompt_tokens(tokenizer: Qwen2Tokenizer) -> int:
    """How many tokens every prompt is filled up to."""
    return min(MAX_PROMPT_TOKENS, tokenizer.model_max_length)
