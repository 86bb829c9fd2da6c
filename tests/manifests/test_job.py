from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.errors import JobError
from manifests.job import Job, Limits, job_from_dict, load_job

LINES = """\
task: style-transfer
inputs:
  content: photos/
  style: paintings/
output:
  uri: out
"""


@pytest.fixture
def load(tmp_path: Path):
    """Loads a job file of this text; the folder is taken out of messages."""

    def load(text: str | bytes = LINES, **overrides: str) -> Job:
        path = tmp_path / "job.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        dotted = {name.replace("__", "."): value for name, value in overrides.items()}
        try:
            return load_job(path, dotted)
        except JobError as error:
            raise JobError(str(error).replace(f"{tmp_path}/", "")) from None

    return load


def refusal(load: Any, *args: Any, **overrides: str) -> str:
    with pytest.raises(JobError) as raised:
        load(*args, **overrides)
    return str(raised.value)


def test_the_shortest_job_file_is_a_job_with_the_defaults(load):
    job = load()
    assert job.inputs.content.uri == ("photos/",)
    assert (job.pairing.mode, job.backbone.name, job.output.codec) == ("product", "embedded", "png")
    assert job.limits.max_failed == 0


def test_a_recorded_job_is_the_job_again(load):
    job = load(LINES + "pairing: zip\nseed: 3\nlimits: {max_failed: 2%}\n", output__size="128")
    assert job_from_dict(job.model_dump(mode="json", exclude_unset=True)) == job
    assert job_from_dict(job.model_dump(mode="json")) == job


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LINES + "sed: 3\n", "job.yaml, line 7: unknown key 'sed'; did you mean 'seed'?"),
        (
            LINES + "limits:\n  max_item: 3\n",
            "job.yaml, line 8: unknown key 'max_item' in limits; did you mean 'max_items'?",
        ),
        (
            LINES.replace("photos/", "{uri: photos, licence: CC0}"),
            "job.yaml, line 3: unknown key 'licence' in inputs.content; did you mean 'license'?",
        ),
        (
            LINES.replace("output:\n", "output:\n  zzz: 1\n"),
            "job.yaml, line 6: unknown key 'zzz' in output; "
            "known: codec, quality, resize_mode, size, uri",
        ),
        (LINES + "1: x\n", "job.yaml, line 7: 1: keys should be strings; got 1"),
    ],
)
def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one(load, text, sentence):
    assert refusal(load, text) == sentence


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (LINES + "a: [\n", "job.yaml, line 8: not valid YAML: "),
        (LINES + "a: b: c\n", "job.yaml, line 7: not valid YAML: "),
        (LINES + "---\ntask: x\n", "job.yaml, line 7: not valid YAML: "),
        (LINES + "a: \0\n", "job.yaml, line 7: not valid YAML: the character U+0000 may not"),
        (LINES + "a: \t- b\n", "job.yaml, line 7: not valid YAML: "),
        (LINES + "seed: !!int three\n", "job.yaml, line 7: 'three' is no int: drop the tag"),
        (LINES + "? [a, b]\n: c\n", "job.yaml, line 7: a key is a plain word"),
        ("a: &a {b: *a}\n", "job.yaml, line 1: an alias stands for what it is itself a part of"),
        ("[" * 5000, "job.yaml, line 1: it nests deeper than 100 levels"),
        (LINES + "- " * 500 + "x\n", "job.yaml, line 7: not valid YAML: "),
        ("", "job.yaml: a job file is a mapping"),
        ("- task: x\n", "job.yaml: a job file is a mapping"),
        (b"task: \xff\xfe", "job file 'job.yaml' is not UTF-8 text, in line 1: save it as UTF-8"),
        (LINES.encode("utf-16"), "job file 'job.yaml' is not UTF-8 text, in line 1"),
        (LINES + "a: " + "x" * 2**20, "job file 'job.yaml' is larger than 1 MiB: list many"),
    ],
)
def test_a_file_that_is_not_a_yaml_mapping_is_refused_in_one_sentence(load, text, start):
    message = refusal(load, text)
    assert message.startswith(start)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (LINES + "inputs: {}\n", "job.yaml, line 7: the key 'inputs' stands here twice"),
        (LINES + "  size: 64\n  size: 65\n", "job.yaml, line 8: the key 'size' stands here twice"),
    ],
)
def test_a_repeated_key_is_refused_and_not_overwritten(load, text, sentence):
    assert refusal(load, text) == sentence


def test_a_missing_key_is_named(load):
    assert refusal(load, LINES.replace("uri: out", "size: 64")) == (
        "job.yaml, line 5: the key 'output.uri' is missing"
    )


def test_a_job_file_that_is_not_there_says_so(tmp_path):
    with pytest.raises(JobError, match=r"none.yaml' cannot be read: No such file"):
        load_job(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("codec", "gif", "output.codec: input should be 'png', 'webp' or 'jpg'; got 'gif'"),
        ("quality", "5", "output: png is lossless and takes no quality; drop it or choose jpg"),
        ("size", "[64]", "output.size: give one number of pixels, or [width, height]; got [64]"),
        ("size", "true", "output.size: give one number of pixels, or [width, height]; got True"),
        ("size", "32", "output.size.0: input should be greater than or equal to 64; got 32"),
        ("resize_mode", "fit", "'center_crop', 'keep_ratio' or 'no'; got 'fit'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_value_and_the_line(load, key, value, sentence):
    message = refusal(load, LINES + f"  {key}: {value}\n")
    assert sentence in message
    assert all(line.startswith("job.yaml, line ") for line in message.splitlines())


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("limits__max_failed", "3.5", "give a number of items such as 5, or a share such as '2%'"),
        ("limits__max_failed", "2 %", "give a number of items such as 5, or a share such as '2%'"),
        (
            *("limits__stop_when_failing", "5"),
            "give a share of the items such as '20%', or null to go on whatever fails; got 5",
        ),
        ("compute__hang_seconds", "0", "compute.hang_seconds: input should be greater than 0"),
        ("compute__workers", "0", "compute.workers: input should be greater than 0; got 0"),
        ("backbone__deterministic", "often", "backbone.deterministic: input should be a valid bo"),
        ("variants", "0", "variants: input should be greater than 0; got 0"),
        ("backbone", "7", "backbone: give a mapping of name, revision, config, controlnet"),
        ("inputs__content", "5", "inputs.content: give a mapping of uri, license, attribution"),
        ("pairing", "shuffle", "pairing.mode: input should be 'zip', 'product' or 'random'"),
        ("compute__compile", "yes", "compute.compile: "),
        ("compute__batch_size", "many", "compute.batch_size: give auto, or a number of items in 1"),
        ("inputs__style", "''", "inputs.style.uri.0: string should have at least 1 character"),
    ],
)
def test_a_wrong_override_is_refused_as_an_override_not_as_a_line_of_the_file(
    load, key, value, sentence
):
    message = refusal(load, **{key: value})
    assert sentence in message
    prefix = f"--set {key.replace('__', '.')}={value}: "
    assert all(line.startswith(prefix) for line in message.splitlines())


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("task__x", "1", "--set task.x: 'task' holds no keys"),
        ("output__uri__x", "1", "--set output.uri.x: 'uri' holds no keys"),
        (
            "seed",
            "{",
            "--set seed={: not valid YAML: expected the node content, but found '<stream end>'",
        ),
        (
            "seed",
            "2024-13-45",
            "--set seed=2024-13-45: seed: give a number, not a word; got '2024-13-45'",
        ),
        ("sed", "1", "--set sed=1: unknown key 'sed'; did you mean 'seed'?"),
    ],
)
def test_an_override_that_has_no_place_is_refused_in_one_sentence(load, key, value, sentence):
    assert refusal(load, **{key: value}) == sentence


@pytest.mark.parametrize(
    ("text", "key", "value", "check"),
    [
        (LINES + "pairing: product\n", "pairing__mode", "zip", lambda job: job.pairing.mode),
        (LINES + "backbone: sd15\n", "backbone__name", "zip", lambda job: job.backbone.name),
        (LINES, "inputs__content__uri", "zip", lambda job: job.inputs.content.uri[0]),
        (LINES, "name", "zip", lambda job: job.name),
        (LINES + "settings:\n", "settings__layers", "zip", lambda job: job.settings["layers"]),
        (LINES, "settings__layers", "zip", lambda job: job.settings["layers"]),
    ],
)
def test_an_override_replaces_one_key_and_a_shorthand_grows_for_it(load, text, key, value, check):
    assert check(load(text, **{key: value})) == "zip"


def test_growing_a_shorthand_keeps_what_it_said(load):
    text = LINES.replace("photos/", "[a/, b/]") + "backbone: sd15\npairing: random\n"
    job = load(text, inputs__content__license="CC0", backbone__dtype="float32", pairing__seed="4")
    assert (job.inputs.content.uri, job.inputs.content.license) == (("a/", "b/"), "CC0")
    assert (job.backbone.name, job.backbone.dtype) == ("sd15", "float32")
    assert (job.pairing.mode, job.pairing.seed) == ("random", 4)


def test_one_size_is_a_square_and_no_size_is_the_presets(load):
    assert load(output__size="96").output.size == (96, 96)
    assert load(output__size="[96, 64]").output.size == (96, 64)
    assert load(output__size="null").output.size is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("task: a\noutput: {uri: o}\ninputs: {}\n", "name at least one source"),
        (
            "task: a\noutput: {uri: o}\ninputs: {table: t.csv, style: s/}\n",
            "give either table or sources by role, not both",
        ),
        (
            "task: a\noutput: {uri: o}\ninputs: {table: t.csv, prompt: a cat}\n",
            "a table has its prompts in its own columns; drop prompt and negative_prompt",
        ),
        (
            "task: a\noutput: {uri: o}\ninputs: {style: s/, prompt: []}\n",
            "prompt is an empty list; give a prompt, or drop the key",
        ),
        (
            "task: a\noutput: {uri: o}\ninputs: {table: t.csv}\npairing: zip\n",
            "a table's rows are its pairs; drop pairing",
        ),
    ],
)
def test_inputs_come_in_one_way(load, text, sentence):
    assert sentence in refusal(load, text)


@pytest.mark.parametrize(
    ("allowed", "failed", "planned", "expected"),
    [
        (0, 0, 10, True),
        (0, 1, 10, False),
        (2, 2, 10, True),
        (2, 3, 10, False),
        ("10%", 1, 10, True),
        ("10%", 2, 10, False),
        ("0.5%", 1, 200, True),
        ("0.5%", 2, 200, False),
        ("0%", 0, 1, True),
    ],
)
def test_a_run_succeeds_with_as_many_failed_items_as_it_allows(allowed, failed, planned, expected):
    assert Limits(max_failed=allowed).allows(failed, planned) is expected


@pytest.mark.parametrize(
    ("share", "failing", "finished", "expected"),
    [
        ("20%", 10, 50, False),
        ("20%", 11, 50, True),
        ("0%", 1, 1, True),
        ("0%", 0, 50, False),
        (None, 50, 50, False),
    ],
)
def test_a_run_stops_where_a_larger_share_of_the_last_items_fails(
    share, failing, finished, expected
):
    assert Limits(stop_when_failing=share).stops(failing, finished) is expected


def test_a_prompt_is_one_or_several(load):
    text = LINES.replace("content: photos/", "prompt: a cat")
    assert load(text).inputs.prompt == ("a cat",)
    assert load(text, inputs__prompt="[a, b.txt]").inputs.prompt == ("a", "b.txt")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "quality: {chroma_gian: {max: 1}}\n",
            "job.yaml, line 7: unknown key 'chroma_gian' in quality; did you mean 'chroma_gain'?",
        ),
        (
            "quality:\n  style_loss: {max: 1, min: 2}\n",
            "job.yaml, line 8: quality.style_loss: min 2 is above max 1",
        ),
        (
            "quality: {ssim_luma: {}}\n",
            "quality.ssim_luma: give min, max or both, such as {max: 1.3}",
        ),
        ("quality: {ssim_luma: {min: .nan}}\n", "input should be a finite number; got nan"),
        ("quality: {ssim_luma: 3}\n", "quality.ssim_luma: give a mapping of min, max; got 3"),
        ("quality: {retries: -1}\n", "quality.retries: input should be greater than or equal to"),
    ],
)
def test_a_bound_that_means_nothing_is_refused_with_its_place(load, text, sentence):
    assert sentence in refusal(load, LINES + text)


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("3", "give {setting: [values]}, or a list of {setting: value}"),
        ("{}", "name at least one setting with a list of values"),
        ("[]", "name at least one setting with a list of values"),
        ("{learning_rate: 0.1}", "learning_rate needs a list of values, such as [0.1, 0.2]"),
        ("{learning_rate: []}", "learning_rate needs a list of values, such as [0.1, 0.2]"),
        ("[3]", "an entry is a mapping such as {learning_rate: 0.02}; got 3"),
        ("[{task: 3}]", "task is a name; got 3"),
        ("[{label: ''}]", "label is a name; got ''"),
        ("{learning_rate: [0.1, 0.1]}", "would have the same keys: give each a label"),
        ("[{label: a b}, {label: a-b}]", "the entries 'a b' and 'a-b' would have the same keys"),
    ],
)
def test_a_sweep_that_means_nothing_is_refused_with_its_place(load, sweep, sentence):
    message = refusal(load, LINES + f"sweep: {sweep}\n")
    assert message.startswith("job.yaml, line 7: sweep: ")
    assert sentence in message


def test_a_grid_has_every_combination_in_the_order_in_which_it_is_written(load):
    text = LINES + "sweep: {learning_rate: [0.1, 0.02], adain: [true, false]}\n"
    entries = load(text).sweep_entries
    assert [entry.label for entry in entries] == [
        "learning_rate 0.1, adain true",
        "learning_rate 0.1, adain false",
        "learning_rate 0.02, adain true",
        "learning_rate 0.02, adain false",
    ]
    assert entries[2].settings == {"learning_rate": 0.02, "adain": True}
    assert entries[2].suffix == "learning_rate-0-02-adain-true"


def test_entries_of_a_list_may_have_a_task_and_a_label(load):
    text = "sweep: [{task: texture-sample, layers: [3, 9]}, {label: Mine, learning_rate: 1}]\n"
    first, second = load(LINES + text).sweep_entries
    assert (first.label, first.task) == ("texture-sample, layers [3, 9]", "texture-sample")
    assert (second.label, second.suffix, second.task) == ("Mine", "mine", None)


def test_a_job_with_a_sweep_and_bounds_is_recorded_as_it_is(load):
    text = LINES + "sweep: [{label: a}, {label: b}]\nquality: {retries: 2, swd_patch: {max: 1}}\n"
    job = load(text)
    assert job_from_dict(job.model_dump(mode="json", exclude_unset=True)) == job


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 2**64),
        ("seed", -(2**63) - 1),
        ("variants", 10**9),
        ("compute.shard_seconds", ".inf"),
        ("compute.seconds_per_item", ".nan"),
        ("compute.io_threads", 10**9),
        ("compute.batch_size", 10**9),
        ("limits.max_pixels", 10**12),
        ("name", '"\\ud800"'),
        ("name", '"\\e[2J"'),
        ("name", "x" * 201),
        ("output.uri", '"a\\0b"'),
        ("inputs.content", '"a\\0b"'),
        ("backbone.name", '"\\udfff"'),
        ("inputs.prompt", "x" * 10_001),
        ("sweep", "{" + ", ".join(f"s{n}: [1, 2]" for n in range(40)) + "}"),
        ("quality", "{ssim_luma: {max: .inf}}"),
    ],
)
def test_what_no_run_could_hold_is_refused_with_its_key(load, key, value):
    message = refusal(load, **{key.replace(".", "__"): f"{value}"})
    assert key in message or "does not fit 64 bits" in message
    assert len(message) < 2000
    assert message.isprintable()


@pytest.mark.parametrize(
    ("written", "seed"),
    [("1e5", 100_000), ("'7'", 7), ("0x1F", 31), ("0o17", 15), ("-3", -3)],
)
def test_numbers_are_those_of_yaml_1_2(load, written, seed):
    assert load(seed=written).seed == seed
    assert load(LINES + f"seed: {written}\n").seed == seed


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("0512", "could be an octal or a decimal number: write 512, or '0512' in quotes"),
        ("1_000", "seed: give a number, not a word: write 1000; got '1_000'"),
        ("12:30:45", "seed: give a number, not a word; got '12:30:45'"),
        ("true", "seed: give a number, not true or false"),
    ],
)
def test_a_number_that_could_mean_two_things_is_refused(load, written, sentence):
    assert sentence in refusal(load, seed=written)


@pytest.mark.parametrize(
    ("codec", "expected"), [("jpeg", "jpg"), ("JPG", "jpg"), ("PNG", "png"), (".webp", "webp")]
)
def test_a_codec_is_understood_however_people_write_it(load, codec, expected):
    assert load(output__codec=codec).output.codec == expected


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("steps: 50", "unknown key 'steps'; did you mean 'settings.num_inference_steps'?"),
        ("model: sd15", "unknown key 'model'; did you mean 'backbone'?"),
        ("batch: 4", "unknown key 'batch'; did you mean 'compute.batch_size'?"),
        ("lambda: 1", "unknown key 'lambda'; did you mean 'settings.content_weight'?"),
        ("compute: {batch: 4}", "unknown key 'batch' in compute; did you mean 'batch_size'?"),
        ("size: 64", "unknown key 'size'; did you mean 'output.size'?"),
    ],
)
def test_a_key_of_another_program_is_refused_with_ours(load, line, hint):
    assert hint in refusal(load, LINES + line + "\n")


def test_many_wrong_values_are_told_in_a_bounded_message(load):
    wrong = "".join(f"key{n}: {'x' * 1000}\n" for n in range(500))
    message = refusal(load, LINES + wrong)
    assert len(message) <= 2000
    assert message.splitlines()[-1] == "job.yaml: and 494 more"


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
keys = st.sampled_from([*Job.model_fields, "uri", "mode", "size", "x"])


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(keys, yaml_values | st.dictionaries(keys, yaml_values), max_size=4))
def test_whatever_a_mapping_holds_it_is_a_job_or_a_refusal_with_its_place(tmp_path, content):
    path = tmp_path / "job.yaml"
    whole = yaml.safe_load(LINES) | content
    path.write_text(yaml.safe_dump(whole, allow_unicode=True), encoding="utf-8")
    message = ""
    try:
        assert isinstance(load_job(path), Job)
    except JobError as error:
        message = str(error)
    *lines, last = message.splitlines() or [str(path)]
    assert all(line.startswith(str(path)) for line in lines)
    assert last.startswith(str(path)) or "more letters)" in last  # a long message is cut off


@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(st.text(alphabet="ab:[]{}-?!&*#|>%@`\"', \n\t01.\0é", max_size=30))
def test_whatever_a_file_holds_it_is_refused_in_words(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(JobError, match=r"job.yaml"):
        load_job(path)


CREDENTIALS = ["s3://AKIA:hunt/er2@bucket/x", "https://h/x?X-Amz-Signature=hunter2&v=1"]


@pytest.mark.parametrize("uri", CREDENTIALS)
def test_credentials_in_a_job_are_refused_with_their_place_and_not_repeated(load, uri):
    named = LINES.replace("content: photos/", f"content: {{uri: a, attribution: '{uri}'}}")
    for text, place in (
        (LINES.replace("photos/", uri), "job.yaml, line 3: inputs.content: it holds"),
        (named, "job.yaml, line 3: inputs.content.attribution: it holds"),
        (LINES.replace("out\n", f"{uri}\n"), "job.yaml, line 6: output.uri: it holds"),
    ):
        told = refusal(load, text)
        assert told.startswith(f"{place} a URI with"), told
        assert "give credentials in the environment" in told
        assert "hunt" not in told
    told = refusal(load, output__uri=uri)
    assert told.startswith("--set output.uri=***: output.uri: it holds a URI with")
    assert "hunt" not in told


def test_a_secret_inside_a_value_that_is_set_is_not_repeated(load):
    for value in ("{uri: out, hfToken: hunter2}", '{"uri": "out", "api-key" : "hunter2"}'):
        told = refusal(load, LINES, output=value)
        assert told.startswith("--set output=***: ")
        assert "hunter" not in told


@pytest.mark.parametrize("key", ["compute__apiKey", "hfToken", "inputs__password"])
@pytest.mark.parametrize("value", ["hunter2", "[hunter2", "{hunter2: 1}"])
def test_the_value_of_a_key_that_is_named_like_a_secret_is_not_repeated(load, key, value):
    assert "hunter2" not in refusal(load, **{key: value})


def test_a_job_from_prefect_s_parameters_carries_no_credentials_either():
    content = yaml.safe_load(LINES.replace("photos/", CREDENTIALS[0]))
    with pytest.raises(ValueError, match=r"inputs\.content: it holds a URI with") as refused:
        Job.model_validate(content)
    assert "hunt" not in str(refused.value)


def test_a_run_folder_of_an_earlier_version_is_read_whatever_its_job_says():
    content = yaml.safe_load(LINES)
    content["inputs"]["content"] = {"uri": "photos/", "attribution": CREDENTIALS[1]}
    assert job_from_dict(content).inputs.content.attribution == CREDENTIALS[1]
