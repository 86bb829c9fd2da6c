"""What a U-Net hears: prompts as embeddings, by one text encoder (SD 1.5) or by two (SDXL)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection


@dataclass(frozen=True)
class PromptEmbeds:
    """Prompts as the U-Net takes them.

    Attributes:
        prompt_embeds: a vector per token; SDXL's are those of both encoders side by side.
        pooled_prompt_embeds: SDXL only, a vector per prompt.
    """

    prompt_embeds: Float[Tensor, "b 77 d"]
    pooled_prompt_embeds: Float[Tensor, "b p"] | None = None

    def conditioning(self, batch: int, image_size: tuple[int, int]) -> dict[str, Any]:
        """The U-Net's keyword arguments for `batch` latents under one prompt.

        Args:
            batch: how many latents.
            image_size: (height, width) of the picture in the making, in pixels; SDXL is told it
                as original and as target size, without a crop.
        """
        embeds = self.prompt_embeds.expand(batch, -1, -1)
        if self.pooled_prompt_embeds is None:
            return {"encoder_hidden_states": embeds}
        time_ids = torch.tensor([[*image_size, 0, 0, *image_size]], dtype=torch.float32)
        pooled = self.pooled_prompt_embeds.expand(batch, -1)
        added = {"text_embeds": pooled, "time_ids": time_ids.to(embeds.device).expand(batch, -1)}
        return {"encoder_hidden_states": embeds, "added_cond_kwargs": added}


@torch.no_grad()
def encode_prompt(
    prompt: str, tokenizers: Sequence[CLIPTokenizer], text_encoders: Sequence[TextEncoder]
) -> PromptEmbeds:
    """Embeds one prompt; what is longer than a tokenizer takes is cut.

    One encoder gives its last hidden state. Two give their penultimate ones, joined, and the second
    its projected vector for the whole prompt.
    """
    outputs: list[Any] = []
    for tokenizer, text_encoder in zip(tokenizers, text_encoders, strict=True):
        ids = tokenizer(
            prompt,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        outputs.append(text_encoder(ids.to(text_encoder.device), output_hidden_states=True))
    if len(outputs) == 1:
        return PromptEmbeds(outputs[0].last_hidden_state)
    penultimate = [output.hidden_states[-2] for output in outputs]
    return PromptEmbeds(torch.cat(penultimate, -1), outputs[-1].text_embeds)
