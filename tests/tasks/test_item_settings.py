"""Settings in a row of the plan: what comes out is what went in."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

import pytest

from ad_lib import PRESETS, Settings
from tasks.runs.item_settings import hashed_params_of, params_of, settings_in

UNUSUAL = Settings(
    num_inference_steps=3,
    learning_rate=1e-5,
    layers=(2, 5),
    style_weights=(1, 0.5),
    reference_size=128,
    timesteps=400,
    seamless=True,
)


@pytest.mark.parametrize("settings", [UNUSUAL, *(one.settings for one in PRESETS.values())])
def test_settings_come_out_of_a_row_as_they_went_in(settings):
    params = params_of(settings, 64, 96)
    assert settings_in(params) == settings
    assert params_of(settings_in(params), 64, 96) == params


def test_a_setting_that_the_row_does_not_have_is_at_its_default():
    content = json.loads(params_of(UNUSUAL, 64, 96))
    for name in ("layers", "seamless"):
        del content["settings"][name]
    assert settings_in(json.dumps(content)) == UNUSUAL.updated({"layers": None, "seamless": "none"})


def test_ids_cover_every_setting_that_is_not_at_its_default():
    hashed = json.loads(hashed_params_of(UNUSUAL, 64, 96))
    changed = {
        field.name for field in fields(UNUSUAL) if getattr(UNUSUAL, field.name) != field.default
    }
    assert changed <= hashed["settings"].keys()
    assert (hashed["width"], hashed["height"]) == (64, 96)
    every = json.loads(json.dumps(asdict(UNUSUAL)))
    assert all(every[name] == value for name, value in hashed["settings"].items())
