"""Which figures a row holds about its picture, and which bounds a job may set on them.

`ad_lib.pictures.measure` measures them; here they are columns by name, so that no model is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, FiniteFloat, model_validator

from manifests.job_parts import Part

RENDER_COLUMNS = ("style_loss_first", "style_loss", "content_loss", "match_uncertainty")
"""What rendering tells of a picture; a picture that a baseline made has none of it."""

CONTENT_FIGURES = ("ssim_luma", "edge_f1", "content_loss")
"""Figures that compare a picture with its content; a picture without a content lacks them."""


class Bounds(Part):
    """Where a figure must lie, both ends included; one end may be open."""

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None

    @model_validator(mode="after")
    def _bound_something(self) -> Bounds:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both, such as {max: 1.3}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self

    def broken_by(self, value: float) -> str | None:
        """The bound that a value does not keep, in words; a value that is no number keeps none."""
        if self.max is not None and not value <= self.max:
            return f"above {self.max:g}" if value > self.max else f"not at most {self.max:g}"
        if self.min is not None and not value >= self.min:
            return f"below {self.min:g}" if value < self.min else f"not at least {self.min:g}"
        return None


class Quality(Part):
    """Which pictures are kept: bounds by the name of a figure.

    Attributes:
        retries: how often a picture that is not kept is made again with another seed.
    """

    retries: int = Field(default=0, ge=0, le=100)
    style_loss_first: Bounds | None = None
    style_loss: Bounds | None = None
    content_loss: Bounds | None = None
    match_uncertainty: Bounds | None = None
    swd_patch: Bounds | None = None
    gram_raw: Bounds | None = None
    color_emd: Bounds | None = None
    chroma_gain: Bounds | None = None
    spectrum_slope: Bounds | None = None
    seam_ratio_x: Bounds | None = None
    seam_ratio_y: Bounds | None = None
    patch_copy: Bounds | None = None
    autocorr_peak: Bounds | None = None
    ssim_luma: Bounds | None = None
    edge_f1: Bounds | None = None

    def bounds(self) -> dict[str, Bounds]:
        """The bounds that were set, by figure."""
        found = ((name, getattr(self, name)) for name in (*RENDER_COLUMNS, *METRIC_COLUMNS))
        return {name: bounds for name, bounds in found if bounds is not None}

    def rejection(self, figures: Mapping[str, float]) -> str | None:
        """Why a picture of these figures is not kept; None where it is.

        A figure that a picture does not have, such as its likeness to a content, bounds nothing.
        """
        for name, bounds in self.bounds().items():
            broken = bounds.broken_by(figures[name]) if name in figures else None
            if broken:
                return f"{name} is {figures[name]:.4g}, {broken}"
        return None


METRIC_COLUMNS = tuple(
    name for name in Quality.model_fields if name not in ("retries", *RENDER_COLUMNS)
)
"""What is measured of every picture; a test holds it to `ad_lib.pictures.measure.METRIC_NAMES`."""
