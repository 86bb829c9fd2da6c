"""Which figures are compared, and which value of each is better? One table for all that tell it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from manifests.errors import JobError, nearest
from manifests.quality import METRIC_COLUMNS, RENDER_COLUMNS

COST_COLUMNS = ("seconds", "synthesis_seconds", "peak_memory_bytes")
"""What a picture took; these depend on the machine and on what else it did."""


class Direction(StrEnum):
    """Which of two values is better."""

    LOWER = "lower"
    HIGHER = "higher"
    NEAREST_TO_ONE = "nearest to 1"
    NONE = "none"

    @property
    def words(self) -> str:
        """For people."""
        if self is Direction.NONE:
            return "neither is better"
        return f"{self.value} is better"

    def badness(self, value: float) -> float:
        """A number that is lower where the value is better; without a direction it is always 0."""
        return _BADNESS[self](value)


_BADNESS: Mapping[Direction, Callable[[float], float]] = {
    Direction.LOWER: lambda value: value,
    Direction.HIGHER: lambda value: -value,
    Direction.NEAREST_TO_ONE: lambda value: abs(value - 1),
    Direction.NONE: lambda value: 0.0,
}


@dataclass(frozen=True)
class Figure:
    """A column of rows that is compared.

    Attributes:
        name: of the column.
        direction: which value is better.
    """

    name: str
    direction: Direction

    def shown(self, value: float) -> str:
        """A value in few letters; memory in GB."""
        if self.name == "peak_memory_bytes":
            return f"{value / 1e9:.3f} GB"
        if self.name in COST_COLUMNS:
            return f"{value:.3f} s" if value < 10 else f"{value:.1f} s"
        return f"{value:.4f}" if abs(value) < 10 else f"{value:#.4g}"


DIRECTIONS: Mapping[str, Direction] = MappingProxyType(
    {
        "style_loss_first": Direction.NONE,
        "style_loss": Direction.LOWER,
        "content_loss": Direction.LOWER,
        "match_uncertainty": Direction.LOWER,
        "swd_patch": Direction.LOWER,
        "gram_raw": Direction.LOWER,
        "color_emd": Direction.LOWER,
        "chroma_gain": Direction.NEAREST_TO_ONE,
        "spectrum_slope": Direction.NONE,
        "seam_ratio_x": Direction.NEAREST_TO_ONE,
        "seam_ratio_y": Direction.NEAREST_TO_ONE,
        "patch_copy": Direction.LOWER,
        "autocorr_peak": Direction.LOWER,
        "ssim_luma": Direction.HIGHER,
        "edge_f1": Direction.HIGHER,
        "seconds": Direction.LOWER,
        "synthesis_seconds": Direction.LOWER,
        "peak_memory_bytes": Direction.LOWER,
    }
)
"""Which value of each figure is better.

Where the first loss starts, and how steep a spectrum is, is neither good nor bad by itself.
"""

FIGURES = tuple(
    Figure(name, DIRECTIONS[name]) for name in (*RENDER_COLUMNS, *METRIC_COLUMNS, *COST_COLUMNS)
)
"""Every figure that is compared, in the order in which it is told."""


def known_figures(names: Sequence[str]) -> tuple[Figure, ...]:
    """The figures that are named, in the order of `FIGURES`; all of them where none is.

    Raises:
        JobError: there is no such figure.
    """
    known = [figure.name for figure in FIGURES]
    for name in names:
        if name not in known:
            raise JobError(f"--figures {name}: there is no such figure; {nearest(name, known)}")
    return tuple(figure for figure in FIGURES if not names or figure.name in names)
