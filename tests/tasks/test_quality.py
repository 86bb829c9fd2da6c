"""Bounds on figures: what is kept, what is tried again, and what a rejected picture leaves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import tasks.work.render as rendering
from manifests.errors import FingerprintMismatch, JobError
from manifests.identity import seed_of
from tests.audit import Audit, audit
from tests.tasks.runs import finish, prepare

TEXTURES: dict[str, Any] = {
    "task": "texture-optimize",
    "inputs": {"texture": "style"},
    "variants": 4,
    "compute": {"shard_items": 20, "batch_size": 3, "device": "cpu"},
}


def made(base: Path, **changes: Any) -> Audit:
    run = prepare(base, **TEXTURES | changes)
    finish(run)
    return audit(run.uri)


def bounded(base: Path, bound: float, retries: int, uri: str = "bounded") -> Audit:
    quality = {"swd_patch": {"max": bound}, "retries": retries}
    return made(base, quality=quality, output__uri=uri)


def sha256_of(row: dict[str, Any]) -> list[str]:
    return [output["sha256"] for output in row["outputs"]]


@pytest.fixture
def free(pictures: Path) -> Audit:
    """Eight textures without bounds."""
    return made(pictures)


def test_what_lies_outside_is_made_again_with_another_seed_or_is_rejected(pictures, free):
    bound = median(row["swd_patch"] for row in free.rows)
    before = free.by_key()
    found = bounded(pictures, bound, retries=1)
    assert found.counts["ok"] + found.counts["failed"] == 8
    for key, row in found.by_key().items():
        was_inside = before[key]["swd_patch"] <= bound
        assert row["retries"] == (0 if was_inside else 1)
        assert row["seed"] == seed_of(row["item_id"], row["retries"])
        assert (row["status"] == "ok") == (row["swd_patch"] <= bound)
        if was_inside:
            assert sha256_of(row) == sha256_of(before[key])
            assert row["swd_patch"] == pytest.approx(before[key]["swd_patch"])
        else:
            assert row["swd_patch"] != before[key]["swd_patch"]
    assert any(row["retries"] and row["status"] == "ok" for row in found.rows)


def test_a_rejected_item_is_a_row_with_the_figure_and_the_bound_and_no_picture(pictures):
    found = bounded(pictures, 0.0, retries=2)
    assert found.counts == {"planned": 8, "ok": 0, "failed": 8, "skipped": 0, "pending": 0}
    for row in found.rows:
        assert (row["error_class"], row["retries"], row["outputs"]) == ("rejected", 2, [])
        figure = re.fullmatch(r"swd_patch is ([\d.]+), above 0", row["error_message"])
        assert float(figure[1]) == pytest.approx(row["swd_patch"], rel=1e-3)
        assert row["style_loss"] > 0


def test_more_tries_take_more_time_and_the_row_says_how_much(pictures, monkeypatch):
    times = iter(range(1, 1000))

    def timed(*arguments: Any, **options: Any) -> Any:
        results = render(*arguments, **options)
        return [
            replace(result, seconds=float(next(times)), peak_memory_bytes=7) for result in results
        ]

    render = rendering.render
    monkeypatch.setattr(rendering, "render", timed)
    small = {"variants": 1, "limits": {"max_items": 1}}
    quality = {"swd_patch": {"max": 0}, "retries": 2}
    (row,) = made(pictures, quality=quality, **small).rows
    assert row["seconds"] == 1 + 2 + 3
    assert row["peak_memory_bytes"] == 7


def test_without_retries_what_lies_outside_is_rejected_at_once(pictures, free):
    bound = median(row["swd_patch"] for row in free.rows)
    found = bounded(pictures, bound, retries=0)
    rejected = {row["key"] for row in found.rows if row["error_class"] == "rejected"}
    assert rejected == {row["key"] for row in free.rows if row["swd_patch"] > bound}


def test_only_what_was_rejected_is_rendered_again(pictures, free, monkeypatch):
    seeds: list[int] = []

    def counted(backbone: Any, requests: Any, **options: Any) -> Any:
        seeds.extend(request.seed for request in requests)
        return render(backbone, requests, **options)

    render = rendering.render
    monkeypatch.setattr(rendering, "render", counted)
    figures = sorted(row["swd_patch"] for row in free.rows)
    bounded(pictures, figures[-2], retries=1)
    assert len(seeds) == len(set(seeds)) == 9


def test_the_same_job_rejects_and_keeps_the_same(pictures, free):
    bound = median(row["swd_patch"] for row in free.rows)
    first = bounded(pictures, bound, retries=1)
    second = bounded(pictures, bound, retries=1, uri="again")
    assert first.content_digest == second.content_digest


def test_bounds_are_part_of_what_a_run_is(pictures):
    prepare(pictures, quality={"swd_patch": {"max": 1}})
    with pytest.raises(FingerprintMismatch, match=r"quality.swd_patch.max: .* 1.0, the job says 2"):
        prepare(pictures, quality={"swd_patch": {"max": 2}})


@pytest.mark.parametrize("figure", ["ssim_luma", "content_loss"])
def test_a_bound_on_likeness_to_a_content_needs_a_content(pictures, figure):
    changes = TEXTURES | {"quality": {figure: {"min": 0.1}}}
    with pytest.raises(JobError, match=f"quality.{figure} compares with a content, and this textu"):
        prepare(pictures, **changes)
    assert prepare(pictures, quality={figure: {"min": 0.1}}).is_new
