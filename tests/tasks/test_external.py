"""Pictures that other programs have made stand beside ours, from a job to the contact sheet."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.store import open_store
from manifests.errors import FingerprintMismatch, JobError
from manifests.items import EXTERNAL, ErrorClass, Item
from manifests.job import load_job
from tasks.inputs.external import find_external
from tasks.inputs.resolving import resolve_job
from tasks.plans.extending import extend
from tasks.plans.planning import plan_items
from tasks.plans.retrying import retry
from tasks.plans.source_changes import source_changes
from tasks.results.contact_sheet import CONTACT_SHEET_NAME, render_contact_sheet
from tasks.runs.committed import open_committed
from tests.audit import audit
from tests.tasks.runs import finish, make_job, prepare, render_pending


def give(folder: Path, *names: str, size: tuple[int, int] = (80, 64)) -> Path:
    """A folder with a picture of each name, each of another colour."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        red, green = len(list(folder.rglob("*.*"))) * 16, sum(map(ord, name)) % 256
        Image.new("RGB", size, (red, green, 99)).save(path)
    return folder


def items_of(base: Path, **changes: Any) -> list[Item]:
    return list(plan_items(resolve_job(make_job(**changes), str(base))).iter_items())


def given_to(items: list[Item], label: str = "theirs") -> dict[str, str]:
    """The file that each item of a column shows, by the keys of its case; or why it has none."""
    return {
        "-".join([one.key for one in item.case_inputs] + ([str(item.variant)] * (item.variant > 0)))
        + ("" if item.prompt is None else f"-{item.prompt}"): (
            item.problem.message if item.problem else Path(item.of_role(EXTERNAL)[0].full_uri).name
        )
        for item in items
        if item.label == label
    }


def results_of(run_folder: Path) -> dict[str, io.BytesIO]:
    """The pictures of a run by key."""
    found: dict[str, io.BytesIO] = {}
    for path in run_folder.glob("data/*.tar"):
        with tarfile.open(path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".png"):
                    found[member.name[:-4]] = io.BytesIO(tar.extractfile(member).read())  # pyright: ignore
    return found


EVERY = ("a-x.png", "a-y.jpg", "b-x.webp", "b-y.png", "c-x.png", "c-y.png")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of a sweep of one entry beside another program, which lacks two pictures."""
    from tests.conftest import write_pictures

    base = write_pictures(tmp_path_factory.mktemp("finished"))
    give(base / "theirs", *EVERY[:4], size=(64, 64))
    run = prepare(base, external={"theirs": "theirs"}, settings={"num_inference_steps": 1})
    render_pending(run)
    finish(run)
    return base, run


def test_pictures_of_another_program_are_rows_like_all_others(finished):
    _base, run = finished
    found = audit(run.uri)
    rows = [row for row in found.rows if row["label"] == "theirs"]
    assert {row["task"] for row in rows} == {EXTERNAL}
    ours = {row["key"]: row for row in found.rows if not row["label"]}
    assert len(ours) == len(rows) == 6
    shown = [row for row in rows if row["status"] == "ok"]
    assert len(shown) == 4
    results = results_of(Path(run.uri))
    for row in shown:
        assert row["swd_patch"] is not None
        assert row["ssim_luma"] is not None
        assert row["style_loss"] is None
        (given,) = (one for one in row["inputs"] if one["role"] == EXTERNAL)
        with Image.open(given["uri"]) as wanted, Image.open(results[row["key"]]) as picture:
            assert picture.size == (64, 64)
            assert np.array_equal(np.asarray(picture), np.asarray(wanted.convert("RGB")))


def test_a_missing_picture_is_the_row_of_its_item_and_says_what_was_looked_for(finished):
    _, run = finished
    missing = [row for row in audit(run.uri).rows if row["status"] == "failed"]
    assert {row["error_class"] for row in missing} == {"input_missing"}
    messages = sorted(row["error_message"] for row in missing)
    assert messages[0].startswith("external.theirs (theirs) has no picture named 'c-x', 'c-x-")
    assert messages[1].endswith(" or 'c', with .png or another suffix")


def test_the_contact_sheet_has_a_column_under_its_name(finished):
    base, run = finished
    with Image.open(io.BytesIO(open_store(run.uri).get(CONTACT_SHEET_NAME))) as sheet:
        both = sheet.size
    alone = prepare(base, output__uri="alone", sweep={"num_inference_steps": [1]})
    committed = open_committed(open_store(alone.uri), alone.run)
    with Image.open(io.BytesIO(render_contact_sheet(committed) or b"")) as sheet:
        assert both[0] > sheet.size[0]
        assert both[1] / sheet.size[1] < 1.5, "a row for each combination"


def test_other_items_keep_their_ids_keys_and_seeds(pictures):
    give(pictures / "theirs", *EVERY)
    for changes in ({}, {"sweep": {"content_weight": [0, 0.25]}, "variants": 2}):
        alone = items_of(pictures, **changes)
        beside = items_of(pictures, external={"theirs": "theirs"}, **changes)
        kept = {(item.item_id, item.key, item.seed) for item in beside if item.label != "theirs"}
        assert kept == {(item.item_id, item.key, item.seed) for item in alone}
        seeds = {(item.seed, item.variant) for item in beside if item.label == "theirs"}
        assert seeds == {(item.seed, item.variant) for item in alone}


def test_the_bytes_of_a_picture_and_the_name_of_its_program_are_part_of_its_items_id(pictures):
    give(pictures / "theirs", *EVERY)
    asked = {"external": {"theirs": "theirs", "others": "theirs"}}
    before = {item.item_id: item for item in items_of(pictures, **asked)}
    assert len(before) == 3 * 6
    Image.new("RGB", (9, 9)).save(pictures / "theirs" / "a-x.png")
    after = {item.item_id for item in items_of(pictures, **asked)}
    changed = [item for name, item in before.items() if name not in after]
    assert {item.label for item in changed} == {"theirs", "others"}
    assert {tuple(one.key for one in item.case_inputs) for item in changed} == {("a", "x")}


def test_another_column_is_another_run_and_other_pictures_are_not(pictures):
    give(pictures / "theirs", *EVERY)
    give(pictures / "moved", *EVERY)
    prepare(pictures, external={"theirs": "theirs"})
    prepare(pictures, external={"theirs": "moved"})
    with pytest.raises(FingerprintMismatch, match=r"settings.sweep.other.task"):
        prepare(pictures, external={"other": "theirs"})
    with pytest.raises(FingerprintMismatch, match=r"settings.sweep.theirs.task"):
        prepare(pictures)


def test_names_of_cases_win_over_names_of_contents_which_count_where_they_are_unambiguous(pictures):
    give(pictures / "theirs", "a.png", "A-X.png", "b.png", "c.jpg")
    found = given_to(items_of(pictures, external={"theirs": "theirs"}, inputs__style="style/x.png"))
    assert found == {"a-x": "A-X.png", "b-x": "b.png", "c-x": "c.jpg"}
    found = given_to(items_of(pictures, external={"theirs": "theirs"}))
    assert found["a-x"] == "A-X.png"
    assert (
        "c.jpg could be the picture of 2 items: name each like its item, this one 'c-y'"
        in (found["c-y"])
    )


def test_two_pictures_of_one_name_are_nobodys(pictures):
    give(pictures / "theirs", "a-x.png", "a-x.jpg", "b-x.png")
    items = items_of(pictures, external={"theirs": "theirs"})
    found = given_to(items)
    assert found["a-x"].endswith("a-x.png): keep one")
    assert "2 pictures are named 'a-x'" in found["a-x"]
    assert found["b-x"] == "b-x.png"
    (problem,) = {item.problem for item in items if item.problem and "keep one" in str(item)}
    assert problem.error_class == ErrorClass.UNSUPPORTED


def test_variants_have_the_numbers_of_our_own_keys_or_these_keys_themselves(pictures):
    asked = {"inputs__content": "content/a.png", "inputs__style": "style/x.png", "variants": 3}
    ours = items_of(pictures, **asked)
    (third,) = (item.key for item in ours if item.variant == 2)
    give(pictures / "theirs", "a-x.png", "a-1.png", f"{third}.png", "a-x-3.png")
    found = given_to(items_of(pictures, external={"theirs": "theirs"}, **asked))
    assert found == {"a-x": "a-x.png", "a-x-1": "a-1.png", "a-x-2": f"{third}.png"}


@pytest.mark.parametrize("mode", ["zip", "random"])
def test_every_pairing_finds_its_pictures(pictures, mode):
    for name in "ab":
        (pictures / "style" / f"{name}.png").write_bytes(
            (pictures / "style" / "x.png").read_bytes()
        )
    for name in "xy":
        (pictures / "style" / f"{name}.png").unlink()
    (pictures / "content" / "c.png").unlink()
    give(pictures / "theirs", "a.png", "b.png")
    found = given_to(items_of(pictures, external={"theirs": "theirs"}, pairing=mode))
    assert sorted(found.values()) == ["a.png", "b.png"]


def test_rows_of_a_table_have_pictures_by_their_own_keys(pictures):
    table = "key,content,style\nOne é,content/a.png,style/x.png\ntwo,content/b.png,style/x.png\n"
    (pictures / "t.csv").write_text(table)
    give(pictures / "theirs", "One é.png", "two.png", "two-1.png")
    asked = {"inputs": {"table": "t.csv"}, "external": {"theirs": "theirs"}, "variants": 2}
    found = given_to(items_of(pictures, **asked))
    assert found["a-x"] == "One é.png"
    assert (found["b-x"], found["b-x-1"]) == ("two.png", "two-1.png")
    assert "no picture named 'one-" in found["a-x-1"]


def test_prompts_are_part_of_a_case(pictures):
    give(pictures / "theirs", "x-a-cat.png", "x-a-dog.png")
    asked = {"task": "style-t2i-sd15", "inputs": {"style": "style/x.png"}}
    asked["inputs"]["prompt"] = ["a cat", "a dog"]
    found = given_to(items_of(pictures, external={"theirs": "theirs"}, **asked))
    assert found == {"x-a cat": "x-a-cat.png", "x-a dog": "x-a-dog.png"}


def test_sampled_combinations_keep_their_columns_together(pictures):
    give(pictures / "theirs", *EVERY)
    items = items_of(pictures, external={"theirs": "theirs"}, limits={"max_items": 5})
    assert len(items) == 4
    assert len({tuple(one.key for one in item.case_inputs) for item in items}) == 2


def test_tars_and_pictures_that_belong_to_no_item_are_read_and_told(pictures):
    give(pictures / "unpacked", *EVERY, "zz.png")
    with tarfile.open(pictures / "theirs.tar", "w") as tar:
        for path in sorted((pictures / "unpacked").iterdir()):
            tar.add(path, path.name)
    resolved = resolve_job(make_job(external={"theirs": "theirs.tar"}), str(pictures))
    assert not any(item.problem for item in plan_items(resolved).iter_items())
    told = str(resolved.inputs.passed_over["external.theirs"])
    assert told == "1 file was passed over: 1 of no item (zz.png)"


def test_a_picture_that_cannot_be_decoded_fails_its_item_alone(pictures):
    give(pictures / "theirs", *EVERY)
    (pictures / "theirs" / "a-x.png").write_bytes(b"no picture")
    broken = [one for one in items_of(pictures, external={"theirs": "theirs"}) if one.problem]
    assert [item.problem and item.problem.error_class for item in broken] == [ErrorClass.DECODE]


def test_extend_plans_pictures_that_came_and_those_that_changed(finished, tmp_path):
    base, run = finished
    resolved = resolve_job(
        make_job(external={"theirs": "theirs"}, settings={"num_inference_steps": 1}), str(base)
    )
    assert extend(resolved, dry_run=True) is None
    give(base / "theirs", "c-x.png")
    Image.new("RGB", (64, 64), "white").save(base / "theirs" / "a-x.png")
    (base / "theirs" / "b-x.webp").unlink()
    resolved = resolve_job(
        make_job(external={"theirs": "theirs"}, settings={"num_inference_steps": 1}), str(base)
    )
    told = source_changes(resolved, run.plan).sentences
    assert told[0] == "external.theirs: 1 file came (c-x.png)"
    extension = extend(resolved)
    assert extension is not None
    assert (extension.num_items, extension.num_replacing) == (2, 2)
    assert "no picture named 'b-x'" in extension.sentences[0]
    run = prepare(base, external={"theirs": "theirs"}, settings={"num_inference_steps": 1})
    render_pending(run)
    finish(run)
    rows = [row for row in audit(run.uri).rows if row["label"] == "theirs"]
    assert sum(row["status"] == "ok" for row in rows) == 5


def test_retry_sends_pictures_that_came_to_extend(finished):
    _, run = finished
    told = retry(run.uri, dry_run=True)
    assert told.by_class == {}
    (sentence,) = told.sentences
    assert "no picture named 'c-y'" in sentence
    assert sentence.endswith("; 'stylefarm extend' looks again")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"external": {"x": "nowhere"}}, r"external.x: there is no folder '.*nowhere'"),
        ({"external": {"x": "empty"}}, r"external.x \(empty\) holds no images: check its uri"),
        ({"task": "external"}, "the task external renders nothing: name the folders of pictures"),
        ({"sweep": [{"task": "external"}]}, "the task external renders nothing"),
    ],
)
def test_what_cannot_be_a_source_of_pictures_is_refused_in_a_sentence(pictures, changes, message):
    (pictures / "empty").mkdir()
    with pytest.raises(JobError, match=message):
        items_of(pictures, **changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("external: theirs", r"line 4: external: give \{NAME: FOLDER\}, such as"),
        ("externals: {a: b}", "unknown key 'externals'; did you mean 'external'"),
        ("external: {a: {uri: b, licence: CC0}}", "unknown key 'licence' in external.a; did you"),
        ("external: {a: {url: b}}", "external.a"),
        ("external: {' ': b}", "a name is empty"),
        ('external: {"a\\0": b}', "a name holds"),
        (f"external: {{{'n' * 121}: b}}", "is longer than 120"),
        ("external: {A B: b, a-b: c}", "the entries 'A B' and 'a-b' would have the same keys"),
        ("sweep: [{label: a}]\nexternal: {A: b}", "the entries 'a' and 'A' would have the same"),
    ],
)
def test_what_a_job_says_wrong_about_them_is_refused_in_a_sentence(tmp_path, text, message):
    plain = "task: style-transfer\ninputs: {content: c, style: s}\noutput: run\n"
    (tmp_path / "job.yaml").write_text(plain.replace("output: run", "output: {uri: run}") + text)
    with pytest.raises(JobError, match=message):
        load_job(tmp_path / "job.yaml")


def test_a_program_may_have_any_name_that_a_column_can_have(pictures):
    give(pictures / "theirs", *EVERY)
    names = ["x", "StyTR²", "../../etc", "sweep", "style-transfer", "名"]
    items = items_of(pictures, external=dict.fromkeys(names, "theirs"))
    assert len({item.key for item in items}) == len({item.item_id for item in items}) == 7 * 6
    assert {item.label for item in items} == {"", *names}


def test_pictures_are_found_by_keys_without_a_job(pictures):
    give(pictures / "theirs", "a-x.png", "deep/b.png", "B Y.png")
    found = find_external("theirs", ["a-x", "deep/b", "b-y", "zz"], base=str(pictures))
    assert [Path(one.uri).name for one in found.values()][:3] == ["a-x.png", "b.png", "B Y.png"]
    assert found["zz"].problem is not None
    assert "no picture named 'zz'" in found["zz"].problem.message


@pytest.mark.s3
def test_pictures_may_lie_on_s3(pictures, s3_bucket):
    give(pictures / "theirs", *EVERY)
    store = open_store(f"s3://{s3_bucket}/theirs")
    for path in (pictures / "theirs").iterdir():
        store.put(path.name, path.read_bytes())
    found = given_to(items_of(pictures, external={"theirs": f"s3://{s3_bucket}/theirs"}))
    assert sorted(found.values()) == sorted(EVERY)
