"""A picture that another program has made: how does it compare with ours?

Nothing is computed. The picture is scaled and cropped to the size of the result, as a content is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ad_lib.inputs import BatchInputs


def shown_as_given(
    inputs: BatchInputs, on_step_end: Callable[[int, int], None]
) -> Float[Tensor, "b 3 height width"]:
    """The pictures as they are.

    Args:
        inputs: of one batch.
        on_step_end: told once: this takes one step.

    Returns:
        Pictures in [0, 1].
    """
    pictures = [inputs.external_pixels(item) for item in range(len(inputs.requests))]
    on_step_end(1, 1)
    return torch.cat(pictures)
