"""What does a command say of the time and the money that its run will take, as it renders?

One line before the first step, by what is known then, and one after the first steps where that was
a guess. The first step waits for neither: they are told while the workers start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from flows.crew import Crew
from flows.forecasts import (
    BASES,
    duration,
    known_forecast,
    run_kind,
    spent_sentence,
)
from flows.memory_words import memory_warning, slow_warning
from flows.terminal import Terminal, counted
from infra.store import Store, StoreError
from manifests.amounts import money, plain_number
from manifests.commits import RunRecord, hours_name
from manifests.job import Job
from tasks.estimating.forecast import Basis, Forecast, quantile
from tasks.estimating.known import RunKind, speed_of
from tasks.estimating.remembered import remember
from tasks.runs.committed import Committed as CommittedRun
from tasks.runs.spending import spent_seconds
from tasks.work.events import Committed, Needs, Phase, Progress, WorkEvent

logger = logging.getLogger(__name__)

MIN_STEPS, MIN_SECONDS = 3, 5.0
"""So many times a worker tells of steps after the first, over so long, until its pace is known;"""

MAX_SECONDS = 30.0
"""where its first step takes so long, that one is enough."""

GUESSES: tuple[Basis, ...] = ("rough", "job")


@dataclass
class _Pace:
    """The steps of one worker: when it began, its first steps' end, and how many came since."""

    began: float
    first: float | None = None
    items_before: float = 0.0
    items: float = 0.0
    num_steps: int = 0

    def seconds_per_item(self, now: float) -> float | None:
        """None until it is known."""
        if self.first is None:
            return None
        since = now - self.first
        if self.items and (self.num_steps >= MIN_STEPS and since >= MIN_SECONDS):
            return since / self.items
        if self.items_before and self.first - self.began >= MAX_SECONDS:
            return (self.first - self.began) / self.items_before
        return None


class RunOutlook:
    """Tells what a run will take, and remembers how fast its shards were.

    Args:
        terminal: where it is told.
        store: of the run folder.
        committed: the run as it was before the workers began.
        job: how it is computed now.
        device_type: the kind of device that it is rendered on.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        terminal: Terminal,
        store: Store,
        committed: CommittedRun,
        job: Job,
        device_type: str | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terminal, self._store, self._committed, self._job = terminal, store, committed, job
        self._run: RunRecord = committed.plan.run
        self._device_type = device_type or "cpu"
        self._clock = clock
        self._lock, self._remembering = threading.Lock(), threading.Lock()
        self._forecast: Forecast | None = None
        self._kind: RunKind | None = None
        self._paces: dict[str, _Pace] = {}
        self._is_guess = False
        self._warned: set[str] = set()

    def say(self, crew: Crew) -> None:
        """Prints what is left to do and what it will take, and what was spent before."""
        compute = self._job.compute
        kind = run_kind(
            compute,
            model_revision=self._run.model_revision,
            dtype=self._run.dtype or self._job.backbone.dtype,
            device_type=self._device_type,
            devices=crew.devices,
        )
        forecast = known_forecast(
            *(self._committed.plan, self._committed.commits, kind),
            workers=len(crew.devices),
            price_per_hour=compute.price_per_hour,
            spent_seconds=self._spent_seconds(),
        )
        with self._lock:
            self._forecast, self._kind = forecast, kind
            self._is_guess = basis_of(forecast) in GUESSES
        for sentence in outlook_sentences(forecast, self._device_type):
            self._terminal.say(sentence)
        for outlook in forecast.outlooks:
            usual = quantile(outlook.seconds, 0.5) or 0.0
            self._warn(slow_warning(*outlook.bucket.largest, usual, self._device_type))

    def tell(self, event: WorkEvent) -> None:
        """Takes in what a worker tells; any thread may call this."""
        if isinstance(event, Needs):
            self._warn(memory_warning(event.need))
        elif isinstance(event, Committed):
            self._remember(event)
        elif isinstance(event, Phase | Progress):
            self._follow(event)

    def _spent_seconds(self) -> float:
        """What the run has spent so far; a store that is away is the workers' concern, not ours."""
        try:
            return spent_seconds(self._store, self._committed.commits.values())
        except StoreError as error:
            logger.info("what earlier runs took is not known: %s", error)
            return 0.0

    def _follow(self, event: Phase | Progress) -> None:
        """Corrects a guess as soon as a worker's pace is known."""
        with self._lock:
            now = self._clock()
            pace = self._paces.setdefault(event.worker, _Pace(now))
            if isinstance(event, Phase):
                if pace.first is None:
                    pace.began = now
                return
            if pace.first is None:
                pace.first, pace.items_before = now, event.items
            else:
                pace.items, pace.num_steps = pace.items + event.items, pace.num_steps + 1
            seconds = pace.seconds_per_item(now) if self._is_guess else None
            if seconds is None or self._forecast is None:
                return
            self._is_guess = False
            forecast = self._forecast
        self._terminal.say(corrected_sentence(forecast, seconds, self._device_type))
        if len(forecast.outlooks) == 1:
            size = forecast.outlooks[0].bucket.largest
            self._warn(slow_warning(*size, seconds, self._device_type))

    def _remember(self, event: Committed) -> None:
        """Takes note of how fast a shard was; the steps of other workers wait for no file."""
        plan, kind = self._committed.plan, self._kind
        if kind is None or event.shard not in plan.shards or plan.changes(event.shard):
            return
        with self._remembering:
            speed = speed_of(plan.items(event.shard), kind, event.stats)
            if speed is not None:
                remember(speed)

    def _warn(self, sentence: str | None) -> None:
        """Warns once, however many shards there are."""
        with self._lock:
            if sentence is None or sentence in self._warned:
                return
            self._warned.add(sentence)
        self._terminal.say(sentence, "yellow")


def basis_of(forecast: Forecast) -> Basis:
    """Where most of the seconds of a forecast come from, the least sure where they are equal."""
    by_basis: dict[Basis, float] = {}
    for one in forecast.outlooks:
        by_basis[one.basis] = by_basis.get(one.basis, 0.0) + one.device_seconds
    if not by_basis:
        return "rough"
    return max(by_basis, key=lambda basis: by_basis[basis])


def outlook_sentences(forecast: Forecast, device_type: str | None) -> Iterator[str]:
    """What is left and what it will take; then what was spent, if anything was."""
    if not forecast.outlooks:
        return
    usual = quantile(forecast.seconds, 0.5)
    each = "" if usual is None else f", about {plain_number(usual)} s each"
    seconds = forecast.device_seconds()
    yield (
        f"To render: {counted(forecast.num_items, 'item')}{each}; "
        f"{_takes(forecast, forecast.wall_seconds(), seconds, device_type)} "
        f"({BASES[basis_of(forecast)]})."
    )
    if forecast.spent_seconds:
        yield spent_sentence(forecast, device_type)


def corrected_sentence(forecast: Forecast, seconds: float, device_type: str | None) -> str:
    """The same by the pace of the first steps."""
    in_all = seconds * (forecast.num_items - forecast.num_problems)
    wall = in_all / min(forecast.workers, max(1, forecast.num_shards))
    return (
        f"By the first steps an item takes {plain_number(seconds)} s; "
        f"{_takes(forecast, wall, in_all, device_type)}."
    )


def _takes(
    forecast: Forecast, wall_seconds: float, device_seconds: float, device_type: str | None
) -> str:
    cost = forecast.cost(device_seconds)
    hours = f"{plain_number(device_seconds / 3600)} {hours_name(device_type)}"
    paid = "" if cost is None else f", cost {money(cost)}"
    workers = counted(forecast.workers, "worker")
    return f"about {duration(wall_seconds)} with {workers}, {hours}{paid}"
