"""Training the autoencoder in three stages.

`narrow`: both halves, from a linear start. `wide`: the same again with twice the features where the
pixels are. `decoder`: the latents are settled, and the decoder goes on alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from ad_lib.embedded.evaluate import decode_latents, posterior_mean, psnr
from ad_lib.embedded.networks import NARROW_VAE_WIDTHS, VAE_WIDTHS, build_vae
from training.data import PictureStream, go_on
from training.linear_start import fold_moments, start_linear
from training.resumable import Report, Training, load_checkpoint, stage_of
from training.widening import widen

VAE_STAGES = {"narrow": 0.35, "wide": 0.4, "decoder": 0.25}
"""The stages in order, with their shares of the minutes."""

CROPS = {
    "narrow": ((0.25, 64, 16), (0.85, 128, 4), (1.0, 256, 1)),
    "wide": ((0.6, 128, 6), (1.0, 256, 2)),
    "decoder": ((0.3, 128, 6), (1.0, 256, 2)),
}
"""By stage: up to this share of the training, crops of this side, this many in a batch."""

NUM_MOMENT_CROPS = 128
"""Crops of 256 pixels over which the moments of the latents are taken."""

PEAK_RATE = {"narrow": 1.5e-3, "wide": 4e-4, "decoder": 4e-4}


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """How the autoencoder is trained.

    `noise` is the largest deviation of the noise put on the unit-variance latents of half of the
    crops: distillation moves latents freely, and the decoder must bear it.
    """

    minutes: float
    noise: float = 0.2
    seed: int = 0
    device: str = "cpu"


def picture_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 and L2 on the pixels, L1 on their differences, and L1 on two coarser scales.

    Differences ask for sharpness, coarse scales for exact colour.
    """
    loss = l1_loss(output, target) + mse_loss(output, target)
    for dim in (-1, -2):
        loss = loss + 0.5 * l1_loss(output.diff(dim=dim), target.diff(dim=dim))
    for scale in (2, 4):
        loss = loss + 0.5 * l1_loss(avg_pool2d(output, scale), avg_pool2d(target, scale))
    return loss


def moment_loss(latents: Tensor) -> Tensor:
    """Keeps each channel of the latents near zero mean and unit deviation."""
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    return mean.square().mean() + (std - 1).square().mean()


def perturb(latents: Tensor, largest: float) -> Tensor:
    """Gaussian noise on half of the items, its deviation uniform up to `largest`."""
    amount = (torch.rand(len(latents), 1, 1, 1, device=latents.device) * 2 - 1).clamp(min=0)
    return latents + largest * amount * torch.randn_like(latents)


def vary(images: Tensor, rng: np.random.Generator) -> Tensor:
    """The batch transposed half of the time, and with its channels in another order a quarter.

    A few photographs then show more colours and directions than they have.
    """
    if rng.random() < 0.5:
        images = images.transpose(2, 3)
    return images[:, rng.permutation(3)] if rng.random() < 0.25 else images


def train_vae(folder: Path, stream: PictureStream, recipe: VaeRecipe, report: Report) -> None:
    """Train, or resume, the autoencoder whose checkpoint is `folder/vae.pt`, stage by stage.

    Each stage begins with the averaged weights of the one before. With `decoder` the latents are
    settled: their channel moments are folded in, and the encoder never changes again.

    Raises:
        FileNotFoundError: the checkpoint there is of another recipe.
    """
    torch.manual_seed(recipe.seed)
    reached = stage_of(folder / "vae.pt") or "narrow"
    if reached not in VAE_STAGES:
        raise FileNotFoundError(
            f"{folder / 'vae.pt'} is in stage {reached!r}, which this recipe does not have "
            f"({', '.join(VAE_STAGES)}); give another --folder"
        )
    stages = list(VAE_STAGES)
    for stage in stages[stages.index(reached) :]:
        _train_stage(stage, folder, stream, recipe, report)


def _train_stage(
    stage: str, folder: Path, stream: PictureStream, recipe: VaeRecipe, report: Report
) -> None:
    vae: Any = _starting_vae(stage, folder, stream)
    vae.to(recipe.device, memory_format=torch.channels_last)
    training = Training(
        folder / "vae.pt",
        vae,
        minutes=recipe.minutes * VAE_STAGES[stage],
        peak=PEAK_RATE[stage],
        stage=stage,
    )
    training.resume()
    training.save()
    clock = training.clock
    go_on(recipe.seed, clock.steps, stream)

    def next_batch() -> Tensor:
        side, count = next((s, n) for share, s, n in CROPS[stage] if clock.share <= share)
        return vary(stream.batch(count, side), stream.rng)

    with ThreadPoolExecutor(max_workers=1) as painter:
        upcoming = painter.submit(next_batch)
        while clock.tick():
            images = upcoming.result().to(recipe.device, memory_format=torch.channels_last)
            upcoming = painter.submit(next_batch)
            with torch.autocast(recipe.device.split(":")[0], dtype=torch.bfloat16):
                loss, pixels = vae_step(vae, images, recipe.noise, settled=stage == "decoder")
            training.step(loss)
            report(training, loss=loss.item(), psnr=psnr(pixels, images).item())
    training.save()


def _starting_vae(stage: str, folder: Path, stream: PictureStream) -> AutoencoderKL:
    if stage == "narrow":
        vae = build_vae(NARROW_VAE_WIDTHS)
        start_linear(vae, stream.batch(64, 128))
        return vae
    before: Any = trained_vae(folder)
    begins = stage_of(folder / "vae.pt") != stage
    if stage == "wide":
        vae = build_vae()
        if begins:
            widen(before, vae)
        return vae
    if begins:
        fold_moments(before, *latent_moments(before, stream))
    before.decoder.requires_grad_(True)
    before.post_quant_conv.requires_grad_(True)
    return before


def trained_vae(folder: Path) -> AutoencoderKL:
    """The averaged autoencoder that `train_vae` left in `folder`, frozen.

    Raises:
        FileNotFoundError: nothing was trained there yet.
    """
    state = load_checkpoint(folder / "vae.pt")
    if state is None:
        raise FileNotFoundError(f"no vae.pt in {folder}; run `train vae --folder {folder}` first")
    narrow = len(state["average"]["encoder.conv_in.weight"]) == NARROW_VAE_WIDTHS[0]
    vae = build_vae(NARROW_VAE_WIDTHS if narrow else VAE_WIDTHS)
    vae.load_state_dict(state["average"])
    return vae.eval().requires_grad_(False)


def settled_vae(folder: Path) -> AutoencoderKL:
    """The averaged autoencoder of `folder`, whose latents will not change any more.

    Raises:
        FileNotFoundError: its training has not come that far.
    """
    vae = trained_vae(folder)
    if (stage := stage_of(folder / "vae.pt")) != "decoder":
        raise FileNotFoundError(
            f"the autoencoder in {folder} is in its stage {stage!r} and its latents still move; "
            f"run `train vae --folder {folder}` on"
        )
    return vae


@torch.no_grad()
def latent_moments(vae: AutoencoderKL, stream: PictureStream) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each latent channel over crops of the training pictures."""
    crops = (stream.batch(1, 256) for _ in range(NUM_MOMENT_CROPS))
    latents = torch.cat([posterior_mean(vae, crop) for crop in crops])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


def vae_step(
    vae: AutoencoderKL, images: Tensor, noise: float, *, settled: bool
) -> tuple[Tensor, Tensor]:
    """Loss of one batch, and the pictures that came out; settled latents get no gradient."""
    with torch.set_grad_enabled(not settled):
        latents = posterior_mean(vae, images).float()
    pixels = decode_latents(vae, perturb(latents, noise)).float()
    loss = picture_loss(pixels, images)
    return (loss if settled else loss + 0.1 * moment_loss(latents)), pixels.detach()
