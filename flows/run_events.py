"""Which events does a run send to Prefect, for automations to act on?

`stylefarm.shard.committed` for each commit, and one at the end: `stylefarm.run.complete`, or
`stylefarm.run.failed` where a fault ended it or more items failed than the job allows. Two who see
the same complete run send the same event, with the same id, of which Prefect keeps one. A run that
somebody stopped has not ended.
"""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from prefect.events import emit_event

from flows.progress import RunEnd
from flows.shown_run import ShownRun
from tasks.work.events import Committed

SHARD_COMMITTED = "stylefarm.shard.committed"
RUN_COMPLETE, RUN_FAILED = "stylefarm.run.complete", "stylefarm.run.failed"


def send_commit(run: ShownRun, commit: Committed) -> None:
    """Sends that a shard of a run is committed."""
    emit_event(
        SHARD_COMMITTED,
        resource={
            "prefect.resource.id": f"stylefarm.shard.{commit.shard}",
            "prefect.resource.name": commit.shard,
            "stylefarm.run_uri": run.uri,
        },
        related=[{**run.labels(), "prefect.resource.role": "run"}],
        payload={
            "run_uri": run.uri,
            "shard": commit.shard,
            "seconds": commit.seconds,
            "counts": commit.counts.model_dump(),
            "errors": commit.stats.errors,
        },
    )


def send_end(run: ShownRun, end: RunEnd) -> None:
    """Sends how a run has ended, if it has."""
    if end.is_part:
        return
    event = RUN_COMPLETE if end.is_good else RUN_FAILED
    payload: dict[str, Any] = {
        "run_uri": run.uri,
        "message": end.message,
        "counts": end.counts and end.counts.model_dump(),
        "errors": dict(end.errors),
        "device_seconds": end.device_seconds,
    }
    emit_event(event, resource=run.labels(), payload=payload, id=_event_id(event, run, end))


def send_unplanned(name: str, run_uri: str, message: str) -> None:
    """Sends that a job ended by a fault before there was a run.

    Args:
        name: of the job.
        run_uri: where its run was to lie.
        message: what ended it.
    """
    emit_event(
        RUN_FAILED,
        resource=ShownRun(run_uri, "unplanned", name).labels(),
        payload={"run_uri": run_uri, "message": message, "counts": None, "errors": {}},
    )


def _event_id(event: str, run: ShownRun, end: RunEnd) -> UUID:
    if not end.digest:
        return uuid4()
    return uuid5(NAMESPACE_URL, f"{event} {run.fingerprint} {end.digest}")
