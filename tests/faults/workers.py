"""What a test does to a worker: processes of their own, which die or wait at a chosen write.

A server process imports everything once and forks each worker, so that a worker costs no start.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.forkserver import ensure_running
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from infra.store import open_store

DEAD = 73
"""The exit status of a worker that died where it was told to."""

When = Literal["before", "after", "within"]


def fork_server() -> ForkServerContext:
    """A context whose children begin with torch and all of ours imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.faults.workers", "tests.tasks.runs", "tests.conftest"])
    return context


def start_fork_server() -> None:
    """Starts the server where it does not run, so that its socket lies in this temporary folder."""
    fork_server()
    ensure_running()


def run_to_end(target: Callable[..., None], *args: Any) -> int | None:
    """Runs a worker; its exit status."""
    worker = start(target, *args)
    return wait_for(worker)


def start(target: Callable[..., None], *args: Any) -> BaseProcess:
    worker = fork_server().Process(target=target, args=args)
    worker.start()
    return worker


def wait_for(worker: BaseProcess) -> int | None:
    worker.join(120)
    assert worker.exitcode is not None, "the worker hangs"
    return worker.exitcode


def with_environment(environment: dict[str, str], target: Callable[..., None], *args: Any) -> None:
    """What a worker does that began with these variables."""
    import tempfile

    os.environ.update(environment)
    tempfile.tempdir = None
    target(*args)


def work_and_die(run_uri: str, when: When, name: str) -> None:
    """Works on a run, and dies before, within or after the first write of that name."""
    from tests.tasks.runs import work_here

    die_at(run_uri, when, name)
    work_here(run_uri)


def plan_and_die(base: str, job: dict[str, Any], when: When, name: str) -> None:
    """Plans a job, and dies at the write of `name`."""
    from manifests.job import job_from_dict
    from tasks.inputs.resolving import resolve_job
    from tasks.plans.planning import plan_items, store_plan

    resolved = resolve_job(job_from_dict(job), base)
    die_at(resolved.output_uri, when, name)
    store_plan(resolved, plan_items(resolved))


def extend_and_die(base: str, job: dict[str, Any], when: When, name: str) -> None:
    """Plans what is new in the sources of a run, and dies at the write of `name`."""
    from manifests.job import job_from_dict
    from tasks.inputs.resolving import resolve_job
    from tasks.plans.extending import extend

    resolved = resolve_job(job_from_dict(job), base)
    die_at(resolved.output_uri, when, name)
    extend(resolved)


def plan_together(base: str, job: dict[str, Any], barrier: Any, outcomes: Any) -> None:
    """Plans a job, and stores the plan at the same moment as the others at the barrier."""
    from manifests.job import job_from_dict
    from tasks.inputs.resolving import resolve_job
    from tasks.plans.planning import plan_items, store_plan

    resolved = resolve_job(job_from_dict(job), base)
    plan = plan_items(resolved)
    barrier.wait(60)
    prepared = store_plan(resolved, plan)
    keys = sorted(item.key for item in prepared.plan.iter_items())
    outcomes.put((prepared.is_new, prepared.run.plan_digest, keys))


def publish_and_die(run_uri: str, when: When, name: str) -> None:
    """Publishes a run, and dies at the write of `name`."""
    from tasks.results.publishing import publish

    die_at(run_uri, when, name)
    publish(run_uri)


def commit_together(run_uri: str, barrier: Any, outcomes: Any, other: bool) -> None:
    """Renders a shard that others hold too; commits at the same moment as they at the barrier.

    Args:
        other: encode otherwise, as another GPU would give other pixels.
    """
    import tasks.work.encode as encoding
    import tasks.work.queue
    from tests.tasks.runs import work_here

    tasks.work.queue.LEASE_SECONDS = 0.0  # every holder seems to be gone at once
    store_class = type(open_store(run_uri))
    put_if_absent = store_class.put_if_absent

    def together(store: Any, key: str, data: bytes) -> bool:
        if key.startswith("commits/"):
            barrier.wait(60)
        return put_if_absent(store, key, data)

    store_class.put_if_absent = together  # type: ignore[method-assign]
    if other:
        encode = encoding.encode_image
        encoding.encode_image = lambda image, *how: encode(image.rotate(180), *how)
    worked = work_here(run_uri)
    outcomes.put((worked.num_committed, worked.num_lost))


def die_at(run_uri: str, when: When, name: str) -> None:
    """Makes this process die at the first write whose key holds `name`.

    Of an attempt there are three writes: `take`, `beat` and `end`.
    """
    store_class = type(open_store(run_uri))
    for method in ("put", "put_if_absent"):
        setattr(store_class, method, _deadly(getattr(store_class, method), when, name))


def _deadly(write: Callable[..., Any], when: When, name: str) -> Callable[..., Any]:
    def deadly(store: Any, key: str, data: Any) -> Any:
        if name not in (_step(write, data) if key.startswith("attempts/") else key):
            return write(store, key, data)
        if when == "within":
            import shutil

            shutil.copyfileobj = _half  # type: ignore[assignment]
        elif when == "after":
            write(store, key, data)
        if when != "within":
            os._exit(DEAD)
        return write(store, key, data)

    return deadly


def _step(write: Callable[..., Any], attempt: bytes) -> str:
    if write.__name__ == "put_if_absent":
        return "take"
    return "beat" if json.loads(attempt)["ending"] is None else "end"


def _half(source: Any, target: Any, length: int = 0) -> None:
    """Writes some of the bytes, lets them reach the disk, and dies."""
    target.write(source.read()[:-1][:100])
    target.flush()
    os._exit(DEAD)
