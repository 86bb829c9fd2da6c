"""A sweep at one glance: a row per combination of inputs, a column per entry of the sweep.

Derived from commits like the report, so that making it again writes nothing.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

from PIL import Image

from infra.store import Store
from manifests.commits import Index, IndexedShard, RunRecord
from manifests.items import Input, Item
from manifests.job import Job, job_from_dict
from manifests.schema import read_metadata
from tasks.drawing import Cell, Sheet, draw_sheet
from tasks.pictures import input_picture, result_picture
from tasks.run_folder import load_plan

CONTACT_SHEET_NAME = "contact_sheet.jpg"

MAX_ROWS = 24
MAX_WIDTH = 12_000
"""Pixels; many columns are narrow ones."""
LARGEST_SIDE, SMALLEST_SIDE = 256, 96

Found = dict[str, tuple[dict[str, Any], IndexedShard]]
"""The rows of the sheet's items by item id, with the shard that holds each."""


def render_contact_sheet(store: Store, run: RunRecord, index: Index) -> bytes | None:
    """The sheet of a run as JPEG bytes; None where the run has no sweep."""
    job = job_from_dict(run.job)
    if not job.sweep_entries:
        return None
    combinations = _combinations(load_plan(store, run).items)
    shown = _evenly(combinations, MAX_ROWS)
    found = _found(store, index, {item.item_id for items in shown for item in items})
    sheet = Sheet(
        title=run.job.get("name") or f"{job.task}: a sweep",
        subtitle=_subtitle(run, job, len(shown), len(combinations)),
        headings=[*_input_headings(shown[0][0]), *(one.label for one in job.sweep_entries)],
        rows=[_row(store, job, items, found) for items in shown],
        num_inputs=len(_input_headings(shown[0][0])),
    )
    side = min(LARGEST_SIDE, max(SMALLEST_SIDE, MAX_WIDTH // len(sheet.headings)))
    file = io.BytesIO()
    draw_sheet(sheet, side).save(file, "JPEG", quality=90, subsampling=0)
    return file.getvalue()


def _combinations(items: Sequence[Item]) -> list[list[Item]]:
    """The items of each combination of inputs and variant, in the order of the inputs' keys."""
    by_inputs: dict[Any, list[Item]] = {}
    for item in items:
        keys = [(one.key, one.full_uri) for one in item.inputs]
        by_inputs.setdefault((*keys, item.prompt or "", item.user, item.variant), []).append(item)
    return [by_inputs[key] for key in sorted(by_inputs, key=repr)]


def _evenly(entries: list[list[Item]], most: int) -> list[list[Item]]:
    return entries[:: max(1, -(-len(entries) // most))]


def _found(store: Store, index: Index, wanted: set[str]) -> Found:
    found: Found = {}
    for shard in index.shards:
        rows = read_metadata(store.get(shard.parquet.name))
        found |= {row["item_id"]: (row, shard) for row in rows if row["item_id"] in wanted}
    return found


def _subtitle(run: RunRecord, job: Job, num_shown: int, num_all: int) -> str:
    parts = [f"{job.task} on {run.model_id}"]
    parts += [f"{name} {value}" for name, value in job.settings.items()]
    if num_shown < num_all:
        parts.append(f"{num_shown} of {num_all} combinations")
    return " · ".join(parts)


def _input_headings(item: Item) -> list[str]:
    roles = [one.role.replace("_", " ") for one in item.inputs]
    return [*roles, *(["prompt"] if item.prompt else [])]


def _row(store: Store, job: Job, items: Sequence[Item], found: Found) -> list[Cell]:
    by_label = {item.label: item for item in items}
    cells = [_input_cell(one) for one in items[0].inputs]
    cells += [Cell(text=items[0].prompt)] if items[0].prompt else []
    return [
        *cells,
        *(_result_cell(store, by_label.get(one.label), found) for one in job.sweep_entries),
    ]


def _input_cell(one: Input) -> Cell:
    picture = input_picture(one)
    shown = _reduced(picture) if picture else None
    return Cell(shown, text="no longer there", figures=(one.key,))


def _result_cell(store: Store, item: Item | None, found: Found) -> Cell:
    if item is None or item.item_id not in found:
        return Cell(text="pending")
    row, shard = found[item.item_id]
    if row["status"] != "ok":
        text = f"{row['error_class']}: {row['error_message']}"
        return Cell(text=text, figures=tuple(_figures(row)), is_bad=True)
    picture = result_picture(store, shard, row["outputs"][0]["name"])
    return Cell(_reduced(picture), figures=tuple(_figures(row)))


def _reduced(picture: Image.Image) -> Image.Image:
    """No larger than any cell, so that a sheet of large pictures fits into memory."""
    picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    return picture


def _figures(row: dict[str, Any]) -> list[str]:
    """What matters of a picture, in short lines; low losses and distances are near the style."""
    style = [("style loss", "style_loss", ".3f"), ("swd", "swd_patch", ".4f")]
    likeness = [("ssim", "ssim_luma", ".2f"), ("chroma", "chroma_gain", ".2f")]
    cost = [f"{row['seconds']:.1f} s"] if row["seconds"] is not None else []
    if row["peak_memory_bytes"]:
        cost.append(f"{row['peak_memory_bytes'] / 1e9:.1f} GB")
    if json.loads(row["params"])["settings"]["seamless"] != "none":
        likeness += [("seams", "seam_ratio_x", ".2f"), ("and", "seam_ratio_y", ".2f")]
    lines = [_told(row, style), _told(row, likeness), "   ".join(cost)]
    return [line for line in lines if line]


def _told(row: dict[str, Any], figures: list[tuple[str, str, str]]) -> str:
    known = [(name, row[column], form) for name, column, form in figures]
    return "   ".join(f"{name} {value:{form}}" for name, value, form in known if value is not None)
