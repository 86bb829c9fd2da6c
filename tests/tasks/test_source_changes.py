"""A run whose sources have changed says so by name, and finishes what is planned."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.inputs.resolving import resolve_job
from tasks.plans.extending import extend
from tasks.plans.planning import open_prepared
from tasks.plans.source_changes import ignored_settings, missing_sources, source_changes
from tasks.runs.faults import SourcesGone
from tests.audit import audit
from tests.tasks.runs import finish, make_job, prepare


def changes_of(base: Path, **changes: Any):
    resolved = resolve_job(make_job(**changes), str(base))
    return source_changes(resolved, open_prepared(resolved).plan)


def test_unchanged_sources_are_not_mentioned(pictures):
    run = prepare(pictures)
    assert changes_of(pictures).sentences == ()
    assert missing_sources(run.plan.store, run.run) is None


def test_what_came_went_and_changed_is_told_by_name_and_the_rest_is_rendered(pictures):
    run = prepare(pictures)
    content = pictures / "content"
    (content / "a.png").unlink()
    shutil.copy(content / "b.png", content / "d.png")
    (content / "c.png").write_bytes((content / "c.png").read_bytes() + b"\0")
    changes = changes_of(pictures)
    assert changes.sentences == (
        "content: 1 file came (d.png)",
        "content: 1 file is gone (a.png)",
        "content: 1 file is changed (c.png)",
        "this run finishes what is planned; 'stylefarm extend' plans what came or changed",
        "pending items of files that are gone fail as input_missing",
    )
    index = finish(run)
    assert index.complete
    assert index.stats.errors == {"input_missing": 4}
    audit(run.uri)
    (content / "b.png").rename(pictures / "b.png")
    assert changes_of(pictures).num_gone == 2  # as nothing is pending, that harms nobody
    (pictures / "b.png").rename(content / "b.png")
    assert changes_of(pictures).sentences[-1].endswith("plans what came or changed")
    extend(resolve_job(make_job(), str(pictures)))
    assert changes_of(pictures).sentences == (
        "content: 1 file is gone (a.png)",
        "pending items of files that are gone fail as input_missing",
    )


def test_many_names_are_bounded(pictures):
    prepare(pictures)
    for number in range(20):
        shutil.copy(pictures / "content" / "b.png", pictures / "content" / f"n{number:02d}.png")
    first = changes_of(pictures).sentences[0]
    assert first == (
        "content: 20 files came (n00.png, n01.png, n02.png, n03.png, n04.png and 15 more)"
    )


def test_half_of_the_files_may_be_gone(pictures):
    shutil.copy(pictures / "content" / "b.png", pictures / "content" / "d.png")
    run = prepare(pictures)
    for name in ("content/a.png", "content/b.png", "style/x.png"):
        (pictures / name).unlink()
    assert changes_of(pictures).num_gone == 3
    assert missing_sources(run.plan.store, run.run) is None


@pytest.mark.parametrize("gone", ["every file of a source", "more than half"])
def test_sources_that_are_gone_as_a_whole_are_no_items_fault(pictures, gone):
    run = prepare(pictures)
    names = ["style/x.png", "style/y.png"] if "every" in gone else ["content/a.png", "style/x.png"]
    names += [] if "every" in gone else ["content/b.png"]
    for name in names:
        (pictures / name).rename(pictures / name.replace("/", "-"))
    sentence = missing_sources(run.plan.store, run.run)
    assert sentence is not None
    assert "is a drive not mounted" in sentence
    with pytest.raises(SourcesGone) as raised:
        changes_of(pictures)
    assert str(raised.value) == sentence


def test_sources_that_moved_are_read_where_they_were_planned_or_not_at_all(pictures):
    moved = {"content": "content", "style": "paintings"}
    prepare(pictures)
    shutil.copytree(pictures / "style", pictures / "paintings")
    (sentence,) = changes_of(pictures, inputs=moved).sentences
    assert sentence.startswith("the job names its sources elsewhere (")
    shutil.rmtree(pictures / "style")
    with pytest.raises(SourcesGone, match=r"every file of style is gone, such as .*/style/"):
        changes_of(pictures, inputs=moved)


def test_changed_tables_and_prompts_are_told(pictures):
    rows = [{"content": f"content/{key}.png", "style": "style/x.png"} for key in "ab"]
    (pictures / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    job: dict[str, Any] = {"inputs": {"table": "t.jsonl"}, "output": {"uri": "one", "size": 64}}
    prepare(pictures, **job)
    (pictures / "t.jsonl").write_text("\n".join(map(json.dumps, rows * 2)))
    assert changes_of(pictures, **job).sentences[0].startswith("table: 1 file is changed (")
    job = {"task": "style-t2i", "inputs": {"style": "style", "prompt": ["a boat", "a barn"]}}
    prepare(pictures, **job)
    job["inputs"] = {"style": "style", "prompt": ["a barn", "a bridge"]}
    assert changes_of(pictures, **job).sentences[:2] == (
        "prompt: 1 came (a bridge)",
        "this run finishes what is planned; 'stylefarm extend' plans what came or changed",
    )


def test_a_touched_file_counts_as_changed_and_a_copy_elsewhere_does_not(pictures):
    prepare(pictures)
    os.utime(pictures / "content" / "a.png", ns=(1, 1))
    assert changes_of(pictures).num_changed == 1


def test_settings_that_a_frozen_plan_does_not_follow_are_told(pictures):
    run = prepare(pictures)
    same = resolve_job(make_job(compute__batch_size=1), str(pictures))
    assert ignored_settings(same, run.run) == []
    other = resolve_job(make_job(compute={"shard_items": 5, "seconds_per_item": 3}), str(pictures))
    assert ignored_settings(other, run.run) == [
        "compute.shard_items: 5 is not followed, as the plan is frozen (it was made with 2); "
        "what 'stylefarm extend' plans follows it",
        "compute.seconds_per_item: 3.0 is not followed, as the plan is frozen (it was made with "
        "None); what 'stylefarm extend' plans follows it",
    ]
