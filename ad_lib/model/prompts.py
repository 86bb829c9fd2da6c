"""How does a network get prompts? As embeddings, one for each picture or one for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PromptEmbeds:
    """Prompts as a network takes them; a family may add fields, each a batch or None.

    Attributes:
        prompt_embeds: a vector per token.
    """

    prompt_embeds: Float[Tensor, "b tokens d"]

    def conditioning(self, batch: int, image_size: tuple[int, int]) -> Mapping[str, Any]:
        """The network's keyword arguments for `batch` latents.

        Args:
            batch: how many latents.
            image_size: (height, width) of the picture in the making, in pixels.
        """
        return {"encoder_hidden_states": self.prompt_embeds.expand(batch, -1, -1)}

    def for_size(self, image_size: tuple[int, int]) -> Self:
        """The same with all that follows from the size of the picture in the making, on the device.

        Args:
            image_size: (height, width) in pixels.
        """
        return self

    def repeated(self, batch: int) -> Self:
        """One for each of `batch` latents."""
        return self._each(lambda value: value.expand(batch, *value.shape[1:]))

    def _each(self, change: Any) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        changed: dict[str, Any] = {
            name: None if one is None else change(one) for name, one in values.items()
        }
        return type(self)(**changed)


def joined(prompts: Sequence[PromptEmbeds]) -> PromptEmbeds:
    """Several prompts of one family as one batch, in order."""

    def cat(name: str) -> Any:
        values = [getattr(one, name) for one in prompts]
        return None if values[0] is None else torch.cat(values)

    kind = type(prompts[0])
    return kind(**{field.name: cat(field.name) for field in fields(kind)})
