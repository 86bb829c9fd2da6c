"""The pictures that the paper's statements are measured on, each made once and kept as figures.

A picture is one line of a file, known by everything that it follows from; one that is there is not
made again, so that a run that was killed goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ad_lib.model.backbone import Backbone
from ad_lib.pictures.images import fit_image
from ad_lib.pictures.measure import Judge
from ad_lib.pipeline import render
from ad_lib.requests import Request
from manifests.examples.pack import IMAGES
from tests.paper.bands import band_power

SIZE = 96
"""Pixels of a side."""
SEEDS = (0,)
PROMPT = "a lighthouse on a cliff above the sea"

STATIONARY = ("texture/gravel.jpg", "texture/galaxies.jpg")
NON_STATIONARY = ("texture/palm_leaves.jpg", "style/hokusai_great_wave.jpg")

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Way:
    """One way to make a picture of each of some references.

    Attributes:
        task: a preset's name.
        settings: over the preset's.
        references: pictures of the examples.
        prompt: of text-to-image.
    """

    task: str
    settings: Mapping[str, Any]
    references: Sequence[str] = (*STATIONARY, *NON_STATIONARY)
    prompt: str = ""

    def name(self, reference: str, seed: int, revision: str) -> str:
        """What the picture of a reference follows from."""
        parts = [self.task, json.dumps(self.settings, sort_keys=True), reference, self.prompt]
        return " | ".join([*parts, str(seed), str(SIZE), revision])


@dataclass
class Measured:
    """The figures of pictures, in memory and in a file.

    Attributes:
        backbone: what they are made with.
        revision: of its weights.
        path: a line for each picture.
    """

    backbone: Backbone
    revision: str
    path: Path
    figures: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                name, figures = json.loads(line)
                self.figures[name] = figures

    def of(self, way: Way) -> list[Figures]:
        """The figures of a way's pictures, references times seeds, made now where they are not."""
        wanted = [(reference, seed) for reference in way.references for seed in SEEDS]
        names = [way.name(reference, seed, self.revision) for reference, seed in wanted]
        missing = [one for one, name in zip(wanted, names, strict=True) if name not in self.figures]
        for (reference, seed), figures in zip(missing, self._made(way, missing), strict=True):
            name = way.name(reference, seed, self.revision)
            self.figures[name] = figures
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([name, figures]) + "\n")
        return [self.figures[name] for name in names]

    def mean(self, way: Way, figure: str) -> float:
        """The mean of a figure over a way's pictures."""
        return float(np.mean([one[figure] for one in self.of(way)]))

    def _made(self, way: Way, wanted: Sequence[tuple[str, int]]) -> list[dict[str, float]]:
        if not wanted:
            return []
        requests = [self._request(way, reference, seed) for reference, seed in wanted]
        pictures = [result.image for result in render(self.backbone, requests)]
        plain = pictures
        if way.prompt:  # what the prompt gives without distillation
            undistilled = [self._request(way, *one, num_optimization_steps=0) for one in wanted]
            plain = [result.image for result in render(self.backbone, undistilled)]
        judge = Judge()
        return [
            _figures(judge, picture, request.styles[0], before)
            for picture, request, before in zip(pictures, requests, plain, strict=True)
        ]

    def _request(self, way: Way, reference: str, seed: int, **changes: Any) -> Request:
        with Image.open(IMAGES / reference) as picture:
            style = picture.convert("RGB")
        settings = {**way.settings, **changes}
        size = {"width": SIZE, "height": SIZE, "seed": seed, "prompt": way.prompt}
        return Request.preset(way.task, styles=[style], **size, **settings)


def _figures(
    judge: Judge, picture: Image.Image, reference: Image.Image, plain: Image.Image
) -> dict[str, float]:
    measured = judge.measure(picture, styles=[reference], content=plain)
    ours, theirs = band_power(picture), band_power(fit_image(reference, SIZE, SIZE))
    return {
        "swd": measured["swd_patch"],
        "gram": measured["gram_raw"],
        "kept": measured["ssim_luma"],
        **{f"{band} excess": ours[band] - theirs[band] for band in ours},
        **{f"{band} distance": abs(ours[band] - theirs[band]) for band in ours},
    }
