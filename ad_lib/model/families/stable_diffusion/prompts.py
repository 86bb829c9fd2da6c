"""How are prompts embedded for a U-Net: by one text encoder (SD 1.5) or by two (SDXL)?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ad_lib.model.prompts import PromptEmbeds

TextEncoder = CLIPTextModel | CLIPTextModelWithProjection


@dataclass(frozen=True)
class ClipEmbeds(PromptEmbeds):
    """Prompts as the U-Net takes them.

    Attributes:
        prompt_embeds: a vector per token; SDXL's are those of both encoders side by side.
        pooled_prompt_embeds: SDXL only, a vector per prompt.
        time_ids: SDXL only, (original height, width, crop top, left, target height, width) in
            pixels; None is the size of the picture in the making, without a crop.
    """

    pooled_prompt_embeds: Float[Tensor, "b p"] | None = None
    time_ids: Float[Tensor, "b 6"] | None = None

    def conditioning(self, batch: int, image_size: tuple[int, int]) -> dict[str, Any]:
        """The U-Net's keyword arguments for `batch` latents."""
        embeds = self.prompt_embeds.expand(batch, -1, -1)
        if self.pooled_prompt_embeds is None:
            return {"encoder_hidden_states": embeds}
        time_ids = self._time_ids(image_size)
        pooled = self.pooled_prompt_embeds.expand(batch, -1)
        added = {"text_embeds": pooled, "time_ids": time_ids.expand(batch, -1)}
        return {"encoder_hidden_states": embeds, "added_cond_kwargs": added}

    def for_size(self, image_size: tuple[int, int]) -> Self:
        """The same with SDXL's time ids."""
        if self.pooled_prompt_embeds is None:
            return self
        return replace(self, time_ids=self._time_ids(image_size))

    def _time_ids(self, image_size: tuple[int, int]) -> Tensor:
        if self.time_ids is not None:
            return self.time_ids
        of_size = [[*image_size, 0, 0, *image_size]]
        return torch.tensor(of_size, dtype=torch.float32, device=self.prompt_embeds.device)

    def zeros(self) -> Self:
        """Nothing at all, of the same shape: SDXL's negative prompt where none is given."""
        pooled = self.pooled_prompt_embeds
        return type(self)(
            torch.zeros_like(self.prompt_embeds),
            None if pooled is None else torch.zeros_like(pooled),
        )


@torch.no_grad()
def encode_prompt(
    prompts: Sequence[str],
    tokenizers: Sequence[CLIPTokenizer],
    text_encoders: Sequence[TextEncoder],
) -> ClipEmbeds:
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
        return ClipEmbeds(outputs[0].last_hidden_state)
    penultimate = [output.hidden_states[-2] for output in outputs]
    return ClipEmbeds(torch.cat(penultimate, -1), outputs[-1].text_embeds)
