"""Small real runs for tests: the tiny backbone, two steps, 64 pixels."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from infra.store import Store, open_store
from manifests.commits import Index
from manifests.job import Compute, Job
from tasks.inputs.resolving import resolve_job
from tasks.plans.planning import PreparedRun, open_prepared, plan_items, store_plan
from tasks.results.publishing import publish
from tasks.work.child import InThisProcess
from tasks.work.events import Committed, WorkEvent
from tasks.work.worker import Worked, work
from tests.conftest import TINY_BACKBONE


def make_job(**changes: Any) -> Job:
    """A job over the `pictures` fixture: 3 contents x 2 styles, two items to a shard.

    A change replaces a key; `output__codec` reaches inside `output`.
    """
    content: dict[str, Any] = {
        "task": "style-transfer",
        "inputs": {"content": "content", "style": "style"},
        "output": {"uri": "run", "size": 64},
        "settings": {"num_inference_steps": 2},
        "backbone": str(TINY_BACKBONE),
        "compute": {"shard_items": 2, "device": "cpu"},
    }
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = content
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return Job.model_validate(content)


def prepare(base: Path | str, **changes: Any) -> PreparedRun:
    """The planned run of such a job; `base` is the folder of its relative paths."""
    resolved = resolve_job(make_job(**changes), str(base))
    return open_prepared(resolved) or store_plan(resolved, plan_items(resolved))


@cache
def renderer() -> InThisProcess:
    """The one renderer of this process, so that the model is loaded once."""
    return InThisProcess()


def work_here(
    run_uri: str,
    *,
    max_shards: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    tell: Callable[[WorkEvent], None] = lambda event: None,
    **compute: Any,
) -> Worked:
    """Works on a run in this process, as one worker does, on the CPU unless `compute` says more."""
    return work(
        run_uri,
        device="cpu",
        compute=Compute(**compute),
        renderer=renderer(),
        max_shards=max_shards,
        should_stop=should_stop,
        tell=tell,
    )


def render_pending(run: PreparedRun, **compute: Any) -> list[Committed]:
    """Renders what is not committed, as the job or `compute` says; what was committed."""
    told: list[WorkEvent] = []
    work_here(run.uri, tell=told.append, **{**run.run.job.get("compute", {}), **compute})
    return [event for event in told if isinstance(event, Committed)]


def finish(run: PreparedRun) -> Index:
    """Renders what is not committed, and publishes."""
    render_pending(run)
    return publish(run.uri)


def files_of(store: Store | Path | str) -> dict[str, bytes]:
    """Every file of a run folder by name."""
    if isinstance(store, Path | str):
        store = open_store(str(store))
    return {one.key: store.get(one.key) for one in store.list()}


def plan_path(run_uri: Path | str) -> Path:
    """The plan that `run.json` of a local run folder names."""
    folder = Path(run_uri)
    return folder / json.loads((folder / "run.json").read_bytes())["plan_name"]


def download(store_uri: str, folder: Path) -> Path:
    """A copy of a stored run folder on disk, for the audit."""
    for name, data in files_of(store_uri).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
