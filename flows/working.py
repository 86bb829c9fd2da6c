"""What becomes of a planned run: workers take what is pending, and then it is published.

Commands and flows do this alike; where they show it is their own. Whatever others plan into the
run folder meanwhile is made, too: a run has ended only where nothing is pending, or where somebody
or a budget has ended it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from flows.crew import Crew, LocalCrew
from flows.crews import crew_of
from flows.outlook import RunOutlook
from flows.progress import STOPPED, RunEnd, RunProgress
from flows.shown_run import shown_run
from flows.stopping import Stopping
from flows.telling import tell_all
from flows.terminal import Terminal
from manifests.budget import Bounds
from manifests.commits import Index
from manifests.job import Job
from tasks.inputs.devices import DeviceType, devices_for
from tasks.keeping.overview import is_worked_on
from tasks.results.publishing import publish
from tasks.runs.committed import open_committed
from tasks.runs.faults import BudgetSpent
from tasks.runs.run_folder import open_run
from tasks.work.budget import budget_end
from tasks.work.events import WorkEvent
from tasks.work.fork_server import ForkServer

BUDGET_SPENT = BudgetSpent.__name__


@dataclass(frozen=True)
class Worked:
    """What a process has done with a run.

    Attributes:
        end: how its part of the run has ended.
        index: as it was published; None where it was not.
        num_committed: shards that its workers committed.
    """

    end: RunEnd
    index: Index | None
    num_committed: int


class RunWork:
    """The work of one process on a planned run.

    Args:
        uri: the run folder.
        job: its `compute` says how, its `limits` how much may fail.
        server: forks the rendering processes.
        stopping: whether to stop.
        bounds: the budget of the run.
        device_type: the kind of device to render on; the run's unless given.
        device: the one that renders; unless given, all that the job asks for do.
        max_shards: commits so many at most; only where one device renders.

    Attributes:
        uri, stopping: as given.
        store, run: of the run folder, and what is there.
        shown: the run as it is shown.
        progress: how far it is.

    Raises:
        RunFolderError: there is no run, or one of its records is damaged.
        StoreError: the store refuses or does not answer.
    """

    def __init__(
        self,
        uri: str,
        job: Job,
        *,
        server: ForkServer,
        stopping: Stopping,
        bounds: Bounds,
        device_type: DeviceType | None = None,
        device: str | None = None,
        max_shards: int | None = None,
    ) -> None:
        self.uri, self._job = uri, job
        self.stopping = stopping
        self._server, self._bounds = server, bounds
        self._device, self._max_shards = device, max_shards
        self.store, self.run = open_run(uri)
        self._device_type: DeviceType | None = device_type or self.run.device_type
        self.shown = shown_run(uri, self.run)
        self._committed = open_committed(self.store, self.run)
        self.progress = RunProgress(self._planned(), self._committed.live)

    def finish(self, terminal: Terminal, tell: Callable[[WorkEvent], None]) -> Worked:
        """Renders what is pending, and what others plan meanwhile, and publishes the run.

        Args:
            terminal: where it is said what the run will take.
            tell: is told what happens, by any threads.

        Raises:
            Exception: what ended the workers; see `Crew.wait`.
        """
        num_committed = 0
        while True:
            worked = self._finish_planned(terminal, tell)
            num_committed += worked.num_committed
            is_over = worked.index is None or worked.index.complete or worked.end.name
            if is_over or not self._has_grown():
                return replace(worked, num_committed=num_committed)

    def _finish_planned(self, terminal: Terminal, tell: Callable[[WorkEvent], None]) -> Worked:
        outlook = RunOutlook(terminal, self.store, self._committed, self._job, self._device_type)
        with self._crew(tell_all(self.progress.tell, tell, outlook.tell)) as crew:
            outlook.say(crew)
            is_stopped, done = crew.wait(), crew.num_committed
            left = self.progress.num_shards_left
            if is_stopped:
                message = "stopped; run the same job again to finish"
                end = RunEnd(is_good=False, message=message, is_part=True, name=STOPPED)
                return Worked(end, None, done)
            if self._max_shards and left and crew.uncovered_seconds is None:
                return Worked(RunEnd.of_part(done, left), None, done)
            self.progress.publish()
            index = publish(self.uri)
            return Worked(self._end(crew, index), index, done)

    def _crew(self, tell: Callable[[WorkEvent], None]) -> AbstractContextManager[Crew]:
        compute, kind = self._job.compute, self._device_type
        around = {
            "server": self._server,
            "stopping": self.stopping,
            "bounds": self._bounds,
            "tell": tell,
        }
        if self._device is None:
            return crew_of(self.uri, self.run, compute, device_type=kind, **around)
        devices = devices_for(kind, self._device, 1)
        return LocalCrew(self.uri, devices, compute, max_shards=self._max_shards, **around)

    def _end(self, crew: Crew, index: Index) -> RunEnd:
        """How the run has ended whose workers were not asked to stop.

        Where their budget has ended them and others go on, they have done their part; who comes
        last tells the end of the run.
        """
        shortest = crew.uncovered_seconds
        if shortest is None or index.complete:
            return RunEnd.of(index, self._job.limits)
        goes_on = is_worked_on(self.store, index)
        return RunEnd(
            is_good=goes_on,
            message=budget_end(self.store, self.run, index, self._bounds, shortest),
            counts=index.counts,
            errors=dict(index.stats.errors),
            device_seconds=index.stats.device_seconds,
            digest=index.rows_digest,
            is_part=goes_on,
            name=BUDGET_SPENT,
        )

    def _has_grown(self) -> bool:
        """Whether more was planned since this process last looked; it is followed from now on."""
        known = self._committed.plan.shards.keys()
        self._committed = open_committed(self.store, self.run)
        self.progress.follow(self._planned(), self._committed.live)
        return not self._committed.plan.shards.keys() <= known

    def _planned(self) -> dict[str, int]:
        return {name: shard.num_items for name, shard in self._committed.plan.shards.items()}
