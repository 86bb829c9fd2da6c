"""DDIM, up and down: where the noise is known, a step leads from one level to the next exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from ad_lib.model.ddim import DDIM

PUBLISHED: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("changes", [{}, {"set_alpha_to_one": True, "steps_offset": 0}])
@pytest.mark.parametrize("num_steps", [7, 50])
def test_a_step_back_along_the_exact_noise_arrives_where_the_step_began(
    prediction, changes, num_steps
):
    config = PUBLISHED | {"prediction_type": prediction} | changes
    scheduler = DDIMScheduler(**config)
    dynamics = DDIM(scheduler, num_steps, torch.device("cpu"))
    clean, noise = torch.randn(
        2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )

    def predicted(kept):
        """What the network would say of latents of which a share of `kept` is picture."""
        if prediction == "epsilon":
            return noise
        return kept.sqrt() * noise - (1 - kept).sqrt() * clean

    def under_noise(kept):
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    kept_at = scheduler.alphas_cumprod.double()
    last = torch.tensor(1.0) if config["set_alpha_to_one"] else kept_at[0]
    for t in dynamics.timesteps:
        number = int(t.number)
        below = number - 1000 // num_steps
        above, later = kept_at[number], kept_at[below] if below >= 0 else last
        down = dynamics.step(predicted(above), t, under_noise(above))
        torch.testing.assert_close(down, under_noise(later), atol=1e-5, rtol=1e-5)
        up = dynamics.step_back(predicted(later), t, under_noise(later))
        torch.testing.assert_close(up, under_noise(above), atol=1e-5, rtol=1e-5)
