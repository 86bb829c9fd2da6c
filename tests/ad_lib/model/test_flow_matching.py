"""Flow matching: straight paths between noise and latents, at any noise levels."""

from __future__ import annotations

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import (
    FlowMatchEulerDiscreteScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from ad_lib.algorithm.dynamics import Dynamics
from ad_lib.model.flow_matching import FlowMatching

CPU = torch.device("cpu")


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8, unique=True))
def test_steps_along_the_exact_velocity_lead_from_any_level_to_the_clean_latents(thousandths):
    sigmas = [number / 1000 for number in sorted(thousandths, reverse=True)]
    dynamics = FlowMatching.over(sigmas, CPU)
    clean, noise = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    for start in range(len(dynamics.timesteps)):
        latents = dynamics.add_noise(clean, noise, dynamics.timesteps[start])
        for t in dynamics.timesteps[start:]:
            latents = dynamics.step(noise - clean, t, latents)
            after = dynamics.add_noise(clean, noise, dynamics.after(t))
            torch.testing.assert_close(latents, after, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(latents, clean, atol=1e-5, rtol=1e-5)


def test_the_noisiest_level_is_noise_alone_and_the_last_step_ends_without_noise():
    dynamics = FlowMatching.over([0.9, 0.5], CPU)
    clean, noise = torch.randn(2, 1, 3, 4, 4)
    assert isinstance(dynamics, Dynamics)
    assert torch.equal(dynamics.add_noise(clean, noise, dynamics.noisiest), noise)
    last = dynamics.after(dynamics.timesteps[-1])
    assert last.number == 0
    assert torch.equal(dynamics.add_noise(clean, noise, last), clean)


def test_the_host_and_the_device_know_the_same_levels():
    dynamics = FlowMatching.over([1.0, 0.3], CPU)
    levels = [*dynamics.timesteps, dynamics.noisiest, dynamics.after(dynamics.timesteps[-1])]
    assert [float(level.tensor) for level in levels] == [level.number for level in levels]
    numbers = [level.number for level in dynamics.timesteps]
    assert numbers == sorted(numbers, reverse=True)


def test_it_steps_as_the_scheduler_of_diffusers_does():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.7, 0.2])
    dynamics = FlowMatching.over(scheduler.sigmas[:-1].tolist(), CPU)
    latents = theirs = torch.randn(1, 3, 4, 4)
    for t, level in zip(scheduler.timesteps, dynamics.timesteps, strict=True):
        velocity = torch.randn(1, 3, 4, 4)
        theirs = scheduler.step(velocity, t, theirs).prev_sample
        latents = dynamics.step(velocity, level, latents)
        torch.testing.assert_close(latents, theirs, atol=1e-6, rtol=1e-6)
