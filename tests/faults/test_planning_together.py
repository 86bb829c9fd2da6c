"""Whoever plans a folder, and whenever it dies: there is no run, or a whole one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from infra.store import open_store
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import open_prepared
from tests.audit import audit
from tests.faults.conftest import SMALL
from tests.faults.workers import (
    DEAD,
    fork_server,
    plan_and_die,
    plan_together,
    run_to_end,
    start,
    wait_for,
)
from tests.tasks.runs import files_of, finish, make_job, prepare

pytestmark = pytest.mark.slow

WRITES = ("plan/", "sources/", "run.json")


@pytest.fixture(scope="module")
def fewer(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inputs as they were before the last one was added."""
    folder = tmp_path_factory.mktemp("fewer")
    shutil.copytree(inputs / "content", folder / "content")
    shutil.copytree(inputs / "style", folder / "style")
    (folder / "content" / "c.png").unlink()
    return folder


def job_at(uri: Path, **changes: Any) -> Any:
    return make_job(output__uri=str(uri), **(SMALL | changes))


def unnamed(run_uri: str) -> list[str]:
    """Plans and tables of sources that no run names."""
    store, record = open_store(run_uri), prepared_names(run_uri)
    return [
        found.key
        for found in store.list()
        if found.key.startswith(("plan/", "sources/")) and found.key not in record
    ]


def prepared_names(run_uri: str) -> set[str]:
    from tasks.runs.run_folder import open_run

    _, run = open_run(run_uri)
    return {run.plan_name, str(run.sources_name)}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("when", ["before", "within", "after"])
def test_a_planning_that_is_killed_at_any_write_leaves_no_run_or_a_whole_one(
    inputs, fewer, undisturbed, tmp_path, when, name
):
    job = job_at(tmp_path / "run")
    assert run_to_end(plan_and_die, str(fewer), job.model_dump(), when, name) == DEAD
    bound = (when, name) == ("after", "run.json")
    assert (open_prepared(resolve_job(job, str(fewer))) is not None) == bound
    if bound:
        shutil.copy(inputs / "content" / "c.png", fewer / "content")  # night two
        assert not prepare(fewer, output__uri=job.output.uri, **SMALL).is_new
        (fewer / "content" / "c.png").unlink()
        return
    run = prepare(inputs, output__uri=job.output.uri, **SMALL)
    assert run.is_new
    assert len(unnamed(run.uri)) == WRITES.index(name) + (when == "after")
    assert finish(run).content_digest == undisturbed.content_digest
    audit(run.uri)


def test_of_plannings_at_the_same_time_one_binds_and_all_hold_its_plan(inputs, fewer, tmp_path):
    uri = tmp_path / "run"
    everything = {"limits": {}}
    job = job_at(uri, **everything).model_dump()
    context = fork_server()
    barrier, outcomes = context.Barrier(4), context.Queue()
    bases = [inputs, fewer, inputs, fewer]
    workers = [start(plan_together, str(base), job, barrier, outcomes) for base in bases]
    found = [outcomes.get(timeout=120) for _ in workers]
    assert [wait_for(worker) for worker in workers] == [0] * len(workers)
    assert any(is_new for is_new, _, _ in found), "two records that are equal are one"
    assert len({digest for _, digest, _ in found}) == 1
    (keys,) = {tuple(keys) for _, _, keys in found}
    assert len(keys) in (4, 6)
    assert len(unnamed(str(uri))) == 2, "the loser's plan and sources"
    plans = {key for key in files_of(uri) if key.startswith("plan/")}
    assert len(plans) == 2
    base = inputs if len(keys) == 6 else fewer
    assert finish(prepare(base, output__uri=str(uri), **(SMALL | everything))).complete
    audit(str(uri))
