"""How are a few items of a job rendered as its run would do it, with nothing left behind?

By the worker and the renderer of a run, on a run folder in scratch that goes when they are done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra.store import open_store
from manifests.commits import RUN_NAME
from manifests.items import Item
from manifests.plan import shard_name
from manifests.plan_table import item_tables
from manifests.shard_stats import ShardStats
from tasks.estimating.stopwatch import Enough, TimedRenderer, Times
from tasks.inputs.resolving import ResolvedJob
from tasks.plans.planning import put_plan, run_record, written_plan
from tasks.runs.committed import shard_rows
from tasks.runs.environment import num_cores
from tasks.runs.faults import Stopped
from tasks.runs.run_folder import find_commit
from tasks.runs.scratch import scratch_folder
from tasks.work.events import WorkEvent
from tasks.work.worker import work

SHARD = shard_name(0, 0)

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Items that were rendered, or begun.

    Attributes:
        place: what they were tried with.
        items: in the order in which they were planned.
        times: of their steps.
        rows: one for each item; none where the renderer was stopped on the way.
        stats: of their commit.
    """

    place: TrialPlace
    items: Sequence[Item]
    times: Times
    rows: Sequence[Row] = ()
    stats: ShardStats | None = None

    @property
    def num_encoded_at_once(self) -> int:
        """So many of them were measured and encoded at a time; of few, as many as could be."""
        io_threads = self.place.resolved.job.compute.io_threads
        return min(io_threads, max(len(self.items), num_cores()))

    @property
    def is_whole(self) -> bool:
        """Whether each item has its row."""
        return self.stats is not None


@dataclass(frozen=True, kw_only=True)
class TrialPlace:
    """What items are tried with.

    Attributes:
        resolved: the job that is estimated.
        device: one of this machine.
        renderer: its model stays warm from trial to trial.
        should_stop: whether somebody asked to stop.
        tell: is told what the worker does.
    """

    resolved: ResolvedJob
    device: str
    renderer: TimedRenderer
    should_stop: Callable[[], bool]
    tell: Callable[[WorkEvent], None]


def try_items(
    place: TrialPlace, items: Sequence[Item], enough: Enough = lambda times: False
) -> Trial:
    """Renders items as one shard of a run, to the end or until enough is known.

    Args:
        place: what they are rendered with.
        items: of one plan.
        enough: of the times of their steps; asked after each.

    Raises:
        Stopped: somebody asked to stop.
        WorkerFault, StoreTrouble, ManifestError, BackboneError: see `tasks.work.worker.work`.
    """
    planned = [replace(one, shard=SHARD, replaces=None) for one in items]
    job = place.resolved.job
    resolved = replace(place.resolved, job=_never_giving_up(job))
    with scratch_folder() as folder:
        store = open_store(str(folder))
        plan = written_plan(item_tables(planned))
        record = run_record(resolved, put_plan(store, plan), conditional_put=True)
        plan.close()
        store.put_if_absent(RUN_NAME, record.to_bytes())
        place.renderer.enough = enough
        work(
            store.uri,
            device=place.device,
            compute=job.compute,
            renderer=place.renderer,
            should_stop=place.should_stop,
            tell=place.tell,
        )
        if place.should_stop():
            raise Stopped("stopped; nothing was estimated")
        times = place.renderer.times
        commit = find_commit(store, SHARD)
        if commit is None:
            return Trial(place=place, items=planned, times=times)
        rows = shard_rows(store, commit, planned)
        return Trial(place=place, items=planned, times=times, rows=rows, stats=commit.stats)


def _never_giving_up(job: Any) -> Any:
    """The job; that a few of its items fail is told, and stops nothing."""
    limits = job.limits.model_copy(update={"stop_when_failing": None})
    return job.model_copy(update={"limits": limits})
