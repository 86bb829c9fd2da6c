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
    """Prompts as the U-Net takes them, one for each latent or one for all.

    Attributes:
        prompt_embeds: a vector per token; SDXL's are those of both encoders side by side.
        pooled_prompt_embeds: SDXL only, a vector per prompt.
        time_ids: SDXL only, (original height, width, crop top, left, target height, width) in
            pixels; None is the size of the picture in the making, without a crop.
    """

    prompt_embeds: Float[Tensor, "b 77 d"]
    pooled_prompt_embeds: Float[Tensor, "b p"] | None = None
    time_ids: Float[Tensor, "b 6"] | None = None

    def conditioning(self, batch: int, image_size: tuple[int, int]) -> dict[str, Any]:
        """The U-Net's keyword arguments for `batch` latents.

        Args:
            batch: how many latents.
            image_size: (height, width) of the picture in the making, in pixels.
        """
        embeds = self.prompt_embeds.expand(batch, -1, -1)
        if self.pooled_prompt_embeds is None:
            return {"encoder_hidden_states": embeds}
        time_ids = self.time_ids
        if time_ids is None:
            time_ids = torch.tensor([[*image_size, 0, 0, *image_size]], dtype=torch.float32)
        pooled = self.pooled_prompt_embeds.expand(batch, -1)
        added = {"text_embeds": pooled, "time_ids": time_ids.to(embeds.device).expand(batch, -1)}
        return {"encoder_hidden_states": embeds, "added_cond_kwargs": added}

    def repeated(self, batch: int) -> PromptEmbeds:
        """One for each of `batch` latents."""
        pooled, time_ids = self.pooled_prompt_embeds, self.time_ids
        return PromptEmbeds(
            self.prompt_embeds.expand(batch, -1, -1),
            None if pooled is None else pooled.expand(batch, -1),
            None if time_ids is None else time_ids.expand(batch, -1),
        )

    def zeros(self) -> PromptEmbeds:
        """Nothing at all, of the same shape: SDXL's negative prompt where none is given."""
        pooled = self.pooled_prompt_embeds
        return PromptEmbeds(
            torch.zeros_like(self.prompt_embeds),
            None if pooled is None else torch.zeros_like(pooled),
        )


def joined(prompts: Sequence[PromptEmbeds]) -> PromptEmbeds:
    """Several prompts as one batch, in order."""

    def cat(name: str) -> Any:
        values = [getattr(one, name) for one in prompts]
        return None if values[0] is None else torch.cat(values)

    return PromptEmbeds(cat("prompt_embeds"), cat("pooled_prompt_embeds"), cat("time_ids"))


@torch.no_grad()
def encode_prompt(
    prompts: Sequence[str],
    tokenizers: Sequence[CLIPTokenizer],
    text_encoders: Sequence[TextEncoder],
) -> PromptEmbeds:
    """Embeds one prompt, given once for each text encoder; what is too long for one is cut.

    One encoder gives its last hidden state. Two give their penultimate ones, joined, and the second
    its projected vector for the whole prompt.
    """
    outputs: list[Any] = []
    for prompt, tokenizer, text_encoder in zip(prompts, tokenizers, text_encoders, strict=True):
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
