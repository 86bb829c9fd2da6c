"""StyleID: what if a style's keys and values take the content's place, and nothing is optimised?

Content and style are inverted to noise. From the content's noise, with the style's channel
statistics, a picture is drawn whose self-attention looks at the style's tokens.

| paper | here |
|---|---|
| z_T, z_t | latents under noise, at the first and at every timestep of the sampler |
| Q^c, K^s, V^s | features of the inverted content, of the inverted style |
| Q^cs | the query of the picture in the making |
| gamma, tau | `query_preservation` 0.75, `attention_temperature` 1.5 |
| 50 DDIM steps, empty prompt | `num_inference_steps`; there is no guidance |
| the 7th to 12th of the U-Net's decoder | `layers`: the last six self-attention layers |

The paper counts the 12 blocks of the decoder of Stable Diffusion 1 from 1. The first three have no
attention and each other one has one self-attention layer, so these are the last six of all 16:
(10, 16) in our counting, and what Attention Distillation uses too. SDXL's decoder has nine blocks;
there the default is the last six layers as well, the two of each block of its second resolution.

The paper keeps queries, keys and values of all timesteps: 3.5 GB of a picture of 512 pixels in
float32. Here only the latents of every timestep are kept, and content and style go through the
network again beside the picture, which gives the same features. Several styles are read as one
long sequence of tokens, each counted by its weight; the paper has one.

Reference: Chung, Hyun and Heo 2024 (arXiv:2312.09008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.adain import adain
from ad_lib.algorithm.dynamics import Dynamics, Timestep
from ad_lib.algorithm.features import AttentionFeatures, References
from ad_lib.algorithm.guide import PredictNoise, denoised
from ad_lib.finish import finished
from ad_lib.inputs import BatchInputs
from ad_lib.model.taps import FeatureExtractor
from ad_lib.settings import Settings

NUM_PHASES = 3
"""The content is inverted, the style is inverted, the picture is drawn: each in all timesteps."""


@torch.no_grad()
def restyled_by_injection(
    inputs: BatchInputs, on_step_end: Callable[[int, int], None]
) -> Float[Tensor, "b 3 height width"]:
    """Each content, drawn anew out of its noise with the attention of its styles.

    Args:
        inputs: of one batch.
        on_step_end: told after each step of each of the three phases.

    Returns:
        Pictures in [0, 1].
    """
    inputs.encode()
    assert inputs.content is not None, "the task has a content"
    settings, backbone = inputs.settings, inputs.backbone
    dynamics = backbone.dynamics(settings.num_inference_steps, inputs.image_size)
    predict_noise = backbone.noise_predictor(inputs.image_size)
    advance = partial(on_step_end, 1, NUM_PHASES * len(dynamics.timesteps))
    content = inverted(predict_noise, dynamics, inputs.content, advance)
    style = inverted(predict_noise, dynamics, inputs.style, advance)
    with backbone.feature_extractor(settings.layers, inputs.image_size) as extract:
        latents = injected(
            predict_noise, extract, dynamics, content, style, settings, on_step_end=advance
        )
    return finished(inputs, latents)


def inverted(
    predict_noise: PredictNoise,
    dynamics: Dynamics,
    clean: References,
    on_step_end: Callable[[], None] = lambda: None,
) -> list[References]:
    """DDIM inversion: the latents z_t from which the sampler would come to the clean ones.

    A step down sees the noise in z_t; the step up to z_t, which has yet to find it, sees that in
    the latents before, at the same timestep. The finer the steps, the less the two differ.

    Returns:
        The references at each timestep of the sampler, in its order: z_T first.
    """
    trajectory, latents = [], clean
    for t in reversed(dynamics.timesteps):
        latents = latents.changed(partial(_noised, predict_noise, dynamics, t))
        trajectory.append(latents)
        on_step_end()
    return trajectory[::-1]


def _noised(
    predict_noise: PredictNoise,
    dynamics: Dynamics,
    timestep: Timestep,
    latents: Float[Tensor, "b c h w"],
) -> Float[Tensor, "b c h w"]:
    noise = predict_noise(latents, timestep.tensor)
    return dynamics.step_back(noise, timestep, latents)


def injected(
    predict_noise: PredictNoise,
    extract: FeatureExtractor,
    dynamics: Dynamics,
    content: Sequence[References],
    style: Sequence[References],
    settings: Settings,
    *,
    on_step_end: Callable[[], None] = lambda: None,
) -> Float[Tensor, "b c h w"]:
    """The reverse process, in which the layers attend to the style.

    Args:
        predict_noise: the frozen network under the empty prompt.
        extract: features of its layers; what they attend with is put in through it.
        dynamics: the sampler.
        content: the inverted contents at each of its timesteps, one per item.
        style: the inverted styles at each of its timesteps.
        settings: gamma and tau.
        on_step_end: told after each timestep.

    Returns:
        The clean latents of the pictures.
    """
    latents = initial_latents(content[0], style[0])
    for t, content_t, style_t in zip(dynamics.timesteps, content, style, strict=True):
        of_content = content_t.features(extract, t.tensor)
        of_style = style_t.features(extract, t.tensor)
        inject = [
            partial(styled, content=theirs, style=styles, settings=settings)
            for theirs, styles in zip(of_content, of_style, strict=True)
        ]
        with extract.injecting(inject):
            latents = denoised(predict_noise, dynamics, latents, t)
        on_step_end()
    return latents


def initial_latents(content: References, style: References) -> Float[Tensor, "b c h w"]:
    """Initial latent AdaIN: the content's z_T with the channel statistics of the style's z_T."""
    return adain(content.one_per_item(), style)


def styled(
    own: AttentionFeatures,
    *,
    content: AttentionFeatures,
    style: AttentionFeatures,
    settings: Settings,
) -> AttentionFeatures:
    """What a layer attends with: tau Q~ with the style's keys and values.

    Q~ = gamma Q^c + (1 - gamma) Q^cs. Scaling the query scales the logits, before the softmax.
    """
    gamma, tau = settings.query_preservation, settings.attention_temperature
    query = gamma * content.query + (1 - gamma) * own.query
    return AttentionFeatures(tau * query, style.key, style.value, None, style.bias)
