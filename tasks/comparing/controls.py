"""What do the figures say of an unchanged content, and of a copy of the style?

Several figures rank one of the two first. Beside them, a figure of a result can be read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from ad_lib.pictures.images import fit_image
from ad_lib.pictures.measure import MIN_SIDE, Judge
from ad_lib.presets import REQUEST_FIELDS
from tasks.results.entries import Entry
from tasks.runs.item_settings import settings_in

IDENTITY, STYLE_COPY = "identity", "style copy"
CONTROL_NAMES = (IDENTITY, STYLE_COPY)

MAX_MEASURED = 256
"""Cases; of more of them these many are measured, evenly chosen."""

Figures = Mapping[str, float]


@dataclass(frozen=True)
class Controls:
    """The figures of the controls by case.

    Attributes:
        rows: by the name of the control.
        measured: the cases whose pictures were looked for.
        gone: those of them of which a picture is no longer there, or was changed.
        too_small: those of them that are too small to be measured.
    """

    rows: Mapping[str, Mapping[str, Figures]]
    measured: Sequence[str]
    gone: Sequence[str]
    too_small: Sequence[str]


def measure_controls(entry: Entry, cases: Sequence[str]) -> Controls:
    """Measures the controls as the results of an entry were measured, at their size.

    Args:
        entry: whose inputs, sizes and reference size count.
        cases: those that are ok in it.

    Returns:
        For each case the figures that `ad_lib.pictures.measure.measure_with_controls` gives; a case
        without a content has no identity.
    """
    measured = list(cases)[:: max(1, -(-len(cases) // MAX_MEASURED))]
    rows: dict[str, dict[str, Figures]] = {name: {} for name in CONTROL_NAMES}
    gone: list[str] = []
    too_small: list[str] = []
    judge = Judge()
    for case in measured:
        pictures = _pictures(entry, case)
        if pictures is None:
            gone.append(case)
            continue
        styles, content = pictures
        output = entry.rows[case]["outputs"][0]
        size = (output["width"], output["height"])
        shown = {IDENTITY: content, STYLE_COPY: styles[0] if styles else None}
        if not styles or _is_too_small(size, *styles, *([content] if content else [])):
            too_small.append(case)
            continue
        for name, picture in shown.items():
            if picture is not None:
                rows[name][case] = judge.measure(
                    fit_image(picture, *size),
                    styles=styles,
                    content=content,
                    reference_size=settings_in(entry.rows[case]["params"]).reference_size,
                )
    return Controls({name: row for name, row in rows.items() if row}, measured, gone, too_small)


def _pictures(entry: Entry, case: str) -> tuple[list[Image.Image], Image.Image | None] | None:
    """The styles and the content of a case; None where one of them is gone."""
    styles: list[Image.Image] = []
    content: Image.Image | None = None
    for reference in entry.references(case):
        field = REQUEST_FIELDS[reference.role]
        if field not in ("styles", "content"):
            continue
        if reference.picture is None:
            return None
        if field == "styles":
            styles.append(reference.picture)
        else:
            content = reference.picture
    return styles, content


def _is_too_small(size: tuple[int, int], *pictures: Image.Image) -> bool:
    return min(*size, *(side for picture in pictures for side in picture.size)) < MIN_SIDE
