"""A sweep at one glance: a row per combination of inputs, a column per entry of the sweep.

Derived from commits like the report, so that making it again writes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from infra.store import Store
from manifests.commits import Commit, RunRecord
from manifests.items import Item
from manifests.job import Job
from tasks.results.drawing import Cell, Sheet, draw_sheet
from tasks.results.pictures import input_picture, result_picture
from tasks.runs.committed import Committed
from tasks.runs.item_settings import settings_in
from tasks.runs.run_folder import recorded_job

CONTACT_SHEET_NAME = "contact_sheet.jpg"

MAX_ROWS, MAX_INPUTS, MAX_ENTRIES = 24, 12, 100
MAX_KEY = 40
"""Maximum letters of an input's key under its picture."""
MAX_WIDTH = 12_000
"""Pixels; with many columns each of them is narrow."""
USUAL_SIDE, SMALLEST_SIDE = 256, 96
USUAL_WIDTH = 2048
"""Pixels; where columns leave room in it, large results are drawn larger."""
SMALLEST_SHARE = 0.125
"""Of its cell that an example takes at least which is drawn to the scale of a larger result."""


@dataclass(frozen=True)
class Figure:
    """How the sheet tells a column of the metadata.

    Attributes:
        name: in short, under the picture.
        digits: as a format.
        meaning: in the legend.
    """

    name: str
    digits: str
    meaning: str


FIGURES: Mapping[str, Figure] = {
    "style_loss": Figure(
        "style loss", ".3f", "attention distillation loss at the end, low is good"
    ),
    "content_loss": Figure("content loss", ".3f", "of the queries, low keeps the content"),
    "swd_patch": Figure("swd", ".4f", "distance to the reference's patches, low is good"),
    "ssim_luma": Figure("ssim", ".2f", "1 has the content's structure"),
    "chroma_gain": Figure("chroma", ".2f", "1 is as colourful as the reference"),
    "patch_copy": Figure("copied", ".2f", "share of patches taken verbatim, low is good"),
    "match_uncertainty": Figure("match", ".2f", "uncertainty of matches in the style, low is good"),
    "seam_ratio_x": Figure("seam x", ".2f", "1 continues on the opposite side"),
    "seam_ratio_y": Figure("seam y", ".2f", "the same from top to bottom"),
    "synthesis_seconds": Figure("seconds", ".1f", "of synthesis, without encoding and decoding"),
    "peak_memory_bytes": Figure("memory", "", "of the accelerator at most"),
}
"""The figures of a picture that the sheet shows, by column, in the order in which it does."""

T = TypeVar("T")
Found = dict[str, tuple[dict[str, Any], Commit]]
"""The rows of the sheet's items by item id, with the commit of the shard that holds each."""


def render_contact_sheet(committed: Committed) -> bytes | None:
    """The sheet of a run as JPEG bytes; None where nothing stands side by side.

    Raises:
        RunFolderError: a committed file is damaged.
    """
    store, run = committed.plan.store, committed.plan.run
    job = recorded_job(run)
    if not job.columns:
        return None
    combinations = _combinations(committed.plan.counting_items())
    shown = _evenly(combinations, MAX_ROWS)
    entries = _evenly(job.columns, MAX_ENTRIES)
    roles = _input_columns([items[0] for items in shown])
    side = _side(len(roles) + len(entries), [items[0] for items in shown])

    found = _found(committed, {item.item_id for items in shown for item in items})
    rows: list[list[Cell]] = []
    for items in shown:
        by_label = {item.label: item for item in items}
        cells = _input_cells(items[0], roles, job.limits.max_pixels, side)
        cells += [_result_cell(store, by_label.get(entry.label), found, side) for entry in entries]
        rows.append(cells)
    sheet = Sheet(
        title=job.name or f"{job.task}, side by side",
        subtitle=_subtitle(run, job, shown, len(combinations), len(entries)),
        headings=[
            *(role.replace("_", " ") for role in roles),
            *(entry.label or job.task for entry in entries),
        ],
        rows=rows,
        num_inputs=len(roles),
        legend=_legend([row for row, _ in found.values()]),
    )
    file = io.BytesIO()
    draw_sheet(sheet, side).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _combinations(items: Iterable[Item]) -> list[list[Item]]:
    """The items of each combination of inputs and variant, in the order of the inputs' keys."""
    by_inputs: dict[Any, list[Item]] = {}
    for item in items:
        keys = [(item_input.key, item_input.full_uri) for item_input in item.case_inputs]
        by_inputs.setdefault((*keys, item.prompt or "", item.user, item.variant), []).append(item)
    return [by_inputs[key] for key in sorted(by_inputs, key=repr)]


def _evenly(entries: Sequence[T], most: int) -> Sequence[T]:
    return entries[:: max(1, -(-len(entries) // most))]


def _found(committed: Committed, wanted: set[str]) -> Found:
    found: Found = {}
    for shard, commit in committed.live.items():
        if any(item.item_id in wanted for item in committed.plan.items(shard)):
            rows = committed.counting_rows(shard)
            found |= {row["item_id"]: (row, commit) for row, _ in rows}
    return found


def _side(num_columns: int, items: Sequence[Item]) -> int:
    """Pixels of a cell: the usual, more for few large results, less for many columns."""
    largest = max((max(item.width, item.height) for item in items), default=0)
    roomy = max(USUAL_SIDE, min(largest, USUAL_WIDTH // num_columns))
    return max(SMALLEST_SIDE, min(roomy, MAX_WIDTH // num_columns))


def _subtitle(
    run: RunRecord,
    job: Job,
    shown: Sequence[Sequence[Item]],
    num_combinations: int,
    num_entries: int,
) -> str:
    parts = [f"{job.task} on {run.model_id}"]
    sizes = {f"{item.width}x{item.height} pixels" for items in shown for item in items}
    parts += sizes if len(sizes) == 1 else []
    parts += [f"{name} {value}" for name, value in job.settings.items()]
    if len(shown) < num_combinations:
        parts.append(f"{len(shown)} of {num_combinations} combinations")
    if num_entries < len(job.columns):
        parts.append(f"{num_entries} of {len(job.columns)} columns")
    return " · ".join(parts)


def _input_columns(items: Sequence[Item]) -> list[str]:
    """The columns of what goes in: a role as often as some item has it, and the prompt."""
    columns: list[str] = []
    for item in items:
        roles = [item_input.role for item_input in item.case_inputs]
        for role in dict.fromkeys(roles):
            columns += [role] * (roles.count(role) - columns.count(role))
    columns = columns[:MAX_INPUTS]
    return [*columns, "prompt"] if any(item.prompt for item in items) else columns


def _input_cells(item: Item, columns: Sequence[str], max_pixels: int, side: int) -> list[Cell]:
    cells: list[Cell] = []
    inputs = list(item.inputs)
    for column in columns:
        if column == "prompt":
            cells.append(Cell(text=item.prompt or ""))
            continue
        item_input = next((found for found in inputs if found.role == column), None)
        if item_input is None:
            cells.append(Cell())
            continue
        inputs.remove(item_input)
        picture = input_picture(item_input, (side, side), max_pixels=max_pixels)
        share = _share(item, picture.size) if picture and column == "texture" else 1.0
        key = item_input.key[:MAX_KEY]
        cells.append(Cell(picture, text="no longer there", figures=(key,), share=share))
    return cells


def _share(item: Item, size: tuple[int, int]) -> float:
    """The share of its cell in which an example has the scale of the result."""
    reference_size = settings_in(item.params).reference_size
    if reference_size is None:
        return 1.0
    longer_side = reference_size * max(size) / min(size)
    return min(1.0, max(SMALLEST_SHARE, longer_side / max(item.width, item.height)))


def _result_cell(store: Store, item: Item | None, found: Found, side: int) -> Cell:
    if item is None or item.item_id not in found:
        return Cell(text="pending")
    row, commit = found[item.item_id]
    if row["status"] != "ok":
        text = f"{row['error_class']}: {row['error_message']}"
        return Cell(text=text, figures=tuple(_figures(row)), is_bad=True)
    picture = result_picture(store, commit, row["outputs"][0], (side, side))
    return Cell(picture, figures=tuple(_figures(row)))


def _figures(row: dict[str, Any]) -> list[str]:
    """The main figures of a picture, those that it has."""
    return [_told(column, row[column]) for column in FIGURES if _has(row, column)]


def _has(row: dict[str, Any], column: str) -> bool:
    if column.startswith("seam_ratio") and settings_in(row["params"]).seamless == "none":
        return False
    # A task without a content has a content loss of exactly 0.
    return bool(row[column]) if column == "content_loss" else row[column] is not None


def _told(column: str, value: float) -> str:
    if column == "synthesis_seconds":
        return f"{value:.1f} s"
    if column == "peak_memory_bytes":
        return f"{value / 1e9:.1f} GB"
    return f"{FIGURES[column].name} {value:{FIGURES[column].digits}}"


def _legend(rows: Sequence[dict[str, Any]]) -> str:
    """What the figures mean that at least one of the pictures has."""
    told = [
        f"{figure.name}: {figure.meaning}"
        for column, figure in FIGURES.items()
        if any(_has(row, column) for row in rows)
    ]
    return " · ".join(told)
