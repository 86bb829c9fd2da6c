"""Failed items are tried again, and only those; a run stays what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ad_lib.batch import render
from manifests.errors import JobError
from manifests.items import Item
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import open_prepared
from tasks.plans.retrying import retry
from tasks.work import render as rendering
from tests.audit import audit
from tests.tasks.runs import files_of, finish, make_job, prepare, render_pending

THREE: dict[str, Any] = {
    "inputs": {"content": "content", "style": "style/x.png"},
    "compute": {"device": "cpu", "shard_items": 2, "batch_size": 1},
}


def run_of(base: Path, **changes: Any):
    return open_prepared(resolve_job(make_job(**changes), str(base)))


def newest(base: Path, **changes: Any) -> list[Item]:
    return list(run_of(base, **changes).plan.plans[-1].iter_items())


@pytest.fixture
def failing(monkeypatch):
    """Items whose seeds are in this set cannot be rendered."""
    seeds: set[int] = set()

    def render_or_fail(backbone: Any, requests: Any, **options: Any):
        if any(request.seed in seeds for request in requests):
            raise ValueError("a planted fault")
        return render(backbone, requests, **options)

    monkeypatch.setattr(rendering, "render", render_or_fail)
    return seeds


def test_failed_items_are_tried_again_under_their_ids_and_the_rest_is_left(pictures, failing):
    run = prepare(pictures, **THREE)
    culprits = list(run.plan.iter_items())[1:]
    failing |= {item.seed for item in culprits}
    assert finish(run).counts.failed == 2
    before = files_of(run.uri)
    assert retry(run.uri, classes=["decode"]).generation is None
    assert retry(run.uri, dry_run=True).by_class == {"crash": 2}
    assert files_of(run.uri) == before
    assert retry(run.uri, classes=["crash", "decode"]).generation.number == 1
    assert {item.item_id for item in newest(pictures, **THREE)} == {
        item.item_id for item in culprits
    }
    again = retry(run.uri)
    assert again.generation is None
    assert again.sentences[0].startswith("2 failed items are planned again already")
    failing.remove(culprits[0].seed)
    assert finish(run_of(pictures, **THREE)).stats.errors == {"crash": 1}
    failing.clear()
    assert retry(run.uri).by_class == {"crash": 1}
    index = finish(run_of(pictures, **THREE))
    assert index.complete
    assert (index.counts.planned, index.counts.ok) == (3, 3)
    found = audit(run.uri)
    assert {row["seed"] for row in found.rows} == {item.seed for item in run.plan.iter_items()}
    whole = prepare(pictures, output__uri="whole", **THREE)
    assert index.content_digest == finish(whole).content_digest
    assert retry(run.uri).by_class == {}
    assert "a planted fault" not in (Path(run.uri) / "report.html").read_text()


def test_rejected_items_go_on_at_the_seed_after_their_last(pictures):
    job = {**THREE, "quality": {"style_loss": {"max": 1e-9}, "retries": 1}}
    run = prepare(pictures, **job)
    finish(run)
    first = audit(run.uri)
    assert {(row["error_class"], row["retries"]) for row in first.rows} == {("rejected", 1)}
    retry(run.uri, classes=["rejected"])
    assert {item.first_retry for item in newest(pictures, **job)} == {2}
    finish(run_of(pictures, **job))
    second = audit(run.uri)
    assert {row["retries"] for row in second.rows} == {3}
    assert not {row["seed"] for row in first.rows} & {row["seed"] for row in second.rows}


def test_what_changes_pixels_is_named_and_stands_in_the_rows(pictures, failing):
    run = prepare(pictures, **THREE)
    culprit = next(run.plan.iter_items())
    failing.add(culprit.seed)
    finish(run)
    failing.clear()
    overrides = {"backbone.dtype": "bfloat16", "compute.batch_size": "1"}
    found = retry(run.uri, overrides=overrides)
    assert found.changes == found.generation.changes == {"dtype": "bfloat16"}
    assert found.compute.batch_size == 1
    finish(run_of(pictures, **THREE))
    rows = {row["item_id"]: row["dtype"] for row in audit(run.uri).rows}
    assert rows.pop(culprit.item_id) == "bfloat16"
    assert set(rows.values()) == {"float32"}


def test_columns_of_a_sweep_keep_the_noise_that_they_share(pictures, failing):
    job = {"sweep": {"learning_rate": [0.01, 0.05]}, "inputs": {"content": "content/a.png"}}
    job["inputs"]["style"] = "style/x.png"
    run = prepare(pictures, **job)
    one, other = run.plan.iter_items()
    assert one.seed == other.seed
    failing.add(one.seed)
    finish(run)
    failing.clear()
    retry(run.uri)
    assert {item.seed for item in newest(pictures, **job)} == {one.seed}


def test_a_file_that_came_back_is_looked_at_again_and_a_changed_one_is_for_extend(pictures):
    content = pictures / "content"
    data = (content / "a.png").read_bytes()
    (content / "b.png").write_bytes(b"")
    run = prepare(pictures, **THREE)
    (content / "a.png").unlink()
    assert finish(run).stats.errors == {"decode": 1, "input_missing": 1}
    found = retry(run.uri)
    assert found.generation is None
    (sentence,) = found.sentences
    assert "a.png" in sentence
    assert "b.png: the file is empty" in sentence
    (content / "a.png").write_bytes(data)
    (content / "b.png").write_bytes((content / "c.png").read_bytes())
    found = retry(run.uri)
    assert found.by_class == {"input_missing": 1}
    assert "b.png" in found.sentences[0]
    assert "'stylefarm extend' plans what they are now" in found.sentences[0]
    assert finish(run_of(pictures, **THREE)).stats.errors == {"decode": 1}
    audit(run.uri)


def test_an_input_that_was_not_there_when_it_was_planned_gives_its_item_its_size(pictures):
    rows = [{"content": f"content/{key}.png", "style": "style/x.png"} for key in ("a", "late")]
    text = "\n".join(str(row).replace("'", '"') for row in rows)
    (pictures / "t.jsonl").write_text(text)
    job = {"inputs": {"table": "t.jsonl"}, "output": {"uri": "run", "resize_mode": "no"}}
    run = prepare(pictures, **job)
    render_pending(run)
    (pictures / "content" / "late.png").write_bytes((pictures / "content" / "b.png").read_bytes())
    retry(run.uri)
    (item,) = newest(pictures, **job)
    assert (item.width, item.height) == (item.inputs[0].width, item.inputs[0].height)
    index = finish(run_of(pictures, **job))
    assert (index.complete, index.counts.ok) == (True, 2)
    audit(run.uri)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"classes": ["omm"]}, r"--class omm: no item fails so; did you mean 'oom'"),
        ({"overrides": {"seed": "3"}}, r"--set seed: a retry keeps what its items are"),
        ({"overrides": {"compute.batch_size": "0"}}, r"--set compute: batch_size: "),
        ({"overrides": {"backbone.dtype": "int8"}}, r"--set backbone.dtype: dtype: "),
        ({"overrides": {"backbone.name": "sd15"}}, r"--set backbone.name: a retry keeps"),
    ],
)
def test_what_a_retry_cannot_do_is_refused(pictures, words, message):
    run = prepare(pictures)
    with pytest.raises(JobError, match=message):
        retry(run.uri, **words)
