"""What Prefect makes of our flows: forms that take every job and no nonsense, and pickled flows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools import ValidationError, validate

from flows import job as flows
from flows.job import collect_garbage, extend_job, run_job, work_on_run
from manifests.job import Job, load_job

EXAMPLES = sorted((Path(__file__).parents[2] / "manifests" / "examples").glob("*.yaml"))

FLOWS = (run_job, extend_job, work_on_run, collect_garbage)

JOB: dict[str, Any] = {
    "task": "style-transfer",
    "inputs": {"content": "photos/", "style": ["paintings/", "s3://bucket/more"]},
    "output": {"uri": "runs/mine", "size": 256, "codec": "jpeg"},
    "pairing": "zip",
    "backbone": "embedded",
    "limits": {"max_failed": "2%"},
    "sweep": {"content_weight": [0.1, 0.2]},
    "external": {"StyTR2": "results/stytr2"},
}
"""A job with every short form that a job file may use."""


def refusal(job: dict[str, Any]) -> str:
    """What Prefect's server says of a job; empty where it takes it."""
    try:
        validate({"job": job}, run_job.parameters.model_dump(), raise_on_error=True)
    except ValidationError as error:
        return str(error)
    return ""


def changed(key: str, value: Any) -> dict[str, Any]:
    """The job with another value of a dotted key."""
    job = json.loads(json.dumps(JOB))
    *parents, last = key.split(".")
    place = job
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    return job


def test_the_server_takes_every_short_form_of_a_job_file():
    assert refusal(JOB) == ""
    Job.model_validate(JOB)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_server_takes_a_job_as_written_and_as_loaded(path: Path):
    written, job = yaml.safe_load(path.read_text()), load_job(path)
    assert refusal(written) == ""
    whole = job.model_dump(mode="json")
    assert refusal(whole) == ""
    assert Job.model_validate(whole) == job


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("outputs", 1, "job"),
        ("output.width", 64, "job.output"),
        ("output.size", 5, "job.output.size"),
        ("output.size", [64], "job.output.size"),
        ("output.codec", "gif", "job.output.codec"),
        ("task", "style-transfr", "job.task"),
        ("inputs.content", 5, "job.inputs.content"),
        ("pairing", "zipp", "job.pairing"),
        ("backbone", {"title": "sd15"}, "job.backbone"),
        ("limits.max_failed", -1, "job.limits.max_failed"),
        ("limits.max_failed", "some", "job.limits.max_failed"),
        ("compute.price_per_hour", -1, "job.compute.price_per_hour"),
        ("compute.workers", 257, "job.compute.workers"),
        ("compute.batch_size", 0, "job.compute.batch_size"),
        ("quality", {"edge_f": {"max": 1}}, "job.quality"),
    ],
)
def test_the_server_refuses_nonsense_and_names_its_place(key: str, value: Any, field: str):
    assert refusal(changed(key, value)).startswith(f"Validation failed for field '{field}'.")


def test_a_form_explains_its_fields_in_a_sentence_each():
    parameters = run_job.parameters.model_dump()
    definitions = parameters["definitions"]
    told = [one.get("description", "") for one in parameters["properties"].values()]
    for name in ("Job", "Output", "Limits", "Compute", "Budget"):
        told.append(definitions[name]["description"])
        fields = definitions[name]["properties"]
        told += [fields[key].get("description", "") for key in fields if key in EXPLAINED]
    assert all(told), "each is explained"
    assert not [text for text in told if "Attributes:" in text or len(text) > 200]


EXPLAINED = ("name", "task", "settings", "uri", "size", "max_items", "batch_size", "deadline")


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_a_flow_can_be_pickled_however_it_was_found(flow: Any):
    entrypoint = f"{flows.__file__}:{flow.fn.__name__}"
    for found in (flow, flow.with_options(name="mine"), load_flow_from_entrypoint(entrypoint)):
        back = cloudpickle.loads(cloudpickle.dumps(found))
        assert back.parameters == flow.parameters


def test_annotations_of_pickled_flows_are_known_where_they_are_run():
    """A flow that is pickled by value finds nothing of its module but what its body names."""
    for flow in FLOWS:
        assert not [one for one in flow.fn.__annotations__.values() if isinstance(one, str)]
