"""The measuring command: `python -m ad_lib.embedded.evaluate FOLDER` prints what the model can do.

FOLDER holds pictures that it was not trained on. Four questions: how well does the autoencoder give
pictures back, are its latents near unit variance and tolerant of noise, does the U-Net know more
than the best constant, and does it listen to the caption?
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
    StableDiffusionPipeline,
)
from PIL import Image, ImageOps
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ad_lib.embedded import FOLDER
from ad_lib.embedded.picture_files import list_pictures, open_picture, read_caption, to_tensor

TIMESTEPS = (1, 100, 300, 500, 700, 900, 981)


def posterior_mean(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Unscaled latents (b, c, h/8, w/8) of images in [-1, 1]."""
    encoded: Any = vae.encode(images)
    return encoded.latent_dist.mean


def decode_latents(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Images, about in [-1, 1], of unscaled latents."""
    decoded: Any = vae.decode(latents)  # pyright: ignore[reportArgumentType]
    return decoded.sample


def psnr(output: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], a mean over the batch."""
    error = (output.clamp(-1, 1) - target).square().mean((1, 2, 3)) / 4
    return (-10 * error.clamp(min=1e-10).log10()).mean()


def load_squares(folder: Path, side: int = 256) -> tuple[list[str], list[str], Tensor]:
    """Names, captions and middle squares (n, 3, side, side) in [-1, 1] of the pictures there."""
    paths = list_pictures([folder])
    squares = [
        np.asarray(ImageOps.fit(open_picture(path), (side, side), Image.Resampling.LANCZOS))
        for path in paths
    ]
    names, captions = [path.name for path in paths], [read_caption(path) for path in paths]
    return names, captions, to_tensor(np.stack(squares))


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor) -> Tensor:
    """Scaled posterior means, one picture at a time."""
    means = [posterior_mean(vae, image[None]) for image in images]
    return torch.cat(means) * vae.config["scaling_factor"]


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures in [-1, 1], one at a time."""
    unscaled = latents / vae.config["scaling_factor"]
    pictures = [decode_latents(vae, one[None]) for one in unscaled]
    return torch.cat(pictures).clamp(-1, 1)


def noisy_psnr(vae: AutoencoderKL, images: Tensor, latents: Tensor) -> dict[float, float]:
    """Mean PSNR of the pictures under latent noise, by its deviation."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    return {s: psnr(decode(vae, latents + s * noise), images).item() for s in (0.05, 0.1, 0.2, 0.4)}


def colour_cast(output: Tensor, images: Tensor) -> float:
    """The largest mean shift of a colour channel in any picture, in grey levels of 255."""
    return 127.5 * (output - images).mean((2, 3)).abs().max().item()


def grid_level(output: Tensor, images: Tensor, period: int = 8) -> float:
    """How much of the error repeats with the latent cells, in grey levels of 255.

    The error is averaged over all cells of all pictures, and its mean taken away; the root mean
    square of what is left shows as a grid.
    """
    error = (output - images)[..., : images.shape[-2] // period * period, :]
    error = error[..., : images.shape[-1] // period * period]
    cell = error.unflatten(-1, (-1, period)).unflatten(-3, (-1, period)).mean((0, 1, 2, 4))
    return 127.5 * (cell - cell.mean()).square().mean().sqrt().item()


@torch.no_grad()
def noise_losses(
    pipeline: StableDiffusionPipeline, latents: Tensor, captions: list[str]
) -> dict[int, float]:
    """Mean squared error of the predicted noise at each of TIMESTEPS; the noise is fixed."""
    tokens = pipeline.tokenizer(
        captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )
    prompts = pipeline.text_encoder(tokens.input_ids)[0]
    losses = {}
    for timestep in TIMESTEPS:
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(timestep))
        at = torch.full((len(latents),), timestep)
        noised = pipeline.scheduler.add_noise(latents, noise, at)
        predicted = [
            pipeline.unet(some, timestep, prompt).sample
            for some, prompt in zip(noised.split(8), prompts.split(8), strict=True)
        ]
        losses[timestep] = (torch.cat(predicted) - noise).square().mean().item()
    return losses


def constant_losses(pipeline: StableDiffusionPipeline, latents: Tensor) -> dict[int, float]:
    """What the best predictor would lose that knows only each channel's mean and variance.

    Of x = sqrt(a) z + sqrt(1 - a) e the best linear guess at e leaves a v / (a v + 1 - a), where v
    is the variance of z.
    """
    variance = latents.var((0, 2, 3))
    losses = {}
    for timestep in TIMESTEPS:
        a = pipeline.scheduler.alphas_cumprod[timestep]
        losses[timestep] = (a * variance / (a * variance + 1 - a)).mean().item()
    return losses


def seconds_of(call, repeats: int = 3) -> float:
    """Median seconds of `call`, after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    """Measure a checkpoint from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+", help="folders of pictures not trained on")
    parser.add_argument("--model", type=Path, default=FOLDER)
    parser.add_argument("--save", type=Path, help="folder for originals beside reconstructions")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, for the seconds too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        squares = {folder: load_squares(folder) for folder in options.pictures}
    except FileNotFoundError as error:
        parser.error(str(error))
    console = Console()
    pipeline = StableDiffusionPipeline.from_pretrained(options.model)
    for folder, (names, captions, images) in squares.items():
        latents = encode(pipeline.vae, images)
        output = decode(pipeline.vae, latents)
        noisy = noisy_psnr(pipeline.vae, images, latents)
        _show_reconstruction(console, folder, names, images, output, noisy)
        _show_latents(console, str(folder), latents)
        _show_denoising(console, pipeline, str(folder), latents, captions)
        if options.save:
            _save_pairs(options.save, folder.name, names, torch.cat([images, output], 3))
    _show_speed(console, pipeline)


def _show_reconstruction(
    console: Console,
    folder: Path,
    names: list[str],
    images: Tensor,
    output: Tensor,
    noisy: dict[float, float],
) -> None:
    each = torch.stack([psnr(a[None], b[None]) for a, b in zip(output, images, strict=True)])
    table = Table("picture", "PSNR dB", title=f"{folder}: autoencoder at {images.shape[-1]} pixels")
    for name, value in zip(names, each.tolist(), strict=True):
        table.add_row(name, f"{value:.2f}")
    table.add_row("mean", f"{each.mean():.2f}")
    table.add_row("largest colour cast, levels of 255", f"{colour_cast(output, images):.2f}")
    table.add_row("grid of 8 pixels, levels of 255", f"{grid_level(output, images):.2f}")
    for deviation, value in noisy.items():
        table.add_row(f"mean, latent noise {deviation}", f"{value:.2f}")
    console.print(table)


def _save_pairs(folder: Path, prefix: str, names: list[str], pairs: Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, pair in zip(names, pairs, strict=True):
        pixels = ((pair + 1) * 127.5).round().byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(folder / f"{prefix}-{Path(name).stem}.png")


def _show_latents(console: Console, what: str, latents: Tensor) -> None:
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    console.print(
        f"latents of {what}: channel means {mean.min():.2f} to {mean.max():.2f}, deviations "
        f"{std.min():.2f} to {std.max():.2f}, variance of all {latents.var():.2f}"
    )


def _show_denoising(
    console: Console,
    pipeline: StableDiffusionPipeline,
    what: str,
    latents: Tensor,
    captions: list[str],
) -> None:
    rows = {}
    if any(captions):
        shuffled = captions[1:] + captions[:1]
        rows["right caption"] = noise_losses(pipeline, latents, captions)
        rows["another caption"] = noise_losses(pipeline, latents, shuffled)
    rows["no caption"] = noise_losses(pipeline, latents, [""] * len(captions))
    rows["best constant"] = constant_losses(pipeline, latents)
    table = Table("noise loss at timestep", *map(str, TIMESTEPS), title=f"U-Net on {what}")
    for name, losses in rows.items():
        table.add_row(name, *(f"{losses[timestep]:.4f}" for timestep in TIMESTEPS))
    console.print(table)


def _show_speed(console: Console, pipeline: StableDiffusionPipeline) -> None:
    latents = torch.randn(1, pipeline.unet.config.in_channels, 32, 32).requires_grad_()
    prompt = torch.zeros(1, 77, pipeline.unet.config.cross_attention_dim)
    pipeline.unet.requires_grad_(False)

    def there_and_back() -> None:
        pipeline.unet(latents, 500, prompt).sample.square().mean().backward()

    unet = seconds_of(there_and_back)
    vae = seconds_of(lambda: decode(pipeline.vae, latents.detach()))
    console.print(
        f"U-Net forward and backward at 32x32: {unet:.3f} s; decoding 256 pixels: {vae:.3f} s"
    )
    for name in ("vae", "unet", "text_encoder"):
        count = sum(p.numel() for p in getattr(pipeline, name).parameters())
        console.print(f"{name}: {count / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
