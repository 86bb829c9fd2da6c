"""From a job to a frozen plan, and back to it."""

from __future__ import annotations

import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from infra.store import open_store
from manifests.errors import FingerprintMismatch, JobError, RunFolderError
from manifests.items import ErrorClass
from manifests.source_table import write_sources
from tasks.inputs.resolving import differences_to, resolve_job
from tasks.plans.planning import open_prepared, plan_items, put_plan, store_plan
from tests.bad_images import picture, write_empty_file, write_truncated_tar
from tests.tasks.runs import files_of, make_job, plan_path, prepare


def resolve(base: Path, **changes: Any):
    return resolve_job(make_job(**changes), str(base))


def items_of(base: Path, **changes: Any):
    return list(plan_items(resolve(base, **changes)).iter_items())


def keys_of(items: Any) -> list[str]:
    return sorted("-".join(one.key for one in item.inputs) for item in items)


def test_a_plan_has_every_pair_of_the_sources(pictures):
    items = items_of(pictures)
    assert keys_of(items) == ["a-x", "a-y", "b-x", "b-y", "c-x", "c-y"]
    assert len({item.item_id for item in items}) == len({item.key for item in items}) == 6
    assert len({item.seed for item in items}) == 6
    assert {item.shard for item in items} == {"00000", "00001", "00002"}
    assert all((item.width, item.height) == (64, 64) for item in items)


def test_planning_again_finds_the_same_run_and_writes_nothing(pictures):
    first = prepare(pictures)
    before = files_of(first.uri)
    second = prepare(pictures)
    assert (first.is_new, second.is_new) == (True, False)
    assert second.run.plan_digest == first.run.plan_digest
    assert second.run == first.run
    assert files_of(first.uri) == before


def test_two_folders_of_one_job_hold_the_same_plan(pictures):
    one, two = prepare(pictures), prepare(pictures, output__uri="elsewhere")
    assert one.run.plan_digest == two.run.plan_digest
    assert one.run.fingerprint == two.run.fingerprint


def test_what_only_changes_speed_finds_the_run_again(pictures):
    first = prepare(pictures)
    again = prepare(pictures, name="other", compute={"batch_size": 1}, limits={"max_failed": 3})
    assert not again.is_new
    assert again.run.plan_digest == first.run.plan_digest


def test_another_job_in_the_folder_is_refused_with_the_fields_that_differ(pictures):
    run = prepare(pictures)
    before = files_of(run.uri)
    other = resolve(pictures, seed=1, settings={"num_inference_steps": 3}, variants=2)
    with pytest.raises(FingerprintMismatch) as raised:
        open_prepared(other)
    assert raised.value.differences == [
        "  seed: the run folder has 0, the job says 1",
        "  settings.num_inference_steps: the run folder has 2, the job says 3",
        "  variants: the run folder has 1, the job says 2",
    ]
    assert "choose another output.uri" in str(raised.value)
    assert files_of(run.uri) == before


@pytest.mark.parametrize("change", ["add", "remove", "rename", "resize"])
def test_a_source_that_lists_other_files_is_the_same_run(pictures, change):
    run = prepare(pictures).run
    style = pictures / "style"
    if change == "add":
        shutil.copy(style / "x.png", style / "z.png")
    elif change == "remove":
        (style / "x.png").unlink()
    elif change == "rename":
        (style / "x.png").rename(style / "w.png")
    else:
        (style / "x.png").write_bytes((style / "x.png").read_bytes() + b"\0")
    assert differences_to(run, resolve(pictures)) == []


def test_two_jobs_that_plan_one_folder_at_the_same_time_leave_one_run(pictures):
    one, two = resolve(pictures), resolve(pictures)
    assert open_prepared(one) is open_prepared(two) is None
    first, second = store_plan(one, plan_items(one)), store_plan(two, plan_items(two))
    assert first.is_new
    assert second.run == first.run
    assert second.run.plan_digest == first.run.plan_digest


def test_the_second_of_two_different_jobs_hears_that_it_lost(pictures):
    one, two = resolve(pictures), resolve(pictures, seed=1)
    items = plan_items(two)
    first = store_plan(one, plan_items(one))
    with pytest.raises(FingerprintMismatch):
        store_plan(two, items)
    assert open_prepared(one).run.plan_digest == first.run.plan_digest


def test_a_plan_without_its_run_is_left_by_a_killed_planning_and_harms_nobody(pictures):
    resolved = resolve(pictures)
    left = put_plan(
        open_store(resolved.output_uri), plan_items(resolve(pictures, seed=1)), write_sources([])
    )
    assert open_prepared(resolved) is None
    run = prepare(pictures)
    assert run.is_new
    assert run.run.plan_name != left.plan_name
    assert run.run.plan_digest == plan_items(resolved).digest
    assert prepare(pictures).run.plan_digest == run.run.plan_digest


def test_a_plan_that_was_changed_afterwards_is_refused(pictures):
    run = prepare(pictures)
    path = plan_path(run.uri)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match=r"plan/\w{12}.parquet has sha256 .* restore it"):
        prepare(pictures)


def test_where_every_input_is_broken_nothing_is_written_and_each_problem_is_told_once(pictures):
    for path in (pictures / "style").iterdir():
        path.write_bytes(b"")
    with pytest.raises(JobError) as raised:
        prepare(pictures)
    first, *lines = str(raised.value).splitlines()
    assert first == "no item can be rendered, and nothing was written:"
    assert lines == [f"{pictures}/style/{name}.png: the file is empty (0 bytes)" for name in "xy"]
    assert not (pictures / "run").exists()


def test_an_item_with_a_broken_input_is_planned_with_its_problem(pictures):
    (pictures / "content" / "b.png").write_bytes(b"")
    plan = prepare(pictures).plan
    assert keys_of(plan.problems()) == ["b-x", "b-y"]
    assert {item.problem.error_class for item in plan.problems()} == {ErrorClass.DECODE}
    assert plan.num_items == 6


def test_a_damaged_shard_of_inputs_stops_planning(pictures):
    write_truncated_tar(pictures / "0.tar")
    with pytest.raises(JobError, match=r"0.tar is damaged or cut off after 000001.jpg"):
        prepare(pictures, inputs={"content": "content", "style": "0.tar"})
    assert not (pictures / "run").exists()


@pytest.mark.parametrize("variants", [1, 2])
def test_byte_identical_twins_are_items_of_their_own(pictures, variants):
    for name in ("p", "q", "r"):
        shutil.copy(pictures / "content" / "a.png", pictures / "content" / f"{name}.png")
    items = items_of(pictures, variants=variants)
    assert len(items) == 6 * 2 * variants
    for field in ("item_id", "key", "seed"):
        assert len({getattr(item, field) for item in items}) == len(items)


def test_a_twin_does_not_change_the_items_that_were_there(pictures):
    before = {item.item_id for item in items_of(pictures)}
    shutil.copy(pictures / "content" / "a.png", pictures / "content" / "z.png")
    assert before < {item.item_id for item in items_of(pictures)}


def test_variants_are_pictures_of_their_own_and_the_first_is_the_one_without(pictures):
    one, three = items_of(pictures), items_of(pictures, variants=3)
    assert len(three) == 18
    assert {item.item_id for item in one} < {item.item_id for item in three}
    assert len({item.seed for item in three}) == len({item.key for item in three}) == 18


def test_a_limit_picks_a_stable_subset(pictures):
    chosen = [
        {item.item_id for item in items_of(pictures, limits={"max_items": most})}
        for most in (1, 3, 5, 100)
    ]
    assert [len(ids) for ids in chosen] == [1, 3, 5, 6]
    assert all(less < more for less, more in pairwise(chosen))
    assert items_of(pictures, limits={"max_items": 3}) == items_of(
        pictures, limits={"max_items": 3}
    )


def test_only_the_images_of_chosen_items_are_read(pictures):
    resolved = resolve(pictures, limits={"max_items": 1})
    told: list[Any] = []
    plan_items(resolved, told.append)
    assert len(told) == 2


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("center_crop", {"a": (96, 64), "b": (96, 64), "c": (96, 64)}),
        ("keep_ratio", {"a": (85, 64), "b": (64, 128), "c": (64, 64)}),
        ("no", {"a": (128, 96), "b": (70, 140), "c": (99, 99)}),
    ],
)
def test_the_size_of_a_result(pictures, mode, expected):
    for name, size in (("b", (70, 140)), ("c", (99, 99))):
        Image.fromarray(picture()).resize(size).save(pictures / "content" / f"{name}.png")
    output = {"uri": "run", "size": [96, 64], "resize_mode": mode}
    items = items_of(pictures, output=output)
    assert {item.inputs[0].key: (item.width, item.height) for item in items} == expected


def test_a_result_that_would_be_too_small_is_that_items_problem(pictures):
    Image.fromarray(picture()).resize((500, 20)).save(pictures / "content" / "b.png")
    items = items_of(pictures, output={"uri": "run", "resize_mode": "no"})
    problems = {item.inputs[0].key: item.problem for item in items}
    assert problems["a"] is None
    assert problems["b"].error_class == ErrorClass.UNSUPPORTED
    assert problems["b"].message.endswith(
        "b.png: the result would be 500x20, but sides lie in 64..8192; "
        "use output.resize_mode center_crop"
    )


def table(folder: Path, *rows: dict[str, Any]) -> dict[str, str]:
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"table": "t.jsonl"}


def test_a_tables_rows_are_its_items_under_their_own_keys(pictures):
    inputs = table(
        pictures,
        {"content": "content/a.png", "style": "style/x.png", "key": "First One", "note": 1},
        {"content": "content/b.png", "style": "style/x.png"},
        {"content": "nowhere.png", "style": "style/x.png"},
    )
    items = {item.inputs[0].key: item for item in items_of(pictures, inputs=inputs)}
    assert items["a"].key == "first-one"
    assert items["a"].user == '{"note":1}'
    assert items["b"].key.startswith("b-x-")
    assert items["nowhere"].problem.error_class == ErrorClass.INPUT_MISSING


def test_a_tables_keys_are_kept_where_its_rows_are_the_same(pictures):
    row = {"content": "content/a.png", "style": "style/x.png"}
    items = items_of(pictures, inputs=table(pictures, *(row | {"key": key} for key in "pqr")))
    assert sorted(item.key for item in items) == ["p", "q", "r"]
    assert len({item.item_id for item in items}) == 3


def test_a_tables_keys_that_would_be_stored_as_one_are_refused(pictures):
    row = {"style": "style/x.png"}
    inputs = table(
        pictures,
        row | {"content": "content/a.png", "key": "A!"},
        row | {"content": "content/b.png", "key": "a?"},
    )
    with pytest.raises(JobError, match=r"two rows would be stored under the key 'a' \('A!' and"):
        items_of(pictures, inputs=inputs)


def test_a_changed_table_is_the_same_run(pictures):
    row = {"content": "content/a.png", "style": "style/x.png"}
    run = prepare(pictures, inputs=table(pictures, row)).run
    assert differences_to(run, resolve(pictures, inputs=table(pictures, row, row))) == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"content": "content"}, "the task style-transfer needs a source for style: add"),
        (
            {"content": "content", "style": "style", "texture": "style"},
            "the task style-transfer takes content and style: drop inputs.texture",
        ),
    ],
)
def test_sources_must_fit_the_task(pictures, inputs, message):
    with pytest.raises(JobError, match=message):
        prepare(pictures, inputs=inputs)


def test_a_source_without_images_is_refused_and_nothing_is_written(pictures):
    (pictures / "empty").mkdir()
    write_empty_file(pictures / "empty").rename(pictures / "empty" / "notes.txt")
    with pytest.raises(JobError, match="the style source holds no images: check its uri") as raised:
        prepare(pictures, inputs={"content": "content", "style": "empty"})
    assert str(raised.value).endswith("(1 file was passed over: 1 .txt (notes.txt))")
    assert not (pictures / "run").exists()


def test_a_texture_needs_no_content(pictures):
    items = items_of(pictures, task="texture-optimize", inputs={"texture": "style"})
    assert keys_of(items) == ["x", "y"]
    assert all((item.width, item.height) == (64, 64) for item in items)


def test_the_run_records_what_it_was_made_of(pictures):
    run = prepare(pictures, name="mine").run
    assert run.job["name"] == "mine"
    assert (run.num_items, run.num_shards) == (6, 3)
    assert run.settings["num_inference_steps"] == 2
    assert run.identity["settings.num_inference_steps"] == 2
    assert run.model_revision.startswith("sha256:")
    assert run.conditional_put
    assert {"torch", "diffusers", "stylefarm"} <= run.versions.keys()


def test_a_file_name_that_is_not_utf_8_is_a_problem_of_its_own_items(pictures):
    source = os.fsencode(pictures / "style" / "x.png")
    try:
        shutil.copy(source, os.fsencode(pictures / "style") + b"/\xff.png")
    except OSError:
        pytest.skip("this file system refuses such names")
    problems = [item.problem for item in prepare(pictures).plan.iter_items()]
    assert len(problems) == 9
    messages = {problem.message for problem in problems if problem}
    assert messages == {rf"the name of {pictures}/style/\xff.png is not UTF-8: rename the file"}
    assert problems.count(None) == 6


@pytest.mark.s3
def test_a_run_on_s3_is_planned_and_found_again(pictures, s3_bucket):
    uri = f"s3://{s3_bucket}/runs/one"
    first, second = prepare(pictures, output__uri=uri), prepare(pictures, output__uri=uri)
    assert (first.is_new, second.is_new) == (True, False)
    assert first.run.plan_digest == second.run.plan_digest
    assert set(files_of(uri)) == {"run.json", first.run.plan_name, first.run.sources_name}


def test_an_expansion_is_as_dear_as_its_overlapping_views(pictures):
    job = {"inputs": {"texture": "style"}, "output": {"uri": "run", "size": 128}}
    steps = {"num_inference_steps": 10, "num_optimization_steps": 1}
    costs = {
        stride: items_of(
            pictures,
            task="texture-expand",
            settings={**steps, "view_size": 64, "view_stride": stride},
            **job,
        )[0].cost_seconds
        for stride in (64, 32, 16)
    }
    assert costs[32] == pytest.approx(4 * costs[64], rel=0.01)
    assert costs[16] == pytest.approx(16 * costs[64], rel=0.01)
