"""One shard of real pictures: what becomes of each item, and what a stranger reads."""

from __future__ import annotations

import gc
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image
from torch.backends import cudnn

import tasks.work.models as models
import tasks.work.render as rendering
from ad_lib.errors import NumericsError
from infra.store import open_store
from manifests.identity import fingerprint
from manifests.schema import VOLATILE_COLUMNS
from tasks.results.publishing import publish
from tasks.work.commit import provenance_of
from tasks.work.models import ModelCache
from tasks.work.shard_work import PlannedModel
from tests.audit import Audit, audit
from tests.bad_images import picture
from tests.tasks.runs import (
    download,
    files_of,
    finish,
    plan_path,
    prepare,
    render_pending,
    work_here,
)

ELSEWHERE: dict[str, Any] = {"output__uri": "elsewhere"}
FEW: dict[str, Any] = {"limits": {"max_items": 3}}


def one_shard(pictures: Path, **changes: Any) -> Any:
    """A planned run with all six items in one shard, four of them in its first batch."""
    compute = {"device": "cpu", "shard_items": 6, "batch_size": 4}
    return prepare(pictures, compute=compute, **changes)


def render(run: Any) -> Audit:
    render_pending(run)
    return audit(run.uri, published=False)


def statuses(found: Audit) -> dict[str, str]:
    """`ok` or the error class, by the keys of the inputs."""
    return {
        "-".join(one["key"] for one in row["inputs"]): row["error_class"] or "ok"
        for row in found.rows
    }


def all_but(failed: dict[str, str]) -> dict[str, str]:
    return {f"{content}-{style}": "ok" for content in "abc" for style in "xy"} | failed


def test_a_whole_run_holds_its_contract(pictures):
    run = prepare(pictures)
    committed = render_pending(run)
    index = publish(run.uri)
    assert index.complete
    assert sorted(one.shard for one in committed) == ["00000", "00001", "00002"]
    assert sum(one.counts.ok for one in committed) == 6
    assert audit(run.uri).counts == {
        **{"planned": 6, "ok": 6, "failed": 0, "skipped": 0, "pending": 0}
    }


def test_committed_shards_are_not_rendered_again(pictures, monkeypatch):
    run = prepare(pictures, **FEW)
    render(run)
    before = files_of(run.uri)
    monkeypatch.setattr(rendering, "render", lambda *_, **__: pytest.fail("rendered again"))
    assert render_pending(run) == []
    assert files_of(run.uri) == before


def test_a_run_in_another_folder_gives_the_same_tars_and_deterministic_columns(pictures):
    one, two = prepare(pictures, **FEW), prepare(pictures, **FEW, **ELSEWHERE)
    first, second = finish(one), finish(two)
    assert first.content_digest == second.content_digest
    assert [shard.tar for shard in first.shards] == [shard.tar for shard in second.shards]
    assert first.counts == second.counts
    for before, after in zip(audit(one.uri).rows, audit(two.uri).rows, strict=True):
        differing = {name for name in before if before[name] != after[name]}
        assert differing <= set(VOLATILE_COLUMNS)


def test_batches_and_threads_change_no_shard_and_no_identity(pictures):
    run = one_shard(pictures)
    other = one_shard(pictures, output__uri="elsewhere")
    render_pending(run, batch_size=1, io_threads=1)
    render_pending(other, batch_size=3, io_threads=4)
    one, two = audit(run.uri, published=False), audit(other.uri, published=False)
    fixed = ("item_id", "key", "seed", "status")
    assert [[row[name] for name in fixed] for row in one.rows] == [
        [row[name] for name in fixed] for row in two.rows
    ]
    for name, image in images_of(run).items():
        difference = np.abs(np.int16(image) - np.int16(images_of(other)[name]))
        assert difference.max() <= 2, "the same up to rounding"


def images_of(run: Any) -> dict[str, Image.Image]:
    """The committed pictures by key."""
    found = {}
    for path in sorted(Path(run.uri).glob("commits/*.json")):
        name = json.loads(path.read_bytes())["tar"]["name"]
        with tarfile.open(Path(run.uri) / name) as tar:
            for member in tar:
                key, extension = member.name.split(".")
                if extension != "json":
                    data = tar.extractfile(member).read()
                    found[key] = Image.open(io.BytesIO(data))
                    found[key].load()
    return found


# ---------------------------------------------------------------------------- bad inputs


def test_an_input_broken_before_planning_fails_alone_with_its_class(pictures):
    (pictures / "content" / "b.png").write_bytes(b"")
    found = render(one_shard(pictures))
    assert statuses(found) == all_but({"b-x": "decode", "b-y": "decode"})
    (message, same) = [row["error_message"] for row in found.rows if row["error_class"]]
    assert message == same == f"{pictures}/content/b.png: the file is empty (0 bytes)"


@pytest.mark.parametrize("change", ["other pixels", "one byte more", "no image"])
def test_an_input_changed_after_planning_is_refused_for_its_items(pictures, change):
    run = one_shard(pictures)
    path = pictures / "content" / "c.png"
    if change == "other pixels":
        Image.fromarray(picture(seed=1)).save(path)
    else:
        path.write_bytes(path.read_bytes() + b"\0" if change == "one byte more" else b"gone")
    found = render(run)
    assert statuses(found) == all_but({"c-x": "input_missing", "c-y": "input_missing"})
    (message, _) = [row["error_message"] for row in found.rows if row["error_class"]]
    assert message == f"{path} has changed since it was planned; plan a new run"


def test_an_input_deleted_after_planning_fails_its_items_alone(pictures):
    run = one_shard(pictures)
    (pictures / "style" / "x.png").unlink()
    found = render(run)
    missing = {f"{content}-x": "input_missing" for content in "abc"}
    assert statuses(found) == all_but(missing)
    messages = {row["error_message"] for row in found.rows if row["error_class"]}
    assert messages == {f"{pictures}/style/x.png was there when it was planned and is gone"}


def test_a_shard_in_which_every_item_fails_is_committed_all_the_same(pictures):
    run = one_shard(pictures)
    for path in (pictures / "style").iterdir():
        path.write_bytes(b"changed")
    assert render(run).counts == {"planned": 6, "ok": 0, "failed": 6, "skipped": 0, "pending": 0}


# ---------------------------------------------------------------------------- failing batches


@pytest.fixture
def fail_on(monkeypatch):
    """Makes every batch that holds one of these seeds fail; the sizes of all batches tried."""

    def fail_on(error: BaseException, *seeds: int) -> list[int]:
        sizes: list[int] = []

        def failing(backbone, requests, **options):
            sizes.append(len(requests))
            if {request.seed for request in requests} & set(seeds):
                raise error
            return render_for_real(backbone, requests, **options)

        render_for_real = rendering.render
        monkeypatch.setattr(rendering, "render", failing)
        return sizes

    return fail_on


@pytest.mark.parametrize(
    ("error", "error_class", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "oom", "out of memory even alone: CUDA"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: x\nmore"), "oom", "out of mem"),
        (MemoryError(), "oom", "out of memory even alone: MemoryError"),
        (NumericsError("1 of 1 latents stopped being finite; lower"), "numerics", "1 of 1 latents"),
        (RuntimeError("cuDNN error: X\nstack"), "crash", "RuntimeError: cuDNN error: X"),
        (ZeroDivisionError(), "crash", "ZeroDivisionError: ZeroDivisionError"),
        (TypeError("a bug"), "crash", "TypeError: a bug"),
        (SystemExit(3), "crash", "SystemExit: 3"),
        (GeneratorExit(), "crash", "GeneratorExit: GeneratorExit"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_a_failing_batch_is_halved_until_the_culprit_stands_alone(
    pictures, fail_on, error, error_class, message
):
    run = one_shard(pictures)
    culprit = list(run.plan.iter_items())[2]
    sizes = fail_on(error, culprit.seed)
    found = render(run)
    key = "-".join(one.key for one in culprit.inputs)
    assert statuses(found) == all_but({key: error_class})
    assert found.by_key()[culprit.key]["error_message"].startswith(message)
    on_a_fresh_device = [1] if error_class == "oom" else []
    assert sizes == [4, 2, 2, 1, 1, 2, *on_a_fresh_device]


def test_several_culprits_are_all_found(pictures, fail_on):
    run = one_shard(pictures)
    culprits = [list(run.plan.iter_items())[number] for number in (0, 3, 5)]
    fail_on(torch.OutOfMemoryError("x"), *(item.seed for item in culprits))
    found = render(run)
    failed = {row["key"] for row in found.rows if row["error_class"] == "oom"}
    assert failed == {item.key for item in culprits}


def test_neighbours_of_a_culprit_get_the_pictures_that_they_would_have_got(pictures, fail_on):
    sound, run = one_shard(pictures, output__uri="sound"), one_shard(pictures)
    render(sound)
    culprit = list(run.plan.iter_items())[2]
    fail_on(NumericsError("x"), culprit.seed)
    render(run)
    expected, found = images_of(sound), images_of(run)
    assert found.keys() == expected.keys() - {culprit.key}
    for key, image in found.items():
        assert np.abs(np.int16(image) - np.int16(expected[key])).max() <= 2


def test_latents_that_really_stop_being_finite_are_that_items_numerics(pictures):
    run = one_shard(pictures, settings={"num_inference_steps": 2, "learning_rate": 1e30}, **FEW)
    found = render(run)
    assert set(statuses(found).values()) == {"numerics"}
    assert "lower the learning rate or use float32" in found.rows[0]["error_message"]


# ---------------------------------------------------------------------------- attempts


def test_a_stopped_shard_is_given_up_and_rendered_the_next_time(pictures):
    run = one_shard(pictures)
    asked: list[bool] = []
    found = work_here(
        run.uri,
        batch_size=1,
        should_stop=lambda: len(asked) > 3 or asked.append(True) is not None,
    )
    assert found.stopped
    assert audit(run.uri, published=False, complete=False).counts["pending"] == 6
    assert render(run).counts["ok"] == 6


def test_a_run_is_not_continued_with_other_weights(pictures):
    run = prepare(pictures)
    path = Path(run.uri) / "run.json"
    record = json.loads(path.read_bytes())
    record["model_revision"] = record["identity"]["model_revision"] = "sha256:other"
    record["fingerprint"] = fingerprint(record["identity"])
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"planned with backbone .* at sha256:other, but here"):
        render_pending(run)


def test_a_backbone_is_loaded_once(pictures):
    run = prepare(pictures).run
    model = PlannedModel(model_id=run.model_id, revision=run.model_revision)
    cache = ModelCache()
    first, _ = cache.backbone(model, "cpu")
    again, seconds = cache.backbone(model, "cpu")
    assert again is first
    assert seconds == 0.0


def test_a_model_on_a_gpu_is_kept_with_the_kernels_of_its_run(pictures, monkeypatch):
    """The flags of PyTorch are there without a GPU; only the name of the device is made up."""
    run = prepare(pictures).run
    assert run.deterministic
    on_gpu = type("OnGpu", (), {"device": torch.device("cuda")})()
    monkeypatch.setattr(models, "_load", lambda model, device: on_gpu)
    cache, seen = ModelCache(), []
    for deterministic in (True, False):
        model = PlannedModel(
            model_id=run.model_id, revision=run.model_revision, deterministic=deterministic
        )
        cache.backbone(model, "cuda")
        seen.append((torch.are_deterministic_algorithms_enabled(), cudnn.benchmark))
    cache.clear()
    assert seen == [(True, False), (False, True)]
    assert not torch.are_deterministic_algorithms_enabled()


def test_rows_of_a_gpu_say_which_kernels_rendered_them_and_those_of_a_cpu_have_none(pictures):
    run = prepare(pictures).run
    on_gpu = run.model_copy(update={"device_type": "cuda", "deterministic": False})
    versions = [
        json.loads(provenance_of(one, "a", "name").volatile["versions"]) for one in (run, on_gpu)
    ]
    assert "kernels" not in versions[0]
    assert versions[1]["kernels"].startswith("fast, float32 products high")


# ---------------------------------------------------------------------------- what readers see


@pytest.mark.parametrize(
    ("output", "image_format"),
    [
        ({"codec": "png"}, "PNG"),
        ({"codec": "webp"}, "WEBP"),
        ({"codec": "webp", "quality": 80}, "WEBP"),
        ({"codec": "jpg"}, "JPEG"),
        ({"codec": "jpg", "quality": 50}, "JPEG"),
    ],
)
def test_every_codec_decodes_to_the_size_that_was_asked_for(pictures, output, image_format):
    limits = {"max_items": 1}
    run = prepare(pictures, output={"uri": "run", "size": [72, 65], **output}, limits=limits)
    (row,) = render(run).rows
    (image,) = images_of(run).values()
    assert (image.format, image.mode, image.size) == (image_format, "RGB", (72, 65))
    assert (row["outputs"][0]["width"], row["outputs"][0]["height"]) == (72, 65)
    assert row["outputs"][0]["name"] == f"{row['key']}.{output['codec']}"


def test_png_and_webp_hold_the_same_pixels(pictures):
    made = {}
    for codec in ("png", "webp"):
        output = {"uri": codec, "size": 64, "codec": codec}
        run = prepare(pictures, output=output, limits={"max_items": 1})
        render(run)
        (made[codec],) = images_of(run).values()
    assert np.array_equal(np.asarray(made["png"]), np.asarray(made["webp"]))


def test_a_result_keeps_the_contents_proportions_where_asked(pictures):
    output = {"uri": "run", "size": 64, "resize_mode": "keep_ratio"}
    run = prepare(pictures, output=output, limits={"max_items": 1})
    render(run)
    assert {image.size for image in images_of(run).values()} == {(85, 64)}


@pytest.mark.filterwarnings("ignore:unclosed file <.*[.]tar'>:ResourceWarning")  # webdataset's own
def test_plain_webdataset_reads_the_shards(pictures):
    run = prepare(pictures)
    index = finish(run)
    urls = [str(Path(run.uri) / shard.tar.name) for shard in index.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    gc.collect()  # while its warnings are expected
    rows = audit(run.uri).by_key()
    assert sorted(sample["__key__"] for sample in samples) == sorted(rows)
    for sample in samples:
        assert sample["png"].size == (64, 64)
        assert sample["json"]["item_id"] == rows[sample["__key__"]]["item_id"]
        assert sample["json"]["params"]["settings"]["num_inference_steps"] == 2


def test_pyarrow_reads_the_metadata_as_one_dataset(pictures):
    run = prepare(pictures)
    index = finish(run)
    parts = [str(Path(run.uri) / shard.parquet.name) for shard in index.shards]
    table = ds.dataset(parts).to_table(filter=ds.field("status") == "ok")
    assert table.num_rows == 6
    assert table.schema.field("seed").type == "uint64"


def test_duckdb_answers_questions_about_a_run(pictures):
    (pictures / "content" / "b.png").write_bytes(b"")
    run = prepare(pictures)
    finish(run)
    parts = f"{run.uri}/data/*.parquet"
    with duckdb.connect() as database:
        answer = database.execute(
            "select status, error_class, count(*) from read_parquet(?) group by all order by all",
            [parts],
        ).fetchall()
        styles = database.execute(
            "select distinct unnest(inputs).key from read_parquet(?) order by 1", [parts]
        ).fetchall()
    assert answer == [("failed", "decode", 2), ("ok", None, 4)]
    assert styles == [("a",), ("b",), ("c",), ("x",), ("y",)]


def test_a_tables_columns_and_terms_reach_the_rows_and_the_samples(pictures):
    row = {"content": "content/a.png", "style": "style/x.png", "key": "one", "note": "é"}
    terms = {"style_license": "CC0", "style_attribution": "me"}
    (pictures / "t.jsonl").write_text(json.dumps(row | terms))
    run = prepare(pictures, inputs={"table": "t.jsonl"})
    (found,) = render(run).rows
    assert found["key"] == "one"
    assert json.loads(found["user"]) == {"note": "é"}
    assert [(one["license"], one["attribution"]) for one in found["inputs"]] == [
        (None, None),
        ("CC0", "me"),
    ]


def test_several_styles_of_one_item_are_all_used(pictures):
    rows = [
        {"content": "content/a.png", "style": ["style/x.png", "style/y.png"], "key": "both"},
        {"content": "content/a.png", "style": ["style/x.png"], "key": "one"},
    ]
    (pictures / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run = prepare(pictures, inputs={"table": "t.jsonl"})
    found = render(run)
    assert [one["key"] for one in found.by_key()["both"]["inputs"]] == ["a", "x", "y"]
    made = images_of(run)
    assert not np.array_equal(np.asarray(made["both"]), np.asarray(made["one"]))


def test_textures_are_made_from_noise_that_follows_the_seed(pictures):
    changes: dict[str, Any] = {"task": "texture-optimize", "inputs": {"texture": "style"}}
    run = prepare(pictures, variants=2, **changes)
    again = prepare(pictures, variants=2, output__uri="again", **changes)
    torch.manual_seed(1)
    first = render(run)
    torch.manual_seed(2)
    assert render(again).content_digest == first.content_digest
    made = [np.asarray(image).tobytes() for image in images_of(run).values()]
    assert len(set(made)) == 4


def test_losses_and_times_are_in_the_metadata(pictures):
    for row in render(prepare(pictures)).rows:
        assert row["style_loss_first"] > 0
        assert row["style_loss"] > 0
        assert row["content_loss"] is not None
        assert row["seconds"] > 0
        assert row["encode_seconds"] > 0
        assert json.loads(row["versions"])["torch"]
        assert not row["degraded"]


def test_images_of_tars_are_rendered_as_from_files(pictures):
    with tarfile.open(pictures / "style.tar", "w") as tar:
        for name in "xy":
            tar.add(pictures / "style" / f"{name}.png", f"{name}.png")
    from_files = render(prepare(pictures, **FEW))
    from_tar = prepare(
        pictures, inputs={"content": "content", "style": "style.tar"}, **FEW, **ELSEWHERE
    )
    assert render(from_tar).content_digest == from_files.content_digest


@pytest.mark.s3
def test_a_run_on_s3_holds_the_same_contract_and_content(pictures, s3_bucket, tmp_path_factory):
    uri = f"s3://{s3_bucket}/runs/one"
    index = finish(prepare(pictures, output__uri=uri, **FEW))
    local = prepare(pictures, **FEW)
    assert finish(local).content_digest == index.content_digest
    found = audit(download(uri, tmp_path_factory.mktemp("copy")))
    assert found.content_digest == audit(local.uri).content_digest


@pytest.mark.s3
def test_inputs_on_s3_are_rendered_as_from_files(pictures, s3_bucket):
    store = open_store(f"s3://{s3_bucket}/in")
    for path in pictures.rglob("*.png"):
        store.put(path.relative_to(pictures).as_posix(), path)
    inputs = {"content": f"{store.uri}/content", "style": f"{store.uri}/style"}
    remote, local = prepare(pictures, inputs=inputs, **FEW), prepare(pictures, **FEW, **ELSEWHERE)
    assert render(remote).content_digest == render(local).content_digest
    assert pq.read_table(plan_path(remote.uri)).num_rows == 3
