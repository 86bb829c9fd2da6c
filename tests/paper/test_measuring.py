from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ad_lib.model.backbone import Backbone
from tests.paper import measuring
from tests.paper.bands import band_power
from tests.paper.measuring import Measured, Way
from tests.paper.statements import Finding, coarse_and_fine, table, three_cases, write_into

DOCUMENTS = Path(__file__).parents[2] / "docs"
WAY = Way("texture-optimize", {"num_inference_steps": 1}, measuring.STATIONARY[:2])


def grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.uint8(np.clip(values, 0, 255))).convert("RGB")


def test_noise_is_fine_structure_and_a_slow_wave_is_coarse():
    noise = np.random.default_rng(0).normal(128, 30, (64, 64))
    wave = 128 + 60 * np.sin(np.arange(64) / 64 * 2 * np.pi * 2)[:, None] * np.ones(64)
    fine, coarse = band_power(grey(noise)), band_power(grey(wave))
    assert fine["fine"] > coarse["fine"] + 2
    assert coarse["coarse"] > fine["coarse"] + 2
    blurred = band_power(grey(noise).filter(ImageFilter.GaussianBlur(2)))
    assert blurred["fine"] < fine["fine"] - 2
    assert blurred["coarse"] == pytest.approx(fine["coarse"], abs=1)


def test_noise_of_colours_is_speckle_and_noise_of_brightness_is_not():
    noise = np.random.default_rng(0)
    coloured = Image.fromarray(np.uint8(noise.integers(100, 156, (64, 64, 3))))
    bright = grey(noise.integers(100, 156, (64, 64)))
    assert band_power(coloured)["speckle"] > band_power(bright)["speckle"] + 5
    assert band_power(coloured)["fine"] == pytest.approx(band_power(bright)["fine"], abs=1)


def test_a_picture_that_was_measured_is_not_made_again(
    tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(measuring, "SIZE", 64)
    first = Measured(tiny_backbone, "r", tmp_path / "figures.jsonl")
    made = first.of(WAY)
    assert len(made) == 2
    assert made[0] != made[1]
    lines = (tmp_path / "figures.jsonl").read_text()
    with monkeypatch.context() as without:
        without.delattr(measuring, "render")
        again = Measured(tiny_backbone, "r", tmp_path / "figures.jsonl")
        assert again.of(WAY) == made
        with pytest.raises(NameError):  # other weights
            Measured(tiny_backbone, "r2", tmp_path / "figures.jsonl").of(WAY)
    assert (tmp_path / "figures.jsonl").read_text() == lines


def test_the_table_replaces_the_one_between_its_marks_in_the_document(tmp_path: Path):
    document = tmp_path / "PAPER.md"
    document.write_text((DOCUMENTS / "PAPER.md").read_text())
    findings = [Finding("a", "b", "c", holds=True), Finding("d", "e", "f", holds=False)]
    write_into(document, findings)
    once = document.read_text()
    assert table(findings) in once
    assert once.startswith("# The paper")
    write_into(document, findings)
    assert document.read_text() == once
    document.write_text("nothing")
    with pytest.raises(SystemExit, match="has no place"):
        write_into(document, findings)


class Told(Measured):
    """Figures that are said instead of measured, by how many Adam steps a picture took."""

    def __init__(self, swd: dict[str, float]) -> None:
        self.swd = swd

    def mean(self, way: Way, figure: str) -> float:
        name = way.settings.get("latents", way.task)
        if figure == "swd":
            return self.swd[name] / way.settings["num_optimization_steps"]
        return {"noised": 3.0}.get(name, 1.0)


def holds(findings: list[Finding]) -> list[bool]:
    return [one.holds for one in findings]


def test_a_statement_holds_where_the_numbers_are_as_it_says_and_not_otherwise():
    as_said = {"texture-optimize": 1.0, "noised": 8.0, "texture-sample": 1.0}
    assert holds(three_cases(Told(as_said))) == [True, True, True, True]
    otherwise = {"texture-optimize": 1.0, "noised": 1.0, "texture-sample": 2.0}
    assert holds(three_cases(Told(otherwise))) == [True, False, False, False]


class Rising(Measured):
    """Coarse structure that comes with the timestep, while detail goes."""

    def __init__(self, sign: float) -> None:
        self.sign = sign

    def mean(self, way: Way, figure: str) -> float:
        share = way.settings["timesteps"] / 1000
        return 2 + self.sign * (share if figure == "fine distance" else -share)


def test_large_timesteps_are_coarse_where_the_coarse_band_comes_nearer_with_them():
    assert holds(coarse_and_fine(Rising(1.0))) == [True, True]
    assert holds(coarse_and_fine(Rising(-1.0))) == [False, False]
