"""Algorithm 2 on toys whose answer is known, and on the tiny backbone."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from ad_lib import Request, render
from ad_lib.algorithm.adain import adain
from ad_lib.algorithm.features import AttentionFeatures, References
from ad_lib.algorithm.guide import noised, noised_start, sample_with_distillation
from ad_lib.algorithm.losses import attention_distillation_loss
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.algorithm.step import Distiller
from ad_lib.embedded.networks import build_scheduler
from ad_lib.model.ddim import DDIM
from ad_lib.model.random_weights import random_backbone
from ad_lib.settings import Settings
from tests.ad_lib.algorithm.test_optimize import latents_of, one_each, shared, tokens_of, toy
from tests.bad_images import picture


@pytest.fixture
def scheduler():
    """Stable Diffusion's: offsets and the last noise level are what toys like to forget."""
    scheduler = build_scheduler()
    scheduler.set_timesteps(4)
    return scheduler


def ddim(scheduler):
    """The sampler with the numbers and the number of steps of a scheduler."""
    return DDIM(scheduler, scheduler.num_inference_steps, torch.device("cpu"))


def predict_noise(latents, t):
    return 0.9 * latents.roll(1, -1) + t / 5000


SETTINGS = {"num_optimization_steps": 2, "learning_rate": 0.05}


def sample(
    scheduler,
    extract=toy,
    start=None,
    style=None,
    seeds=(5,),
    content=None,
    on_step_end=lambda step: None,
    **settings,
):
    start = latents_of(len(seeds)) if start is None else start
    style = shared(latents_of(seed=1), len(start)) if style is None else style
    noise = [seeded_noise(seed) for seed in seeds]
    return sample_with_distillation(
        predict_noise,
        Distiller(extract, Settings(**SETTINGS | settings)),
        ddim(scheduler),
        start,
        style,
        noise,
        content,
        on_step_end=on_step_end,
    )


def test_without_optimisation_it_is_plain_ddim(scheduler):
    expected = latents_of()
    for t in scheduler.timesteps:
        expected = scheduler.step(predict_noise(expected, t), t, expected).prev_sample
    latents, trace = sample(scheduler, num_optimization_steps=0)
    torch.testing.assert_close(latents, expected)
    assert trace.style.shape == (0, 1)


def test_features_are_taken_at_the_noise_level_that_the_denoising_step_arrived_at(scheduler):
    assert scheduler.timesteps.tolist() == [751, 501, 251, 1]
    seen = []

    def watched(latents, timestep, **options):
        seen.append(int(timestep))
        return toy(latents, timestep, **options)

    sample(scheduler, watched, num_optimization_steps=1)
    assert seen == [501, 501, 251, 251, 1, 1, 0, 0]  # the styles, then the latents


def test_the_styles_are_noised_to_that_level_with_the_items_own_noise(scheduler):
    style = latents_of(2, seed=1)
    dynamics = ddim(scheduler)
    at = dynamics.after(dynamics.timesteps[0])
    alpha = scheduler.alphas_cumprod[501]
    draws = [seeded_noise(8), seeded_noise(9)]
    references = noised(shared(style, 2), dynamics, at, draws, "style", step=1)
    for item, seed in enumerate((8, 9)):
        own = seeded_noise(seed)
        drawn = torch.stack([own("style", number, style.shape[1:]) for number in (2, 3)])
        expected = alpha.sqrt() * style + (1 - alpha).sqrt() * drawn
        torch.testing.assert_close(torch.stack(references.of_item(item)), expected)


def test_it_is_denoising_and_fresh_adam_by_turns(scheduler):
    """The pseudocode once more, by hand; Adam's first two steps are written out."""
    start, style, rate = latents_of(), latents_of(seed=1), 0.03
    noise = seeded_noise(5)
    expected = start
    for number, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(predict_noise(expected, t), t, expected).prev_sample
        t = torch.tensor(max(int(t) - 250, 0))
        alpha = scheduler.alphas_cumprod[t]
        mixed = alpha.sqrt() * style + (1 - alpha).sqrt() * noise("style", number, style.shape)
        mean, variance = 0.0, 0.0
        for step in (1, 2):
            expected = expected.detach().requires_grad_()
            loss = attention_distillation_loss(toy(expected, t), toy(mixed, t))
            (gradient,) = torch.autograd.grad(loss.sum(), expected)
            mean = 0.9 * mean + 0.1 * gradient
            variance = 0.999 * variance + 0.001 * gradient**2
            root = (variance / (1 - 0.999**step)).sqrt()
            expected = expected.detach() - rate * mean / (1 - 0.9**step) / (root + 1e-8)
    latents, _ = sample(scheduler, start=start, style=shared(style), learning_rate=rate)
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)


def test_the_losses_are_per_item_and_per_adam_step(scheduler):
    _, trace = sample(scheduler, seeds=(1, 2, 3))
    assert trace.style.shape == (4 * 2, 3)
    assert (trace.content == 0).all()


def test_an_item_is_the_same_alone_and_in_a_batch(scheduler):
    start, styles = latents_of(3), latents_of(3, seed=1)
    together, trace = sample(scheduler, start=start, style=one_each(styles), seeds=(7, 8, 9))
    for row, seed in enumerate((7, 8, 9)):
        alone, own = sample(
            scheduler,
            start=start[row : row + 1],
            style=shared(styles[row : row + 1]),
            seeds=(seed,),
        )
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=0)
        torch.testing.assert_close(own.style[:, 0], trace.style[:, row], atol=1e-4, rtol=0)


def test_the_start_is_not_written_to_and_the_result_carries_no_graph(scheduler):
    start = latents_of()
    before = start.clone()
    latents, trace = sample(scheduler, start=start)
    assert torch.equal(start, before)
    assert not latents.requires_grad
    assert not trace.style.requires_grad


def test_every_timestep_is_reported(scheduler):
    done = []
    sample(scheduler, on_step_end=done.append)
    assert done == [0, 1, 2, 3]


@pytest.mark.parametrize("num_steps", [1, 7, 50, 999])
def test_the_previous_timestep_is_ddims_own_and_never_below_zero(scheduler, num_steps):
    scheduler.set_timesteps(num_steps)
    dynamics = ddim(scheduler)
    numbers = [t.number for t in dynamics.timesteps]
    assert numbers == scheduler.timesteps.tolist()
    assert [dynamics.after(t).number for t in dynamics.timesteps] == [*numbers[1:], 0]


def test_attention_to_the_style_pulls_the_latents_to_it(scheduler):
    """With one token the style's value is the target, and the optimiser's moves go towards it."""

    def only_value(latents, timestep, *, projections_only=False):
        tokens = tokens_of(latents).mean(2, keepdim=True)
        return [AttentionFeatures(tokens, tokens, tokens, tokens)]

    style = torch.full((1, 4, 4, 4), 3.0)
    plain, _ = sample(scheduler, only_value, style=shared(style), num_optimization_steps=0)
    pulled, _ = sample(scheduler, only_value, style=shared(style), num_optimization_steps=9)
    assert (pulled.mean() - 3).abs() < (plain.mean() - 3).abs()


def test_adain_gives_the_channel_statistics_of_all_styles_pooled():
    latents, styles = latents_of(2, seed=3, size=5), latents_of(3, seed=4, size=4) * 2 + 1
    moved = adain(latents, References(styles, [[0, 1], [2, 2]]))
    for item, rows in enumerate(([0, 1], [2, 2])):
        pooled = styles[rows].transpose(0, 1).flatten(1)
        torch.testing.assert_close(moved[item].mean((1, 2)), pooled.mean(1), atol=1e-5, rtol=0)
        torch.testing.assert_close(moved[item].flatten(1).std(1), pooled.std(1))


def test_in_adain_a_style_of_weight_two_counts_as_if_it_were_listed_twice():
    latents, styles = latents_of(1, seed=3, size=5), latents_of(2, seed=4) * 2 + 1
    torch.testing.assert_close(
        adain(latents, References(styles, [[0, 1]], [1.0, 2.0])),
        adain(latents, References(styles, [[0, 1, 1]])),
    )


def test_adain_comes_before_the_features_and_once_per_timestep(scheduler):
    style = latents_of(seed=1) * 3 + 2
    seen = []

    def watched(latents, timestep, **options):
        seen.append(latents.detach().clone())
        return toy(latents, timestep, **options)

    sample(scheduler, watched, style=shared(style), adain=True, variant="paper", seeds=(5,))
    for reference, current in zip(seen[0::3], seen[1::3], strict=True):
        torch.testing.assert_close(
            current.flatten(2).std(2), reference.flatten(2).std(2), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(("variant", "tags"), [("reference", 2), ("paper", 1)])
def test_the_paper_notes_one_noise_for_both_and_the_released_code_draws_two(
    scheduler, variant, tags
):
    drawn, draw = [], seeded_noise(1)

    def counted(tag, number, shape):
        drawn.append(tag)
        return draw(tag, number, shape)

    style = shared(latents_of(seed=1))
    distiller = Distiller(toy, Settings(**SETTINGS, adain=True, variant=variant))
    sample_with_distillation(
        predict_noise, distiller, ddim(scheduler), latents_of(), style, [counted]
    )
    assert len(drawn) == 4 * tags
    assert len(set(drawn)) == tags


def test_below_the_start_time_it_distils_and_above_it_only_denoises(scheduler):
    _, trace = sample(scheduler, start_time=501)  # 751 and 501 are not below
    assert len(trace.style) == 2 * 2
    plain, _ = sample(scheduler, start_time=0)
    expected, _ = sample(scheduler, num_optimization_steps=0)
    assert torch.equal(plain, expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"adain": True}, {"adain": False}),
        ({"adain": True, "variant": "reference"}, {"adain": True, "variant": "paper"}),
        ({"start_time": 999}, {"start_time": 501}),
        ({"content": True}, {"content": False}),
    ],
)
def test_what_two_settings_both_draw_at_a_timestep_is_the_same_noise(scheduler, one, other):
    def drawn(content=False, **settings):
        found, draw = {}, seeded_noise(5)

        def watched(tag, number, shape):
            assert (tag, number) not in found, "no draw is made twice"
            found[tag, number] = draw(tag, number, shape)
            return found[tag, number]

        sample_with_distillation(
            predict_noise,
            Distiller(toy, Settings(**SETTINGS | settings)),
            ddim(scheduler),
            latents_of(),
            References(latents_of(2, seed=1), [[0, 1]]),
            [watched],
            one_each(latents_of(seed=9)) if content else None,
        )
        return found

    first, second = drawn(**one), drawn(**other)
    both = first.keys() & second.keys()
    assert {("style", number) for number in range(4, 8)} <= both
    assert len(both) < len(first) or len(both) < len(second) or one.keys() == {"start_time"}
    assert all(torch.equal(first[name], second[name]) for name in both)


def test_without_optimisation_nothing_is_drawn_and_no_reference_is_seen(scheduler):
    def refuse(*_, **__):
        raise AssertionError("nobody needs it")

    style = shared(latents_of(seed=1))
    distiller = Distiller(refuse, Settings(num_optimization_steps=0, adain=True))
    sample_with_distillation(
        predict_noise, distiller, ddim(scheduler), latents_of(), style, [refuse]
    )


def test_content_in_sampling_is_seen_under_its_own_noise_and_weighed(scheduler):
    content = one_each(latents_of(seed=9))
    _, free = sample(scheduler, content=content, content_weight=0.0)
    _, kept = sample(scheduler, content=content, content_weight=5.0)
    assert (free.content > 0).all()
    assert kept.content[-1] < free.content[-1]


def test_a_start_from_the_style_is_the_style_under_all_the_noise(scheduler):
    style = latents_of(seed=1)
    alpha = scheduler.alphas_cumprod[999]
    expected = alpha.sqrt() * style + (1 - alpha).sqrt() * seeded_noise(3)("init", 0, style.shape)
    torch.testing.assert_close(
        noised_start(shared(style), ddim(scheduler), [seeded_noise(3)]), expected
    )


# ---------------------------------------------------------------------------- rendered


def texture(seed=0, **changes) -> Request:
    settings = {"width": 72, "height": 64, "num_inference_steps": 3} | changes
    example = Image.fromarray(picture(seed=10))
    return Request.preset("texture-sample", styles=[example], seed=seed, **settings)


def test_a_texture_is_drawn_at_its_size_and_its_losses_are_kept(tiny_backbone):
    (result,) = render(tiny_backbone, [texture(num_optimization_steps=2)])
    assert result.image.size == (72, 64)
    assert len(result.style_losses) == 6
    assert set(result.content_losses) == {0.0}


def test_another_seed_is_another_texture_and_the_same_seed_the_same(tiny_backbone):
    first, again, other = (render(tiny_backbone, [texture(seed)])[0].image for seed in (1, 1, 2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_textures_by_both_algorithms_are_not_mixed_in_a_batch(tiny_backbone):
    sampled = texture()
    optimised = Request.preset(
        "texture-optimize",
        styles=list(sampled.styles),
        width=72,
        height=64,
        num_inference_steps=3,
        num_optimization_steps=3,
    )
    assert optimised.settings == sampled.settings
    together = render(tiny_backbone, [sampled, optimised])
    alone = [render(tiny_backbone, [one])[0] for one in (sampled, optimised)]
    assert [r.image.tobytes() for r in together] == [r.image.tobytes() for r in alone]


def test_sdxl_draws_textures_too():
    (result,) = render(random_backbone("sdxl", tiny=True), [texture(num_inference_steps=1)])
    assert result.image.size == (72, 64)
