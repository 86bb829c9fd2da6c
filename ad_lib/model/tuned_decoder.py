"""How is a decoder fine-tuned on one picture, so that it restores its high frequencies?

The autoencoder itself is never changed: a copy learns, and its weights are used inside a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from ad_lib.errors import BackboneError
from ad_lib.pictures.tensors import pad_to_multiple


@dataclass(frozen=True, eq=False)
class TunedDecoder:
    """A decoder that was fine-tuned on one picture.

    Attributes:
        weights: of the decoder alone, under the names that the autoencoder gives them
            (`decoder.*`), in float32 on the CPU.
        losses: (epochs,) mean |decoded - picture| in [-1, 1], each before its update.
    """

    weights: dict[str, Tensor]
    losses: Tensor


def finetune_decoder(
    vae: AutoencoderKL,
    image: Float[Tensor, "1 3 h w"],
    *,
    num_epochs: int = 75,
    learning_rate: float = 1e-4,
) -> TunedDecoder:
    """Fine-tunes a copy of the decoder to reproduce one picture with its high frequencies.

    The autoencoder is left as it was. Everything is computed in float32, whatever its precision.
    Only the decoder learns: the latents are the posterior mean of the frozen encoder, computed
    once, and the convolution before the decoder is not changed.

    Args:
        vae: not within `seamless`, unless the picture is.
        image: in [0, 1]; sides that the autoencoder does not divide are padded by their edge.
        num_epochs: steps of Adam.
        learning_rate: of Adam.

    Reference: Zhou et al. 2025 (arXiv:2502.20235), and its published script.
    """
    learner = deepcopy(vae).float().eval().requires_grad_(False)
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    pixels = pad_to_multiple(2 * image.float() - 1, factor).to(vae.device)
    with torch.no_grad():
        latents: Any = learner.encode(pixels, return_dict=False)[0].mode()
    losses = []
    with torch.enable_grad():
        optimizer = torch.optim.Adam(
            learner.decoder.requires_grad_().parameters(), lr=learning_rate
        )
        for _ in range(num_epochs):
            loss = (learner.decode(latents, return_dict=False)[0] - pixels).abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    weights = {f"decoder.{name}": value for name, value in learner.decoder.state_dict().items()}
    trace = torch.stack(losses) if losses else torch.empty(0)
    return TunedDecoder(
        {name: value.cpu().contiguous() for name, value in weights.items()}, trace.cpu()
    )


@contextmanager
def using_decoder(vae: AutoencoderKL, tuned: TunedDecoder) -> Iterator[None]:
    """Within it the autoencoder decodes with tuned weights, in its own precision.

    Afterwards, also after an exception, its own weights are back: the same tensors.

    Raises:
        BackboneError: the weights are those of another autoencoder's decoder.
    """
    parameters = {f"decoder.{name}": one for name, one in vae.decoder.named_parameters()}
    _check_same_shapes(parameters, tuned.weights)
    originals = {name: parameter.data for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            parameter.data = tuned.weights[name].to(parameter)
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = originals[name]


def _check_same_shapes(parameters: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name in sorted(parameters.keys() | weights.keys()):
        ours, theirs = (
            tuple(one[name].shape) if name in one else None for one in (parameters, weights)
        )
        if ours != theirs:
            raise BackboneError(
                f"the tuned decoder's {name} has the shape {theirs}, this autoencoder's {ours}: "
                "tune it with the same model"
            )
