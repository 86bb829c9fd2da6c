"""Training the U-Net and its text encoder to predict the noise in settled latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from ad_lib.embedded.evaluate import posterior_mean
from ad_lib.embedded.networks import build_scheduler, build_text_encoder, build_unet
from ad_lib.embedded.picture_files import to_tensor
from training.data import PictureStream, go_on
from training.identity_start import start_as_identity
from training.procedural import draw
from training.resumable import Report, Training, load_checkpoint
from training.tokens import train_tokenizer

CROPS = ((0.65, 16, 24), (1.0, 32, 6))
"""Up to this share of the training: latents of this side, this many in a batch."""


@dataclass(frozen=True, kw_only=True)
class UnetRecipe:
    """How the U-Net and the text encoder are trained."""

    minutes: float
    learning_rate: float = 1e-3
    caption_dropout: float = 0.15
    pool: int = 3000
    seed: int = 0
    device: str = "cpu"


class LatentPool:
    """Captioned latents of crops at 256 pixels; grows to `capacity`, then renews its oldest."""

    def __init__(self, vae: AutoencoderKL, stream: PictureStream, capacity: int) -> None:
        self.vae, self.stream, self.capacity = vae, stream, capacity
        self.latents: list[Tensor] = []
        self.captions: list[str] = []
        self.drawn = 0

    @torch.no_grad()
    def grow(self, count: int = 1) -> None:
        """Encode `count` new crops."""
        for pixels, caption in self.stream.captioned(count, 256):
            image = to_tensor(pixels)[None].to(self.vae.device)
            latents = posterior_mean(self.vae, image)[0].half().cpu()
            if len(self.latents) < self.capacity:
                self.latents.append(latents)
                self.captions.append(caption)
            else:
                self.latents[self.drawn % self.capacity] = latents
                self.captions[self.drawn % self.capacity] = caption
            self.drawn += 1

    def batch(self, rng: np.random.Generator, count: int, side: int) -> tuple[Tensor, list[str]]:
        """Crops (count, c, side, side) of the latents, and their captions."""
        picked = rng.integers(len(self.latents), size=count)
        corners = rng.integers(33 - side, size=(count, 2))
        crops = [
            self.latents[i][:, y : y + side, x : x + side]
            for i, (y, x) in zip(picked, corners, strict=True)
        ]
        return torch.stack(crops).float(), [self.captions[i] for i in picked]


class Denoiser(torch.nn.Module):
    """The U-Net and the text encoder, which are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        self.unet: UNet2DConditionModel = build_unet()
        self.text_encoder: CLIPTextModel = build_text_encoder(len(tokenizer))
        self.tokenizer = tokenizer

    def embed(self, captions: list[str]) -> Tensor:
        """Prompt embeddings (n, 77, width), as the pipeline makes them."""
        tokens = self.tokenizer(
            captions, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.unet.device))[0]

    def forward(self, noised: Tensor, timesteps: Tensor, captions: list[str]) -> Tensor:
        """Predict the noise in `noised`."""
        return self.unet(noised, timesteps, self.embed(captions)).sample


def trained_denoiser(folder: Path) -> Denoiser:
    """The averaged networks that `train_unet` left in `folder`, frozen.

    Raises:
        FileNotFoundError: nothing was trained there yet.
    """
    state = load_checkpoint(folder / "unet.pt")
    if state is None:
        raise FileNotFoundError(f"no unet.pt in {folder}; run `train unet --folder {folder}` first")
    model = Denoiser(CLIPTokenizer.from_pretrained(folder / "tokenizer"))
    model.load_state_dict(state["average"])
    return model.eval().requires_grad_(False)


def learn_tokenizer(stream: PictureStream, count: int = 4000) -> CLIPTokenizer:
    """Tokenizer for the captions of `count` drawings and of the photographs."""
    captions = [draw(seed, 32)[1] for seed in range(count)]
    return train_tokenizer([*captions, *stream.captions, ""])


def train_unet(
    folder: Path, vae: AutoencoderKL, stream: PictureStream, recipe: UnetRecipe, report: Report
) -> None:
    """Train, or resume, the networks in `folder`: `unet.pt` and the folder `tokenizer`."""
    torch.manual_seed(recipe.seed)
    if not (folder / "tokenizer").exists():
        learn_tokenizer(stream).save_pretrained(folder / "tokenizer.new")
        (folder / "tokenizer.new").rename(folder / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    model = Denoiser(tokenizer).to(recipe.device)
    start_as_identity(model.unet)
    if recipe.device == "cpu":  # twice as fast there as the fused attention, for heads this narrow
        model.unet.set_attn_processor(AttnProcessor())
    training = Training(
        folder / "unet.pt", model, minutes=recipe.minutes, peak=recipe.learning_rate, stage="unet"
    )
    training.resume()
    clock = training.clock
    go_on(recipe.seed, clock.steps, stream)
    rng = np.random.default_rng(recipe.seed + clock.steps)
    vae.to(recipe.device)  # pyright: ignore
    pool = LatentPool(vae, stream, recipe.pool)
    pool.grow(min(300, recipe.pool))
    while clock.tick():
        if clock.steps % 2:
            pool.grow()
        side, count = next((side, count) for share, side, count in CROPS if clock.share <= share)
        latents, captions = pool.batch(rng, count, side)
        captions = ["" if rng.random() < recipe.caption_dropout else text for text in captions]
        loss = denoising_loss(model, latents.to(recipe.device), captions)
        training.step(loss)
        report(training, loss=loss.item())
    training.save()


def denoising_loss(model: Denoiser, latents: Tensor, captions: list[str]) -> Tensor:
    """Weighted mean squared error of the noise predicted at random timesteps.

    A constant predictor's error is the share of signal, alpha, from 1 down to 0.005; dividing by
    its root lets the noisy timesteps, where pictures get their layout, count.
    """
    noise = torch.randn_like(latents)
    scheduler = build_scheduler()
    timesteps = torch.randint(0, 1000, (len(latents),))
    weights = (scheduler.alphas_cumprod[timesteps] + 0.01).rsqrt().to(latents)
    timesteps = timesteps.to(latents.device)
    noised = scheduler.add_noise(latents, noise, timesteps)  # pyright: ignore
    with torch.autocast(latents.device.type, dtype=torch.bfloat16):
        prediction = model(noised, timesteps, captions)
    errors = (prediction.float() - noise).square().mean((1, 2, 3))
    return (weights * errors).mean()
