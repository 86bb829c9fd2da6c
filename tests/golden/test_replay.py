"""The library follows the recorded runs of the published method; `replay` tells how it compares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import GOLDEN
from tests.golden.cases import CASES, Case
from tests.golden.recordings import Golden, Row
from tests.golden.replay import main
from tests.golden.units import UNITS
from tests.rounding import (
    Figure,
)

pytestmark = pytest.mark.golden

golden = Golden(GOLDEN)
RUN = {"encode", "timesteps", "first latents", "losses", "last latents", "image"}
COMPARED = {
    "optimize": RUN | {"first loss", "first gradient"},
    "sample": RUN | {"first noise_pred", "prompts", "feature_t"},
    "sdxl_sample": RUN | {"first noise_pred", "prompts", "feature_t"},
    "panorama": RUN | {"first loss", "feature_t"},
    "vae_finetune": {"first loss", "losses", "before", "after", "parameters"},
}
"""What must at least be compared, by kind."""

LONG = ("opt_style", "opt_appearance", "opt_texture")


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_recording_is_reproduced(name):
    row = UNITS[name](golden)
    assert row.figures, str(row)
    assert row.ok, str(row)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LONG else ()) for name in golden.cases],
)
def test_a_recorded_run_is_followed_to_its_picture(name):
    kind = golden.cases[name]["kind"]
    row = CASES[kind](golden, name)
    assert COMPARED[kind] <= {figure.name for figure in row.figures}
    assert row.ok, str(row)


def test_a_figure_above_its_tolerance_or_not_a_number_fails():
    assert Figure("image", 1e-5, 1e-5).ok
    assert not Figure("image", 2e-5, 1e-5).ok
    assert not Figure("image", float("nan"), 1e-5).ok
    assert str(Row("case", (Figure("image", 1.0),))).startswith("FAIL")


@pytest.mark.parametrize("network", ["predictor", "extractor"])
def test_a_timestep_that_is_off_by_one_is_caught(monkeypatch, network):
    make = getattr(Case, network)

    def shifted(self):
        call = make(self)
        return lambda latents, t, **options: call(latents, t - (t > 0).int(), **options)

    monkeypatch.setattr(Case, network, shifted)
    monkeypatch.setattr("tests.rounding.NUM_PROBES", 4)  # they cannot help, and take time
    row = CASES["sample"](golden, "smp_texture")
    failed = {figure.name for figure in row.figures if not figure.ok}
    assert "first loss" in failed
    assert ("first noise_pred" in failed) == (network == "predictor")


def write_cases(folder: Path, cases: dict) -> Golden:
    (folder / "cases.json").write_text(json.dumps({"cases": cases}), encoding="utf-8")
    return Golden(folder)


def test_kinds_that_are_not_replayed_are_printed_as_such_and_fail(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tests.golden.replay.UNITS", {})
    write_cases(tmp_path, {"later": {"kind": "mosaic"}})
    assert main([str(tmp_path)]) == 1
    assert "mosaic: nothing here replays it" in capsys.readouterr().out


def test_a_figure_above_its_tolerance_ends_with_exit_code_1(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tests.golden.replay.UNITS", {})
    wrong = Row("wrong", (Figure("image", 1.0, 0.1),))
    monkeypatch.setattr("tests.golden.replay.CASES", {"optimize": lambda golden, name: wrong})
    write_cases(tmp_path, {"wrong": {"kind": "optimize"}})
    assert main([str(tmp_path)]) == 1
    assert "1 above tolerance" in capsys.readouterr().out


def test_copies_on_one_content_are_compared_by_their_first_loss_and_with_each_other(tmp_path):
    case, arrays = golden.cases["opt_iters3"], golden.arrays("cases/opt_iters3.npz")
    case["args"]["batch_size"] = 3
    for name in ("init_latents", "latents_step"):
        copies = arrays[name].shape[-4:-3]
        assert copies == (1,)
        arrays[name] = arrays[name].repeat_interleave(3, -4)
    for part in ("models", "inputs"):
        (tmp_path / part).symlink_to(GOLDEN / part)
    (tmp_path / "cases").mkdir()
    np.savez(tmp_path / "cases" / "copies.npz", **{n: a.numpy() for n, a in arrays.items()})

    row = CASES["optimize"](write_cases(tmp_path, {"copies": case}), "copies")
    assert row.ok, str(row)
    names = {figure.name for figure in row.figures}
    assert "image" not in names
    assert "copies differ" in names
    assert "rounding decides" in row.note
