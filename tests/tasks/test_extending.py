"""A run grows by what is new in its sources, and by nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from manifests.errors import FingerprintMismatch, JobError
from manifests.items import Item
from tasks.inputs.resolving import resolve_job
from tasks.plans import extending
from tasks.plans.extending import Extension, extend
from tasks.plans.planning import PreparedRun, open_prepared
from tests.audit import audit
from tests.bad_images import picture
from tests.tasks.runs import files_of, finish, make_job, prepare


def resolve(base: Path, **changes: Any):
    return resolve_job(make_job(**changes), str(base))


def extended(base: Path, read: list[Any] | None = None, **changes: Any) -> Extension | None:
    told = [] if read is None else read
    return extend(resolve(base, **changes), told.append)


def run_of(base: Path, **changes: Any) -> PreparedRun:
    prepared = open_prepared(resolve(base, **changes))
    assert prepared is not None
    return prepared


def new_items(base: Path, **changes: Any) -> list[Item]:
    """The items of the newest generation."""
    return list(run_of(base, **changes).plan.plans[-1].iter_items())


def pairs(items: list[Item]) -> list[str]:
    return sorted("-".join(one.key for one in item.inputs) for item in items)


def save(path: Path, number: int) -> Path:
    """A picture that only this number gives."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(picture()).rotate(7 * number, fillcolor=(number, 99, 9)).save(path)
    return path


def test_on_the_second_night_exactly_what_is_new_is_rendered(pictures):
    first = prepare(pictures)
    finish(first)
    content = pictures / "content"
    rendered = {item.item_id for item in first.plan.iter_items()}
    save(content / "d.png", 4)  # added
    (content / "a.png").unlink()  # removed
    save(content / "b.png", 5)  # replaced
    (content / "c.png").rename(content / "e.png")  # renamed
    shutil.copy(content / "d.png", content / "f.png")  # a twin
    read: list[Any] = []
    extension = extended(pictures, read)
    assert extension is not None
    assert (extension.num_items, extension.num_replacing) == (8, 2)
    assert sorted(image.key for image in read) == ["b", "d", "e", "f"]
    items = new_items(pictures)
    assert pairs(items) == [f"{key}-{style}" for key in "bdef" for style in "xy"]
    assert not rendered & {item.item_id for item in items}
    replaced = {item.replaces for item in items if item.replaces}
    assert replaced == {
        item.item_id for item in first.plan.iter_items() if item.inputs[0].key == "b"
    }
    index = finish(run_of(pictures))
    assert index.complete
    assert index.counts.model_dump() == {
        **{"planned": 12, "ok": 12, "failed": 0, "skipped": 0, "pending": 0}
    }
    found = audit(first.uri)
    assert found.counts["ok"] == 12
    assert found.content_digest == index.content_digest
    page = (Path(first.uri) / "report.html").read_text()
    keys = {item.item_id: item.key for item in first.plan.iter_items()}
    assert all(item.key in page for item in items)
    assert not [keys[old] for old in replaced if keys[old] in page]
    before = files_of(first.uri)
    assert extended(pictures) is None
    assert files_of(first.uri) == before


def test_a_renamed_file_is_a_twin_of_what_it_was_and_has_a_seed_of_its_own(pictures):
    first = prepare(pictures)
    (pictures / "content" / "a.png").rename(pictures / "content" / "z.png")
    extended(pictures)
    old = {item.item_id: item for item in first.plan.iter_items()}
    for item in new_items(pictures):
        assert item.variant == 1
        assert item.item_id not in old
        assert item.seed not in {one.seed for one in old.values()}


def test_ranks_of_twins_go_on_after_the_highest_that_was_used(pictures):
    content = pictures / "content"
    for name in ("p", "q"):
        shutil.copy(content / "a.png", content / f"{name}.png")
    prepare(pictures)
    for number, name in enumerate(("r", "s"), start=3):
        (content / "a.png").rename(content / f"{name}.png")
        extended(pictures)
        assert {item.variant for item in new_items(pictures)} == {number}
        shutil.copy(content / f"{name}.png", content / "a.png")
    ids = [item.item_id for item in run_of(pictures).plan.iter_items()]
    assert len(ids) == len(set(ids))


def test_a_file_that_gets_its_old_bytes_back_replaces_again(pictures):
    prepare(pictures)
    path = pictures / "content" / "a.png"
    data = path.read_bytes()
    save(path, 3)
    assert extended(pictures).num_replacing == 2
    path.write_bytes(data)
    assert extended(pictures).num_replacing == 2
    plan = run_of(pictures).plan
    assert plan.contested.num_items == 6
    counting = [item for item in plan.counting_items() if item.inputs[0].key == "a"]
    assert {item.shard[:5] for item in counting} == {"g0002"}


def test_a_file_that_was_only_touched_is_read_and_changes_nothing(pictures):
    run = prepare(pictures)
    os.utime(pictures / "content" / "a.png", ns=(1, 1))
    before = files_of(run.uri)
    read: list[Any] = []
    assert extended(pictures, read) is None
    assert [image.key for image in read] == ["a"]
    assert files_of(run.uri) == before


def test_what_is_unchanged_is_not_read_and_a_dry_run_writes_nothing(pictures):
    run = prepare(pictures)
    save(pictures / "style" / "z.png", 2)
    before = files_of(run.uri)
    read: list[Any] = []
    extension = extend(resolve(pictures), read.append, dry_run=True)
    assert extension.num_items == 3
    assert [image.key for image in read] == ["z"]
    assert files_of(run.uri) == before


@pytest.mark.parametrize("variants", [1, 3])
def test_variants_and_columns_of_a_sweep_are_planned_for_new_inputs_alone(pictures, variants):
    job = {"variants": variants, "sweep": {"learning_rate": [0.01, 0.05]}}
    prepare(pictures, **job)
    assert extended(pictures, **job) is None
    save(pictures / "content" / "d.png", 4)
    extended(pictures, **job)
    items = new_items(pictures, **job)
    assert len(items) == 2 * 2 * variants
    by_noise = {item.seed for item in items}
    assert len(by_noise) == 2 * variants  # the columns of a sweep share it


def test_old_contents_keep_the_references_that_were_drawn_for_them(pictures):
    job = {"pairing": {"mode": "random", "styles_per_content": 1}}
    first = prepare(pictures, **job)
    for number, name in enumerate("stuvw"):
        save(pictures / "style" / f"{name}.png", number + 2)
    assert extended(pictures, **job) is None
    save(pictures / "content" / "d.png", 9)
    extended(pictures, **job)
    assert [item.inputs[0].key for item in new_items(pictures, **job)] == ["d"]
    save(pictures / "content" / "a.png", 11)
    extended(pictures, **job)
    (item,) = new_items(pictures, **job)
    (old,) = (item for item in first.plan.iter_items() if item.inputs[0].key == "a")
    assert item.inputs[1] == old.inputs[1]
    assert item.replaces == old.item_id


def test_a_content_that_changed_after_its_reference_went_is_drawn_another_one(pictures):
    job = {"pairing": {"mode": "random", "styles_per_content": 1}}
    first = prepare(pictures, **job)
    (old,) = (item for item in first.plan.iter_items() if item.inputs[0].key == "a")
    save(pictures / "content" / "a.png", 11)
    (pictures / "style" / f"{old.inputs[1].key}.png").unlink()
    extended(pictures, **job)
    (item,) = new_items(pictures, **job)
    assert item.replaces == old.item_id
    assert item.inputs[1].key != old.inputs[1].key


def test_masked_textures_are_drawn_as_contents_are(pictures):
    """The textures of target masks, each with its own mask."""
    for number, key in enumerate("ab"):
        Image.new("L", (64, 64), 255 * number).save(save(pictures / "targets" / f"{key}.png", 0))
    for key in "xy":
        Image.new("L", (64, 64)).save(save(pictures / "sources" / f"{key}.png", 0))
        Image.open(pictures / "style" / f"{key}.png").resize((64, 64)).save(
            save(pictures / "textures" / f"{key}.png", 0)
        )
    roles = {"texture": "textures", "source_mask": "sources", "target_mask": "targets"}
    job = {"task": "texture-masked", "inputs": roles, "pairing": "random"}
    first = prepare(pictures, **job)
    assert extended(pictures, **job) is None
    old = next(
        item for item in first.plan.iter_items() if item.of_role("target_mask")[0].key == "a"
    )
    drawn = old.of_role("texture")[0].key
    Image.new("L", (64, 64), 99).save(pictures / "targets" / "a.png")
    (pictures / "textures" / f"{drawn}.png").unlink()
    (pictures / "sources" / f"{drawn}.png").unlink()
    read: list[Any] = []
    extended(pictures, read, **job)
    (item,) = new_items(pictures, **job)
    assert item.replaces == old.item_id
    assert item.of_role("texture")[0].key != drawn


def test_contents_that_a_limit_left_out_are_not_read(pictures):
    job = {"pairing": "random", "limits": {"max_items": 1}}
    prepare(pictures, **job)
    read: list[Any] = []
    assert extended(pictures, read, **job) is None
    assert read == []


def test_zip_joins_new_keys_and_does_not_miss_what_went(pictures):
    job = {"pairing": "zip", "inputs": {"content": "left", "style": "right"}}
    for number, key in enumerate("ab"):
        save(pictures / "left" / f"{key}.png", number)
        save(pictures / "right" / f"{key}.png", number + 5)
    prepare(pictures, **job)
    (pictures / "left" / "a.png").unlink()
    save(pictures / "left" / "c.png", 2)
    with pytest.raises(JobError, match=r"style has no image for 1 key.*'c'"):
        extended(pictures, **job)
    save(pictures / "right" / "c.png", 8)
    extended(pictures, **job)
    assert pairs(new_items(pictures, **job)) == ["c-c"]


def test_the_most_items_are_those_of_the_whole_run(pictures):
    job = {"limits": {"max_items": 8}}
    prepare(pictures, **job)
    for number in range(3):
        save(pictures / "content" / f"n{number}.png", number)
    assert extended(pictures, **job).num_items == 2
    assert extended(pictures, **job) is None
    save(pictures / "content" / "a.png", 9)
    assert extended(pictures, **job).num_replacing == 2
    assert run_of(pictures, **job).plan.contested.num_items == 8


def test_new_prompts_are_drawn_with_what_there_is(pictures):
    (pictures / "prompts.txt").write_text("a boat\na barn\n")
    job = {"task": "style-t2i", "inputs": {"style": "style", "prompt": "prompts.txt"}}
    prepare(pictures, **job)
    (pictures / "prompts.txt").write_text("a barn\na bridge\n")
    read: list[Any] = []
    extended(pictures, read, **job)
    assert [item.prompt for item in new_items(pictures, **job)] == ["a bridge"] * 2
    assert read == []


def table(folder: Path, *rows: dict[str, Any]) -> dict[str, Any]:
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {"inputs": {"table": "t.jsonl"}}


def test_a_table_grows_by_its_new_rows(pictures):
    one, two, three = ({"content": f"content/{key}.png", "style": "style/x.png"} for key in "abc")
    prepare(pictures, **table(pictures, one, two, two))
    job = table(pictures, three, two, two)  # a row added, a row removed
    read: list[Any] = []
    assert extended(pictures, read, **job).num_items == 1
    assert pairs(new_items(pictures, **job)) == ["c-x"]
    assert [image.key for image in read] == ["c"]
    job = table(pictures, three, two, two, two)
    extended(pictures, **job)
    (item,) = new_items(pictures, **job)
    assert (pairs([item]), item.variant, item.replaces) == (["b-x"], 2, None)


def test_a_row_of_a_table_that_keeps_its_key_replaces_what_it_was(pictures):
    row = {"style": "style/x.png", "key": "First One"}
    first = prepare(pictures, **table(pictures, row | {"content": "content/a.png"}))
    job = table(pictures, row | {"content": "content/b.png"})
    assert extended(pictures, **job).num_replacing == 1
    (item,) = new_items(pictures, **job)
    (old,) = first.plan.iter_items()
    assert (item.key, item.replaces) == (old.key, old.item_id)
    assert extended(pictures, **job) is None
    job = table(
        pictures,
        row | {"content": "content/b.png"},
        row | {"content": "content/c.png", "key": "first one!"},
    )
    with pytest.raises(JobError, match=r"two rows would be stored under the key 'first-one'"):
        extended(pictures, **job)


def test_members_of_a_changed_tar_are_compared_and_the_new_ones_planned(pictures, tmp_path):
    import tarfile

    def pack(*keys: str) -> None:
        with tarfile.open(pictures / "shard.tar", "w") as file:
            for key in keys:
                file.add(pictures / "content" / f"{key}.png", f"{key}.png")

    job = {"inputs": {"content": "shard.tar", "style": "style"}}
    pack("a", "b")
    prepare(pictures, **job)
    pack("b", "c")
    extended(pictures, **job)
    assert pairs(new_items(pictures, **job)) == ["c-x", "c-y"]
    assert extended(pictures, **job) is None


def test_a_changed_file_that_cannot_be_read_leaves_its_old_items(pictures):
    prepare(pictures)
    (pictures / "content" / "a.png").write_bytes(b"not yet")
    extension = extended(pictures)
    assert extension.generation is None
    assert "a.png" in extension.sentences[0]
    assert not run_of(pictures).plan.generations


def test_a_new_file_that_cannot_be_read_gets_its_row(pictures):
    prepare(pictures)
    (pictures / "content" / "d.png").write_bytes(b"")
    extension = extended(pictures)
    assert (extension.num_items, len(extension.problems)) == (2, 2)
    read: list[Any] = []
    assert extended(pictures, read) is None
    assert read == []
    save(pictures / "style" / "z.png", 5)
    assert [item.inputs[0].key for item in extended(pictures).problems] == ["d"]


def test_whoever_loses_the_race_for_a_number_plans_again(pictures, monkeypatch):
    prepare(pictures)
    save(pictures / "content" / "d.png", 4)
    one = resolve(pictures)
    save(pictures / "content" / "e.png", 5)
    other = resolve(pictures)
    save(pictures / "content" / "f.png", 6)
    all_three = resolve(pictures)
    add = extending.add_generation

    def add_after_another(*arguments: Any, **words: Any):
        monkeypatch.setattr(extending, "add_generation", add)
        extend(other)
        return add(*arguments, **words)

    monkeypatch.setattr(extending, "add_generation", add_after_another)
    assert extend(one) is None
    monkeypatch.setattr(extending, "add_generation", add_after_another)
    assert extend(all_three).generation.number == 2
    assert pairs(new_items(pictures)) == ["f-x", "f-y"]


def test_another_job_and_an_empty_folder_cannot_be_extended(pictures):
    with pytest.raises(JobError, match=r"holds no run to extend: plan one with 'stylefarm run'"):
        extended(pictures)
    prepare(pictures)
    with pytest.raises(FingerprintMismatch):
        extended(pictures, seed=1)
