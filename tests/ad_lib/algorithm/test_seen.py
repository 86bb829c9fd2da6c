"""Algorithm 1 under noise (Case 2 of Fig. 16), against its loop written out by hand."""

from __future__ import annotations

import pytest
import torch

from ad_lib import RequestError, render
from ad_lib.algorithm.losses import attention_distillation_loss, content_loss
from ad_lib.algorithm.noise import seeded_noise
from ad_lib.algorithm.optimize import optimize_latents
from ad_lib.algorithm.seen import UnderNoise
from ad_lib.algorithm.step import Distiller
from ad_lib.presets import find_preset
from ad_lib.settings import Settings
from tests.ad_lib.algorithm.test_optimize import latents_of, one_each, shared, toy
from tests.ad_lib.requests_of_every_task import request

SETTINGS = Settings(num_inference_steps=4, num_optimization_steps=2, content_weight=0.25)
NOISE = [seeded_noise(seed) for seed in (7, 8)]


@pytest.fixture
def dynamics(tiny_backbone):
    return tiny_backbone.dynamics(SETTINGS.num_inference_steps, (64, 64))


def optimised(dynamics, start, style, content=None, noise=NOISE):
    distiller = Distiller(toy, SETTINGS)
    show = UnderNoise(dynamics, noise)
    return optimize_latents(distiller, dynamics.timesteps, start, style, content, show=show)


def by_hand(alphas, dynamics, item, start, style, content):
    """One item with torch's Adam; result and content share their noise, the style has its own."""
    z = start[item : item + 1].clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=SETTINGS.learning_rate)
    losses = []
    for step, t in enumerate(dynamics.timesteps):
        keep, spread = alphas[int(t.number)].sqrt(), (1 - alphas[int(t.number)]).sqrt()
        of_result = NOISE[item]("result", step, z.shape[1:])
        of_style = NOISE[item]("style", step, z.shape[1:])
        seen_style = toy(keep * style + spread * of_style, t.tensor)
        seen_content = toy(keep * content[item : item + 1] + spread * of_result, t.tensor)
        for _ in range(SETTINGS.num_optimization_steps):
            current = toy(keep * z + spread * of_result, t.tensor)
            style_loss = attention_distillation_loss(current, seen_style).sum()
            kept = content_loss(current, seen_content).sum()
            losses.append((style_loss.item(), kept.item()))
            adam.zero_grad()
            (style_loss + SETTINGS.content_weight * kept).backward()
            adam.step()
    return z.detach(), losses


def test_every_step_is_that_of_the_loop_written_out(tiny_backbone, dynamics):
    start, content = latents_of(2), one_each(latents_of(2, seed=5))
    style = latents_of(seed=1)
    latents, trace = optimised(dynamics, start, shared(style, 2), content)
    alphas = tiny_backbone.scheduler.alphas_cumprod
    for item in range(2):
        wanted, losses = by_hand(alphas, dynamics, item, start, style, latents_of(2, seed=5))
        torch.testing.assert_close(latents[item : item + 1], wanted, rtol=1e-4, atol=1e-4)
        told = torch.stack([trace.style[:, item], trace.content[:, item]], 1)
        torch.testing.assert_close(told, torch.tensor(losses), rtol=1e-4, atol=1e-5)


def test_a_result_that_starts_as_its_content_starts_without_content_loss(dynamics):
    start = latents_of(2, seed=5)
    _, trace = optimised(dynamics, start, shared(latents_of(seed=1), 2), one_each(start))
    assert (trace.content[0] == 0).all()
    assert (trace.content[1] > 0).all()


def test_a_pure_clean_timestep_shows_nearly_what_clean_latents_show(tiny_backbone):
    """At timestep 0 hardly any noise is left, so that both ways see nearly the same."""
    low = {"timesteps": 0, "num_inference_steps": 1}
    clean, noised = (
        render(tiny_backbone, [request("texture-optimize", latents=kind, **low)])[0].style_losses
        for kind in ("clean", "noised")
    )
    assert noised == pytest.approx(clean, rel=0.1)


@pytest.mark.parametrize("task", ["texture-optimize", "style-transfer", "texture-masked"])
def test_pictures_differ_and_items_stay_independent(tiny_backbone, task):
    alone = [request(task, seed, latents="noised") for seed in (1, 2)]
    together = render(tiny_backbone, alone, batch_size=2)
    single = [render(tiny_backbone, [one])[0] for one in alone]
    for one, other in zip(together, single, strict=True):
        assert one.style_losses == pytest.approx(other.style_losses, rel=1e-3)
    clean = render(tiny_backbone, [request(task, 1)])[0]
    assert clean.image.tobytes() != together[0].image.tobytes()


def test_sampling_has_no_such_setting():
    with pytest.raises(RequestError, match="texture-sample does not use latents"):
        find_preset("texture-sample").settings_with({"latents": "noised"})
