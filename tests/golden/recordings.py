"""A folder of recordings of the published method, and how figures are held to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ad_lib import Backbone, load_backbone
from ad_lib.images import image_to_tensor
from ad_lib.labels import Regions

FLOOR = 1e-5
"""The tightest tolerance: what float32 keeps over a few network passes."""

DISTURBANCE = 1e-6
"""Standard deviation of the noise that is added to inputs in order to learn what rounding does."""

NUM_PROBES = 24
"""Disturbed computations, at most, that measure the sensitivity of one computation here."""

MARGIN = 10
"""Tolerances are so many times the deviation that a disturbance causes."""

Disturb = Callable[[Tensor], Tensor]
"""What is done to the tensors that a computation starts from."""


@dataclass(frozen=True)
class Figure:
    """One number that was compared."""

    name: str
    error: float
    tolerance: float = FLOOR
    where: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # False for NaN

    def __str__(self) -> str:
        relation = "<=" if self.ok else f"({self.where}) >" if self.where else ">"
        return f"{self.name} {self.error:.1e} {relation} {self.tolerance:.1e}"


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


def undisturbed(tensor: Tensor) -> Tensor:
    """The tensor as it was recorded."""
    return tensor


def disturbed(seed: int, amount: float = DISTURBANCE) -> Disturb:
    """Adds Gaussian noise of this standard deviation, as the recording did to its latents."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(tensor: Tensor) -> Tensor:
        return tensor + amount * torch.randn(tensor.shape, generator=generator)

    return disturb


@dataclass(frozen=True)
class Wanted:
    """A recorded tensor, and how a computed one is held to it.

    Attributes:
        recorded: the reference's tensor.
        tolerance: for the deviation; it grows where a disturbance shows that it must.
        deviation: of (computed, recorded), a number.
        name: of the figure, if it is not the key; of equal names the worst is shown.
        where: told when the figure is above its tolerance.
    """

    recorded: Tensor
    tolerance: float = FLOOR
    deviation: Callable[[Tensor, Tensor], float] = field(default_factory=lambda: relative)
    name: str = ""
    where: str = ""


def compare(
    compute: Callable[[Disturb], Mapping[str, Tensor]],
    wanted: Mapping[str, Wanted],
    *,
    amount: float = DISTURBANCE,
) -> tuple[Figure, ...]:
    """A figure for every computed tensor that was recorded too.

    If a figure is above its tolerance, the computation is repeated with disturbed inputs, and the
    tolerance becomes `MARGIN` times what the disturbance does to that figure on this machine. Other
    processors and libraries round differently, and L1 makes much of it: it takes the sign of every
    difference, also of one that is smaller than its own rounding error.

    Args:
        compute: tensors by name; it applies its argument to every tensor that it starts from.
        wanted: the recorded tensors by the same names.
        amount: of the disturbance.
    """
    ours = compute(undisturbed)
    wanted = {name: wish for name, wish in wanted.items() if name in ours}
    errors = {name: wish.deviation(ours[name], wish.recorded) for name, wish in wanted.items()}
    limits = {name: wish.tolerance for name, wish in wanted.items()}
    for seed in range(NUM_PROBES):
        if all(error <= limits[name] for name, error in errors.items()):
            break
        others = compute(disturbed(seed, amount))
        for name, wish in wanted.items():
            limits[name] = max(limits[name], MARGIN * wish.deviation(others[name], ours[name]))
    return tuple(
        Figure(wish.name or name, errors[name], limits[name], wish.where)
        for name, wish in wanted.items()
    )


def tolerance(case: dict[str, Any], figure: str) -> float:
    """Ten times what the reference deviates from itself; nothing is recorded for some cases."""
    probes = [probe[figure] for probe in case["sensitivity"].values() if figure in probe]
    return max(FLOOR, MARGIN * max(probes, default=0.0))


def worst(ours: Tensor, theirs: Tensor) -> float:
    """The largest deviation."""
    if ours.shape != theirs.shape:
        raise ValueError(f"shapes differ: {tuple(ours.shape)} and {tuple(theirs.shape)}")
    return float((ours - theirs).abs().max())


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest deviation over the largest recorded magnitude."""
    return worst(ours, theirs) / float(theirs.abs().max())


def median(ours: Tensor, theirs: Tensor) -> float:
    """The median deviation: a few elements whose sign rounding decides do not move it."""
    return float((ours - theirs).abs().median())


def mean_relative(ours: Tensor, theirs: Tensor) -> float:
    """The mean deviation over the mean recorded magnitude."""
    return float((ours - theirs).abs().mean() / theirs.abs().mean())


def element_wise(ours: Tensor, theirs: Tensor) -> float:
    """The largest deviation of an element, relative to that element; 0 of no elements."""
    return float(((ours - theirs) / theirs).abs().amax()) if theirs.numel() else 0.0


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
        labels[:1] * batch, labels[1:] * batch, source_size=latent_size, target_size=latent_size
    )
