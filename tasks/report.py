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
from manifests.commits import REPORT_NAME, Commit, Index
from manifests.items import Item
from manifests.wording import safe_line
from tasks.committed import Committed, open_committed
from tasks.contact_sheet import CONTACT_SHEET_NAME, render_contact_sheet
from tasks.pictures import input_picture, result_picture
from tasks.run_folder import open_run, put_if_changed, recorded_job, write_index

MAX_PICTURES = 120
MAX_PROBLEMS = 400
MAX_TITLE_LETTERS = 200
THUMBNAIL = (384, 192)
"""Width and height in pixels that a picture of the page fits into."""


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
        RunFolderError: there is no run, or one of its files is missing or damaged.
    """
    store, run = open_run(run_uri)
    committed = open_committed(store, run)
    index = committed.index()
    sheet = render_contact_sheet(committed)
    page = render_report(committed, index)
    write_index(store, index)
    if sheet:
        put_if_changed(store, CONTACT_SHEET_NAME, sheet)
    put_if_changed(store, REPORT_NAME, page.encode())
    return index


def render_report(committed: Committed, index: Index) -> str:
    """The page: the counts, then problems, then a fair sample of pictures."""
    store, run = committed.plan.store, committed.plan.run
    job = recorded_job(run)
    chosen = _chosen_rows(committed)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda entry: _row(store, job.limits.max_pixels, entry), chosen))
    return _template().render(
        title=safe_line(job.name or PurePosixPath(store.uri).name, MAX_TITLE_LETTERS),
        run=run,
        index=index,
        rows=rows,
        settings=run.settings,
        statuses=Counter(row.status for row in rows),
        contact_sheet=CONTACT_SHEET_NAME if job.sweep_entries else "",
        seconds_per_item=index.stats.render_seconds / max(1, index.counts.ok),
    )


@dataclass(frozen=True)
class _Chosen:
    """A row that the page shows, with what it tells of."""

    row: dict[str, Any]
    item: Item
    commit: Commit


def _chosen_rows(committed: Committed) -> list[_Chosen]:
    """The counting rows that the page shows: every problem up to a limit, some pictures."""
    commits = committed.live
    problems: list[_Chosen] = []
    pictures: list[_Chosen] = []
    per_shard = max(1, -(-MAX_PICTURES // max(1, len(commits))))
    for shard in _evenly(list(commits), MAX_PICTURES + MAX_PROBLEMS):
        rows = committed.counting_rows(shard)
        found = [_Chosen(row, item, commits[shard]) for row, item in rows]
        problems += [entry for entry in found if entry.row["status"] != "ok"]
        pictures += _evenly([entry for entry in found if entry.row["status"] == "ok"], per_shard)
    return problems[:MAX_PROBLEMS] + list(_evenly(pictures, MAX_PICTURES))


def _evenly(entries: Sequence[Any], most: int) -> Sequence[Any]:
    step = max(1, -(-len(entries) // most))
    return entries[::step]


def _row(store: Store, max_pixels: int, chosen: _Chosen) -> Row:
    row = chosen.row
    pictures: list[tuple[str, str]] = []
    if row["status"] == "ok":
        for item_input in chosen.item.inputs:
            pictures.append(
                (
                    item_input.role,
                    _source(input_picture(item_input, THUMBNAIL, max_pixels=max_pixels)),
                )
            )
    for output in row["outputs"]:
        shown = result_picture(store, chosen.commit, output, THUMBNAIL)
        pictures.append(("result", _source(shown)))
    return Row(
        key=row["key"],
        status=row["status"],
        facts=_facts(row),
        prompt=safe_line(row["prompt"] or ""),
        error=safe_line(f"{row['error_class']}: {row['error_message']}")
        if row["error_class"]
        else "",
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


def _source(picture: Image.Image | None) -> str:
    """A picture as the `src` of an <img>; empty where there is none."""
    if picture is None:
        return ""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=82)
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
