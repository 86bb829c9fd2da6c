"""Renders and commits one shard in this process. Goes away with the last caller: see tasks/worker.

The shard's items are rendered by `tasks.render`, and packed and offered by `tasks.commit`.
"""

from __future__ import annotations

import random
import traceback
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from infra.store import Store, StoreError
from manifests.commits import Commit, RunRecord, ShardStats
from manifests.errors import RunFolderError
from manifests.job import Compute
from manifests.outcomes import Outcome
from tasks.child import InThisProcess
from tasks.commit import Attempt, pack_shard, provenance_of, record_failure
from tasks.faults import FreshDeviceNeeded, Stopped
from tasks.offer import offer
from tasks.progress import board
from tasks.run_folder import find_commit, load_plan, open_run, recorded_job
from tasks.scratch import scratch_folder
from tasks.shard_work import PlannedModel, ShardWork

RETRY_SECONDS = (5.0, 30.0, 120.0)

_renderer = InThisProcess()


class _BoardWatch:
    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.load_seconds = 0.0
        self.device_name = ""

    def should_stop(self) -> bool:
        return board.stopping

    def phase(self, name: str) -> None:
        pass

    def loaded(self, seconds: float, device_name: str) -> None:
        self.load_seconds, self.device_name = seconds, device_name

    def begin(self, item_ids: Sequence[str], *, alone: bool) -> None:
        pass

    def advance(self, items: float) -> None:
        board.advance(items)

    def finish(self, outcome: Outcome) -> None:
        self.outcomes[outcome.item.item_id] = outcome

    def fitted(self, batch_size: int) -> None:
        pass

    def tick(self) -> None:
        pass


def render_patiently(run_uri: str, shard: str, compute: dict[str, Any]) -> dict[str, Any]:
    """As `render_shard`; tries again where the store did not answer."""
    for seconds in RETRY_SECONDS:
        try:
            return render_shard(run_uri, shard, compute)
        except StoreError as error:
            if not error.transient:
                raise
            board.wait(seconds * random.uniform(1, 1.5))
    return render_shard(run_uri, shard, compute)


def render_shard(run_uri: str, shard: str, compute: dict[str, Any]) -> dict[str, Any]:
    """Renders a shard and commits it; a committed one is returned as it is."""
    board.begin(shard)
    store, run = open_run(run_uri)
    if found := find_commit(store, shard):
        return _summary(found, rendered=False)
    attempt = Attempt(shard, uuid.uuid4().hex)
    try:
        commit, won = _render_and_commit(store, run, attempt, Compute.model_validate(compute))
    except Stopped:
        raise
    except Exception as error:
        with suppress(StoreError, RunFolderError):
            record_failure(store, attempt, traceback.format_exception_only(error)[-1])
        raise
    board.committed(commit.counts.ok, commit.counts.failed)
    return _summary(commit, rendered=won)


def _summary(commit: Commit, *, rendered: bool) -> dict[str, Any]:
    return {"shard": commit.shard, **commit.counts.model_dump(), "rendered": rendered}


def _render_and_commit(
    store: Store, run: RunRecord, attempt: Attempt, compute: Compute
) -> tuple[Commit, bool]:
    job = recorded_job(run)
    items = load_plan(store, run).items(attempt.shard)
    watch = _BoardWatch()
    with scratch_folder() as scratch:
        alone: tuple[str, ...] = ()
        while True:
            work = ShardWork(
                items=tuple(item for item in items if item.item_id not in watch.outcomes),
                alone=alone,
                job=job,
                model=PlannedModel(
                    model_id=run.model_id,
                    revision=run.model_revision,
                    config=run.model_config_id,
                    controlnet=run.controlnet_id,
                    dtype=job.backbone.dtype,
                ),
                device=compute.device,
                batch_size=compute.batch_size,
                io_threads=compute.io_threads,
                scratch=scratch,
            )
            try:
                _renderer.render(work, watch, hang_seconds=300)
                break
            except FreshDeviceNeeded as needed:
                alone = needed.item_ids
                _renderer.close()
        outcomes = [watch.outcomes[item.item_id] for item in items]
        stats = ShardStats(
            load_seconds=watch.load_seconds,
            render_seconds=sum(outcome.seconds or 0.0 for outcome in outcomes),
            encode_seconds=sum(outcome.encode_seconds or 0.0 for outcome in outcomes),
        )
        provenance = provenance_of(run, attempt.attempt_id, watch.device_name)
        packed = pack_shard(attempt, outcomes, provenance, scratch, stats)
        return offer(store, packed, lambda: board.stopping, lambda reason: None)
