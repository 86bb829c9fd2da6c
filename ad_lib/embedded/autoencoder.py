"""Training the autoencoder: first both halves, then the decoder alone on settled latents."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor
from torch.nn.functional import avg_pool2d, l1_loss, mse_loss

from ad_lib.embedded.data import PictureStream
from ad_lib.embedded.linear_start import fold_moments, start_linear
from ad_lib.embedded.networks import build_vae
from ad_lib.embedded.training import Report, Training, load_checkpoint

CROPS = {
    "both": ((0.25, 64, 16), (0.85, 128, 4), (1.0, 256, 1)),
    "decoder": ((0.6, 128, 4), (1.0, 192, 2)),
}
"""By stage: up to this share of the training, crops of this side, this many in a batch."""

PEAK_RATE = {"both": 1.5e-3, "decoder": 1e-3}


@dataclass(frozen=True, kw_only=True)
class VaeRecipe:
    """How the autoencoder is trained.

    `noise` is the largest deviation of the noise put on the unit-variance latents of half of the
    crops: distillation moves latents freely, and the decoder must bear it.
    """

    minutes: float
    noise: float = 0.2
    decoder_only: bool = False
    seed: int = 0
    device: str = "cpu"

    @property
    def stage(self) -> str:
        """Name of the stage in the checkpoint."""
        return "decoder" if self.decoder_only else "both"


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


def add_noise(latents: Tensor, largest: float) -> Tensor:
    """Gaussian noise on half of the items, its deviation uniform up to `largest`."""
    amount = (torch.rand(len(latents), 1, 1, 1, device=latents.device) * 2 - 1).clamp(min=0)
    return latents + largest * amount * torch.randn_like(latents)


def train_vae(folder: Path, stream: PictureStream, recipe: VaeRecipe, report: Report) -> None:
    """Train, or resume, the autoencoder whose checkpoint is `folder/vae.pt`.

    The first run with `decoder_only` settles the latents: the averaged weights become the model,
    the channel moments of its latents are folded in, and the encoder never changes again.
    """
    torch.manual_seed(recipe.seed)
    vae: Any = _starting_vae(folder, stream, recipe)
    vae.to(recipe.device, memory_format=torch.channels_last)
    training = Training(
        folder / "vae.pt",
        vae,
        minutes=recipe.minutes,
        peak=PEAK_RATE[recipe.stage],
        stage=recipe.stage,
    )
    training.resume()
    training.save()
    clock = training.clock

    def next_batch() -> Tensor:
        crops = CROPS[recipe.stage]
        side, count = next((side, count) for share, side, count in crops if clock.share <= share)
        return stream.batch(count, side)

    with ThreadPoolExecutor(max_workers=1) as painter:
        upcoming = painter.submit(next_batch)
        while clock.tick():
            images = upcoming.result().to(recipe.device, memory_format=torch.channels_last)
            upcoming = painter.submit(next_batch)
            with torch.autocast(recipe.device.split(":")[0], dtype=torch.bfloat16):
                loss, pixels = vae_step(vae, images, recipe)
            training.step(loss)
            report(clock, loss=loss.item(), psnr=psnr(pixels, images).item())
    training.save()


def _starting_vae(folder: Path, stream: PictureStream, recipe: VaeRecipe) -> AutoencoderKL:
    if not recipe.decoder_only:
        vae = build_vae()
        start_linear(vae, stream.batch(64, 128))
        return vae
    state = load_checkpoint(folder / "vae.pt")
    vae: Any = trained_vae(folder)
    if state and state["stage"] != recipe.stage:
        fold_moments(vae, *latent_moments(vae, stream))
    vae.decoder.requires_grad_(True)
    vae.post_quant_conv.requires_grad_(True)
    return vae


def posterior_mean(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Unscaled latents (b, c, h/8, w/8) of images in [-1, 1]."""
    encoded: Any = vae.encode(images)
    return encoded.latent_dist.mean


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images, about in [-1, 1], of unscaled latents."""
    decoded: Any = vae.decode(latents)  # pyright: ignore[reportArgumentType]
    return decoded.sample


def trained_vae(folder: Path) -> AutoencoderKL:
    """The averaged autoencoder that `train_vae` left in `folder`, frozen.

    Raises:
        FileNotFoundError: nothing was trained there yet.
    """
    state = load_checkpoint(folder / "vae.pt")
    if state is None:
        raise FileNotFoundError(f"no vae.pt in {folder}; run `train vae --folder {folder}` first")
    vae = build_vae()
    vae.load_state_dict(state["average"])
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def latent_moments(vae: AutoencoderKL, stream: PictureStream) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each latent channel over crops of the training pictures."""
    latents = torch.cat([posterior_mean(vae, stream.batch(1, 256)) for _ in range(128)])
    return latents.mean((0, 2, 3)), latents.std((0, 2, 3))


def vae_step(vae: AutoencoderKL, images: Tensor, recipe: VaeRecipe) -> tuple[Tensor, Tensor]:
    """Loss of one batch, and the pictures that came out."""
    with torch.set_grad_enabled(not recipe.decoder_only):
        latents = posterior_mean(vae, images).float()
    pixels = decode_latents(vae, add_noise(latents, recipe.noise)).float()
    loss = picture_loss(pixels, images)
    return (loss if recipe.decoder_only else loss + 0.1 * moment_loss(latents)), pixels.detach()


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], a mean over the batch."""
    error = (output.clamp(-1, 1) - target).square().mean((1, 2, 3)) / 4
    return (-10 * error.clamp(min=1e-10).log10()).mean()
