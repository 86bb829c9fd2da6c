"""What a run looks like so far: the index, and a page that a person can open.

Both are derived from commits and can be made again at any time; making them twice writes nothing.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from infra.store import Store
from manifests.commits import REPORT_NAME, Index, IndexedShard, RunRecord
from manifests.items import Input
from manifests.schema import read_metadata
from tasks.contact_sheet import CONTACT_SHEET_NAME, render_contact_sheet
from tasks.pictures import input_picture, result_picture
from tasks.run_folder import current_index, load_plan, open_run, put_if_changed, write_index

MAX_PICTURES = 120
MAX_PROBLEMS = 400
THUMBNAIL_SIDE = 192


@dataclass(frozen=True)
class Row:
    """One item as the page shows it."""

    key: str
    status: str
    facts: str
    prompt: str
    error: str
    pictures: tuple[tuple[str, str], ...]


def publish(run_uri: str) -> Index:
    """Brings `index.json`, `report.html` and a sweep's contact sheet up to date with the commits.

    Raises:
        RunFolderError: there is no run, or one of its records is damaged.
    """
    store, run = open_run(run_uri)
    index = current_index(store, run)
    write_index(store, index)
    if sheet := render_contact_sheet(store, run, index):
        put_if_changed(store, CONTACT_SHEET_NAME, sheet)
    put_if_changed(store, REPORT_NAME, render_report(store, run, index).encode())
    return index


def render_report(store: Store, run: RunRecord, index: Index) -> str:
    """The page: the counts, then problems, then a fair sample of pictures."""
    chosen = _chosen_rows(store, index)
    inputs = {one.full_uri: one for item in load_plan(store, run).items for one in item.inputs}
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda entry: _row(store, inputs, *entry), chosen))
    return _template().render(
        title=run.job.get("name") or PurePosixPath(store.uri).name,
        run=run,
        index=index,
        rows=rows,
        settings=run.settings,
        statuses=Counter(row.status for row in rows),
        contact_sheet=CONTACT_SHEET_NAME if run.job.get("sweep") else "",
        seconds_per_item=index.stats.render_seconds / max(1, index.counts.ok),
    )


def _chosen_rows(store: Store, index: Index) -> list[tuple[dict[str, Any], IndexedShard]]:
    """The rows that the page shows: every problem up to a limit, and evenly spaced pictures."""
    problems: list[tuple[dict[str, Any], IndexedShard]] = []
    good: list[tuple[dict[str, Any], IndexedShard]] = []
    per_shard = max(1, -(-MAX_PICTURES // max(1, len(index.shards))))
    for shard in _evenly(index.shards, MAX_PICTURES + MAX_PROBLEMS):
        rows = read_metadata(store.get(shard.parquet.name))
        problems.extend((row, shard) for row in rows if row["status"] != "ok")
        fine = [row for row in rows if row["status"] == "ok"]
        good.extend((row, shard) for row in _evenly(fine, per_shard))
    return problems[:MAX_PROBLEMS] + list(_evenly(good, MAX_PICTURES))


def _evenly(entries: Sequence[Any], most: int) -> Sequence[Any]:
    step = max(1, -(-len(entries) // most))
    return entries[::step]


def _row(store: Store, inputs: dict[str, Input], row: dict[str, Any], shard: IndexedShard) -> Row:
    pictures = [
        (one["role"], _thumbnail(input_picture(inputs[one["uri"]])))
        for one in row["inputs"]
        if row["status"] == "ok" and one["uri"] in inputs
    ]
    for output in row["outputs"]:
        picture = result_picture(store, shard, output["name"])
        pictures.append(("result", _thumbnail(picture)))
    return Row(
        key=row["key"],
        status=row["status"],
        facts=_facts(row),
        prompt=row["prompt"] or "",
        error=f"{row['error_class']}: {row['error_message']}" if row["error_class"] else "",
        pictures=tuple(pictures),
    )


def _facts(row: dict[str, Any]) -> str:
    parts = [row["label"]] if row["label"] else []
    if row["style_loss"] is not None:
        parts.append(f"style loss {row['style_loss_first']:.3f} → {row['style_loss']:.3f}")
    if row["content_loss"]:
        parts.append(f"content loss {row['content_loss']:.3f}")
    for name in ("swd_patch", "ssim_luma", "chroma_gain"):
        if row[name] is not None:
            parts.append(f"{name} {row[name]:.3g}")
    if row["seconds"] is not None:
        parts.append(f"{row['seconds']:.1f} s")
    parts.append(f"seed {row['seed']}")
    if row["retries"]:
        parts.append("1 retry" if row["retries"] == 1 else f"{row['retries']} retries")
    return " · ".join(parts)


def _thumbnail(image: Image.Image | None) -> str:
    if image is None:
        return ""
    small = image.copy()
    small.thumbnail((2 * THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


@cache
def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("tasks", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pretty_json"] = lambda value: json.dumps(value, indent=1, sort_keys=True)
    return environment.get_template("report.html.j2")
