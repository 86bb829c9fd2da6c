from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.identity import (
    NOT_IDENTITY,
    canonical_json,
    differences,
    digest,
    fingerprint,
    has_fast_kernels_as_default,
    hashed_settings,
    in_first_layout,
    item_id,
    run_identity,
    seed_of,
    settings_before,
    stated_identity,
    with_fast_kernels_as_default,
)
from manifests.job import Job, Output, Pairing
from manifests.pairing import pair
from manifests.plan import cut_into_shards
from tests.manifests.builders import make_input, make_inputs, make_item

JOB: dict[str, Any] = {
    "name": "n",
    "task": "style-transfer",
    "inputs": {"content": "a", "style": "b"},
    "output": {"uri": "run", "codec": "jpg", "quality": 90, "size": 64},
    "settings": {"num_inference_steps": 2},
    "backbone": {
        **{"name": "x", "revision": "r", "dtype": "float32", "deterministic": True},
        **{"config": "c", "controlnet": "d", "controlnet_revision": "s"},
    },
    "pairing": {"mode": "random", "styles_per_content": 1, "seed": 0},
    "limits": {"max_items": 5, "max_failed": 1, "max_pixels": 1000, "stop_when_failing": "10%"},
    "seed": 0,
    "variants": 1,
    "sweep": {"learning_rate": [0.1, 0.2]},
    "external": {"theirs": "theirs/"},
    "quality": {"style_loss": {"max": 1.0}},
}
FOUND: dict[str, Any] = {
    "settings": {"num_inference_steps": 2, "layers": None},
    "model_revision": "sha256:1",
    "rendering_revision": 1,
    "dtype": "float32",
    "device_type": "cpu",
}
OTHER: dict[str, Any] = {
    "name": "other",
    "task": "appearance-transfer",
    "inputs": {"content": "elsewhere", "style": "b"},
    "output.uri": "elsewhere",
    "output.codec": "webp",
    "output.quality": 91,
    "output.size": [64, 65],
    "output.resize_mode": "keep_ratio",
    "settings": {"num_inference_steps": 3},
    "backbone.name": "y",
    "backbone.revision": "other",
    "backbone.config": "other",
    "backbone.controlnet": "other",
    "backbone.controlnet_revision": "other",
    "backbone.dtype": "bfloat16",
    "backbone.deterministic": False,
    "pairing.mode": "product",
    "pairing.styles_per_content": 2,
    "pairing.seed": 1,
    "limits.max_items": 6,
    "limits.max_failed": 2,
    "limits.max_pixels": 1001,
    "limits.stop_when_failing": None,
    "compute": {"batch_size": 9, "device": "cuda", "shard_seconds": 1.0, "shard_items": 3},
    "seed": 1,
    "variants": 2,
    "sweep": {"learning_rate": [0.1, 0.3]},
    "external": {"theirs": "elsewhere/"},
    "quality": {"style_loss": {"max": 2.0}},
}
"""Another value for each field of a job, by dotted name."""


def identity(job: dict[str, Any] = JOB, **found: Any) -> dict[str, Any]:
    return run_identity(Job.model_validate(job), **FOUND | found)


def changed(name: str, value: Any) -> dict[str, Any]:
    job = json.loads(json.dumps(JOB))
    *parents, last = name.split(".")
    place = job
    for parent in parents:
        place = place[parent]
    place[last] = value
    return job


def fields_of(model: Any, prefix: str = "") -> set[str]:
    """Every field of a job by dotted name; `settings` and sources as wholes."""
    names: set[str] = set()
    for name, field in model.model_fields.items():
        names.add(f"{prefix}{name}")
        if name not in ("inputs", "settings") and hasattr(field.annotation, "model_fields"):
            names |= fields_of(field.annotation, f"{prefix}{name}.")
    return names


def leaves() -> set[str]:
    names = fields_of(Job)
    below_compute = {name for name in names if name.startswith("compute.")}
    return {
        name for name in names - below_compute if not any(n.startswith(f"{name}.") for n in names)
    } | {"compute"}


def test_the_table_of_fields_left_out_names_only_real_fields_each_with_a_reason():
    assert NOT_IDENTITY.keys() <= fields_of(Job)
    assert all(reason and reason[-1] != "." for reason in NOT_IDENTITY.values())


def test_this_file_has_another_value_for_every_field_of_a_job():
    assert OTHER.keys() == leaves()


@pytest.mark.parametrize("name", sorted(OTHER.keys() - NOT_IDENTITY.keys()))
def test_changing_an_identity_field_changes_the_fingerprint_and_is_named(name):
    other = identity(changed(name, OTHER[name]))
    assert fingerprint(other) != fingerprint(identity())
    (line,) = differences(identity(), other)
    assert line.startswith(f"  {name}")
    assert ": the run folder has " in line


@pytest.mark.parametrize("name", sorted(OTHER.keys() & NOT_IDENTITY.keys()))
def test_changing_a_field_that_is_left_out_changes_no_fingerprint(name):
    assert fingerprint(identity(changed(name, OTHER[name]))) == fingerprint(identity())


@pytest.mark.parametrize(
    "found",
    [
        {"settings": {"num_inference_steps": 3, "layers": None}},
        {"settings": {"num_inference_steps": 2, "layers": [7, 13]}},
        {"settings": FOUND["settings"] | {"sweep": {"a": {"task": "texture-sample"}}}},
        {"model_revision": "sha256:2"},
        {"rendering_revision": 2},
        {"dtype": "bfloat16"},
        {"device_type": "cuda"},
    ],
)
def test_changing_what_a_job_resolves_to_changes_the_fingerprint(found):
    assert fingerprint(identity(**found)) != fingerprint(identity())


def test_defaults_written_out_are_the_same_job():
    short = {name: JOB[name] for name in ("task", "inputs", "output")}
    long = short | {"seed": 0, "variants": 1, "pairing": "product", "limits": {"max_failed": 0}}
    assert fingerprint(identity(short)) == fingerprint(identity(long))


def test_an_identity_survives_its_own_json():
    stored = json.loads(canonical_json(identity()))
    assert differences(stored, identity()) == []
    assert fingerprint(stored) == fingerprint(identity())


SHORT_JOB = {name: JOB[name] for name in ("task", "inputs", "output")}
RECORDED_FINGERPRINT = "b95974af176de4f390fa5b1fa1c724006512c83eb5086414d3fa277e54cd0c9f"
RECORDED_SHORT_FINGERPRINT = "7be49d5f8abf640f47571fa0a0659b6f45d5b93140a067b5f73ecd4c1ef8d045"
FIRST_LAYOUT_FINGERPRINT = "fac5f6530335d74184dccf1c284437b305451275739f7804f5ebb32e8eca0f31"
FIRST_LAYOUT_SHORT_FINGERPRINT = "7570fe05ff053b9dee66ac98b48e89c12d3ef126ce6decd2a8fdd7fc93163863"


def test_a_fingerprint_never_changes_between_versions():
    """Recorded: whoever changes it locks the users out of every run folder that exists."""
    assert fingerprint(identity()) == RECORDED_FINGERPRINT
    assert fingerprint(identity(SHORT_JOB)) == RECORDED_SHORT_FINGERPRINT


@pytest.mark.parametrize(
    ("job", "recorded"),
    [(JOB, FIRST_LAYOUT_FINGERPRINT), (SHORT_JOB, FIRST_LAYOUT_SHORT_FINGERPRINT)],
)
@pytest.mark.parametrize("resolved", [{}, {"dtype": "bfloat16", "device_type": "cuda"}])
def test_a_job_is_the_one_of_its_run_folder_of_the_first_layout(job, recorded, resolved):
    """Recorded by the version that wrote such folders, which did not resolve the precision."""
    stored = {"sources.content": "c", "sources.style": "s", "seed": 5}
    wanted = in_first_layout(identity(job, **resolved), Job.model_validate(job), stored)
    assert fingerprint(wanted) == recorded


def test_what_a_job_states_is_what_the_identity_of_its_run_says_in_either_layout():
    job = Job.model_validate(changed("compute", {"device": "cuda:1"}))
    stated = stated_identity(job)
    found = FOUND | {"device_type": "cuda"}
    later = run_identity(job, **found)
    for stored in (later, in_first_layout(later, job, {})):
        assert all(stored.get(name, value) == value for name, value in stated.items())
    assert stated["device_type"] != run_identity(job, **FOUND)["device_type"]
    assert {"dtype", "device_type"}.isdisjoint(stated_identity(Job.model_validate(SHORT_JOB)))


def with_kernels(**stated: bool) -> Job:
    return Job.model_validate(SHORT_JOB | {"backbone": {"name": "x", **stated}})


def test_deterministic_kernels_are_the_default_and_the_fast_ones_stand_in_the_fingerprint():
    unset, stated, fast = (
        run_identity(with_kernels(**one), **FOUND)
        for one in ({}, {"deterministic": True}, {"deterministic": False})
    )
    assert unset == stated
    assert fast == {**unset, "backbone.deterministic": False}


@pytest.mark.parametrize(
    ("then", "now", "is_same"),
    [
        ({}, {}, True),
        ({}, {"deterministic": False}, True),
        ({}, {"deterministic": True}, False),
        ({"deterministic": False}, {}, True),
        ({"deterministic": False}, {"deterministic": False}, True),
        ({"deterministic": True}, {"deterministic": True}, True),
        ({"deterministic": True}, {"deterministic": False}, False),
    ],
)
def test_a_run_of_a_version_with_fast_kernels_by_default_keeps_those_that_it_began_with(
    then, now, is_same
):
    """That version wrote the key where it was true, and stated it in the record in any case."""
    was_on = then.get("deterministic", False)
    without = run_identity(with_kernels(), **FOUND)
    stored = {**without, **({"backbone.deterministic": True} if was_on else {})}
    assert has_fast_kernels_as_default(stored, was_on)
    job = with_kernels(**now)
    wanted = with_fast_kernels_as_default(run_identity(job, **FOUND), job)
    assert (differences(stored, wanted) == []) is is_same


@pytest.mark.parametrize("stated", [{}, {"deterministic": True}, {"deterministic": False}])
def test_a_run_of_this_version_is_never_taken_for_one_with_fast_kernels_by_default(stated):
    job = with_kernels(**stated)
    stored = run_identity(job, **FOUND)
    assert not has_fast_kernels_as_default(stored, job.backbone.deterministic)


def test_a_setting_that_a_later_version_adds_is_hashed_only_where_it_is_not_at_its_default():
    defaults = {"learning_rate": 0.05, "later": 3}
    assert hashed_settings(defaults, defaults) == {"learning_rate": 0.05}
    assert hashed_settings({"learning_rate": 1.0, "later": 4}, defaults) == {
        "learning_rate": 1.0,
        "later": 4,
    }


def test_a_run_that_knew_no_setting_keeps_its_default_and_one_that_did_keeps_what_it_says():
    defaults = {"noise": "stream", "learning_rate": 0.05}
    assert settings_before({"learning_rate": 1.0}, defaults) == {"noise": "stream"}
    assert settings_before({"noise": "by_draw"}, defaults) == {}


class LaterOutput(Output):
    new_choice: int = 3


class LaterJob(Job):
    output: LaterOutput
    new_list: tuple[int, ...] = ()


def test_a_field_that_a_later_version_adds_is_hashed_only_where_it_is_not_at_its_default():
    def later(**changes: Any) -> dict[str, Any]:
        output = {**SHORT_JOB["output"], **changes.pop("output", {})}
        return run_identity(LaterJob(**{**SHORT_JOB, "output": output, **changes}), **FOUND)

    assert fingerprint(later()) == RECORDED_SHORT_FINGERPRINT
    written_out = later(new_list=[], output={"new_choice": 3})
    assert fingerprint(written_out) == RECORDED_SHORT_FINGERPRINT
    (line,) = differences(identity(SHORT_JOB), later(output={"new_choice": 4}))
    assert line.startswith("  output.new_choice: ")
    (line,) = differences(identity(SHORT_JOB), later(new_list=[1]))
    assert line.startswith("  new_list: ")


def test_differences_are_bounded_in_number_and_length():
    other = {f"x{number}": "y" * 10_000 for number in range(1000)}
    lines = differences(identity(), identity() | other)
    assert lines[-1] == "  and 980 more fields"
    assert sum(map(len, lines)) < 6000


INPUTS = [make_input("content", "a"), make_input("style", "x")]
RECORDED_ID, RECORDED_SEED = "728b8efcd561a5b42c4787cfb80554c2", 3720910121547341994
WHAT: dict[str, Any] = {
    "task": "style-transfer",
    "params": {"settings": {"s": 2}, "width": 64},
    "model_revision": "r",
    "seed": 0,
    "variant": 0,
}


@pytest.mark.parametrize(
    "change",
    [
        {"task": "appearance-transfer"},
        {"params": {"settings": {"s": 3}, "width": 64}},
        {"params": {"settings": {"s": 2}, "width": 65}},
        {"model_revision": "q"},
        {"seed": 1},
        {"variant": 1},
        {"prompt": "a cat"},
        {"negative_prompt": "a cat"},
    ],
)
def test_an_item_is_named_by_everything_that_changes_its_pixels(change):
    assert item_id(INPUTS, **WHAT | change) != item_id(INPUTS, **WHAT)


def test_an_item_is_named_by_the_bytes_and_roles_of_its_inputs():
    content, style = INPUTS
    swapped = [make_input("content", "x"), make_input("style", "a")]
    other_bytes = [content, make_input("style", "x", sha256="0" * 64)]
    names = {item_id(inputs, **WHAT) for inputs in (INPUTS, [style, content], swapped, other_bytes)}
    assert len(names) == 4


def test_where_an_input_lies_does_not_name_an_item_once_its_bytes_are_known():
    moved = [make_input("content", "a", uri="s3://b/other.png", license="CC0"), INPUTS[1]]
    assert item_id(moved, **WHAT) == item_id(INPUTS, **WHAT)


def test_inputs_that_could_not_be_read_are_told_apart_by_their_place():
    broken = [[make_input("style", "x", sha256=None, uri=f"/{n}.png")] for n in "ab"]
    assert item_id(broken[0], **WHAT) != item_id(broken[1], **WHAT)


def test_an_item_id_and_its_seed_never_change_between_versions():
    """Recorded: whoever changes how ids are made breaks every run folder that exists."""
    assert item_id(INPUTS, **WHAT) == RECORDED_ID
    assert seed_of(RECORDED_ID) == RECORDED_SEED


def test_every_retry_has_a_seed_of_its_own_and_the_first_try_that_of_the_plan():
    seeds = [seed_of(RECORDED_ID, retry) for retry in range(100)]
    assert seeds[0] == RECORDED_SEED
    assert len(set(seeds)) == 100


@given(st.sets(st.integers(0, 10_000), min_size=2, max_size=50))
def test_seeds_are_64_bits_and_differ_between_items(numbers):
    seeds = {seed_of(f"{number:032x}") for number in numbers}
    assert len(seeds) == len(numbers)
    assert all(0 <= seed < 2**64 for seed in seeds)


key_sets = st.sets(st.text("abcxyz", min_size=1, max_size=3), min_size=1, max_size=6)


@given(key_sets, key_sets, st.data())
def test_the_order_of_the_listing_leaves_ids_seeds_keys_and_shards(contents, styles, data):
    sources = {
        "content": make_inputs("content", sorted(contents)),
        "style": make_inputs("style", sorted(styles)),
    }
    shuffled = {role: data.draw(st.permutations(inputs)) for role, inputs in sources.items()}

    def planned(of: Any) -> list[Any]:
        items = [make_item(inputs) for inputs in pair(of, Pairing())]
        return cut_into_shards(items, shard_seconds=3.0, shard_items=1000)

    assert planned(shuffled) == planned(sources)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text(), json_values, max_size=4), st.randoms())
def test_canonical_json_is_json_and_does_not_depend_on_the_order_of_keys(value, random):
    assert json.loads(canonical_json(value)) == value
    names = list(value)
    random.shuffle(names)
    assert digest({name: value[name] for name in names}) == digest(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_say_is_not_hashed(value):
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"x": value})
