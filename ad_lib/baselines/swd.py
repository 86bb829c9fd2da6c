"""SWD: what comes of matching the distributions of a network's features, without any attention?

Pixels are moved until, in every layer, random projections of the features are distributed as those
of the reference. Reference: Heitz, Vanhoey, Chambon and Belcour 2021, "A Sliced Wasserstein Loss
for Neural Texture Synthesis" (arXiv:2006.07229), with the settings of the released code: as many
directions as a layer has channels, drawn anew 20 times, 64 evaluations of L-BFGS with each.

It is the published loss on other features. The authors take the activations of VGG-19, a network
that tells what pictures show; it is not at hand. Here they are those of the backbone's own VAE
encoder: its first convolution and every residual block, at every resolution. They know less of what
makes two textures alike, so results say what the loss does on these features, not how good the
published method is. Layers are scaled to the same mean square on the reference, as those of the
authors' VGG-19 are scaled to count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ad_lib.algorithm.noise import Noise
from ad_lib.baselines.sliced_wasserstein import (
    Pairing,
    ascending,
    pairing,
    random_directions,
    transport_cost,
)
from ad_lib.inputs import BatchInputs
from ad_lib.settings import Settings

NOISE_SIGMA = 0.01
"""Standard deviation of the noise on the reference's mean colour, where the result starts."""

HISTORY = 10
"""Steps that L-BFGS remembers, as in the routine that the authors call."""

ExtractFeatures = Callable[[Tensor], list[Tensor]]
"""From a (1, 3, h, w) picture in [0, 1] to the (channels, cells) features of every layer."""


def textured_by_swd(
    inputs: BatchInputs, on_step_end: Callable[[int, int], None]
) -> Float[Tensor, "b 3 height width"]:
    """A new sample of each item's texture; the features of several references are one set.

    Items are computed one after another: L-BFGS takes its steps by one picture's loss.

    Args:
        inputs: of one batch.
        on_step_end: told after each evaluation of the loss.

    Returns:
        Pictures in [0, 1].
    """
    settings, device = inputs.settings, inputs.backbone.device
    extract_features = encoder_features(inputs.backbone.vae)
    num_steps = settings.num_draws * settings.num_optimization_steps * len(inputs.requests)
    made = [
        synthesize(
            extract_features,
            [one.to(device) for one in inputs.style_pictures(item)],
            inputs.image_size,
            noise,
            settings,
            on_step_end=lambda count: on_step_end(count, num_steps),
        )
        for item, noise in enumerate(inputs.noise)
    ]
    return torch.cat(made)


def encoder_features(vae: Any) -> ExtractFeatures:
    """The VAE encoder's first convolution and residual blocks, in float32."""
    encoder = vae.encoder if vae.dtype == torch.float32 else deepcopy(vae.encoder).float()

    def extract_features(image: Tensor) -> list[Tensor]:
        hidden = encoder.conv_in(2 * image - 1)
        activations = [hidden]
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                hidden = resnet(hidden, None)
                activations.append(hidden)
            for downsample in block.downsamplers or ():
                hidden = downsample(hidden)
        return [one[0].flatten(1) for one in activations]

    return extract_features


@dataclass(frozen=True)
class Layer:
    """The reference in one layer: its (channels, cells) features, and what these are scaled by."""

    features: Float[Tensor, "c m"]
    scale: Float[Tensor, ""]


@torch.no_grad()
def reference_layers(
    extract_features: ExtractFeatures, references: Sequence[Float[Tensor, "1 3 _ _"]]
) -> list[Layer]:
    """The references in every layer, scaled to a mean square of 1."""
    by_layer = zip(*map(extract_features, references), strict=True)
    together = [torch.cat(one, 1) for one in by_layer]
    scales = [one.square().mean().clamp(min=1e-12).rsqrt() for one in together]
    return [Layer(one * scale, scale) for one, scale in zip(together, scales, strict=True)]


@dataclass(frozen=True)
class Slices:
    """What a layer's features are compared with along some directions.

    Attributes:
        directions: of unit length.
        theirs: the reference's projections, in ascending order.
        paired: for the numbers of cells of both sides.
        scale: of the layer.
    """

    directions: Float[Tensor, "d c"]
    theirs: Float[Tensor, "d m"]
    paired: Pairing
    scale: Float[Tensor, ""]


def sliced(layer: Layer, directions: Float[Tensor, "d c"], num_cells: int) -> Slices:
    """A layer along some directions, for a result with so many cells in it."""
    features = layer.features
    return Slices(
        directions,
        ascending(directions @ features),
        pairing(num_cells, features.shape[1], features.device),
        layer.scale,
    )


def sliced_wasserstein_loss(
    features: Sequence[Float[Tensor, "c _"]], slices: Sequence[Slices]
) -> Float[Tensor, ""]:
    """The sliced Wasserstein loss L_SW: the sum over layers of the mean over directions.

    Along each direction it is L_SW1D, the mean squared difference of sorted projections.

    Args:
        features: of the result, of every layer; gradients flow back to them.
        slices: of the same layers.
    """
    total = features[0].new_zeros(())
    for ours, layer in zip(features, slices, strict=True):
        projected = ascending(layer.directions @ (layer.scale * ours))
        total = total + transport_cost(projected, layer.theirs, layer.paired, power=2).mean()
    return total


def synthesize(
    extract_features: ExtractFeatures,
    references: Sequence[Float[Tensor, "1 3 _ _"]],
    image_size: tuple[int, int],
    noise: Noise,
    settings: Settings,
    *,
    on_step_end: Callable[[int], None] = lambda count: None,
) -> Float[Tensor, "1 3 height width"]:
    """A picture whose features are distributed as the references', by L-BFGS; in [0, 1].

    Args:
        extract_features: differentiable.
        references: in [0, 1].
        image_size: (height, width) of the result.
        noise: of the item.
        settings: of the task.
        on_step_end: told how many evaluations of the loss were made, or saved, since the last time.
    """
    colour = torch.cat([one.flatten(2) for one in references], 2).mean(2)
    start = NOISE_SIGMA * noise("init", 0, (1, 3, *image_size)).to(colour)
    image = colour[..., None, None] + start
    with torch.no_grad():
        num_cells = [one.shape[1] for one in extract_features(image)]
    layers = reference_layers(extract_features, references)
    for draw in range(settings.num_draws):
        slices = [
            sliced(layer, _directions(noise, draw * len(layers) + depth, layer), cells)
            for depth, (layer, cells) in enumerate(zip(layers, num_cells, strict=True))
        ]
        image = _descended(
            image,
            lambda now, slices=slices: sliced_wasserstein_loss(extract_features(now), slices),
            settings.num_optimization_steps,
            on_step_end,
        ).clamp(0, 1)
    return image


def _directions(noise: Noise, number: int, layer: Layer) -> Float[Tensor, "c c"]:
    """As many as the layer has channels."""
    channels = len(layer.features)
    drawn = random_directions(noise, "directions", number, channels, (channels,))
    return drawn.to(layer.features)


def _descended(
    image: Tensor,
    loss_of: Callable[[Tensor], Tensor],
    num_evaluations: int,
    on_step_end: Callable[[int], None],
) -> Tensor:
    """A picture after L-BFGS with about so many evaluations of a loss."""
    image = nn.Parameter(image.clone())
    optimizer = torch.optim.LBFGS(
        [image],
        max_iter=num_evaluations,
        max_eval=num_evaluations,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
    )
    left = num_evaluations

    def closure() -> Tensor:
        nonlocal left
        optimizer.zero_grad()
        loss = loss_of(image)
        loss.backward()
        if left:
            left -= 1
            on_step_end(1)
        return loss

    optimizer.step(closure)
    if left:
        on_step_end(left)
    return image.detach()
