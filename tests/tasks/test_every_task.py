"""Every task from a job: its roles and prompts from sources and tables, to rows and pictures."""

from __future__ import annotations

import json
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from PIL import Image, ImageDraw

import ad_lib
from ad_lib.errors import RequestError
from ad_lib.model.backbone import Backbone
from ad_lib.pictures.measure import METRIC_NAMES
from ad_lib.presets import PRESETS, REQUEST_FIELDS
from ad_lib.requests import Request
from manifests.errors import FingerprintMismatch, JobError
from manifests.items import EXTERNAL, ErrorClass
from manifests.job import ROLES
from manifests.quality import CONTENT_FIGURES, METRIC_COLUMNS
from tasks.inputs.resolving import resolve_job
from tasks.plans.items import SHAPING_ROLES
from tasks.plans.planning import open_prepared, plan_items
from tests.ad_lib.requests_of_every_task import SMALL
from tests.audit import Audit, audit
from tests.bad_images import picture
from tests.conftest import TINY_BACKBONE
from tests.tasks.runs import make_job, prepare, render_pending

STEPS: dict[str, Any] = {"num_inference_steps": 2}


def steps_of(task: str) -> dict[str, Any]:
    return STEPS if PRESETS[task].uses("num_inference_steps") else {}


def mask(*edges: int, size: tuple[int, int] = (128, 96)) -> Image.Image:
    """Red on the left, and another colour from each edge on."""
    image = Image.new("RGB", size, "red")
    for edge, colour in zip(edges, ("blue", "lime"), strict=False):
        ImageDraw.Draw(image).rectangle([edge, 0, *size], fill=colour)
    return image


@pytest.fixture
def sources(pictures: Path) -> Path:
    """The `pictures`, with a mask of each style, a target mask, and a file of prompts."""
    for folder, names in (("source", "xy"), ("target", "m")):
        (pictures / folder).mkdir()
        for name in names:
            mask(64).save(pictures / folder / f"{name}.png")
    (pictures / "prompts.txt").write_text("a cat\n\n  a dog \na cat\n")
    return pictures


INPUTS: dict[str, dict[str, Any]] = {
    "style-transfer": {"content": "content", "style": "style"},
    "style-transfer-draft": {"content": "content", "style": "style"},
    "appearance-transfer": {"content": "content", "style": "style"},
    "style-t2i": {"style": "style", "prompt": "a cat"},
    "style-t2i-sd15": {"style": "style", "prompt": "a cat"},
    "texture-optimize": {"texture": "style"},
    "texture-sample": {"texture": "style"},
    "texture-draft": {"texture": "style"},
    "texture-masked": {"texture": "style", "source_mask": "source", "target_mask": "target"},
    "texture-layout": {"texture": "style", "layout": "content"},
    "texture-expand": {"texture": "style"},
    "baseline-adain": {"content": "content", "style": "style"},
    "baseline-gpdm": {"texture": "style"},
    "baseline-swd": {"texture": "style"},
    "baseline-quilting": {"texture": "style"},
    "baseline-styleid": {"content": "content", "style": "style"},
}
SMALLER: dict[str, dict[str, Any]] = {
    "texture-expand": {"reference_size": 64, "view_size": 8, "view_stride": 8},
    "baseline-gpdm": SMALL["baseline-gpdm"],
    "baseline-swd": SMALL["baseline-swd"],
    "baseline-quilting": SMALL["baseline-quilting"],
}


def job_of(task: str, **changes: Any) -> dict[str, Any]:
    settings = steps_of(task) | SMALLER.get(task, {})
    return {"task": task, "inputs": INPUTS[task], "settings": settings, **changes}


def render(base: Path, **changes: Any) -> Audit:
    run = prepare(base, **changes)
    render_pending(run)
    return audit(run.uri, published=False)


def items_of(base: Path, **changes: Any):
    return list(plan_items(resolve_job(make_job(**changes), str(base))).iter_items())


def test_every_role_of_every_task_is_a_role_of_a_job():
    assert {*ROLES, EXTERNAL} == set(REQUEST_FIELDS)
    assert set(SHAPING_ROLES) < set(ROLES)
    assert {*INPUTS, EXTERNAL} == PRESETS.keys()


def test_the_columns_of_figures_are_what_is_measured():
    assert METRIC_COLUMNS == METRIC_NAMES
    assert set(CONTENT_FIGURES) - {"content_loss"} < set(METRIC_NAMES)


@pytest.mark.parametrize("task", INPUTS)
def test_every_task_renders_from_a_job_with_figures_for_every_picture(sources, task):
    found = render(sources, limits={"max_items": 2}, **job_of(task))
    assert found.counts["ok"] == len(found.rows) == 2, [row["error_message"] for row in found.rows]
    for row in found.rows:
        roles = [one["role"] for one in row["inputs"]]
        assert set(roles) == set(PRESETS[task].roles)
        assert row["outputs"][0]["width"] == 64
        has_content = {"content", "layout"} & set(roles)
        for name in METRIC_COLUMNS:
            expected = name not in CONTENT_FIGURES or bool(has_content)
            assert (row[name] is not None) == expected, name
        assert len(row["phash"]) == 16
        assert row["prompt"] == ("a cat" if PRESETS[task].takes_prompt else None)


def made_by_the_library(backbone: Backbone, row: dict[str, Any]) -> np.ndarray:
    """What ad_lib makes of the row's own pictures, seed and settings, without a job."""
    pictures: dict[str, Any] = {"styles": []}
    for one in row["inputs"]:
        name = REQUEST_FIELDS[one["role"]]
        picture = Image.open(one["uri"]).convert("RGB")
        pictures[name] = [picture] if name == "styles" else picture
    params = json.loads(row["params"])
    request = Request.preset(
        row["task"],
        **pictures,
        **params["settings"],
        prompt=row["prompt"] or "",
        width=params["width"],
        height=params["height"],
        seed=row["seed"],
    )
    return np.int16(ad_lib.render(backbone, [request])[0].image)


@pytest.mark.parametrize("task", INPUTS)
def test_a_job_makes_what_the_library_makes_of_the_same_pictures(sources, tiny_backbone, task):
    Image.fromarray(picture(seed=5)).resize((300, 150)).save(sources / "style" / "y.png")
    mask(210, size=(300, 150)).save(sources / "source" / "y.png")
    settings = steps_of(task) | {"reference_size": 96} | SMALLER.get(task, {})
    inputs = INPUTS[task] | {"style" if "style" in INPUTS[task] else "texture": "style/y.png"}
    changes = job_of(task, settings=settings, inputs=inputs, output={"uri": "run", "size": 64})
    found = render(sources, limits={"max_items": 1}, **changes)
    (row,) = found.rows
    assert row["status"] == "ok", row["error_message"]
    (path,) = (sources / "run").glob("data/*.tar")
    with tarfile.open(path) as tar:
        stored = Image.open(tar.extractfile(row["outputs"][0]["name"]))
        difference = np.int16(stored.convert("RGB")) - made_by_the_library(tiny_backbone, row)
    assert np.abs(difference).max() <= 2, "the same up to rounding"


# ---------------------------------------------------------------------------- masks


def test_every_texture_comes_with_its_own_mask(sources):
    mask(32).save(sources / "source" / "x.png")
    for item in items_of(sources, **job_of("texture-masked")):
        (texture,), (found,) = item.of_role("texture"), item.of_role("source_mask")
        assert found.key == texture.key
        assert [one.role for one in item.inputs] == ["target_mask", "source_mask", "texture"]


def test_a_texture_without_a_mask_stops_planning(sources):
    (sources / "source" / "x.png").unlink()
    with pytest.raises(JobError, match=r"source_mask: no mask for 1 texture\(s\): 'x'"):
        prepare(sources, **job_of("texture-masked"))


def test_a_mask_of_another_size_than_its_texture_fails_its_items_before_rendering(sources):
    mask(64, size=(128, 64)).save(sources / "source" / "x.png")
    problems = {
        i.of_role("texture")[0].key: i.problem
        for i in items_of(sources, **job_of("texture-masked"))
    }
    assert problems["y"] is None
    assert problems["x"].error_class == ErrorClass.UNSUPPORTED
    assert problems["x"].message.endswith(
        "x.png: the mask is 128x64 and its texture 128x96: make them the same size"
    )


def test_a_label_that_a_texture_lacks_fails_its_items_alone(sources):
    mask(40, 80).save(sources / "source" / "x.png")
    mask(40, 80).save(sources / "target" / "m.png")
    found = render(sources, compute={"shard_items": 9, "device": "cpu"}, **job_of("texture-masked"))
    rows = {row["inputs"][2]["key"]: row for row in found.rows}
    assert rows["x"]["status"] == "ok"
    assert rows["y"]["error_class"] == "unsupported"
    assert "label(s) #00ff00, which the source_mask lacks" in rows["y"]["error_message"]


def test_a_backbone_that_cannot_do_what_an_item_asks_fails_it_in_words(sources):
    found = render(sources, **job_of("texture-optimize", settings=STEPS | {"layers": [90, 91]}))
    assert {row["error_class"] for row in found.rows} == {"unsupported"}
    assert "layers" in found.rows[0]["error_message"]


# ---------------------------------------------------------------------------- prompts


def prompts_of(items: Any) -> list[tuple[str, str, str | None]]:
    return sorted((item.inputs[0].key, item.prompt, item.negative_prompt) for item in items)


def t2i(prompt: Any, **inputs: Any) -> dict[str, Any]:
    return job_of("style-t2i", inputs={"style": "style", "prompt": prompt} | inputs)


@pytest.mark.parametrize("prompt", [["a cat", "a dog"], "prompts.txt"])
def test_every_prompt_is_drawn_in_every_style(sources, prompt):
    items = items_of(sources, **t2i(prompt, negative_prompt="rain"))
    assert prompts_of(items) == [
        (style, prompt, "rain") for style in "xy" for prompt in ("a cat", "a dog")
    ]
    assert len({item.item_id for item in items}) == len({item.key for item in items}) == 4
    assert all("a-cat" in item.key or "a-dog" in item.key for item in items)


def test_words_are_part_of_the_items_and_not_of_what_a_run_is(sources):
    run = prepare(sources, **t2i("prompts.txt"))
    for other in (t2i(["a cat", "a dog"]), t2i("a cat"), t2i("a cat", negative_prompt="rain")):
        assert open_prepared(resolve_job(make_job(**other), str(sources))).run == run.run


def test_another_negative_prompt_is_another_item(sources):
    ids = [
        {item.item_id for item in items_of(sources, **t2i("a cat", negative_prompt=negative))}
        for negative in (None, "rain", "snow")
    ]
    assert len(set.union(*ids)) == 6


def test_words_reach_the_rows_and_the_pictures(sources):
    words = t2i(["a cat", "a dog"], style="style/x.png", negative_prompt="rain")
    found = render(sources, **words)
    assert sorted(row["prompt"] for row in found.rows) == ["a cat", "a dog"]
    assert {row["negative_prompt"] for row in found.rows} == {"rain"}
    assert len({row["outputs"][0]["sha256"] for row in found.rows}) == 2


def test_a_table_has_a_prompt_in_each_row(sources):
    rows = [
        {"style": "style/x.png", "prompt": "a cat", "key": "one"},
        {"style": "style/x.png", "prompt": "a dog", "negative_prompt": "rain", "key": "two"},
        {"style": "style/x.png", "prompt": " ", "key": "three"},
        {"style": "style/y.png", "prompt": "a cat", "content": "content/a.png", "key": "four"},
    ]
    (sources / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = {i.key: i for i in items_of(sources, task="style-t2i", inputs={"table": "t.jsonl"})}
    assert (items["two"].prompt, items["two"].negative_prompt) == ("a dog", "rain")
    assert items["three"].problem.message == "row 3 of the table names no prompt"
    assert [one.role for one in items["four"].inputs] == ["style", "content"]
    assert items["one"].user == "{}"


def test_a_prompt_column_is_the_users_own_where_the_task_takes_none(sources):
    row = {"texture": "style/x.png", "prompt": "a cat"}
    (sources / "t.jsonl").write_text(json.dumps(row))
    (item,) = items_of(sources, task="texture-optimize", inputs={"table": "t.jsonl"})
    assert (item.prompt, item.user) == (None, '{"prompt":"a cat"}')


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (t2i(None), "needs a prompt: add inputs.prompt"),
        (
            t2i("no.txt"),
            r"no.txt' is not there: check the path .what ends in .txt is a file of prompts",
        ),
        (t2i("empty.txt"), "'empty.txt' holds no prompt; write one on each line"),
        (t2i(["a", "b"]) | {"pairing": "zip"}, "zip joins images by key, and 2 prompts have none"),
        (
            job_of("texture-optimize", inputs={"texture": "style", "prompt": "a"}),
            "takes no prompt: drop inputs.prompt, or use style-t2i",
        ),
        (
            t2i("a", control="content"),
            "inputs.control needs a ControlNet to see it: add backbone.controlnet",
        ),
        (
            job_of("texture-masked", inputs={"texture": "style", "target_mask": "target"}),
            "needs a source for source_mask: add inputs.source_mask",
        ),
    ],
)
def test_inputs_that_do_not_fit_the_task_are_refused_with_the_way_out(sources, changes, message):
    (sources / "empty.txt").write_text("\n \n")
    with pytest.raises(JobError, match=message):
        prepare(sources, **changes)
    assert not (sources / "run").exists()


def test_a_setting_that_the_task_does_not_read_is_refused(sources):
    changes = job_of("style-transfer", settings={"adain": True})
    with pytest.raises(RequestError, match="style-transfer does not use adain"):
        prepare(sources, **changes)


def test_a_setting_that_the_model_cannot_follow_is_refused_before_anything_is_rendered(sources):
    changes = job_of("style-transfer", settings={"rope": "shifted"})
    with pytest.raises(RequestError, match="rope 'shifted' is for models with rotary positions"):
        prepare(sources, **changes)


def test_a_task_that_the_model_is_not_made_for_is_refused_before_anything_is_planned(sources):
    ad_lib.random_backbone("flux2", tiny=True).save_pretrained(sources / "model")
    swept = [{"label": "ours"}, {"label": "theirs", "task": "baseline-styleid"}]
    for changes in ({"task": "baseline-styleid"}, {"sweep": swept}):
        with pytest.raises(RequestError, match=r"baseline-styleid puts .* FLUX\.2"):
            prepare(sources, backbone="./model", **changes)
        assert not (sources / "run").exists()


def test_parts_of_a_row_that_do_not_fit_together_fail_it_before_rendering(sources):
    rows = [
        {"style": ["style/x.png", "style/y.png"], "content": "content/a.png", "key": "two"},
        {"style": "style/x.png", "content": "content/a.png", "key": "one"},
        {"style": ["style/x.png"] * 2, "content": ["content/a.png"] * 2, "key": "contents"},
    ]
    (sources / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = STEPS | {"style_weights": [1, 2]}
    items = items_of(sources, inputs={"table": "t.jsonl"}, settings=settings)
    problems = {item.key: item.problem for item in items}
    assert problems["two"] is None
    assert (
        problems["one"].message == "style_weights gives 2 numbers for 1 styles; give one for each"
    )
    assert problems["contents"].message.startswith("style-transfer takes one content image")
    assert {p.error_class for p in problems.values() if p} == {ErrorClass.UNSUPPORTED}


# ---------------------------------------------------------------------------- models


@pytest.fixture
def controlnet(sources: Path, tiny_backbone: Backbone) -> Path:
    """A ControlNet of the tiny backbone that changes what it sees."""
    torch.manual_seed(0)
    network = ControlNetModel.from_unet(tiny_backbone.unet)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    network.save_pretrained(sources / "controlnet")
    return sources / "controlnet"


def controlled(name: str | None = "./controlnet") -> dict[str, Any]:
    backbone = {"name": str(TINY_BACKBONE), "controlnet": name}
    inputs = {"texture": "style/x.png", "control": "content"}
    return job_of("texture-sample", inputs=inputs, backbone=backbone)


def test_control_images_are_seen_through_the_controlnet_of_the_job(sources, controlnet):
    found = render(sources, **controlled())
    assert found.counts["ok"] == 3
    assert {one["role"] for row in found.rows for one in row["inputs"]} == {"texture", "control"}
    alone, control = found.rows[0]["model_revision"].split("+")
    assert alone.startswith("sha256:")
    assert control.startswith("sha256:")
    assert len({row["outputs"][0]["sha256"] for row in found.rows}) == 3


def test_another_controlnet_is_another_run(sources, controlnet):
    before = prepare(sources, **controlled()).plan
    ControlNetModel.from_pretrained(controlnet).half().save_pretrained(controlnet)
    with pytest.raises(FingerprintMismatch, match="model_revision"):
        prepare(sources, **controlled())
    after = prepare(sources, output__uri="other", **controlled()).plan
    assert not {item.item_id for item in before.iter_items()} & {
        item.item_id for item in after.iter_items()
    }


def test_a_controlnet_without_control_images_is_refused(sources, controlnet):
    changes = controlled() | {"inputs": {"texture": "style"}}
    with pytest.raises(JobError, match=r"controlnet has no control image to see: add inputs.cont"):
        prepare(sources, **changes)
    with pytest.raises(JobError, match="controlnet has no control image to see: drop it"):
        prepare(sources, backbone=controlled()["backbone"])


# ---------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("task", ["style-transfer", "texture-layout", "texture-masked"])
def test_without_a_size_a_result_has_the_proportions_of_what_says_where_things_are(sources, task):
    shaping = "target" if task == "texture-masked" else "content"
    for path in (sources / shaping).iterdir():
        Image.open(path).resize((192, 96), Image.Resampling.NEAREST).save(path)
    items = items_of(sources, output={"uri": "run"}, **job_of(task))
    assert {(item.width, item.height) for item in items} == {(1024, 512)}


def test_the_settings_of_every_item_are_recorded_whole(sources):
    (item, *_) = items_of(sources, **job_of("texture-expand"))
    settings = json.loads(item.params)["settings"]
    assert settings.keys() == asdict(PRESETS["texture-expand"].settings).keys()
