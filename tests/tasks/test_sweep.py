"""Sweeps: settings and tasks side by side, from a job to the contact sheet."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ad_lib.errors import RequestError
from infra.store import open_store
from manifests.errors import FingerprintMismatch, JobError
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import open_prepared, plan_items
from tasks.results.contact_sheet import CONTACT_SHEET_NAME
from tests.audit import audit
from tests.tasks.runs import files_of, finish, make_job, prepare, render_pending
from tests.tasks.test_report import Page

WEIGHTS: dict[str, Any] = {"sweep": {"content_weight": [0, 0.25, 1.5]}}
TASKS: dict[str, Any] = {
    "task": "texture-optimize",
    "inputs": {"texture": "style"},
    "sweep": [
        {"label": "optimise", "num_inference_steps": 3},
        {"label": "sample", "task": "texture-sample", "num_optimization_steps": 1},
    ],
}


def items_of(base: Path, **changes: Any):
    return list(plan_items(resolve_job(make_job(**changes), str(base))).iter_items())


def settings_of(item: Any) -> dict[str, Any]:
    return json.loads(item.params)["settings"]


def test_every_combination_of_inputs_is_rendered_with_every_entry(pictures):
    items = items_of(pictures, **WEIGHTS)
    assert len(items) == len({item.item_id for item in items}) == 6 * 3
    by_label: dict[str, set[str]] = {}
    for item in items:
        by_label.setdefault(item.label, set()).add("-".join(one.key for one in item.inputs))
        weight = settings_of(item)["content_weight"]
        assert item.label == f"content_weight {weight}"
        assert f"-content_weight-{str(weight).replace('.', '-')}-{item.item_id[:10]}" in item.key
    pairs = {f"{content}-{style}" for content in "abc" for style in "xy"}
    assert list(by_label.values()) == [pairs] * 3


def test_a_sweep_that_an_earlier_version_began_keeps_its_noise_in_every_column(pictures):
    """That version knew no such setting: all that it wrote is what it means without one."""
    begun = prepare(pictures, **TASKS, settings={"noise": "stream"})
    path = Path(begun.uri) / "run.json"
    record = json.loads(path.read_bytes())
    del record["settings"]["noise"], record["job"]["settings"]
    path.write_text(json.dumps(record))
    resolved = resolve_job(make_job(**TASKS, settings={}), str(pictures))
    assert {one.settings.noise for one in resolved.variations} == {"stream"}
    assert open_prepared(resolved) is not None


def test_the_columns_of_a_sweep_start_from_the_same_noise(pictures):
    swept = items_of(pictures, **WEIGHTS, variants=2)
    seeds: dict[tuple[Any, ...], set[int]] = {}
    for item in swept:
        seeds.setdefault((item.inputs, item.variant), set()).add(item.seed)
    assert [len(same) for same in seeds.values()] == [1] * 6 * 2
    assert len(set.union(*seeds.values())) == 6 * 2


def test_an_entry_with_the_jobs_own_settings_is_the_item_of_a_job_without_a_sweep(pictures):
    alone = items_of(pictures)
    assert {settings_of(item)["content_weight"] for item in alone} == {0.25}
    swept = items_of(pictures, **WEIGHTS)
    assert {(item.item_id, item.seed) for item in alone} < {
        (item.item_id, item.seed) for item in swept
    }


def test_an_entry_may_have_a_task_of_its_own(pictures):
    items = items_of(pictures, **TASKS)
    assert {(item.label, item.task) for item in items} == {
        ("optimise", "texture-optimize"),
        ("sample", "texture-sample"),
    }
    steps = {item.label: settings_of(item)["num_inference_steps"] for item in items}
    assert steps == {"optimise": 3, "sample": 2}, "the job's settings hold where an entry has none"


def test_a_row_of_a_table_is_swept_under_its_own_key(pictures):
    row = {"content": "content/a.png", "style": "style/x.png", "key": "mine"}
    (pictures / "t.jsonl").write_text(json.dumps(row))
    items = items_of(pictures, inputs={"table": "t.jsonl"}, variants=2, **WEIGHTS)
    assert sorted(item.key for item in items) == [
        f"mine-content_weight-{weight}{variant}"
        for weight in ("0", "0-25", "1-5")
        for variant in ("", "-1")
    ]


def test_a_limit_keeps_the_entries_of_a_combination_together(pictures):
    items = items_of(pictures, limits={"max_items": 7}, **WEIGHTS)
    assert len(items) == 6
    assert len({tuple(one.key for one in item.inputs) for item in items}) == 2


@pytest.mark.parametrize(
    ("sweep", "error", "message"),
    [
        ({"learning_rat": [1]}, RequestError, "unknown setting 'learning_rat'"),
        ({"learning_rate": [0.1, -1]}, RequestError, "learning_rate must be a number above 0"),
        ({"adain": [True, False]}, RequestError, "style-transfer does not use adain"),
        ([{"task": "style-transfr"}], RequestError, "did you mean 'style-transfer'?"),
        (
            [{"task": "texture-optimize"}],
            JobError,
            "'texture-optimize' takes texture, but style-transfer takes content and style",
        ),
    ],
)
def test_the_whole_sweep_is_checked_before_an_image_is_read(pictures, sweep, error, message):
    with pytest.raises(error, match=message.replace("?", r"\?")):
        resolve_job(make_job(sweep=sweep), str(pictures))


def test_another_sweep_is_another_run_and_another_way_to_write_it_is_not(pictures):
    prepare(pictures, **WEIGHTS)
    entries = [
        {"content_weight": weight, "label": f"content_weight {weight}"} for weight in (1.5, 0, 0.25)
    ]
    assert open_prepared(resolve_job(make_job(sweep=entries), str(pictures)))
    with pytest.raises(FingerprintMismatch, match=r"settings.sweep.content_weight 0.3"):
        prepare(pictures, sweep={"content_weight": [0, 0.25, 0.3]})


def sheet_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(files_of(uri)[CONTACT_SHEET_NAME]))


def test_a_contact_sheet_shows_every_entry_of_every_combination(pictures):
    run = prepare(pictures, **TASKS)
    finish(run)
    audit(run.uri)
    sheet = sheet_of(run.uri)
    shown = {row["outputs"][0]["name"]: picture_in(run.uri, row) for row in audit(run.uri).rows}
    assert len(shown) == 4
    for name, picture in shown.items():
        large = picture.resize((256, 256), Image.Resampling.LANCZOS)
        assert is_part_of(large, sheet), name


def picture_in(uri: str, row: dict[str, Any]) -> Image.Image:
    import tarfile

    for path in Path(uri).glob(f"data/{row['shard']}-*.tar"):
        with tarfile.open(path) as tar:
            data = tar.extractfile(row["outputs"][0]["name"]).read()
    return Image.open(io.BytesIO(data)).convert("RGB")


def is_part_of(picture: Image.Image, sheet: Image.Image) -> bool:
    """Whether the picture stands in the sheet somewhere on the grid of cells."""
    wanted = np.asarray(picture, dtype=np.int16)
    pixels = np.asarray(sheet.convert("RGB"), dtype=np.int16)
    rows, columns, _ = wanted.shape
    column = wanted[:, columns // 2]
    for left in range(28, pixels.shape[1] - columns):
        for top in range(60, pixels.shape[0] - rows):
            middle = pixels[top : top + rows : 32, left + columns // 2]
            if np.abs(middle - column[::32]).max() < 40:
                found = pixels[top : top + rows, left : left + columns]
                if np.abs(found - wanted).mean() < 4:
                    return True
    return False


def test_a_run_without_a_sweep_has_no_contact_sheet(pictures):
    run = prepare(pictures, limits={"max_items": 1})
    finish(run)
    assert CONTACT_SHEET_NAME not in files_of(run.uri)
    assert "a" not in Page(run.uri).texts


def test_publishing_a_sweep_twice_writes_nothing_and_the_page_leads_to_the_sheet(pictures):
    run = prepare(pictures, limits={"max_items": 3}, **WEIGHTS)
    finish(run)
    before = {one.key: (one.etag, one.modified) for one in open_store(run.uri).list()}
    finish(run)
    assert {one.key: (one.etag, one.modified) for one in open_store(run.uri).list()} == before
    page = Page(run.uri)
    assert page.texts["a"] == [CONTACT_SHEET_NAME]
    facts = " ".join(page.texts["div"])
    assert all(f"content_weight {weight} ·" in facts for weight in ("0", "0.25", "1.5"))


def test_an_unfinished_sweep_and_failed_items_and_lost_inputs_leave_a_sheet_all_the_same(pictures):
    (pictures / "content" / "b.png").write_bytes(b"")
    run = prepare(pictures, **WEIGHTS)
    finish_nothing = sheet_after_publishing(run)
    render_pending(run)
    shutil.rmtree(pictures / "style")
    assert sheet_after_publishing(run) != finish_nothing
    audit(run.uri)


def sheet_after_publishing(run: Any) -> bytes:
    from tasks.results.publishing import publish

    publish(run.uri)
    return files_of(run.uri)[CONTACT_SHEET_NAME]
