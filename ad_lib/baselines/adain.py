"""AdaIN alone: what do a style's channel statistics do without any distillation?

Reference: Huang and Belongie 2017 (arXiv:1703.06868), equation 8, on the backbone's latents instead
of VGG features, and with its decoder instead of a trained one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.algorithm.adain import adain
from ad_lib.finish import finished
from ad_lib.inputs import BatchInputs


@torch.no_grad()
def restyled_by_adain(
    inputs: BatchInputs, on_step_end: Callable[[int, int], None]
) -> Float[Tensor, "b 3 height width"]:
    """Each content with the channel means and deviations of its style's latents.

    Args:
        inputs: of one batch.
        on_step_end: told once: this takes one step.

    Returns:
        Pictures in [0, 1].
    """
    assert inputs.content is not None, "the task has a content"
    latents = adain(inputs.content.one_per_item(), inputs.style)
    on_step_end(1, 1)
    return finished(inputs, latents)
