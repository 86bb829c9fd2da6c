"""Decoding tile by tile, with and without borders, and decoders tuned to one picture."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ad_lib.errors import BackboneError
from ad_lib.model.decoder_cache import DecoderCache
from ad_lib.model.random_weights import random_backbone
from ad_lib.model.seamless import seamless
from ad_lib.model.tiles import decode_tiled
from ad_lib.model.tuned_decoder import TunedDecoder, finetune_decoder, using_decoder

# ---------------------------------------------------------------------------- tiles


def white(latents):
    """A decoder of any latents to pictures that are one everywhere."""
    return torch.ones(len(latents), 3, 8 * latents.shape[2], 8 * latents.shape[3])


def local(latents, *, factor=4, radius=1, mode="constant"):
    """A decoder that sees `radius` cells around each pixel, and zeros beyond the border."""
    padded = F.pad(latents, (radius,) * 4, mode=mode)
    side = 2 * radius + 1
    weight = torch.linspace(-1, 1, 3 * latents.shape[1] * side * side)
    mixed = F.conv2d(padded, weight.view(3, latents.shape[1], side, side)).sin()
    ramp = torch.linspace(0.5, 1, factor)
    return mixed.repeat_interleave(factor, 2).repeat_interleave(factor, 3) * ramp.repeat(
        latents.shape[3]
    )


def random_latents(height, width, channels=4):
    return torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0))


sides = st.integers(1, 70)
layouts = st.tuples(st.integers(4, 24), st.integers(0, 12)).filter(lambda one: one[0] > one[1] + 2)


@settings(deadline=None, max_examples=60)
@given(sides, sides, layouts, st.tuples(st.booleans(), st.booleans()))
def test_one_everywhere_stays_one_everywhere(height, width, layout, wrap):
    tile, overlap = layout
    decoded = decode_tiled(
        white, random_latents(height, width), tile=tile, overlap=overlap, wrap=wrap
    )
    torch.testing.assert_close(decoded, torch.ones(1, 3, 8 * height, 8 * width))


@settings(deadline=None, max_examples=60)
@given(sides, sides, st.tuples(st.booleans(), st.booleans()))
def test_a_decoder_that_sees_no_farther_than_the_halo_decodes_as_if_whole(height, width, wrap):
    latents = random_latents(height, width)
    decoded = decode_tiled(local, latents, tile=14, overlap=6, wrap=wrap, factor=4)
    # The whole decode of a torus is that of latents which go on around it, cropped.
    rows, columns = (int(wraps) for wraps in wrap)
    around = F.pad(latents, (columns, columns, 0, 0), mode="circular")
    around = F.pad(around, (0, 0, rows, rows), mode="circular")
    expected = local(around)[:, :, 4 * rows :, 4 * columns :][:, :, : 4 * height, : 4 * width]
    torch.testing.assert_close(decoded, expected)


def test_without_a_halo_the_borders_of_tiles_show():
    latents = random_latents(40, 40)
    decoded = decode_tiled(local, latents, tile=14, overlap=0, factor=4)
    assert (decoded - local(latents)).abs().max() > 0.1


def test_tiles_are_blended_linearly_over_the_middle_half_of_their_overlap():
    shades = iter([0.0, 1.0])
    decoded = decode_tiled(
        lambda latents: next(shades) * white(latents), random_latents(16, 24), tile=16, overlap=8
    )
    # Cells 8 to 16 belong to both tiles; the first and the last two of them are halo.
    ramp = (torch.arange(32) + 0.5) / 32
    expected = torch.cat([torch.zeros(80), ramp, torch.ones(80)])
    torch.testing.assert_close(decoded, expected.expand(1, 3, 128, 192))


@settings(deadline=None, max_examples=60)
@given(sides, sides, layouts)
def test_no_tile_is_larger_than_was_asked_for_and_all_are_equally_large(height, width, layout):
    tile, overlap = layout
    seen = set()

    def watched(latents):
        seen.add(tuple(latents.shape))
        return white(latents)

    decode_tiled(
        watched, random_latents(height, width), tile=tile, overlap=overlap, wrap=(True, False)
    )
    ((batch, _, rows, columns),) = seen
    assert batch == 1
    assert max(rows, columns) <= tile


def test_a_picture_of_one_tile_is_decoded_as_it_is(tiny_backbone):
    latents = random_latents(12, 16)
    decoded = decode_tiled(tiny_backbone.decode, latents, tile=16, overlap=4)
    assert torch.equal(decoded, tiny_backbone.decode(latents))


def test_a_batch_is_decoded_like_each_alone(tiny_backbone):
    latents = torch.cat([random_latents(20, 20), random_latents(20, 20).flip(3)])
    options = {"tile": 16, "overlap": 8, "wrap": (False, True)}
    alone = [decode_tiled(tiny_backbone.decode, one, **options) for one in latents.split(1)]
    together = decode_tiled(tiny_backbone.decode, latents, **options)
    torch.testing.assert_close(together, torch.cat(alone))


def step_across(images, axis) -> float:
    """Mean difference across the border over the mean difference inside."""
    steps = (images - images.roll(1, axis)).abs()
    return float(steps.select(axis, 0).mean() / steps.narrow(axis, 1, steps.shape[axis] - 1).mean())


@pytest.mark.parametrize(("wrap", "axis"), [((True, False), 2), ((False, True), 3)])
def test_opposite_edges_meet_along_wrapped_axes(tiny_backbone, wrap, axis):
    latents = F.interpolate(random_latents(6, 6), scale_factor=4, mode="nearest")
    # The cells themselves meet: the same ones on both sides of the border.
    latents = latents.roll((2, 2), (2, 3))
    wrapped = decode_tiled(tiny_backbone.decode, latents, tile=16, overlap=8, wrap=wrap)
    plain = decode_tiled(tiny_backbone.decode, latents, tile=16, overlap=8)
    assert step_across(wrapped, axis) < 1.2
    assert step_across(plain, axis) > 2


def test_a_torus_is_decoded_much_like_whole_under_seamless(tiny_backbone):
    latents = random_latents(32, 32)
    with seamless(tiny_backbone.vae, axes="both"):
        whole = tiny_backbone.decode(latents)
    tiled = decode_tiled(tiny_backbone.decode, latents, tile=32, overlap=16, wrap=(True, True))
    plain = decode_tiled(tiny_backbone.decode, latents, tile=32, overlap=16)
    error = (tiled - whole).abs()
    assert error.mean() < (plain - whole).abs().mean() / 2
    assert error.max() < 0.25


@pytest.mark.parametrize("overlap", [-1, 16, 20])
def test_an_overlap_that_leaves_a_tile_nothing_is_refused(overlap):
    with pytest.raises(ValueError, match=rf"overlap must lie in 0\.\.15 .* got {overlap}"):
        decode_tiled(white, random_latents(8, 8), tile=16, overlap=overlap)


# ---------------------------------------------------------------------------- tuned decoders


@pytest.fixture
def image():
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(noise, size=(64, 64), mode="bilinear")


@pytest.fixture
def tiny_vae(tiny_backbone):
    return tiny_backbone.vae


def reconstruction_error(vae, image) -> float:
    with torch.no_grad():
        latents = vae.encode(2 * image.to(vae.dtype) - 1).latent_dist.mean
        decoded = vae.decode(latents).sample / 2 + 0.5
    return float((decoded.float() - image).abs().mean())


def test_a_tuned_decoder_reconstructs_its_picture_better(tiny_vae, image):
    before = reconstruction_error(tiny_vae, image)
    tuned = finetune_decoder(tiny_vae, image, num_epochs=8, learning_rate=1e-3)
    with using_decoder(tiny_vae, tuned):
        assert reconstruction_error(tiny_vae, image) < 0.9 * before
    assert reconstruction_error(tiny_vae, image) == before
    # The loss is that of [-1, 1], so twice that of [0, 1].
    assert float(tuned.losses[0]) == pytest.approx(2 * before, rel=1e-4)


def test_fine_tuning_is_adam_on_the_mean_difference(tiny_vae, image):
    vae = deepcopy(tiny_vae)
    with torch.no_grad():
        latents = vae.encode(2 * image - 1).latent_dist.mean
    learning = dict(vae.decoder.requires_grad_().named_parameters())
    mean = {name: 0.0 for name in learning}
    square, losses = dict(mean), []
    for step in range(1, 5):
        loss = (vae.decode(latents).sample - (2 * image - 1)).abs().mean()
        losses.append(loss.detach())
        gradients = torch.autograd.grad(loss, list(learning.values()))
        for (name, parameter), gradient in zip(learning.items(), gradients, strict=True):
            mean[name] = 0.9 * mean[name] + 0.1 * gradient
            square[name] = 0.999 * square[name] + 0.001 * gradient**2
            slope = mean[name] / (1 - 0.9**step)
            width = (square[name] / (1 - 0.999**step)).sqrt() + 1e-8
            parameter.data -= 1e-3 * slope / width
    tuned = finetune_decoder(tiny_vae, image, num_epochs=4, learning_rate=1e-3)
    torch.testing.assert_close(tuned.losses, torch.stack(losses))
    del learning["mid_block.attentions.0.to_k.bias"]  # softmax does not see it: rounding alone
    for name, parameter in learning.items():
        difference = (tuned.weights[f"decoder.{name}"] - parameter.detach()).abs()
        assert float(difference.mean()) < 1e-4, name


def test_only_the_decoder_is_tuned_and_all_of_it(tiny_vae, image):
    before = {name: value.clone() for name, value in tiny_vae.state_dict().items()}
    tuned = finetune_decoder(tiny_vae, image, num_epochs=2)
    decoder = {name for name in before if name.startswith("decoder.")}
    assert tuned.weights.keys() == decoder
    assert all(not torch.equal(tuned.weights[name], before[name]) for name in decoder)
    assert all(torch.equal(value, before[name]) for name, value in tiny_vae.state_dict().items())
    assert not any(one.requires_grad or one.grad is not None for one in tiny_vae.parameters())
    assert not tiny_vae.training


def test_fine_tuning_draws_nothing_and_repeats_to_the_bit(tiny_vae, image):
    state = torch.get_rng_state()
    with torch.no_grad():  # whatever the caller has switched off
        first, second = (finetune_decoder(tiny_vae, image, num_epochs=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.losses, second.losses)
    assert all(torch.equal(value, second.weights[name]) for name, value in first.weights.items())


def test_no_epochs_give_the_decoder_as_it_is(tiny_vae, image):
    tuned = finetune_decoder(tiny_vae, image, num_epochs=0)
    assert len(tuned.losses) == 0
    state = tiny_vae.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in tuned.weights.items())


def test_pictures_that_eight_does_not_divide_are_padded(tiny_vae, image):
    cropped = image[:, :, :61, :50]
    padded = F.pad(cropped, (0, 6, 0, 3), mode="replicate")
    losses = [finetune_decoder(tiny_vae, one, num_epochs=2).losses for one in (cropped, padded)]
    assert torch.equal(*losses)


def test_half_precision_is_tuned_in_float32_and_used_in_half(image):
    vae = random_backbone("sd15", tiny=True, dtype=torch.bfloat16, device="cpu").vae
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    tuned = finetune_decoder(vae, image, num_epochs=3, learning_rate=1e-5)
    assert {one.dtype for one in tuned.weights.values()} == {torch.float32}
    # bfloat16 would round steps of 1e-5 away.
    moved = [(tuned.weights[n] - before[n].float()).abs().max() for n in tuned.weights]
    assert 0 < float(max(moved)) < 1e-4
    with using_decoder(vae, tuned):
        assert {one.dtype for one in vae.parameters()} == {torch.bfloat16}
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())


def test_an_exception_gives_the_decoder_its_own_tensors_back(tiny_vae, image):
    addresses = [one.data_ptr() for one in tiny_vae.parameters()]
    tuned = finetune_decoder(tiny_vae, image, num_epochs=1)
    with using_decoder(tiny_vae, tuned):
        assert [one.data_ptr() for one in tiny_vae.parameters()] != addresses
    with pytest.raises(KeyError), using_decoder(tiny_vae, tuned):
        raise KeyError
    assert [one.data_ptr() for one in tiny_vae.parameters()] == addresses


def test_the_decoder_of_another_autoencoder_is_refused(tiny_vae):
    weights = {n: v for n, v in tiny_vae.state_dict().items() if n.startswith("decoder.")}
    other = weights | {"decoder.conv_in.bias": torch.zeros(7)}
    lacking = {name: value for name, value in weights.items() if name != "decoder.conv_in.bias"}
    for wrong, shape in ((other, r"\(7,\)"), (lacking, "None")):
        tuned = TunedDecoder(weights=wrong, losses=torch.empty(0))
        message = rf"decoder\.conv_in\.bias has the shape {shape}, this autoencoder's \(24,\)"
        with pytest.raises(BackboneError, match=message), using_decoder(tiny_vae, tuned):
            pass


# ---------------------------------------------------------------------------- the cache


def test_an_example_is_tuned_to_once(tiny_vae, image):
    cache = DecoderCache()
    first = cache.tuned(tiny_vae, image, revision="r", num_epochs=1)
    assert cache.tuned(tiny_vae, image.clone(), revision="r", num_epochs=1) is first


def test_another_picture_model_or_setting_is_another_decoder(tiny_vae, image):
    cache = DecoderCache(capacity=10)
    usual = {"image": image, "revision": "r", "num_epochs": 1, "learning_rate": 1e-4}
    changes = [
        {},
        {"image": image.flip(3)},
        {"image": image.reshape(1, 3, 32, 128)},
        {"revision": "s"},
        {"num_epochs": 2},
        {"learning_rate": 1e-3},
    ]
    tuned = [cache.tuned(tiny_vae, **(usual | change)) for change in changes]
    assert len({id(one) for one in tuned}) == len(changes)


def test_the_least_recently_used_decoder_is_forgotten(tiny_vae, image):
    cache = DecoderCache(capacity=2)

    def tuned(revision):
        return cache.tuned(tiny_vae, image, revision=revision, num_epochs=0)

    a, b = tuned("a"), tuned("b")
    assert tuned("a") is a
    tuned("c")
    assert tuned("a") is a
    assert tuned("b") is not b


def test_another_process_finds_the_decoder_in_the_folder(tiny_vae, image, tmp_path):
    folder = tmp_path / "decoders"
    first = DecoderCache(folder=folder).tuned(tiny_vae, image, revision="r", num_epochs=2)
    (file,) = folder.iterdir()
    assert file.suffix == ".safetensors"
    written = file.stat().st_mtime_ns
    found = DecoderCache(folder=folder).tuned(tiny_vae, image, revision="r", num_epochs=2)
    assert file.stat().st_mtime_ns == written
    assert torch.equal(found.losses, first.losses)
    assert found.weights.keys() == first.weights.keys()
    assert all(torch.equal(value, found.weights[name]) for name, value in first.weights.items())
