"""The recipe of the embedded model: pictures, tokens, networks, head start, training, export."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image

from ad_lib.algorithm.losses import content_loss
from ad_lib.embedded.evaluate import decode_latents, load_squares, posterior_mean
from ad_lib.embedded.networks import (
    NARROW_VAE_WIDTHS,
    build_scheduler,
    build_text_encoder,
    build_unet,
    build_vae,
)
from ad_lib.embedded.picture_files import list_pictures, to_tensor
from ad_lib.model.families.stable_diffusion.self_attention import (
    SelfAttentionTap,
    self_attention_layers,
)
from ad_lib.model.taps import FeatureExtractor
from training import autoencoder, drawings, fields, procedural
from training.autoencoder import (
    VAE_STAGES,
    VaeRecipe,
    perturb,
    settled_vae,
    train_vae,
)
from training.balance import balance_queries
from training.data import PictureStream
from training.denoiser import UnetRecipe, train_unet, trained_denoiser
from training.export import export
from training.identity_start import start_as_identity
from training.linear_start import fold_moments, start_linear
from training.procedural import COLOURS, SCENES, draw, new_brush
from training.resumable import Clock, Training
from training.tokens import train_tokenizer
from training.train import Bar, main
from training.widening import widen


@pytest.fixture(scope="module")
def images():
    pixels = np.stack([draw(seed, 64)[0] for seed in range(24)])
    return torch.from_numpy(pixels).movedim(-1, 1).float() / 127.5 - 1


@pytest.fixture
def vae(images):
    torch.manual_seed(0)
    vae = build_vae()
    start_linear(vae, images)
    return vae.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([draw(seed, 16)[1] for seed in range(50)])


def test_a_seed_is_a_picture_and_its_caption():
    (first, caption), (second, again) = draw(11, 48), draw(11, 48)
    np.testing.assert_array_equal(first, second)
    assert caption == again
    assert not np.array_equal(first, draw(12, 48)[0])


@pytest.mark.parametrize("scene", sorted(set(SCENES), key=lambda scene: scene.__name__))
def test_every_scene_fills_its_square_and_names_its_colours(scene):
    brush = new_brush(np.random.default_rng(3), 40)
    picture, caption = scene(brush)
    assert picture.shape == (40, 40, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.01
    assert any(name in caption for name in brush.names)
    assert set(brush.names) <= set(COLOURS)


def test_fractal_noise_has_the_slope_it_was_asked_for():
    field = fields.fractal(np.random.default_rng(0), 256, slope=1.0)
    power = np.abs(np.fft.rfft2(field - field.mean())) ** 2
    low, high = power[4:8, 4:8].mean(), power[32:64, 32:64].mean()
    assert np.log2(low / high) / 2 == pytest.approx(3, abs=0.5)  # three octaves apart


def test_crops_come_from_photographs_as_often_as_asked(tmp_path):
    Image.new("RGB", (90, 70), (255, 0, 0)).save(tmp_path / "red_wall.png")
    paths = list_pictures([tmp_path])
    stream = PictureStream(paths, seed=0, pool=2, photograph_share=1.0)
    crops = stream.captioned(3, 32)
    assert {caption for _, caption in crops} == {"photograph of red wall"}
    assert all((pixels == (255, 0, 0)).all() for pixels, _ in crops)


def test_any_text_tokenizes_and_comes_back(tokenizer):
    for text in ("red bricks", "a_b-c 12!", "naïve café", "赤い花 🌸"):
        ids = tokenizer(text).input_ids
        assert tokenizer.eos_token_id not in ids[1:-1]
        back = tokenizer.decode(ids, skip_special_tokens=True)
        assert back.replace(" ", "") == text.replace(" ", "")


def test_tokens_end_as_in_clip(tokenizer):
    assert tokenizer.eos_token_id == len(tokenizer) - 1
    assert tokenizer.bos_token_id == len(tokenizer) - 2
    assert tokenizer.model_max_length == 77


def test_the_linear_start_gives_unit_latents(vae, images):
    latents = vae.encode(images).latent_dist.mean
    assert latents.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_a_wider_autoencoder_makes_the_same_pictures(vae, images):
    torch.manual_seed(0)
    narrow, wide = build_vae(NARROW_VAE_WIDTHS), build_vae()
    widen(narrow, wide)
    latents = posterior_mean(narrow, images[:2])
    torch.testing.assert_close(posterior_mean(wide, images[:2]), latents, atol=1e-4, rtol=1e-4)
    pictures = decode_latents(narrow, latents)
    torch.testing.assert_close(decode_latents(wide, latents), pictures, atol=1e-4, rtol=1e-4)


def test_the_copies_of_a_feature_are_read_unequally():
    narrow, wide = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(6, 8, 3)
    widen(narrow, wide)
    assert (wide.weight[:, ::2] - wide.weight[:, 1::2]).abs().min() > 0
    torch.testing.assert_close(wide.weight[::2, ::2] + wide.weight[::2, 1::2], narrow.weight)


def test_a_width_that_is_not_doubled_is_refused():
    with pytest.raises(ValueError, match="weight has 4 features; 6 are not twice"):
        widen(torch.nn.Linear(2, 4), torch.nn.Linear(2, 6))


def test_the_unet_begins_by_giving_its_input_back():
    torch.manual_seed(0)
    unet = build_unet().eval().requires_grad_(False)
    start_as_identity(unet)
    noise = torch.randn(2, 16, 16, 24)
    predicted = unet(noise, 700, torch.randn(2, 77, 128)).sample
    assert (predicted - noise).square().mean() < 0.01
    scaled = unet(3 * noise, 700, torch.randn(2, 77, 128)).sample
    torch.testing.assert_close(scaled, predicted, atol=1e-3, rtol=0)


def test_balanced_queries_are_another_content_loss_of_the_same_network():
    torch.manual_seed(0)
    unet, prompt = build_unet().eval().requires_grad_(False), torch.randn(1, 77, 128)
    latents, other = torch.randn(2, 2, 16, 16, 16)
    layers = self_attention_layers(unet)
    at, heard = torch.tensor(500), {"encoder_hidden_states": prompt.expand(2, -1, -1)}

    extract = FeatureExtractor(partial(unet, **heard), layers, SelfAttentionTap(layers[-1]))

    def measure():
        mine, theirs = (extract(z, at) for z in (latents, other))
        picture = unet(latents, at, **heard).sample
        return picture, [content_loss([a], [b]) for a, b in zip(mine, theirs, strict=True)]

    picture, before = measure()
    factors = balance_queries(unet, latents, prompt, shares=[0.5, 1.5] * 8)
    again, after = measure()
    torch.testing.assert_close(again, picture, atol=1e-4, rtol=1e-4)
    for factor, old, new in zip(factors, before, after, strict=True):
        torch.testing.assert_close(new, factor * old, atol=1e-5, rtol=1e-3)


def test_folding_moments_changes_the_latents_but_no_picture(vae, images):
    mean, std = torch.randn(16), torch.rand(16) + 0.5
    before = vae.encode(images[:2]).latent_dist.mean
    picture = vae.decode(before).sample
    fold_moments(vae, mean, std)
    after = vae.encode(images[:2]).latent_dist.mean
    shape = (1, 16, 1, 1)
    torch.testing.assert_close(after, (before - mean.view(shape)) / std.view(shape))
    torch.testing.assert_close(vae.decode(after).sample, picture, atol=1e-4, rtol=1e-4)


def test_latent_noise_spares_half_of_the_items():
    torch.manual_seed(0)
    moved = (perturb(torch.zeros(400, 1, 2, 2), 0.2) != 0).any((1, 2, 3)).float().mean()
    assert moved == pytest.approx(0.5, abs=0.1)


def test_a_clock_counts_time_over_restarts():
    seconds = iter([0.0, 30.0, 100.0, 120.0])
    first = Clock(minutes=1, now=lambda: next(seconds))
    assert first.tick()
    second = Clock(minutes=1, now=lambda: next(seconds))
    second.resume(first.state() | {"seconds": 45.0})
    assert second.share == 0.75


def test_the_curve_of_a_training_is_kept_and_continued(tmp_path):
    def train(first: int, last: int) -> None:
        bar = Bar(tmp_path / "curves.jsonl")
        clock = Clock(minutes=1, now=lambda: 0.0)
        for step in range(first, last):
            clock.steps, clock.seconds = step, float(step)
            bar(SimpleNamespace(stage="unet", clock=clock), loss=0.5)

    train(1, 250)
    train(250, 301)
    points = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert [(p["stage"], p["step"], p["seconds"]) for p in points] == [
        ("unet", 100, 100),
        ("unet", 200, 200),
        ("unet", 300, 300),
    ]
    assert points[0]["loss"] == 0.5


def test_a_unet_is_not_trained_on_latents_that_still_move(tmp_path, capsys):
    assert main(["unet", "--folder", str(tmp_path)]) == 2
    assert "run `train vae" in capsys.readouterr().err
    vae = build_vae(NARROW_VAE_WIDTHS)
    Training(tmp_path / "vae.pt", vae, minutes=1, peak=0.1, stage="narrow").save()
    assert main(["unet", "--folder", str(tmp_path)]) == 2
    assert "its stage 'narrow' and its latents still move" in capsys.readouterr().err


def test_photographs_that_are_not_there_are_named(tmp_path, capsys):
    none = tmp_path / "none"
    assert main(["vae", "--folder", str(tmp_path), "--photographs", str(none)]) == 2
    assert f"no pictures (.jpeg, .jpg, .png, .webp) at {none}" in capsys.readouterr().err


def test_a_killed_training_goes_on_where_it_was(tmp_path):
    def begin() -> Training:
        torch.manual_seed(0)
        return Training(tmp_path / "x.pt", torch.nn.Linear(2, 1), minutes=9, peak=0.1, stage="a")

    def run(training: Training, steps: int) -> None:
        for _ in range(steps):
            training.clock.steps += 1
            training.step(training.model(torch.ones(1, 2)).square().sum())

    straight = begin()
    run(straight, 6)
    killed = begin()
    run(killed, 3)
    killed.save()
    resumed = begin()
    resumed.resume()
    run(resumed, 3)
    torch.testing.assert_close(resumed.model.weight, straight.model.weight)
    torch.testing.assert_close(resumed.average.weight, straight.average.weight)


@pytest.mark.slow
def test_the_stages_follow_each_other_and_settled_latents_stay(
    tmp_path, tokenizer, images, monkeypatch
):
    monkeypatch.setattr(autoencoder, "NUM_MOMENT_CROPS", 4)
    stream = PictureStream([], seed=0, pool=8)
    steps, stages = [], []

    def report(training: Training, **figures: float) -> None:
        stages.append(training.stage)
        steps.append(figures["loss"])

    train_vae(tmp_path, stream, VaeRecipe(minutes=0.08), report)
    assert list(dict.fromkeys(stages)) == list(VAE_STAGES)
    settled = posterior_mean(settled_vae(tmp_path), images)
    train_vae(tmp_path, stream, VaeRecipe(minutes=0.12), report)
    torch.testing.assert_close(posterior_mean(settled_vae(tmp_path), images), settled)

    tokenizer.save_pretrained(tmp_path / "tokenizer")
    train_unet(tmp_path, settled_vae(tmp_path), stream, UnetRecipe(minutes=0.03, pool=4), report)
    assert trained_denoiser(tmp_path).embed(["red bricks"]).shape == (1, 77, 128)
    assert np.isfinite(steps).all()


def test_an_export_is_a_diffusers_folder_in_half_precision(tmp_path, tokenizer):
    unet = build_unet()
    text_encoder = build_text_encoder(len(tokenizer))
    components = {"unet": unet, "vae": build_vae(), "scheduler": build_scheduler()}
    export(tmp_path, components | {"text_encoder": text_encoder, "tokenizer": tokenizer})
    again = UNet2DConditionModel.from_pretrained(tmp_path, subfolder="unet")
    torch.testing.assert_close(again.conv_in.weight, unet.conv_in.weight.half().float())
    assert DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler").config.steps_offset == 1
    assert isinstance(AutoencoderKL.from_pretrained(tmp_path, subfolder="vae"), AutoencoderKL)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
    assert not list(Path(tmp_path).rglob("*.new"))


def test_brushwork_keeps_the_colours_of_what_it_paints():
    plain = np.full((64, 64, 3), 0.25, np.float32)
    painted = procedural.brushwork(np.random.default_rng(0), plain)
    assert painted.mean() == pytest.approx(0.25, abs=0.03)
    assert painted.std() > 0.01


def test_drawings_are_written_whole_with_their_captions(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["drawings", str(tmp_path / "new"), "--count", "2"])
    drawings.main()
    names, captions, images = load_squares(tmp_path / "new")
    pixels, expected = zip(*drawings.fresh_drawings(2), strict=True)
    assert (names, captions) == (["000.png", "001.png"], list(expected))
    torch.testing.assert_close(images, to_tensor(np.stack(pixels)), rtol=0, atol=0)
