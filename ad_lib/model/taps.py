"""What the self-attention layers of a frozen U-Net see: query, key, value and output per layer.

Invariant: the U-Net is left as it was found. Nothing behind the last wanted layer is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Self

from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.features import AttentionFeatures


def self_attention_layers(unet: UNet2DConditionModel) -> list[Attention]:
    """The U-Net's self-attention modules in execution order: down, middle, up.

    (`named_modules()` lists the up blocks before the middle one.)
    """
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return [
        module
        for block in blocks
        if block is not None
        for name, module in block.named_modules()
        if isinstance(module, Attention) and name.endswith("attn1")
    ]


class FeatureExtractor:
    """A frozen network as a function from latents to what some of its attention layers see.

    Within `with extractor:` the taps stay in the network, which meanwhile computes what it always
    does. Outside of it each call puts them in and takes them out again.

    Args:
        run: runs the network on latents at a timestep; gradients flow back to the latents.
        layers: some of its self-attention modules, in execution order.
        ends_early: stop the network's pass behind the last of them, by an exception.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor], object],
        layers: Sequence[Attention],
        *,
        ends_early: bool = True,
    ) -> None:
        self._run = run
        self._layers = layers
        self._tap = SelfAttentionTap(layers[-1], ends_early=ends_early)
        self._found: list[Any] = []

    def __enter__(self) -> Self:
        self._found = [layer.processor for layer in self._layers]
        for layer in self._layers:
            layer.processor = self._tap  # pyright: ignore[reportAttributeAccessIssue]
        return self

    def __exit__(self, *_: object) -> None:
        for layer, processor in zip(self._layers, self._found, strict=True):
            layer.processor = processor
        self._found = []

    def __call__(
        self, latents: Float[Tensor, "b c h w"], timestep: Tensor, *, projections_only: bool = False
    ) -> list[AttentionFeatures]:
        """What each layer sees of the latents.

        Args:
            latents: any number of them.
            timestep: one for all.
            projections_only: skip the attention of the last layer, whose output nobody reads.
        """
        if self._found:
            return self._seen(latents, timestep, projections_only)
        with self:
            return self._seen(latents, timestep, projections_only)

    def _seen(
        self, latents: Tensor, timestep: Tensor, projections_only: bool
    ) -> list[AttentionFeatures]:
        seen: list[AttentionFeatures] = []
        self._tap.sink, self._tap.projections_only = seen, projections_only
        try:
            with suppress(_LastLayerReached):
                self._run(latents, timestep)
        finally:
            self._tap.sink = None
        assert len(seen) == len(self._layers), "the network never ran all of its tapped layers"
        return seen


class _LastLayerReached(Exception):
    """Ends the network's pass once every wanted layer has been seen."""


class SelfAttentionTap:
    """An attention processor, one for all layers, that writes down what passes through it.

    Attributes:
        sink: where it writes; without one it only attends, as the layer's own processor does.
        projections_only: of the last layer only query, key and value are wanted.
    """

    def __init__(self, last: Attention, *, ends_early: bool) -> None:
        self.sink: list[AttentionFeatures] | None = None
        self.projections_only = False
        self._last = last if ends_early else None

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        query, key, value = (
            _split_heads(projection(hidden_states), attn.heads)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        ends_here = attn is self._last and self.sink is not None
        if self.sink is not None and ends_here and self.projections_only:
            self.sink.append(AttentionFeatures(query, key, value, None))
            raise _LastLayerReached
        out = F.scaled_dot_product_attention(query, key, value)
        if self.sink is not None:
            self.sink.append(AttentionFeatures(query, key, value, out))
        if ends_here:
            raise _LastLayerReached
        merged = out.transpose(1, 2).flatten(2)
        project, dropout = attn.to_out
        return dropout(project(merged))


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)
