"""What does a run look like so far? A page that a person can open.

It is derived from commits and can be made again at any time.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from infra.store import Store
from manifests.amounts import money, plain_number
from manifests.commits import REPORT_NAME, Commit, Index, RunRecord
from manifests.items import Item
from manifests.shard_stats import ShardStats
from manifests.wording import safe_line
from tasks.results.contact_sheet import CONTACT_SHEET_NAME
from tasks.results.pictures import input_picture, result_picture
from tasks.runs.committed import Committed
from tasks.runs.run_folder import recorded_job

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


def page_shows(store: Store, index: Index) -> bool:
    """Whether the page that lies in a run folder shows the rows of this index, up to its end."""
    found = store.find(REPORT_NAME)
    if found is None:
        return False
    end = f"<!-- {_stamp(index)} -->".encode()
    return store.get_range(REPORT_NAME, max(0, found.size - len(end)), len(end)) == end


def _stamp(index: Index) -> str:
    """What the page is made of: its last line."""
    return f"{version('stylefarm')} {index.rows_digest}"


def render_report(committed: Committed, index: Index) -> str:
    """The page: the counts, then problems, then a fair sample of pictures.

    Raises:
        RunFolderError: a committed file is missing or damaged.
    """
    store, run = committed.plan.store, committed.plan.run
    job = recorded_job(run)
    chosen = _chosen_rows(committed, min(index.counts.failed, MAX_PROBLEMS))
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda entry: _row(store, job.limits.max_pixels, entry), chosen))
    return _template().render(
        title=safe_line(job.name or PurePosixPath(store.uri).name, MAX_TITLE_LETTERS),
        run=run,
        index=index,
        stamp=_stamp(index),
        rows=rows,
        settings=run.settings,
        statuses=Counter(row.status for row in rows),
        contact_sheet=CONTACT_SHEET_NAME if job.columns else "",
        spent=_spent(run, index.stats, job.compute.price_per_hour),
        seconds_per_item=index.stats.render_seconds / max(1, index.counts.ok),
    )


def _spent(run: RunRecord, stats: ShardStats, price: float | None) -> dict[str, str]:
    """What the run has taken so far; of commits of earlier versions not all is known."""
    hours = stats.device_seconds / 3600
    spent = {run.hours_name: plain_number(hours)}
    if price is not None:
        spent["cost"] = f"{money(hours * price)} (at {plain_number(price)} an hour)"
    if stats.peak_memory_bytes is not None:
        spent["peak memory"] = f"{stats.peak_memory_bytes / 1e9:.2f} GB"
    return spent


def _duration(seconds: float) -> str:
    """A test's seconds with a tenth; a night's as hours, minutes and seconds."""
    return f"{seconds:.1f} s" if seconds < 600 else str(timedelta(seconds=round(seconds)))


@dataclass(frozen=True)
class _Chosen:
    """A row that the page shows, with what it tells of."""

    row: dict[str, Any]
    item: Item
    commit: Commit


def _chosen_rows(committed: Committed, num_problems: int) -> list[_Chosen]:
    """The counting rows that the page shows: so many problems, and some pictures."""
    commits = committed.live
    problems: list[_Chosen] = []
    for shard, commit in commits.items():
        if commit.counts.failed and len(problems) < num_problems:
            problems += _chosen(committed, shard, "failed")
    with_pictures = [shard for shard, commit in commits.items() if commit.counts.ok]
    per_shard = max(1, -(-MAX_PICTURES // max(1, len(with_pictures))))
    pictures: list[_Chosen] = []
    for shard in _evenly(with_pictures, MAX_PICTURES):
        pictures += _evenly(_chosen(committed, shard, "ok"), per_shard)
    return problems[:num_problems] + list(_evenly(pictures, MAX_PICTURES))


def _chosen(committed: Committed, shard: str, status: str) -> list[_Chosen]:
    rows = committed.counting_rows(shard)
    commit = committed.live[shard]
    return [_Chosen(row, item, commit) for row, item in rows if row["status"] == status]


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
        loader=PackageLoader("tasks.results", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = _duration
    environment.filters["pretty_json"] = lambda value: json.dumps(value, indent=1, sort_keys=True)
    return environment.get_template("report.html.j2")
