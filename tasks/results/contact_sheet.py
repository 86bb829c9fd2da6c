"""A sweep at one glance: a row per combination of inputs, a column per entry of the sweep.

Derived from commits like the report, so that making it again writes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
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
LARGEST_SIDE, SMALLEST_SIDE = 256, 96

T = TypeVar("T")
Found = dict[str, tuple[dict[str, Any], Commit]]
"""The rows of the sheet's items by item id, with the commit of the shard that holds each."""


def render_contact_sheet(committed: Committed) -> bytes | None:
    """The sheet of a run as JPEG bytes; None where the run has no sweep.

    Raises:
        RunFolderError: a committed file is damaged.
    """
    store, run = committed.plan.store, committed.plan.run
    job = recorded_job(run)
    if not job.sweep_entries:
        return None
    combinations = _combinations(committed.plan.counting_items())
    shown = _evenly(combinations, MAX_ROWS)
    entries = _evenly(job.sweep_entries, MAX_ENTRIES)
    roles = _input_columns([items[0] for items in shown])
    side = min(LARGEST_SIDE, max(SMALLEST_SIDE, MAX_WIDTH // (len(roles) + len(entries))))

    found = _found(committed, {item.item_id for items in shown for item in items})
    rows: list[list[Cell]] = []
    for items in shown:
        by_label = {item.label: item for item in items}
        cells = _input_cells(items[0], roles, job.limits.max_pixels, side)
        cells += [_result_cell(store, by_label.get(entry.label), found, side) for entry in entries]
        rows.append(cells)
    sheet = Sheet(
        title=job.name or f"{job.task}: a sweep",
        subtitle=_subtitle(run, job, len(shown), len(combinations), len(entries)),
        headings=[*(role.replace("_", " ") for role in roles), *(entry.label for entry in entries)],
        rows=rows,
        num_inputs=len(roles),
    )
    file = io.BytesIO()
    draw_sheet(sheet, side).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _combinations(items: Iterable[Item]) -> list[list[Item]]:
    """The items of each combination of inputs and variant, in the order of the inputs' keys."""
    by_inputs: dict[Any, list[Item]] = {}
    for item in items:
        keys = [(item_input.key, item_input.full_uri) for item_input in item.inputs]
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


def _subtitle(
    run: RunRecord, job: Job, num_shown: int, num_combinations: int, num_entries: int
) -> str:
    parts = [f"{job.task} on {run.model_id}"]
    parts += [f"{name} {value}" for name, value in job.settings.items()]
    if num_shown < num_combinations:
        parts.append(f"{num_shown} of {num_combinations} combinations")
    if num_entries < len(job.sweep_entries):
        parts.append(f"{num_entries} of {len(job.sweep_entries)} entries of the sweep")
    return " · ".join(parts)


def _input_columns(items: Sequence[Item]) -> list[str]:
    """The columns of what goes in: a role as often as some item has it, and the prompt."""
    columns: list[str] = []
    for item in items:
        roles = [item_input.role for item_input in item.inputs]
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
        cells.append(Cell(picture, text="no longer there", figures=(item_input.key[:MAX_KEY],)))
    return cells


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
    """The main figures of a picture in short lines; low losses and distances are good."""
    style = [("style loss", "style_loss", ".3f"), ("swd", "swd_patch", ".4f")]
    likeness = [("ssim", "ssim_luma", ".2f"), ("chroma", "chroma_gain", ".2f")]
    cost = [f"{row['seconds']:.1f} s"] if row["seconds"] is not None else []
    if row["peak_memory_bytes"]:
        cost.append(f"{row['peak_memory_bytes'] / 1e9:.1f} GB")
    if settings_in(row["params"]).seamless != "none":
        likeness += [("seams", "seam_ratio_x", ".2f"), ("and", "seam_ratio_y", ".2f")]
    lines = [_figure_line(row, style), _figure_line(row, likeness), "   ".join(cost)]
    return [line for line in lines if line]


def _figure_line(row: dict[str, Any], figures: list[tuple[str, str, str]]) -> str:
    known = [(name, row[column], form) for name, column, form in figures]
    return "   ".join(f"{name} {value:{form}}" for name, value, form in known if value is not None)
