"""A folder of recordings of the published method, and how figures are held to them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ad_lib import Backbone, load_backbone
from ad_lib.algorithm.labels import Regions
from ad_lib.model.families.stable_diffusion.self_attention import halved_grids
from ad_lib.pictures.tensors import image_to_tensor
from tests.rounding import FLOOR, MARGIN, Figure


@dataclass(frozen=True)
class Row:
    """What became of one recording; without figures it was not replayed."""

    name: str
    figures: tuple[Figure, ...] = ()
    steps: int | None = None
    note: str = ""

    @property
    def ok(self) -> bool:
        return bool(self.figures) and all(figure.ok for figure in self.figures)

    def __str__(self) -> str:
        verdict = "ok" if self.ok else "FAIL"
        steps = "" if self.steps is None else str(self.steps)
        parts = [str(figure) for figure in self.figures] + ([self.note] if self.note else [])
        return f"{verdict:4} {self.name:22} {steps:>3}  {' | '.join(parts)}"


@dataclass(frozen=True)
class Golden:
    """A folder of recordings."""

    folder: Path

    @property
    def cases(self) -> dict[str, Any]:
        return self._json("cases.json")["cases"]

    @property
    def unit(self) -> dict[str, Any]:
        return self._json("unit/unit.json")

    def arrays(self, path: str) -> dict[str, Tensor]:
        with np.load(self.folder / path) as stored:
            return {name: torch.tensor(stored[name]) for name in stored.files}

    def image(self, name: str, size: tuple[int, int] | None = None) -> Tensor:
        """(1, 3, H, W), resized as the reference does it (bicubic, proportions not kept)."""
        image = Image.open(self.folder / "inputs" / name).convert("RGB")
        if size is not None and image.size != size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        return image_to_tensor(image)

    def families(self) -> list[str]:
        """Of the models that the set holds: `sd`, `sdxl`."""
        return sorted(path.name.removeprefix("tiny-") for path in self.folder.glob("models/tiny-*"))

    def backbone(self, model: str) -> Backbone:
        return _backbone(self.folder / "models" / model)

    def _json(self, path: str) -> dict[str, Any]:
        return json.loads((self.folder / path).read_text(encoding="utf-8"))


@cache
def _backbone(folder: Path) -> Backbone:
    return load_backbone(str(folder), device="cpu", dtype=torch.float32)


def tolerance(case: dict[str, Any], figure: str) -> float:
    """Ten times what the reference deviates from itself; nothing is recorded for some cases."""
    probes = [probe[figure] for probe in case["sensitivity"].values() if figure in probe]
    return max(FLOOR, MARGIN * max(probes, default=0.0))


def worst_of_each(figures: Iterable[Figure]) -> tuple[Figure, ...]:
    """Of several figures with the same name, that with the largest error."""
    found: dict[str, Figure] = {}
    for figure in figures:
        if figure.name not in found or not figure.error <= found[figure.name].error:
            found[figure.name] = figure
    return tuple(found.values())


def recorded_regions(
    source: Tensor, target: Tensor, batch: int, latent_size: tuple[int, int]
) -> Regions:
    """Regions of recorded (1, 1, H, W) grey masks, whose labels are their exact values."""
    values = torch.cat([source.flatten(), target.flatten()]).unique()
    labels = [torch.searchsorted(values, mask[0, 0].contiguous()) for mask in (source, target)]
    return Regions(
        labels[:1] * batch,
        labels[1:] * batch,
        source_size=latent_size,
        target_size=latent_size,
        token_grids=halved_grids,
    )
