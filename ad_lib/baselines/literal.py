"""How does the published implementation compute? Its loops, written out with nothing saved.

Three passes a step through the whole network, one image at a time, nothing shared, nothing left
out, `torch.optim.Adam`, and the losses read at every step. Invariant: nothing of `ad_lib.algorithm`
computes here, so that the two can be held against each other, in numbers and in seconds.

Reference: Zhou et al. 2025 (arXiv:2502.20235), Algorithm 1 and 2; Bar-Tal et al. 2023
(arXiv:2302.08113), MultiDiffusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import isqrt
from typing import Any, NamedTuple

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from ad_lib.algorithm.noise import Noise
from ad_lib.model.prompts import PromptEmbeds, joined
from ad_lib.settings import Settings

Place = tuple[int, int]
"""The first row and column, in latent cells, of a view that the network looks at."""


class Features(NamedTuple):
    """What one self-attention layer saw, each (b, heads, tokens, d)."""

    query: Tensor
    key: Tensor
    value: Tensor
    out: Tensor


class Losses(NamedTuple):
    """The two losses before an Adam step, as the published code prints them."""

    style: float
    content: float


class LiteralNetwork:
    """A U-Net with the published feature extractor attached: every call runs it to its end.

    Args:
        unet: frozen.
        layers: the self-attention modules whose features are used, in execution order.
        null_prompt: the encoded empty prompt, which conditions every feature pass.
        image_size: (height, width) of the picture in the making, in pixels.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        layers: Sequence[Attention],
        null_prompt: PromptEmbeds,
        image_size: tuple[int, int],
    ) -> None:
        self.unet = unet
        self.layers = layers
        self.null_prompt = null_prompt
        self.image_size = image_size
        self._seen: list[Features] = []

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within it the layers write down what passes through them; it is needed for features."""
        before = [layer.processor for layer in self.layers]
        for layer in self.layers:
            extractor: Any = self._attention
            layer.processor = extractor
        try:
            yield
        finally:
            for layer, processor in zip(self.layers, before, strict=True):
                layer.processor = processor

    def features(self, latents: Float[Tensor, "b c h w"], timestep: Tensor) -> list[Features]:
        """The features of latents at a timestep, under the empty prompt."""
        self._run(latents, timestep, self.null_prompt)
        return self._seen

    @torch.no_grad()
    def noise(
        self,
        latents: Float[Tensor, "b c h w"],
        timestep: Tensor,
        prompt: PromptEmbeds,
        negative_prompt: PromptEmbeds,
        guidance_scale: float,
    ) -> Float[Tensor, "b c h w"]:
        """The noise in latents, by classifier-free guidance if the scale is above 1."""
        if guidance_scale <= 1:
            return self._run(latents, timestep, prompt)
        batch = len(latents)
        both = joined([negative_prompt.repeated(batch), prompt.repeated(batch)])
        negative, positive = self._run(torch.cat([latents, latents]), timestep, both).chunk(2)
        return negative + guidance_scale * (positive - negative)

    def _run(self, latents: Tensor, timestep: Tensor, prompt: PromptEmbeds) -> Tensor:
        self._seen = []
        dtype = self.unet.dtype
        with torch.autocast(latents.device.type, dtype, enabled=dtype != torch.float32):
            conditioning = prompt.conditioning(len(latents), self.image_size)
            return self.unet(latents, timestep, **conditioning, return_dict=False)[0].float()

    def _attention(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        query, key, value = (
            projection(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projection in (attn.to_q, attn.to_k, attn.to_v)
        )
        out = F.scaled_dot_product_attention(query, key, value)
        self._seen.append(Features(query, key, value, out))
        project, dropout = attn.to_out
        return dropout(project(out.transpose(1, 2).flatten(2)))


Mask = Callable[[int], Tensor | None]
"""From a layer's number of tokens to its (tokens, tokens) boolean mask."""


def no_mask(num_tokens: int) -> None:
    """Every token sees every other."""


def label_mask(source: Float[Tensor, "hs ws"], target: Float[Tensor, "h w"]) -> Mask:
    """Tokens see those of exactly their own label; pictures must be square, and of one size."""

    def mask(num_tokens: int) -> Tensor:
        side = isqrt(num_tokens)
        if side * side != num_tokens:
            raise ValueError(f"the published masks need a square picture; got {num_tokens} tokens")
        of_source, of_target = (
            F.interpolate(labels[None, None].double(), (side, side), mode="nearest").flatten()
            for labels in (source, target)
        )
        return of_target[:, None] == of_source

    return mask


def distillation_loss(
    current: Sequence[Features], style: Sequence[Features], attn_scale: float, mask: Mask
) -> Tensor:
    """The style loss: mean over everything in a layer, summed over layers."""
    total = current[0].out.new_zeros(())
    for mine, theirs in zip(current, style, strict=True):
        key, value = (_side_by_side(one, len(mine.out)) for one in (theirs.key, theirs.value))
        attn_mask = mask(mine.query.shape[2])
        target = F.scaled_dot_product_attention(attn_scale * mine.query, key, value, attn_mask)
        total = total + F.l1_loss(mine.out, target.detach())
    return total


def content_loss(current: Sequence[Features], content: Sequence[Features]) -> Tensor:
    """The content loss: mean over everything in a layer, summed over layers."""
    total = current[0].query.new_zeros(())
    for mine, theirs in zip(current, content, strict=True):
        total = total + F.l1_loss(mine.query, theirs.query.expand_as(mine.query))
    return total


def _side_by_side(tokens: Tensor, batch: int) -> Tensor:
    """(batch, heads, images * tokens, d) the tokens of all images as one sequence."""
    return torch.cat(tokens.split(1), 2).expand(batch, -1, -1, -1)


def optimize_literally(
    network: LiteralNetwork,
    timesteps: Iterable[Tensor],
    latents: Float[Tensor, "b c h w"],
    style: Float[Tensor, "s c hs ws"],
    content: Float[Tensor, "1 c h w"] | None,
    settings: Settings,
    *,
    mask: Mask = no_mask,
) -> tuple[Float[Tensor, "b c h w"], list[Losses]]:
    """Algorithm 1: one Adam for the whole run, references clean, nothing denoised.

    Args:
        network: the frozen network.
        timesteps: descending.
        latents: where the optimisation starts.
        style: clean latents of the references, read as one token sequence.
        content: clean latents of the content.
        settings: the task's numbers.
        mask: which tokens may see which.
    """
    latents = latents.detach().float().clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=settings.learning_rate)
    losses = []
    with network.attached():
        for t in timesteps:
            losses += _descend(network, optimizer, latents, t, style, content, settings, mask)
    return latents.detach(), losses


def sample_literally(
    network: LiteralNetwork,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "b c h w"],
    style: Float[Tensor, "s c hs ws"],
    noise: Noise,
    prompts: tuple[PromptEmbeds, PromptEmbeds],
    settings: Settings,
    content: Float[Tensor, "1 c h w"] | None = None,
    *,
    num_steps: int | None = None,
) -> tuple[Float[Tensor, "b c h w"], list[Losses]]:
    """Algorithm 2: a step of DDIM, AdaIN, then a new Adam on the latents, at every timestep.

    Args:
        network: the frozen network.
        scheduler: DDIM with its timesteps set.
        latents: unit Gaussian noise.
        style: clean latents of the references.
        noise: drawn anew for every use.
        prompts: what is drawn, and what guidance leads away from.
        settings: the task's numbers.
        content: clean latents of the content.
        num_steps: only so many of the first timesteps; None is all.
    """
    losses = []
    with network.attached():
        for step, t in enumerate(scheduler.timesteps[:num_steps]):
            latents, of_step = _sampled_step(
                network, scheduler, latents, step, t, style, noise, prompts, settings, content
            )
            losses += of_step
    return latents, losses


def expand_literally(
    network: LiteralNetwork,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "1 c h w"],
    style: Float[Tensor, "s c hs ws"],
    noise: Noise,
    prompts: tuple[PromptEmbeds, PromptEmbeds],
    settings: Settings,
    views_at: Callable[[int], Sequence[Place]],
    view_shape: tuple[int, int],
    *,
    num_steps: int | None = None,
) -> tuple[Float[Tensor, "1 c h w"], list[Losses]]:
    """MultiDiffusion: Algorithm 2's step in every batch of views, then the mean where they overlap.

    Args:
        network: the frozen network.
        scheduler: DDIM with its timesteps set.
        latents: unit Gaussian noise, of the whole picture.
        style: clean latents of the references.
        noise: drawn for every batch of views.
        prompts: what is drawn, and what guidance leads away from.
        settings: the task's numbers.
        views_at: the views of each step.
        view_shape: (height, width) of each, in latent cells.
        num_steps: only so many of the first timesteps; None is all.
    """
    losses = []
    with network.attached():
        for step, t in enumerate(scheduler.timesteps[:num_steps]):
            total, count = torch.zeros_like(latents), torch.zeros_like(latents)
            views = views_at(step)
            for start in range(0, len(views), settings.view_batch_size):
                batch = views[start : start + settings.view_batch_size]
                windows = [_window(place, view_shape) for place in batch]
                crops = torch.cat([latents[window] for window in windows])
                crops, of_batch = _sampled_step(
                    network, scheduler, crops, step, t, style, noise, prompts, settings, None
                )
                losses += of_batch
                for window, crop in zip(windows, crops, strict=True):
                    total[window] += crop
                    count[window] += 1
            latents = total / count
    return latents, losses


def _window(place: Place, shape: tuple[int, int]) -> tuple[Any, ...]:
    (top, left), (height, width) = place, shape
    return ..., slice(top, top + height), slice(left, left + width)


def _sampled_step(
    network: LiteralNetwork,
    scheduler: DDIMScheduler,
    latents: Tensor,
    step: int,
    t: Tensor,
    style: Tensor,
    noise: Noise,
    prompts: tuple[PromptEmbeds, PromptEmbeds],
    settings: Settings,
    content: Tensor | None,
) -> tuple[Tensor, list[Losses]]:
    """One timestep of Algorithm 2."""
    given: Any = scheduler
    noise_pred = network.noise(latents, t, *prompts, settings.guidance_scale)
    latents = given.step(noise_pred, t, latents, return_dict=False)[0]
    if settings.num_optimization_steps == 0 or t >= settings.start_time:
        return latents, []
    apart = given.config.num_train_timesteps // given.num_inference_steps
    before = (t - apart).clamp(min=0)  # the level at which the step has arrived

    def noised(clean: Tensor, tag: str) -> Tensor:
        numbered = enumerate(clean, start=step * len(clean))
        drawn = torch.stack([noise(tag, number, one.shape) for number, one in numbered])
        return given.add_noise(clean, drawn.to(clean), before[None])

    noised_style = noised(style, "style")
    if settings.adain:
        target = noised(style, "adain") if settings.variant == "reference" else noised_style
        latents = _adain(latents, target)
    noised_content = None if content is None else noised(content, "content")

    latents = latents.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=settings.learning_rate)
    losses = _descend(
        network, optimizer, latents, before, noised_style, noised_content, settings, no_mask
    )
    return latents.detach(), losses


def _descend(
    network: LiteralNetwork,
    optimizer: torch.optim.Adam,
    latents: Tensor,
    t: Tensor,
    style: Tensor,
    content: Tensor | None,
    settings: Settings,
    mask: Mask,
) -> list[Losses]:
    """The Adam steps of one timestep, after one pass for the style and one for the content."""
    with torch.no_grad():
        style_features = network.features(style, t)
        content_features = None if content is None else network.features(content, t)
    losses = []
    for _ in range(settings.num_optimization_steps):
        current = network.features(latents, t)
        loss_style = distillation_loss(current, style_features, settings.attn_scale, mask)
        loss_content = torch.zeros_like(loss_style)
        if content_features is not None:
            loss_content = content_loss(current, content_features)
        loss = loss_style + settings.content_weight * loss_content

        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(Losses(loss_style.item(), loss_content.item()))
    return losses


def _adain(latents: Tensor, style: Tensor) -> Tensor:
    """Latents with the channel statistics of all the style images together."""
    mean, deviation = latents.mean((2, 3), keepdim=True), latents.std((2, 3), keepdim=True)
    style_mean = style.mean((0, 2, 3), keepdim=True)
    style_deviation = style.std((0, 2, 3), keepdim=True)
    return (latents - mean) / (deviation + 1e-6) * style_deviation + style_mean
