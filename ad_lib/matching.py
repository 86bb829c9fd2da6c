"""How surely do the items of a batch find their like in their styles?

It is asked once, when everything else is done, so it changes no pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.matches import TIMESTEP, match_uncertainty
from ad_lib.encoded import EncodedPictures
from ad_lib.inputs import BatchInputs
from ad_lib.model.backbone import Backbone
from ad_lib.presets import find_preset
from ad_lib.requests import Request
from ad_lib.synthesis import axes_inside_a_view


@torch.no_grad()
def matches_of_batch(
    inputs: BatchInputs, latents: Float[Tensor, "b c h w"] | None
) -> Float[Tensor, " b"]:
    """The match uncertainty of every item, each in passes of its own.

    The queries are the content's where optimisation starts from it: they tell good pairs from bad
    ones before anything is rendered. Elsewhere they are the result's; of a picture that is
    expanded, those of the view in its middle.

    Args:
        inputs: of the batch.
        latents: of the results; None where optimisation starts from contents.
    """
    settings, backbone = inputs.settings, inputs.backbone
    preset = find_preset(inputs.requests[0].task)
    regions, axes, size = inputs.regions, settings.seamless, inputs.image_size
    if preset.starts_from_content and inputs.content is not None:
        latents = inputs.content.one_per_item()
    assert latents is not None, "without a content only a result has queries"
    if preset.algorithm == "expand":
        axes = axes_inside_a_view(settings, latents)
        latents = _middle(latents, settings.view_size)
        size = tuple(side * backbone.vae_scale_factor for side in latents.shape[-2:])
    timestep = torch.full((), TIMESTEP, device=latents.device)  # no copy
    found = []
    with (
        backbone.seamless(axes),
        backbone.feature_extractor(settings.layers, (size[0], size[1])) as extract,
    ):
        for item in range(len(latents)):
            style = inputs.style.of_items([item])
            found.append(
                match_uncertainty(
                    extract(latents[item : item + 1], timestep, projections_only=True),
                    style.features(extract, timestep),
                    attn_scale=settings.attn_scale,
                    regions=regions and regions.of_items([item]),
                    rope=settings.rope,
                )
            )
    return torch.cat(found)


def predicted_matches(
    backbone: Backbone, requests: Sequence[Request], encoded: EncodedPictures | None = None
) -> list[float]:
    """The match uncertainty of requests whose optimisation starts from a content, not rendered.

    Args:
        backbone: the frozen model.
        requests: each is looked at alone, at its own size.
        encoded: pictures that were encoded before; these are kept there too.
    """
    encoded = encoded or EncodedPictures()
    return [
        matches_of_batch(BatchInputs(backbone, [one], [], encoded), None).item() for one in requests
    ]


def _middle(latents: Float[Tensor, "b c h w"], side: int) -> Float[Tensor, "b c h w"]:
    for axis in (-2, -1):
        length = latents.shape[axis]
        taken = min(side, length)
        latents = latents.narrow(axis, (length - taken) // 2, taken)
    return latents
